"""Query examples with what an adapted learner predicts of them, of problems that draw such."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from raymeta.analysis import Row, Subject
from raymeta.problems.examples import DrawsExamples
from raymeta.report.style import panels

SIDE = 1.15  # inches of a panel


class Asked(NamedTuple):
    """A query example.

    Attributes:
        task, number: which one.
        called: what the task is of.
        x, y, output: as `DrawsExamples.show_example` takes them.
    """

    task: int
    number: int
    called: str
    x: Tensor
    y: Tensor
    output: Tensor


def asked(subject: Subject, tasks: int) -> list[Asked]:
    """All query examples of the first tasks of a bank, with what is predicted of them."""
    found = []
    for case in subject.cases(tasks):
        query, name = case.task.query, _problem(subject).called(subject.bank, case.number)
        outputs = case.predicted()
        found += [
            Asked(case.number, number, name, *one)
            for number, one in enumerate(zip(query.x, query.y, outputs, strict=True))
        ]
    return found


def some_of(examples: Sequence[Asked], columns: int) -> list[Asked]:
    """So many of each task, spread evenly over its query set, whose kinds may come one after the other."""
    found = []
    for number in dict.fromkeys(one.task for one in examples):
        own = [one for one in examples if one.task == number]
        few = min(columns, len(own))
        found += [own[(2 * place + 1) * len(own) // (2 * few)] for place in range(few)]
    return found


def rows_of(subject: Subject, examples: Sequence[Asked]) -> list[Row]:
    """A row for each of them: which one, and how the prediction does."""
    problem = _problem(subject)
    return [
        {"task": one.task, "called": one.called, "query": one.number, **problem.example(one.y, one.output)}
        for one in examples
    ]


def drawn_examples(subject: Subject, examples: Sequence[Asked], tasks: int, columns: int) -> Any:
    """A figure of some of them: a row for each of the first tasks."""
    numbers = list(dict.fromkeys(one.task for one in examples))[:tasks]
    chosen = [[one for one in some_of(examples, columns) if one.task == number] for number in numbers]
    figure, axes = panels(len(numbers), max(map(len, chosen)), SIDE, SIDE + 0.15)
    for line, number, own in zip(axes, numbers, chosen, strict=True):
        line[0].set_ylabel(own[0].called or f"task {number}", fontsize=7)
        for axis, one in zip(line, own, strict=False):
            said = _problem(subject).show_example(axis, one.x, one.y, one.output)
            axis.set_title(said, fontsize=7, pad=2)
        for axis in line[len(own) :]:
            axis.set_axis_off()
    return figure


def _problem(subject: Subject) -> DrawsExamples:
    problem = subject.learner.problem
    assert isinstance(problem, DrawsExamples)
    return problem
