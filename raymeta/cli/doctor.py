"""`raymeta doctor`."""

from dataclasses import asdict

import typer

from raymeta.cli.common import Json, Task, show, show_json


def doctor(task: Task = None, as_json: Json = False) -> None:
    """Check that this machine, or every machine of the cluster of $RAY_ADDRESS, is fit to run studies.

    Example: raymeta doctor --task omniglot-5w1s
    """
    from raymeta.api import catalogue

    checks = catalogue.doctor(task)
    if as_json:
        show_json([asdict(check) for check in checks])
    else:
        for check in checks:
            show(str(check))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
