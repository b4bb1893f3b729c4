"""What there is to search: `space` and `methods`."""

import json
from typing import Annotated, Optional

import typer

from raymeta.cli.common import Choose, Json, Preset, Spec, Task, Words, console


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
    from raymeta.study.plan.plan import make_plan

    plan = make_plan(spec, task, preset, words or [], choose)
    if as_json:
        print(json.dumps({**plan.space.as_dict(), "hash": plan.space.hash}))  # noqa: T201
        return
    from raymeta.report.tables import space_table

    console().print(space_table(plan.space))


def methods(
    name: Annotated[Optional[str], typer.Argument(help="One of them; without it all are listed.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """List methods and regularizers: paper, what adapts, what is learned, what a step costs; or show one's settings.

    Example: raymeta methods alfa
    """
    from raymeta.report.handbook import about, about_regularizers, listing, page

    if name:
        from rich.markdown import Markdown

        console().print(Markdown(page(name)))
    elif as_json:
        print(json.dumps({one.name: one.as_dict() for one in [*about(), *about_regularizers()]}))  # noqa: T201
    else:
        console().print(listing())
