"""What an analysis is: a look at a final run's learners on test tasks, as numbers and a picture of them.

A new one is a subclass in a file of its own; see `docs/analyses.md`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.config.fitting import refuse_unfit, refuse_unmet
from raymeta.errors import UserError
from raymeta.hooks import Hooks
from raymeta.inner import Context, Player, Step, in_evaluation
from raymeta.learner import Learner
from raymeta.metric import Metric
from raymeta.models import Pass
from raymeta.problem import Bank, Task, Tasks
from raymeta.schema import Section

if TYPE_CHECKING:
    import pandas

OUTPUTS = "outputs"  # of the whole learner, where the others are those of its blocks
Row = dict[str, Any]  # column to value


class AnalysisConfig(Section):
    """What most analyses have."""

    tasks: int = Field(100, ge=1, description="How many tasks, the first ones of the bank.")


@dataclass(frozen=True)
class Case:
    """A task that a learner is looked at on, in evaluation.

    Attributes:
        number: of the task in its bank.
        learner: with its trained weights.
        tasks: the task alone, T = 1.
    """

    number: int
    learner: Learner
    tasks: Tasks

    @cached_property
    def task(self) -> Task:
        """Its support and query set."""
        return self.tasks.task(0)

    def context(self, steps: int | None = None, watching: tuple[Hooks, Hooks] = (Hooks(), Hooks())) -> Context:
        """What surrounds the task, its noise from the start.

        Args:
            steps: inner steps; None: the learner's own.
            watching: hooks beside those of the regularizers, the first and the last.
        """
        first, last = watching
        plain = in_evaluation(self.learner, self.tasks, self.number, steps=steps)
        return replace(plain, hooks=(first, *plain.hooks, last))

    def adapted(self, steps: int | None = None) -> Any:
        """The learner's state after so many inner steps; None: as many as its own settings say."""
        with torch.no_grad():
            return self.learner.adapt(self.task.support, self.context(steps))

    def predicted(self, steps: int | None = None) -> Tensor:
        """Outputs for the query set [n, ...] after so many inner steps, as in `adapted`."""
        with torch.no_grad():
            return self.learner.predict(self.adapted(steps), self.task.query.x)

    def inner_steps(self, *, regularized: bool = False) -> list[Step]:
        """The inner steps, to be looked at once all are done: where there is noise in evaluation, it goes on.

        Args:
            regularized: with the gradients that the update is given; else as the regularizers find them.
        """
        seen: list[Step] = []
        look, blind = Hooks(inner_step=lambda step, context: seen.append(step)), Hooks()
        with torch.no_grad():
            self.learner.adapt(
                self.task.support, self.context(watching=(blind, look) if regularized else (look, blind))
            )
        return seen


def _none_beside(run: str) -> Learner:
    raise UserError(f"{run}: no other final run can be looked at here")


@dataclass(frozen=True)
class Subject:
    """A learner and the tasks that it is looked at on.

    Attributes:
        learner: of a final run, at its weights that are best on validation; before training an untrained one.
        config: of the trial, its seed included.
        bank: of test tasks; before training of validation tasks.
        beside: the learner of another final run of the same task, by the run's name or folder: of the same seed, or if
            it has none the one that is best on validation. It raises a `UserError` if there is no such run.
    """

    learner: Learner
    config: TrialConfig
    bank: Bank
    beside: Callable[[str], Learner] = _none_beside

    @cached_property
    def device(self) -> torch.device:
        """Where the learner is."""
        return next(self.learner.parameters()).device

    def cases(self, count: int, first: int = 0) -> Iterator[Case]:
        """Tasks `first` .. `first + count - 1` of the bank, one after the other."""
        for number in range(first, first + count):
            yield Case(
                number,
                self.learner,
                self.bank.draw(number, 1, Player.in_evaluation(self.learner, number, 1)).to(self.device),
            )

    @cached_property
    def eval_steps(self) -> int:
        """Inner steps in evaluation, of a learner with an inner loop."""
        return int(self.learner.steps(Context(training=False)))  # type: ignore[operator]


