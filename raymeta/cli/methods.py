"""What there is to search: `space` and `methods`."""

import sys
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import Choose, Json, Preset, Spec, Task, Words, show, show_json


def space(
    spec: Spec,
    words: Words = None,
    task: Task = None,
    preset: Preset = None,
    choose: Choose = None,
    as_json: Json = False,
) -> None:
    """Show what a search of a method would search, and where it would start.

    Example: raymeta space maml+dropgrad --task omniglot-5w1s
    """
    from raymeta.api import searching

    found = searching.space(spec, task, overrides=words, preset=preset, choose=choose)
    if as_json:
        show_json({**found.as_dict(), "hash": found.hash})
        return
    from raymeta.report.tables import space_table

    show(space_table(found))


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
