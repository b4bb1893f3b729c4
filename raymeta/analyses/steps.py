"""The score before the first inner step and after each.

Yeh et al., MGAug, figures 4 and 5: a learner that has memorised its training tasks is good at them before it has seen
their support sets (28 % at step 0, chance being 20 %), and no better after. The floor is the same network with weights
drawn anew. Where learners have nothing for more steps than they were trained with, the curve ends there.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from raymeta.analysis import Analysis, AnalysisConfig, Row, Subject, over_tasks
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problem import Bank
from raymeta.registry import analysis
from raymeta.report.finals import TASKS
from raymeta.report.style import GUIDE, REST, legend, panels
from raymeta.schema import merge
from raymeta.training.device import vectorized

if TYPE_CHECKING:
    import pandas

LOOKS = {
    "training": (TASKS["training"], "C0"),
    "test": (TASKS["test"], "C3"),
    "untrained": (f"{TASKS['test']}, untrained", REST),
}


class StepsConfig(AnalysisConfig):
    """The last step is the learner's own, or beyond it."""

    last: int | None = Field(None, ge=0, description="Inner steps; null: twice the learner's, if it can make them.")


@analysis("steps")
class Steps(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "What every inner step does for the score, on tasks of known and of new classes."
    of_policies: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop"})
    Config = StepsConfig
    smallest: ClassVar[dict[str, Any]] = {"tasks": 2}

    def measure(self, subject: Subject) -> list[Row]:
        learner, config = subject.learner, subject.config
        last = last_step(subject, self.settings.last)
        untrained = build_learner(config, learner.problem).to(subject.device).eval()
        training = learner.problem.untrained_bank(config.seed)
        looks = {"training": (learner, training)}
        looks |= {"test": (learner, subject.bank), "untrained": (untrained, subject.bank)}
        return [
            {"tasks": name, "task": task, "step": step, "score": score}
            for name, (own, bank) in looks.items()
            for step in range(last + 1)
            for task, score in enumerate(self._scores(subject, own, bank, step))
        ]

    def _scores(self, subject: Subject, learner: Learner, bank: Bank, step: int) -> list[float]:
        batched = vectorized(subject.config, subject.device, learner)
        score = learner.problem.evaluate(
            learner, bank, self.settings.tasks, device=subject.device, vectorized=batched, steps=step
        )
        return score.values.tolist()

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        figure, ((axis,),) = panels(1, 1, 6.4, 3.8)
        metric = subject.learner.problem.metric
        for name, (label, colour) in LOOKS.items():
            own = over_tasks(found[found["tasks"] == name], ["step"], "score")
            axis.errorbar(
                own["step"], metric.scale * own["mean"], metric.scale * own["ci95"],
                color=colour, marker="o", ms=4, capsize=2, label=label,
            )  # fmt: skip
        axis.axvline(subject.eval_steps, **GUIDE)
        unit = f", {metric.unit}" if metric.unit else ""
        axis.set(xlabel="inner steps (dashed: the learner's own)", ylabel=f"{metric.name}{unit}")
        axis.grid(axis="y", alpha=0.25)
        legend(axis)
        return figure


def last_step(subject: Subject, wanted: int | None) -> int:
    """The last inner step to look at: the wanted one, else twice the learner's own if it can make so many.

    Raises:
        UserError: the learner can't make the wanted one.
    """
    own = subject.eval_steps
    for steps in [2 * own, own] if wanted is None else [wanted]:
        more = {subject.config.method: {"eval_steps": max(steps, own)}}
        try:
            build_learner(parse_trial(merge(subject.config.as_dict(), more)), subject.learner.problem)
        except UserError:  # there is nothing for so many
            if wanted is not None:
                raise
        else:
            return steps
    return own
