"""What there is: methods and regularizers, and whether this machine is fit to run studies."""

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
