"""The verbs of `raymeta data`, and what all verbs share: how they speak, and how data are made ready first."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from raymeta.config import TrialConfig
    from raymeta.data.store import Dataset

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Data sets: list, prepare, look at.")

DataRoot = Annotated[Optional[Path], typer.Option(help="Folder that holds the data; by default they are downloaded.")]  # noqa: UP045
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@data_app.command("ls")
def data_ls(as_json: Json = False) -> None:
    """List the data sets and what of them is on this machine."""
    from raymeta import registry

    rows = {name: _dataset(name).describe() for name in registry.names("dataset")}
    if as_json:
        print(json.dumps(rows))  # noqa: T201
        return
    from raymeta.study.tables import data_table

    console().print(data_table(rows))


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="A data set.")],
    data_root: DataRoot = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Pack it again even if it is there.")] = False,
) -> None:
    """Download or read a data set and pack it once for all trials of this machine.

    Example: raymeta data prepare omniglot --data-root ~/downloads/omniglot
    """
    dataset = _dataset(name)
    prepare(dataset, data_root, rebuild=rebuild)
    for key, value in dataset.describe().items():
        say(f"{key}: {value}")


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="A data set.")],
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="The picture; by default NAME.png.")] = None,  # noqa: UP045
    data_root: DataRoot = None,
) -> None:
    """Draw some training and validation classes of a data set as a PNG.

    Example: raymeta data show glyphs -o glyphs.png
    """
    from raymeta.data.gallery import draw_classes

    dataset = _dataset(name)
    prepare(dataset, data_root)
    path = out or Path(f"{name}.png")
    draw_classes(dataset, path)
    say(f"drew {path}")


def _dataset(name: str) -> "Dataset":
    """A data set under its own defaults of a task."""
    from raymeta import registry
    from raymeta.config import TaskConfig
    from raymeta.data.store import open_dataset
    from raymeta.schema import check

    defaults = registry.find("dataset", name).task_defaults
    return open_dataset(check(TaskConfig, {"dataset": name, **defaults}, "task"))


def prepare(dataset: "Dataset", root: Path | None, *, rebuild: bool = False) -> None:
    """Make a data set ready with a progress bar; nothing happens if it is."""
    if dataset.ready and not rebuild and root is None:
        return
    from rich.progress import Progress

    screen = console()
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bars:
        bar = bars.add_task(f"preparing {dataset.name}", total=None)
        dataset.prepare(root, lambda done, total: bars.update(bar, completed=done, total=total), rebuild=rebuild)


def pretrain(config: "TrialConfig", dataset: "Dataset") -> None:
    """Make the pre-trained backbone ready, if the config wants one, with a progress bar; trials then find it."""
    if not config.pretraining.epochs:
        return
    import torch
    from rich.progress import Progress

    from raymeta.pretraining import pretrained
    from raymeta.trainer import device_of

    torch.set_num_threads(1)  # as trials have: the same numbers wherever it is done
    screen = console()
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bars:
        bar = bars.add_task(f"pre-training {config.model.name}", total=None)
        pretrained(config, dataset, device_of(config), lambda done, all: bars.update(bar, completed=done, total=all))


def console() -> Any:
    """Where tables and progress go: standard error, so that standard output is for `--json`."""
    from rich.console import Console

    screen = Console(stderr=True)
    return screen if screen.is_terminal else Console(stderr=True, width=max(screen.width, 120))  # a file has no edge


def say(text: str) -> None:
    """A line to the user."""
    print(text, file=sys.stderr)  # noqa: T201
