"""What the verbs share: the options that they have in common, and how results are printed."""

import json
import signal
import threading
import time
from types import FrameType
from typing import Annotated, Any, NoReturn, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.errors import Terminated, UserError

ENDING, SAVE = (
    [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has but the first
    for names in (("SIGTERM", "SIGHUP"), ("SIGUSR1",))
)
AGAIN_S = 2.0  # schedulers kill ten seconds after they have asked, or later
_heard: set[int] = set()


def parse_pack(pack: str | None) -> Any:
    """What `--pack` says.

    Raises:
        UserError: neither a number nor `auto`.
    """
    if pack is None or pack == "auto":
        return pack
    if not pack.isdecimal() or int(pack) < 1:
        raise UserError(f"--pack {pack}: expected auto, or how many trials share a GPU")
    return int(pack)


DataRoot = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="PATH|URL",
        help="Folder that holds the data, or URL of an archive of it; by default they are downloaded.",
    ),
]
ShipData = Annotated[
    bool,
    typer.Option(
        "--ship-data", help="On a cluster: machines that lack the data get this one's packed store through Ray."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Spec = Annotated[
    str,
    typer.Argument(
        help="A method and its regularizers, as in maml+dropgrad, or maml+dropgrad:noise=binary.",
        autocompletion=complete.specs,
    ),
]
Words = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads the annotation)
    typer.Argument(
        autocompletion=complete.keys,
        help="key=value of the config or of study.*, as in maml.inner_lr=0.1; a searched key is then fixed. Or what to "
        "search of a key: maml.inner_lr=0.01..0.5:log, maml.inner_steps=1..5, maml.order=first,second.",
    ),
]
Task = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="omniglot-5w1s, glyphs-20w1s, sinusoid-10s, …", autocompletion=complete.tasks),
]
Preset = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="NAME|FILE",
        help="Budget, rungs and settings; by default the data set's.",
        autocompletion=complete.presets,
    ),
]
OwnSpace = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--space",
        metavar="FILE|none",
        help="Ranges and starting points, laid over the shipped ones (`raymeta space … --write FILE` makes one); "
        "none: only the ranges typed here.",
        autocompletion=complete.spaces,
    ),
]
Name = Annotated[str, typer.Argument(help="A study.", autocompletion=complete.studies)]
Choose = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Search which regularizer to add, too: dropgrad,metadropout,none.", autocompletion=complete.choices
    ),
]
Pack = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        callback=parse_pack,
        metavar="auto|K",
        help="Trials per GPU; auto (the default): as many as their measured memory allows.",
    ),
]
Also = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="tensorboard|wandb",
        help="A tracker beside MLflow that gets a copy of the trials, from now on; may be given more than once.",
        autocompletion=complete.trackers,
    ),
]
Slots = Annotated[Optional[int], typer.Option(min=1, help="Trials at a time; by default one per core or GPU share.")]  # noqa: UP045


def show(result: Any) -> None:
    """Print a result on standard output: text, or something of Rich's; where there is no terminal in its full width."""
    from rich.console import Console

    screen = Console()
    if not screen.is_terminal:
        from raymeta.report.shown import text

        result = result if isinstance(result, str) else text(result)
    screen.print(result, soft_wrap=isinstance(result, str), highlight=False, markup=False, emoji=False)


def show_json(result: Any) -> None:
    """Print a result as a line of JSON on standard output."""
    print(json.dumps(result))  # noqa: T201


def hear_signals() -> None:
    """Put in order what has begun when a scheduler or a closed terminal ends it; a study's driver listens by itself."""
    for number in (*ENDING, *SAVE):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminated if number in ENDING else _nothing_to_save)


def end_undisturbed() -> None:
    """The work is done: a signal while the last lines are written, or Python ends, would only change the exit code."""
    for number in (*ENDING, *SAVE):
        if signal.getsignal(number) in (_terminated, _nothing_to_save):
            signal.signal(number, signal.SIG_IGN)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    if number not in _heard:
        _heard.add(number)
        threading.Thread(target=_again, args=(number,), daemon=True).start()
    raise Terminated


def _again(number: int) -> None:
    """Send a signal again until something else listens to it.

    Where C or a finalizer runs, as all through imports, Python drops what a handler raises; and one that comes right
    before the main thread waits does not end its waiting.
    """
    while True:
        time.sleep(AGAIN_S)
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        if signal.getsignal(number) is not _terminated:
            return


def _nothing_to_save(number: int, frame: FrameType | None) -> None:
    pass
