"""A problem whose task names the data set that it is of."""

from typing import Any

from raymeta import registry
from raymeta.errors import UserError
from raymeta.problem import Problem


class NamesDataSet(Problem):
    """A data set is a subclass under `@registry.dataset("name")`; `task.dataset` names it."""

    @classmethod
    def open(cls, task: Any) -> Problem:
        """The data set that a task names."""
        problem: Problem = registry.find("dataset", task.dataset)(task)
        return problem

    @classmethod
    def check(cls, task: Any) -> None:
        found = registry.find("dataset", task.dataset)
        if found.Config is not cls.Config:
            other = found.Config.model_fields["problem"].default
            raise UserError(
                f"task.dataset: found '{task.dataset}', which is of the problem {other} and not of {task.problem}"
            )
