"""The verbs of `raymeta data`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import DataRoot, Json, show, show_json
from raymeta.report.remarks import say

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Data sets: list, prepare, check, look at.")
DataSet = Annotated[str, typer.Argument(help="A data set.", autocompletion=complete.datasets)]

Size = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Side of the packed images of your own pictures, in pixels; by default 84."),
]
Grey = Annotated[bool, typer.Option("--grey", help="Pack your own pictures as grey.")]


@data_app.command("ls")
def data_ls(as_json: Json = False) -> None:
    """List the data sets and what of them is on this machine."""
    from raymeta.api import data

    rows = data.datasets()
    if as_json:
        show_json(rows)
        return
    from raymeta.report.tables import data_table

    show(data_table(rows))


@data_app.command("prepare")
def data_prepare(
    name: DataSet,
    data_root: DataRoot = None,
    validation_share: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Of the training classes of a folder, to hold out where nothing says which are for validation."
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Pack it again even if it is there.")] = False,
    size: Size = None,
    grey: Grey = False,
    background: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Colour behind what is transparent in your own pictures; by default white."),
    ] = None,
    skip_broken: Annotated[
        bool,
        typer.Option("--skip-broken", help="Leave out your own pictures that can't be read; a list is written."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be packed and what is left out; pack nothing.")
    ] = False,
) -> None:
    """Download or read a data set and pack it once for all trials of this machine.

    Example: raymeta data prepare omniglot --data-root ~/downloads/omniglot
    """
    from raymeta.api import data

    how: dict[str, Any] = {"size": size, "grey": grey or None, "background": background}
    how |= {"skip_broken": skip_broken or None, "validation_share": validation_share}
    if dry_run:
        found = data.preview(name, data_root, **how)
    else:
        found = data.prepare(name, data_root, rebuild=rebuild, **how)
    for key, value in found.items():
        show(f"{key if ':' in key else data.spaced(key)}: {value}")
    if "refused" in found:
        raise typer.Exit(2)


@data_app.command("convert")
def data_convert(
    name: Annotated[str, typer.Argument(help="One of Meta-Dataset's data sets, or a name of your own.")],
    data_root: Annotated[Path, typer.Option(help="Where its pictures are, as their authors publish them.")],
    out: Annotated[Path, typer.Option(help="Where a folder of the data set's name is made.")],
    spec: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The specification that Meta-Dataset publishes; omniglot needs none."),
    ] = None,
) -> None:
    """Make records of Meta-Dataset's form, for the task metadataset, of pictures.

    Example: raymeta data convert omniglot --data-root ~/downloads/omniglot --out ~/records
    """
    from raymeta.api import data

    say(f"wrote {data.convert(name, data_root, out, spec=spec)}: raymeta data prepare metadataset --data-root {out}")


@data_app.command("check")
def data_check(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A data set; by default all that are prepared.", autocompletion=complete.datasets),
    ] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Compare packed data with what was published, and look for classes and images in two splits; exit code 1: found.

    Example: raymeta data check cub
    """
    from raymeta.api import data

    findings = data.check_data(name, data_root)
    if as_json:
        show_json({one: [asdict(finding) for finding in all] for one, all in findings.items()})
    elif findings:
        from raymeta.report.tables import check_table

        show(check_table(findings))
    else:
        say(f"nothing to check: {f'{name} has no images' if name else 'no data set is prepared'}")
    if not all(finding.ok for all in findings.values() for finding in all):
        raise typer.Exit(1)


@data_app.command("show")
def data_show(
    name: DataSet,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="The picture; by default NAME.png.")] = None,  # noqa: UP045
    data_root: DataRoot = None,
    size: Size = None,
    grey: Grey = False,
) -> None:
    """Draw some training and validation classes of a data set, and a training task, as .png, .svg or .pdf.

    Example: raymeta data show glyphs -o glyphs.png
    """
    from raymeta.api import data

    say(f"drew {data.draw_data(name, out, data_root, size=size, grey=grey or None)}")
