"""`raymeta compare` and `raymeta study-of-methods`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import DataRoot, Json, Pack, Preset, ShipData, Slots, show, show_json
from raymeta.errors import Interrupted, RunFailed
from raymeta.report.remarks import say


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Studies (their best; of one alone its finalists), STUDY:3 for a trial, folders of final runs, or "
            ".yaml files that were exported and tested.",
            autocompletion=complete.runs,
        ),
    ],
    rope: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Differences up to this are of no practical meaning: 0.5 points, say."),
    ] = None,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Compare means of other tasks or budgets, too; without pairs.")
    ] = False,
    ranks: Annotated[
        bool,
        typer.Option("--ranks", help="Rank methods over many tasks, each once in each, with critical differences."),
    ] = False,
    form: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--format", metavar="md|tex|csv|json", help="By default the ending of --out, or a table."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="The file to write.")] = None,  # noqa: UP045
) -> None:
    """Say whether A is better than B: differences on the same tasks, their intervals, and a sentence.

    Example: raymeta compare maml-omniglot-5w1s-1f0c2a3b alfa-omniglot-5w1s-77a0b1c2 --rope 0.5

    Example: raymeta compare maml+dropgrad-glyphs:0 maml+dropgrad-glyphs:3 -o table.tex

    Example: raymeta compare --ranks maml-omniglot-* alfa-omniglot-* l2f-omniglot-* -o table.tex
    """
    from raymeta.api.kept import comparing
    from raymeta.comparison.written import FORMATS
    from raymeta.errors import UserError, suggest
    from raymeta.storage.outputs import output, write_output

    if form is not None and form not in FORMATS:
        raise UserError(f"--format: found '{form}', {suggest(form, FORMATS)}")
    file = None if out is None else output(out, () if form else tuple(f".{one}" for one in FORMATS))
    if ranks and rope is not None:
        raise UserError("--rope: found with --ranks, which compares ranks: expected one of them")
    found = comparing.rank(runs, unpaired=unpaired) if ranks else comparing.compare(runs, rope=rope, unpaired=unpaired)
    form = form or (file.suffix[1:].lower() if file else None)
    if file is not None and form is not None:
        write_output(file, found.written(form))
        say(f"wrote {file}")
    elif form is not None:
        print(found.written(form), end="")  # noqa: T201
    else:
        show(found)


def study_of_methods(
    methods: Annotated[
        list[str],
        typer.Argument(
            help="Methods with their regularizers, as in maml+dropgrad; and key=value or ranges, as `search` takes "
            "them: what stands in the section of one method or regularizer is for that only.",
            autocompletion=complete.methods_and_keys,
        ),
    ],
    task: Annotated[
        list[str],
        typer.Option(help="May be given more than once: glyphs-5w1s, omniglot-20w1s, …", autocompletion=complete.tasks),
    ],
    regularizers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Take each method with each of these; none is the method alone: none,dropgrad,dropout.",
            autocompletion=complete.choices,
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the whole; its studies are NAME-METHOD-TASK.")] = "methods",
    trials: Annotated[Optional[int], typer.Option("--trials", "-n", min=1, help="Of each search.")] = None,  # noqa: UP045
    seeds: Annotated[int, typer.Option(min=1, help="Of the final runs: 0, 1, …")] = 3,
    preset: Preset = None,
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    slots: Slots = None,
    pack: Pack = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Write the report to this .html, .md, .tex, .csv or .json file, too."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be searched and trained, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search methods with the same budget on the same tasks, train them tuned and as their authors have them, compare.

    Go on with the same command after a kill: what was searched and trained is kept.

    Example: raymeta study-of-methods maml --regularizers none,dropgrad,metadropout --task glyphs-5w1s -o methods.html

    Example: raymeta study-of-methods maml anil alfa --task omniglot-5w1s --task cifarfs-5w1s -n 24 --seeds 5
    """
    from raymeta.api.many.methods import study_of_methods as study
    from raymeta.api.many.planned import methods_plan
    from raymeta.report.page.forms import FORMS
    from raymeta.storage.outputs import output

    specs = [word for word in methods if "=" not in word.split(":")[0]]
    words = [word for word in methods if word not in specs]
    added = regularizers.split(",") if regularizers is not None else None
    if dry_run:
        plan = methods_plan(
            specs, task, regularizers=added, name=name, trials=trials, seeds=seeds, overrides=words, preset=preset
        )
        show_json(plan.as_dict()) if as_json else show(plan)
        return
    file = None if out is None else output(out, [f".{form}" for form in FORMS])
    try:
        found = study(
            specs, task, regularizers=added, name=name, trials=trials, seeds=seeds, overrides=words, preset=preset,
            data_root=data_root, ship_data=ship_data, slots=slots, pack=pack, quiet=as_json,  # type: ignore[arg-type]
            command=" ".join(["raymeta", *sys.argv[1:]]),
        )  # fmt: skip
    except Interrupted as left:
        say(str(left))
        say(f"go on with: {shlex.join(['raymeta', *sys.argv[1:]])}")
        raise typer.Exit(left.exit_code) from left
    show_json(found.as_dict()) if as_json else show(found)
    if file is not None:
        say(f"wrote {found.report(file)}")
    if found.problems:
        raise RunFailed("; ".join(found.problems))
