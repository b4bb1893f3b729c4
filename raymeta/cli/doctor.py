"""`raymeta doctor`."""

from dataclasses import asdict
from typing import Annotated, Optional

import typer

from raymeta.cli.common import Json, Task, show, show_json


def doctor(
    task: Task = None,
    explain: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="CONFIG",
            help="Only say whose kernels a config's network runs on here, block by block: a method, as in "
            "maml+dropgrad, or a .yaml file as `raymeta export` writes.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that this machine, or every machine of the cluster of $RAY_ADDRESS, is fit to run studies.

    Example: raymeta doctor --task omniglot-5w1s
    """
    from raymeta.api import catalogue

    if explain is not None:
        found = catalogue.explain(explain, task)
        if as_json:
            show_json(found)
        else:
            width = max(map(len, found))
            for part, words in found.items():
                show(f"{part:<{width}}  {words}")
        return
    checks = catalogue.doctor(task)
    if as_json:
        show_json([asdict(check) for check in checks])
    else:
        for check in checks:
            show(str(check))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
