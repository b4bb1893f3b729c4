"""The `raymeta` command: a function a verb. Whatever is heavy is imported inside the verbs."""

from raymeta.installed import current_folder_last

current_folder_last()  # ahead of all imports that a file of the user's could stand in the way of

# ruff: noqa: E402
import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from raymeta.cli.common import show
from raymeta.cli.compare import compare
from raymeta.cli.data import data_app
from raymeta.cli.doctor import doctor
from raymeta.cli.final import final
from raymeta.cli.methods import methods, space
from raymeta.cli.predict import predict
from raymeta.cli.search import extend, resume, search
from raymeta.cli.studies import export, ls, status, sync, ui
from raymeta.errors import Interrupted, RunFailed, StorageError, UserError
from raymeta.report.remarks import say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Hyperparameter search for meta-learning and its regularizers.\n\nStart with: raymeta search maml+dropgrad",
)
VERBS = (search, resume, extend, ls, status, export, final, compare, predict, sync, ui, space, methods, doctor)
for verb in VERBS:  # as `--help` lists them
    app.command()(verb)
app.add_typer(data_app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        from raymeta import __version__

        show(f"raymeta {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def main() -> None:
    """The console script: bad input is one sentence and exit code 2, a run that failed one sentence and 1."""
    for name in ("SIGTERM", "SIGHUP"):  # what has begun is put in order; a study's driver has handlers of its own
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminated)
    if hasattr(signal, "SIGUSR1") and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)  # there is nothing to save yet
    try:
        try:
            app(prog_name="raymeta")
        finally:
            sys.stdout.flush()
    except (UserError, StorageError) as error:
        say(f"raymeta: {error}")
        sys.exit(2)
    except Interrupted as left:
        say(str(left))
        sys.exit(left.exit_code)
    except RunFailed as error:
        say(f"raymeta: {error}")
        sys.exit(1)
    except BrokenPipeError:  # `raymeta methods | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
