"""The `raymeta` command: a function a verb. Whatever is heavy is imported inside the verbs."""

from raymeta.installed import current_folder_last

current_folder_last()  # ahead of all imports that a file of the user's could stand in the way of

# ruff: noqa: E402
import errno
import os
import sys
from typing import Annotated

import typer

from raymeta.cli.common import end_undisturbed, show
from raymeta.cli.compare import compare, study_of_methods
from raymeta.cli.data import data_app
from raymeta.cli.doctor import doctor
from raymeta.cli.final import analyse, final
from raymeta.cli.keeping import archive, ls, mv, note, open_, prune, rm, tag
from raymeta.cli.methods import methods, presets, space
from raymeta.cli.predict import predict
from raymeta.cli.report import report
from raymeta.cli.search import extend, resume, search
from raymeta.cli.studies import export, status, sync, ui, watch
from raymeta.errors import Interrupted, RunFailed, StorageError, Terminated, UserError
from raymeta.report.remarks import say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Hyperparameter search for meta-learning and its regularizers.\n\nStart with: raymeta search maml+dropgrad",
)
VERBS = (
    search, resume, extend, watch, ls, status, report, export, final, analyse, compare, study_of_methods, predict,
    note, tag, mv, archive, open_, prune, rm,
    sync, ui, space, methods, presets, doctor,
)  # fmt: skip
for verb in VERBS:  # as `--help` lists them
    app.command(verb.__name__.rstrip("_").replace("_", "-"))(verb)
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


REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # by the user's file system


def _open_streams() -> None:
    """Give closed standard streams (`>&-`) to nobody, or the next file that is opened takes their place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def main() -> None:
    """The console script: bad input is one sentence and exit code 2, a run that failed one sentence and 1."""
    _open_streams()
    try:
        try:
            app(prog_name="raymeta")
        finally:
            end_undisturbed()
            sys.stdout.flush()
    except (UserError, StorageError) as error:
        say(f"raymeta: {error}")
        sys.exit(2)
    except Interrupted as left:
        say(str(left))
        sys.exit(left.exit_code)
    except Terminated:
        say("left before anything ran: the same command begins again")
        sys.stderr.flush()
        os._exit(143)  # libraries that are half imported crash at an ordinary exit
    except RunFailed as error:
        say(f"raymeta: {error}")
        sys.exit(1)
    except BrokenPipeError:  # `raymeta methods | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # nobody else has said what to do about it
        if error.errno not in REFUSED:
            raise
        from raymeta.study.machines.failures import unwritable

        say(f"raymeta: {unwritable(error)}")
        sys.exit(1)
