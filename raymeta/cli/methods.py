"""What there is to search and to run: `space`, `methods` and `presets`."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import Choose, Json, OwnSpace, Preset, Spec, Task, Words, show, show_json
from raymeta.report.remarks import say


def space(
    spec: Spec,
    words: Words = None,
    task: Task = None,
    preset: Preset = None,
    own_space: OwnSpace = None,
    choose: Choose = None,
    write: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--write", metavar="FILE", help="Write it as a file to edit, for --space."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a search of a method would search, where it would start, and where that is from.

    Example: raymeta space maml+dropgrad --task omniglot-5w1s

    Example: raymeta space maml+dropgrad --write my.yaml
    """
    from raymeta.api import searching

    plan = searching.space(
        spec, task, space=own_space, overrides=words, preset=preset, choose=choose, write=write
    )  # fmt: skip
    if write is not None:
        say(f"wrote {write}; edit it, then: raymeta search {spec} --space {write}")
    if as_json:
        from_where = {"fixed": plan.fixed, "others": plan.origins}
        show_json({**plan.space.as_dict(), "hash": plan.space.hash, **from_where})
    elif write is None:
        from raymeta.report.tables import space_table

        show(space_table(plan))


def methods(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="One of them; without it all are listed.", autocompletion=complete.entries),
    ] = None,
    as_json: Json = False,
) -> None:
    """List methods and regularizers: paper, what adapts, what is learned, what a step costs; or show one's settings.

    Example: raymeta methods alfa
    """
    from raymeta.api import catalogue

    if name:
        from rich.markdown import Markdown

        page = catalogue.describe(name)
        show(Markdown(page) if sys.stdout.isatty() else page)
    elif as_json:
        show_json(catalogue.methods().as_dict())
    else:
        show(catalogue.methods())


def presets(
    word: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[WORD|NAME]",
            help="Only those with it in their name, data set, method or source; a whole name shows all of that one.",
            autocompletion=complete.presets,
        ),
    ] = None,
    lacking: Annotated[
        bool,
        typer.Option("--lacking", help="List rows of papers' tables that no preset covers, with what is missing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List presets: those for any method, and the rows of papers' tables with their published figures and cost.

    Example: raymeta presets cub

    Example: raymeta presets alfa-table1/cifarfs-5w1s-maml
    """
    from raymeta.api import presets as listed

    found = listed.lacking(word) if lacking else listed.presets(word)
    if as_json:
        show_json(found.as_dict())
    else:
        show(found)
