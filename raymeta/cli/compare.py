"""`raymeta compare`."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import show
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