class Analysis(ABC):
    """A look at final runs.

    Args:
        settings: of its `Config`.

    Attributes:
        meaning: what its picture shows, in a line.
        needs: what it has no meaning without: `inner loop` of the learner; `labels`, `images`, `plane` or `body`
            of the problem.
        smallest: settings under which it is tried on an untrained learner before anything is trained.
        one_seed: it looks at the seed that is best on validation alone.
        of_policies: it has a meaning where the examples are made by the learner's own policy; not inherited.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    Config: ClassVar[type[Section]] = AnalysisConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    smallest: ClassVar[dict[str, Any]] = {"tasks": 1}
    one_seed: ClassVar[bool] = False
    of_policies: ClassVar[bool] = False

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def others(self) -> list[str]:
        """Other final runs that it looks at, by `Subject.beside`: names or folders."""
        return []

    @abstractmethod
    def measure(self, subject: Subject) -> list[Row]:
        """The numbers, rows of equal columns; `task` is the number of a task in its bank.

        Raises:
            UserError: it has no meaning for the learner or the problem.
        """

    @abstractmethod
    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        """The picture.

        Args:
            found: the rows of all seeds, with a column `seed`.
            subject: the seed that is best on validation.

        Returns:
            A figure of matplotlib's, begun by `raymeta.report.style.panels`; title and meaning are added to it.
        """

    def table(self, found: "pandas.DataFrame", metric: Metric) -> "pandas.DataFrame | None":
        """What of the rows is worth reading as a table on a terminal; None: nothing.

        Args:
            found: as in `draw`.
            metric: of the problem.
        """
        return None

    @classmethod
    def across(cls, found: "Mapping[str, pandas.DataFrame]", metric: Metric) -> "pandas.DataFrame | None":
        """What of the rows of several final runs is worth reading beside each other, task by task; None: nothing.

        Args:
            found: by run, as in `draw`, two or more, of the same settings and tasks.
            metric: of the problem.
        """
        return None

    def refuse(self, subject: Subject) -> None:
        """Look, on an untrained learner, whether there is anything to be seen.

        Raises:
            UserError: there is not; one sentence.
        """
        learner, problem, needs = subject.learner, subject.learner.problem, {self.name: self.needs}
        refuse_unmet(needs, ("inner loop",) if learner.inner_loop else (), learner.name, of=("inner loop",))
        refuse_unmet(needs, problem.offers, problem.name, of=("body", "images", "labels", "plane"))
        if "policy" in problem.offers:
            refuse_unfit("analysis", [self.name], "policies", problem.name)
        small = self.settings.model_copy(update=self.smallest)
        type(self)(small).measure(subject)


def activations(learner: Learner, adapted: Any, x: Tensor) -> dict[str, Tensor]:
    """What every block gives for inputs in a pass over them, and in the end the learner, by name: [n, ...] each.

    Blocks that see pairs of inputs and classes (Relation Networks) are not among them: their rows are no inputs.

    Args:
        learner: with its weights.
        adapted: to a task.
        x: inputs, [n, ...], that are normalised together.
    """
    found: dict[str, Tensor] = {}

    def watch(h: Tensor, layer: str, now: Pass) -> Tensor:
        found[layer] = h[now.support :]  # the query's part, where the support set is in the same pass
        return h

    with torch.no_grad():
        outputs = learner.predict(learner.with_hook(adapted, watch), x)
    return {**{layer: h for layer, h in found.items() if len(h) == len(x)}, OUTPUTS: outputs}


def over_tasks(found: "pandas.DataFrame", by: list[str], value: str) -> "pandas.DataFrame":
    """Mean and half-width of the 95 % interval over tasks, each task's value averaged over what else there is of it.

    Args:
        found: with a column `task`.
        by: the columns that tell a mean from another.
        value: the column that is averaged; what is missing counts for nothing.

    Returns:
        `by`, in the order of their appearance, `mean` and `ci95`.
    """
    tasks = found.groupby([*by, "task"], sort=False)[value].mean().groupby(by, sort=False)
    return tasks.agg(mean="mean", ci95=lambda own: 1.96 * own.sem()).reset_index()
