"""What there is: methods and regularizers, and whether this machine is fit to run studies."""

from pathlib import Path
from typing import TYPE_CHECKING

from raymeta.report.handbook import Listing, Page, listing, page

if TYPE_CHECKING:
    from raymeta.study.machines.doctor import Check


def methods() -> Listing:
    """All methods and regularizers: paper, what adapts, what is meta-learned, what a step costs."""
    return listing()


def describe(name: str) -> Page:
    """The page of a method or a regularizer in Markdown: its equations and its settings with their defaults.

    Raises:
        UserError: there is neither of that name.
    """
    return Page(page(name))


def doctor(task: str | None = None) -> "list[Check]":
    """Check that this machine, or every machine of the cluster of `$RAY_ADDRESS`, is fit to run studies.

    Args:
        task: whose data must be there, `omniglot-5w1s`; None: no data are looked at.
    """
    from raymeta.study.machines.doctor import diagnose
    from raymeta.study.plan.plan import make_config

    return diagnose(make_config("maml", task).task if task else None)


def explain(config: str, task: str | None = None) -> dict[str, str]:
    """Whose kernels a config's network runs on here, as a whole and block by block (`engine.kernels`).

    Args:
        config: a .yaml file as `export` writes it, or a method with its regularizers.
        task: of a method; None: its preset's.

    Raises:
        UserError: there is no such config, or it asks for kernels that this machine can't have.
    """
    from raymeta.report.export import read_export
    from raymeta.study.plan.plan import make_config
    from raymeta.training.explained import explained

    if config.endswith((".yaml", ".yml")):
        return explained(read_export(Path(config))[0])
    return explained(make_config(config, task))
