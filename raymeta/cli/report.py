"""`raymeta report`: what a study has found, as one page."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli.common import Name
from raymeta.report.remarks import say

FORMATS = ("html", "md", "tex", "csv", "json")


def report(
    name: Name,
    form: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            help="By default what the file's name ends in. html: a page; md, tex: tables; csv: the trials; json: all.",
            autocompletion=lambda incomplete: [one for one in FORMATS if one.startswith(incomplete)],
        ),
    ] = None,
    out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--out", "-o", metavar="FILE|-", help="By default STUDY.html; - is the standard output."),
    ] = None,
) -> None:
    """Write what a study has found: the best and how sure that is, what made it so, what it took, and what failed.

    Example: raymeta report maml+dropgrad-glyphs
    """
    from raymeta.api.reports import form_of, written
    from raymeta.api.studies import open_study

    form = form_of(out, form)
    study = open_study(name)
    if out == "-":
        print(written(study.record, form), end="")  # noqa: T201
        return
    say(f"wrote {study.report(Path(out) if out is not None else None, form)}")
