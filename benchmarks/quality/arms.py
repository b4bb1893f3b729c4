"""The ways to search that are compared, and the study of each."""

from dataclasses import dataclass, replace
from typing import Any

from simulated.problems import PROBLEMS, TableProblem

from raymeta.study.plan.plan import Plan
from raymeta.study.plan.space import Space

Round = dict[str, Any]
"""A validation in a search: `at` (seconds), `trial`, `steps` it has done, `value` (None: diverged) and its `point`."""


@dataclass(frozen=True)
class Arm:
    """A way to search.

    Attributes:
        system: whose it is: raymeta's, Ray's, or a sampler of `simulated.search.OUTSIDE`.
        scheduler: of such a system, if it is apart from the sampler.
        words: of the study.
        whole: every trial has the full budget.
        starts: the space's starting points are tried first.
    """

    system: str = "raymeta"
    scheduler: str = ""
    words: tuple[str, ...] = ()
    whole: bool = False
    starts: bool = True

    def plan(self, problem: TableProblem, seed: int) -> Plan:
        """The study of a search."""
        rungs = [f"study.first_rung={problem.points[-1]}"] if self.whole else []
        plan = problem.study(f"study.seed={seed}", *self.words, *rungs)
        return plan if self.starts else replace(plan, space=Space(plan.space.params, [], []))


STOPPING = "TPE+ASHA"  # raymeta's default until this check chose another
ARMS = {
    "random": Arm(words=("study.startup_trials=1000",), whole=True, starts=False),
    "stock Ray": Arm("Ray"),
    STOPPING: Arm(words=("study.halving=stopping",)),
    "TPE+promoting ASHA": Arm(),
    "Syne Tune": Arm("Syne Tune's CQR", "Syne Tune's ASHA"),
    "SMAC": Arm("SMAC"),
}
CHECKED = {name: PROBLEMS[name] for name in ("sinusoid", "glyphs")}
