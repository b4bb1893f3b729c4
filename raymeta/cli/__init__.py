"""The `raymeta` command: a function a verb. Whatever is heavy is imported inside the verbs."""

import sys

import typer

from raymeta.cli.common import say
from raymeta.cli.data import data_app
from raymeta.cli.doctor import doctor
from raymeta.cli.final import final
from raymeta.cli.methods import methods, space
from raymeta.cli.search import extend, resume, search
from raymeta.cli.studies import export, ls, status, ui
from raymeta.errors import RunFailed, StorageError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hyperparameter search for meta-learning and its regularizers.\n\nStart with: raymeta search maml+dropgrad",
)
for verb in (search, resume, extend, ls, status, export, final, ui, space, methods, doctor):  # as `--help` lists them
    app.command()(verb)
app.add_typer(data_app, name="data")


def main() -> None:
    """The console script: bad input is one sentence and exit code 2, a run that failed one sentence and 1."""
    try:
        app()
    except (UserError, StorageError) as error:
        say(f"raymeta: {error}")
        sys.exit(2)
    except RunFailed as error:
        say(f"raymeta: {error}")
        sys.exit(1)
