"""The report's section on adaptation: there where scores before it are noted, and nowhere else."""

from pathlib import Path

import pytest
from report.made import made
from study.driving import tiny_record

from raymeta.metric import Score
from raymeta.report.page import course
from raymeta.report.page.findings import Findings
from raymeta.report.page.study import report_of


def test_it_is_there_where_scores_before_are_noted(studies: Path) -> None:
    import torch

    record = tiny_record("adapting", "study.trials=2", "budget.validate_every=2", "study.first_rung=2")
    name = record.metric.name
    for number in range(2):
        trial = record.ask()
        for steps in (2, 4):
            values = torch.tensor([1.0, 3.0]) / steps + number
            noted = Score(values, 1.0, before=values + 5).noted(name)
            record.add_round(
                trial.number, {"outer_steps": steps, "train_loss": 1.0, "diverged": False, "at": 1.7e9, **noted}
            )
    section = course.adaptation(found := Findings(record))
    assert section is not None
    (figure,) = section.figures
    width = 1.96 * 2**0.5 / 2 / 2**0.5  # of 1/2 and 3/2
    assert list(figure.numbers.rows[0][:2]) == [found.coloured[0].number, 2]
    assert list(figure.numbers.rows[0][2:]) == pytest.approx([6.0, width, 1.0, width])
    assert "ends at 5.5 before and 0.5 after" in figure.alt
    assert len(figure.draw().axes[0].lines) == 4
    assert "Before and after adaptation" in [one.title for one in report_of(record).sections]


def test_it_is_not_where_they_are_not(studies: Path) -> None:
    record = made("plain", 4)
    assert course.adaptation(Findings(record)) is None
    assert "Before and after adaptation" not in [one.title for one in report_of(record).sections]
