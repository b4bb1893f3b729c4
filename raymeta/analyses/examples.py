"""Query examples of test tasks with what the adapted learner predicts of them, and how it does on each.

For problems that draw their examples: views of things with their axes, frames of a sequence with boxes.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from raymeta.analysis import Analysis, AnalysisConfig, Row, Subject
from raymeta.errors import UserError
from raymeta.problems.examples import DrawsExamples
from raymeta.registry import analysis
from raymeta.report.examples import asked, drawn_examples, rows_of

if TYPE_CHECKING:
    import pandas


class ExamplesConfig(AnalysisConfig):
    """How many are looked at, and drawn."""

    tasks: int = Field(20, ge=1, description="How many tasks, the first ones of the bank.")
    rows: int = Field(5, ge=1, description="Tasks that are drawn.")
    columns: int = Field(8, ge=1, description="Query examples of each that are drawn.")


@analysis("examples")
class Examples(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "Query examples of test tasks, a row each: what is there and what is predicted."
    Config = ExamplesConfig
    one_seed: ClassVar[bool] = True

    def measure(self, subject: Subject) -> list[Row]:
        problem = subject.learner.problem
        if not isinstance(problem, DrawsExamples):
            raise UserError(f"examples: {problem.name} draws none of its examples")
        return rows_of(subject, asked(subject, self.settings.tasks))

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        rows = min(self.settings.rows, self.settings.tasks)
        return drawn_examples(subject, asked(subject, rows), rows, self.settings.columns)
