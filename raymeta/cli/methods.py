"""What there is to search: `space` and `methods`."""

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli.common import Choose, Json, OwnSpace, Preset, Spec, Task, Words, console, say


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
    from raymeta.study.plan.plan import make_plan

    plan = make_plan(spec, task, preset, words or [], choose, space=own_space)
    if write is not None:
        from raymeta.study.plan.write import write_space

        write_space(plan, write)
        say(f"wrote {write}; edit it, then: raymeta search {spec} --space {write}")
    if as_json:
        from_where = {"fixed": plan.fixed, "others": plan.origins}
        print(json.dumps({**plan.space.as_dict(), "hash": plan.space.hash, **from_where}))  # noqa: T201
    elif write is None:
        from raymeta.report.tables import space_table

        console().print(space_table(plan))


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
