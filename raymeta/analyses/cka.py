"""Linear CKA of what each layer gives for the query set before and after the inner loop.

Oh et al.: BOIL (ICLR 2021), and CxGrad's figure 3; Kornblith et al.: Similarity of Neural Network Representations
Revisited (ICML 2019).

    CKA(X, Y) = ||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F),  X before, Y after adaptation, [n, features], centred

It is computed from the Gram matrices K = XX' and L = YY', [n, n]. With more features than examples it is biased towards
1: independent Gaussians [25, 48] give 0.66. So it stands beside the one of the unbiased HSIC (Song et al., JMLR 2012),
K and L without their diagonals:

    HSIC_u = [tr KL + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 (1'KL1) / (n-2)] / (n(n-3)),  CKA_u = KL / sqrt(KK * LL)
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from raymeta.analysis import Analysis, Row, Subject, activations, over_tasks
from raymeta.errors import UserError
from raymeta.registry import analysis
from raymeta.report.style import GUIDE, legend, panels

if TYPE_CHECKING:
    import pandas

LEAST = 4  # examples, for the unbiased estimator


@analysis("cka")
class CKA(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "How like a layer's features are before and after adaptation: 1 where nothing changes."
    of_policies: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop"})

    def measure(self, subject: Subject) -> list[Row]:
        rows = []
        for case in subject.cases(self.settings.tasks):
            x = case.task.query.x
            if len(x) < LEAST:
                raise UserError(f"cka: found {len(x)} query examples, but it needs {LEAST} or more of a task")
            before, after = (activations(case.learner, case.adapted(steps), x) for steps in (0, None))
            rows += [
                {
                    "task": case.number,
                    "layer": layer,
                    "cka": linear(before[layer], after[layer]),
                    "cka_unbiased": unbiased(before[layer], after[layer]),
                }
                for layer in before
            ]
        return rows

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        figure, ((axis,),) = panels(1, 1, 6.4, 3.8)
        for place, (key, label) in enumerate((("cka", "CKA"), ("cka_unbiased", "CKA, unbiased"))):
            own = over_tasks(found, ["layer"], key)
            axis.errorbar(
                [at + 0.08 * (2 * place - 1) for at in range(len(own))], own["mean"], own["ci95"],
                fmt="o-" if not place else "s--", color=f"C{place}", capsize=3, label=label,
            )  # fmt: skip
        axis.set_xticks(range(len(own)), own["layer"], rotation=0 if len(own) <= 6 else 60)
        axis.axhline(1, **GUIDE)
        axis.set(xlabel="layer, from the input on", ylabel="similarity before and after")
        axis.set_ylim(min(0.0, axis.get_ylim()[0]), 1.04)
        axis.grid(axis="y", alpha=0.25)
        legend(axis)
        return figure


def linear(x: Tensor, y: Tensor) -> float:
    """Linear CKA of two sets of features [n, ...] of the same examples; nan where one of them is constant."""
    k, m = gram(x), gram(y)
    return float((k * m).sum() / (k.square().sum() * m.square().sum()).sqrt())


def unbiased(x: Tensor, y: Tensor) -> float:
    """The same from the unbiased HSIC; nan where that of one with itself is not positive."""
    k, m = (given - given.diagonal().diag() for given in (gram(x), gram(y)))
    return float(hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt())


def hsic(k: Tensor, m: Tensor) -> Tensor:
    """The unbiased HSIC of two Gram matrices [n, n] without diagonals, []."""
    n = len(k)
    rows = k.sum(0) * m.sum(0)
    whole = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * rows.sum() / (n - 2)
    return whole / (n * (n - 3))


def gram(x: Tensor) -> Tensor:
    """Inner products of centred features [n, ...], [n, n], in float64."""
    flat = x.flatten(1).to(torch.float64)
    flat = flat - flat.mean(0)
    return flat @ flat.t()
