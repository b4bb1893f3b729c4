"""The verbs of `raymeta data`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from raymeta.cli.common import DataRoot, Json, console, prepare, progress_bar, say, source_of
from raymeta.problem import Problem

if TYPE_CHECKING:
    from raymeta.problems.images.reading.remote import Root

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Data sets: list, prepare, check, look at.")


@data_app.command("ls")
def data_ls(as_json: Json = False) -> None:
    """List the data sets and what of them is on this machine."""
    from raymeta import registry

    rows = {name: _dataset(name).describe() for name in registry.working("dataset")}
    if as_json:
        print(json.dumps(rows))  # noqa: T201
        return
    from raymeta.report.tables import data_table

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
    dataset = _dataset(name, data_root)
    prepare(dataset, data_root, rebuild=rebuild)
    for key, value in dataset.describe().items():
        say(f"{key}: {value}")


@data_app.command("check")
def data_check(
    name: Annotated[Optional[str], typer.Argument(help="A data set; by default all that are prepared.")] = None,  # noqa: UP045
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Compare packed data with what was published, and look for classes and images in two splits; exit code 1: found.

    Example: raymeta data check cub
    """
    from dataclasses import asdict

    from raymeta import registry
    from raymeta.problems.images.check import check_dataset
    from raymeta.problems.images.dataset import ImageDataset
    from raymeta.report.tables import check_table

    found = {one: _dataset(one, data_root) for one in ([name] if name else registry.working("dataset"))}
    images = {one: dataset for one, dataset in found.items() if isinstance(dataset, ImageDataset)}
    findings = {}
    for one, dataset in images.items():
        if name or dataset.ready:
            with progress_bar(f"checking {one}") as progress:
                findings[one] = check_dataset(dataset, progress)
    if as_json:
        print(json.dumps({one: [asdict(finding) for finding in all] for one, all in findings.items()}))  # noqa: T201
    elif findings:
        console().print(check_table(findings))
    else:
        say(f"nothing to check: {f'{name} has no images' if name else 'no data set is prepared'}")
    if not all(finding.ok for all in findings.values() for finding in all):
        raise typer.Exit(1)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="A data set.")],
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="The picture; by default NAME.png.")] = None,  # noqa: UP045
    data_root: DataRoot = None,
) -> None:
    """Draw some training and validation classes of a data set, and a training task, as a PNG.

    Example: raymeta data show glyphs -o glyphs.png
    """
    dataset = _dataset(name, data_root)
    prepare(dataset, data_root)
    path = out or Path(f"{name}.png")
    dataset.picture(path)
    say(f"drew {path}")


def _dataset(name: str, root: "Root | None" = None) -> "Problem":
    """A data set under its own defaults of a task."""
    from raymeta.problem import find_problem, open_problem, parse_task, task_section

    defaults = find_problem(name).task_defaults
    return open_problem(task_section({**parse_task(name), **defaults, **source_of(name, root)}))
