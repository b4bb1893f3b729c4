"""What the verbs share: how they speak, the options they have in common, and how data are made ready first."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from raymeta.errors import UserError
from raymeta.problem import Problem

if TYPE_CHECKING:
    from raymeta.config import TrialConfig
    from raymeta.problems.images.reading.remote import Root


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


def parse_root(text: str | None) -> Any:
    """What `--data-root` says: a path, or a URL as it is."""
    return text if text is None or "://" in text else Path(text).expanduser()


DataRoot = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        callback=parse_root,
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
    str, typer.Argument(help="A method and its regularizers, as in maml+dropgrad, or maml+dropgrad:noise=binary.")
]
Words = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads the annotation)
    typer.Argument(
        help="key=value of the config or of study.*, as in maml.inner_lr=0.1; a searched key is then fixed. Or what to "
        "search of a key: maml.inner_lr=0.01..0.5:log, maml.inner_steps=1..5, maml.order=first,second."
    ),
]
Task = Annotated[Optional[str], typer.Option(help="omniglot-5w1s, glyphs-20w1s, sinusoid-10s, …")]  # noqa: UP045
Preset = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="NAME|FILE", help="Budget, rungs and settings; by default the data set's."),
]
OwnSpace = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--space",
        metavar="FILE|none",
        help="Ranges and starting points, laid over the shipped ones (`raymeta space … --write FILE` makes one); "
        "none: only the ranges typed here.",
    ),
]
Choose = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Search which regularizer to add, too: dropgrad,metadropout,none."),
]
Pack = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        callback=parse_pack,
        metavar="auto|K",
        help="Trials per GPU; auto (the default): as many as their measured memory allows.",
    ),
]
Slots = Annotated[Optional[int], typer.Option(min=1, help="Trials at a time; by default one per core or GPU share.")]  # noqa: UP045


def prepare(dataset: "Problem", root: "Root | None", *, rebuild: bool = False) -> None:
    """Make a data set ready with a progress bar; nothing happens if it is."""
    if dataset.ready and not rebuild and root is None:
        return
    with progress_bar(f"preparing {dataset.name}") as progress:
        dataset.prepare(root, progress, rebuild=rebuild)


def placed(config: "TrialConfig", root: "Root | None") -> "TrialConfig":
    """The config with `--data-root` in it where that says which data they are: workers have nothing but the config."""
    update = source_of(config.task.data, root)
    return config.model_copy(update={"task": config.task.model_copy(update=update)})


def source_of(dataset: str, root: "Root | None") -> dict[str, str]:
    """The key of `task` that `--data-root` stands for; {}: none.

    Raises:
        UserError: it would have to be a path and is a URL.
    """
    from raymeta.problem import find_problem

    if root is None or not find_problem(dataset).has_source:
        return {}
    if isinstance(root, str):
        raise UserError(f"--data-root {root}: {dataset} is named by its path on this machine; fetch the archive first")
    return {"source": str(root.resolve())}


def pretrain(config: "TrialConfig", dataset: "Problem") -> None:
    """Make the pre-trained backbone ready, if the config wants one, with a progress bar; trials then find it."""
    if not config.pretraining.epochs:
        return
    import torch

    from raymeta.training.device import device_of
    from raymeta.training.pretraining import pretrained

    torch.set_num_threads(1)  # as trials have: the same numbers wherever it is done
    with progress_bar(f"pre-training {config.model.name}") as progress:
        pretrained(config, dataset, device_of(config), progress)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, which goes when it is over; gives what is to be called with steps done and steps in all."""
    from rich.progress import Progress

    screen = console()
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def console() -> Any:
    """Where tables and progress go: standard error, so that standard output is for `--json`."""
    from rich.console import Console

    screen = Console(stderr=True)
    return screen if screen.is_terminal else Console(stderr=True, width=max(screen.width, 120))  # a file has no edge


def say(text: str) -> None:
    """A line to the user."""
    print(text, file=sys.stderr)  # noqa: T201
