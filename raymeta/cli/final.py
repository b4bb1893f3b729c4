"""`raymeta final` and `raymeta analyse`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import DataRoot, Json, Pack, Preset, ShipData, Slots, Task, show, show_json
from raymeta.errors import Interrupted, RunFailed, UserError
from raymeta.report.remarks import say


def final(
    configs: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            help="Methods at the preset, as in maml+dropgrad or maml+dropgrad:rate=0.2, or .yaml files as "
            "`raymeta export` writes; none: the preset is a row of a table; and key=value.",
            autocompletion=complete.configs,
        ),
    ] = None,
    task: Task = None,
    preset: Preset = None,
    scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="SHARE",
            help="Shorten the preset to a share of its outer steps, as in 0.05, with as many rounds and tasks as go "
            "with it; every output says so.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, …")] = 3,
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    test_data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Test on the test split of another data set, a prepared one: cross-domain, task.test_dataset.",
            autocompletion=complete.datasets,
        ),
    ] = None,
    slots: Slots = None,
    pack: Pack = None,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw the validation curves to this .png, .svg or .pdf file."),
    ] = None,
    by_step: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Score each config before and after every inner step, and draw it to this file."),
    ] = None,
    analyse: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAMES|all",
            help="Look at each config once it is tested: gradients,cka:tasks=50 (raymeta analyse --list says which).",
            autocompletion=complete.analyses,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train configs at their full budget with several seeds and test them on the test split: a table's rows.

    Example: raymeta final best.yaml --seeds 3 budget.outer_steps=5000

    Example: raymeta final maml alfa l2f --task omniglot-5w1s --picture curves.png

    Example: raymeta final --preset alfa-table1/cifarfs-5w1s-maml --scale 0.01

    Example: raymeta final alfa --task miniimagenet-5w5s --data-root ~/data/mini --test-data cub

    Example: raymeta final boil --task omniglot-5w1s --analyse cka,gradients
    """
    from raymeta.api import finals
    from raymeta.report.style import PICTURES
    from raymeta.storage.outputs import output

    picture, by_step = (None if path is None else output(path, PICTURES) for path in (picture, by_step))
    configs = configs or []
    words = [word for word in configs if "=" in word.split(":")[0]]
    try:
        result = finals.final(
            [word for word in configs if word not in words], task, seeds=seeds, overrides=words, preset=preset,
            scale=scale, test_data=test_data, by_step=by_step is not None, analyse=analyse, data_root=data_root,
            ship_data=ship_data, slots=slots, pack=pack, quiet=as_json,  # type: ignore[arg-type]  # its callback has parsed it
        )  # fmt: skip
    except Interrupted as left:
        say(str(left))
        say(f"go on with: {shlex.join(['raymeta', *sys.argv[1:]])}")
        raise typer.Exit(left.exit_code) from left
    if as_json:
        show_json(result.as_dict())
    elif result.rows:
        show(result.table())
        if (parts := result.by_part()) is not None:
            show(parts)
        if by_step is not None:
            show(result.by_step())
        if result.analyses.found:
            show(result.analyses)
    if result.untracked:
        say(f"MLflow was not reached: the same command sends it and trains nothing again ({result.untracked})")
    if result.rows:
        if not as_json:
            say(f"kept in {result.rows[0].folder.parent} and in MLflow's experiment 'final runs' (raymeta ui)")
        if picture is not None:
            say(f"drew {result.draw(picture)}")
        if by_step is not None:
            say(f"drew {result.draw_by_step(by_step)}")
    if result.problems:
        raise RunFailed("; ".join(result.problems))
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def analyse(
    run: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A final run, by its name or folder.", autocompletion=complete.finals),
    ] = None,
    analyses: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[NAME[:KEY=VALUE,…]]…",
            help="Which, with settings, as in cka:tasks=50; by default all that have a meaning for the run.",
            autocompletion=complete.analyses,
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Say which analyses there are, and their settings.")] = False,
    as_json: Json = False,
) -> None:
    """Look at a final run: gradients, CKA, t-SNE, landscape and more, as pictures with their numbers. Trains nothing.

    Example: raymeta analyse maml-omniglot-5w1s-1f2e3d4c cka gradients:tasks=50
    """
    from raymeta.api import analysing

    if listed:
        show_json(analysing.known().as_dict()) if as_json else show(analysing.known())
        return
    if run is None:
        raise UserError("analyse: name a final run; raymeta analyse --list says which analyses there are")
    result = analysing.analyse(run, analyses or "all", quiet=as_json)
    if as_json:
        show_json(result.as_dict())
    else:
        show(result)
    if result.untracked:
        say(f"MLflow lacks them ({result.untracked})")
    if result.problems:
        raise RunFailed("; ".join(result.problems))
