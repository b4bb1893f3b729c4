"""How alike gradients are: of two tasks, and of a task's support and query set.

    outer               cosine of the outer gradients of two tasks, d Lq(theta') / d(what is learned)
    support and query   cosine of the gradients of a task's support and query loss before the first inner step

of all learned tensors together and of each part. Outer gradients are those of training, without regularizers: positive
cosines say that an outer step for one task helps the other. None of the seed papers draws it; DropGrad's noise and
MGAug's pruning are about making gradients less alike.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymeta.analysis import Analysis, AnalysisConfig, Case, Row, Subject, over_tasks
from raymeta.inner import Context
from raymeta.learner import task_loss
from raymeta.problem import Task
from raymeta.registry import analysis
from raymeta.report.style import GUIDE, legend, panels

if TYPE_CHECKING:
    import pandas

ALL = "all"


class SimilarityConfig(AnalysisConfig):
    """All pairs of the tasks."""

    tasks: int = Field(25, ge=2, description="How many tasks, the first ones of the bank.")


@analysis("similarity")
class Similarity(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "How alike gradients are: 1 where they ask for the same change, 0 for unrelated ones."
    Config = SimilarityConfig
    smallest: ClassVar[dict[str, Any]] = {"tasks": 2}

    def measure(self, subject: Subject) -> list[Row]:
        now = {name: tensor.clone() for name, tensor in subject.learner.state_dict().items()}
        rows = self._rows(subject)
        subject.learner.load_state_dict(now)  # passes of training move the averages of `model.norm: running`
        return rows

    def _rows(self, subject: Subject) -> list[Row]:
        outer: list[dict[str, Tensor]] = []
        rows: list[Row] = []
        for case in subject.cases(self.settings.tasks):
            outer.append(gradient(case, case.task))
            if case.learner.inner_loop:
                support, query = (gradient(case, Task(case.task.support, part), 0) for part in case.task)
                rows += [
                    {"task": case.number, "of": "support and query", "part": part, "cosine": cosine(support[part], g)}
                    for part, g in query.items()
                ]
        for task, own in enumerate(outer):
            for part, mine in own.items():
                others = [cosine(mine, other[part]) for number, other in enumerate(outer) if number != task]
                mean = sum(others) / len(others)
                rows.append({"task": task, "of": "two tasks", "part": part, "cosine": mean})
        return rows

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        figure, ((axis,),) = panels(1, 1, 6.4, 3.8)
        kinds = {"two tasks": ("outer gradients of two tasks", "C0"), "support and query": ("support and query", "C1")}
        for place, (kind, (label, colour)) in enumerate(kinds.items()):
            own = over_tasks(found[found["of"] == kind], ["part"], "cosine")
            if len(own):
                at = [one + 0.1 * (2 * place - 1) for one in range(len(own))]
                axis.errorbar(at, own["mean"], own["ci95"], fmt="o", color=colour, capsize=3, label=label)
                axis.set_xticks(range(len(own)), own["part"], rotation=0 if len(own) <= 6 else 60)
        axis.axhline(0, **GUIDE)
        axis.set(xlabel="what is learned, by part", ylabel="cosine of gradients")
        axis.grid(axis="y", alpha=0.25)
        legend(axis)
        return figure


def gradient(case: Case, task: Task, steps: int | None = None) -> dict[str, Tensor]:
    """The outer gradient of a task, flat, by part of what is learned, and of `ALL`."""
    learner = case.learner
    named = learner.named_parameters()
    learned = {name: one for name, one in named if one.requires_grad and not name.startswith("regularizers.")}
    context = Context(True, progress=1.0, steps=steps, outputs=learner.problem.outputs_of(case.tasks))
    with torch.enable_grad():
        loss = task_loss(learner, task, context)
        found = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    parts: dict[str, list[Tensor]] = {ALL: []}
    for (name, one), own in zip(learned.items(), found, strict=True):
        flat = torch.zeros_like(one).flatten() if own is None else own.detach().flatten()
        for part in (ALL, part_of(name)):
            parts.setdefault(part, []).append(flat.double())
    return {part: torch.cat(flat) for part, flat in parts.items()}


def part_of(name: str) -> str:
    """`block1` of `model.block1.weight`; what a learner learns beside its backbone by its own name."""
    return name.removeprefix("model.").split(".")[0]


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between two gradients; nan where one is zero."""
    return float((a @ b) / (a.norm() * b.norm()))
