"""`raymeta doctor`."""

import json
from dataclasses import asdict

import typer

from raymeta.cli.common import Json, Task


def doctor(task: Task = None, as_json: Json = False) -> None:
    """Check that this machine, or every machine of the cluster of $RAY_ADDRESS, is fit to run studies.

    Example: raymeta doctor --task omniglot-5w1s
    """
    from raymeta.study.machines.doctor import diagnose
    from raymeta.study.plan.plan import make_config

    checks = diagnose(make_config("maml", task).task if task else None)
    if as_json:
        print(json.dumps([asdict(check) for check in checks]))  # noqa: T201
    else:
        for check in checks:
            print(check)  # noqa: T201
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
