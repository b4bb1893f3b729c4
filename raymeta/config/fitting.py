"""What does not fit together, said in a sentence before anything starts."""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from raymeta import registry
from raymeta.errors import UserError


def refuse_unmet(needs: Mapping[str, frozenset[str]], offers: Collection[str], where: str, of: tuple[str, ...]) -> None:
    """Say which of several things need something that a part of a trial, `where`, does not have.

    Raises:
        UserError: one does.
    """
    for who, needed in needs.items():
        for need in of:
            if need in needed and need not in offers:
                article = {"inner loop": "an "} | dict.fromkeys(("policy", "plane", "body", "filter"), "a ")
                raise UserError(f"{who} needs {article.get(need, '')}{need}, and {where} has none")


def refuse_unfit(
    kind: Literal["method", "regularizer", "analysis"], names: Iterable[str], what: str, where: str
) -> None:
    """Say which of these does not say of itself that it has a meaning for what a problem is of.

    Args:
        kind: of the names.
        names: of a composition.
        what: `policies` or `windows`, if they must have `of_policies` or `of_windows` of their own, not inherited.
        where: the problem's name.
    """
    allowed = [name for name, cls in registry.working(kind).items() if vars(cls).get(f"of_{what}")]
    for name in names:
        if name not in allowed:
            raise UserError(f"{name} has no meaning for {what}, which {where} is of; allowed: {', '.join(allowed)}")
