"""What the best trial predicts, drawn in a study's report and of a final run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference import small_trial
from report.test_page import parsed

from raymeta.analyses.examples import Examples, ExamplesConfig
from raymeta.analysis import Subject
from raymeta.errors import UserError
from raymeta.problem import open_problem
from raymeta.problems.viewpoint.datasets import Shapes3D
from raymeta.problems.viewpoint.rotations import distance, projected, square
from raymeta.problems.viewpoint.viewpoint import ViewpointTask
from raymeta.report.page.forms import html
from raymeta.report.page.study import report_of
from raymeta.report.style import drawn
from raymeta.storage.files import studies_folder
from raymeta.study.plan.plan import make_plan
from raymeta.study.record.record import StudyRecord
from raymeta.training.trainer import Trainer

VIEWS: dict[str, Any] = {
    "maml": {"inner_lr": 0.02, "inner_steps": 1},
    "model": {"name": "conv4", "width": 3, "pools": 3},
    "task": {"problem": "viewpoint", "dataset": "shapes3d", "shots": 3, "queries": 2, "eval_queries": 4},
}


def test_a_studys_report_draws_what_its_best_trial_predicts(session_cache: Path) -> None:
    Shapes3D(ViewpointTask()).prepare()
    words = ["model.width=3", "task.shots=3", "task.queries=2", "task.eval_queries=4", "maml.inner_steps=1"]
    words += ["budget.outer_steps=2", "budget.validate_every=1", "budget.validation_tasks=2", "study.first_rung=1"]
    plan = make_plan("maml", "shapes3d", None, words)
    problem = open_problem(plan.base.task)
    record = StudyRecord.create(studies_folder() / "views", plan, problem.metric, problem.fingerprint)
    said = report_of(record)
    assert "examples" not in [section.name for section in said.sections]  # nothing is trained yet
    trial = record.ask()
    record.add_round(trial.number, {"outer_steps": 2, "val_acc30": 0.1, "val_ci95": 0.1, "val_loss": 0.3, "at": 1.0})
    record.finish(trial.number, "completed")
    (missing,) = [section for section in report_of(record).sections if section.name == "examples"]
    assert missing.text[0].startswith("None are drawn: ")
    assert not missing.figures
    trainer = Trainer(record.config(trial))
    trainer.round()
    folder = record.trial_folder(trial.number)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save(folder / "checkpoint.pt")
    report = report_of(record)
    (section,) = [section for section in report.sections if section.name == "examples"]
    rows = report.grid("examples").rows
    assert len(rows) == 4 * 4
    bank = problem.bank("validation", 0)
    assert [row[1] for row in rows[::4]] == [problem.called(bank, number) for number in range(4)]
    assert all(0 <= float(row[3]) <= 180 for row in rows)  # type: ignore[arg-type]
    page = html(report)
    parsed(page)
    assert page.count("data:image/png;base64,") == 16
    assert section.figures[0].alt in page


def test_examples_of_a_run_are_those_of_its_test_tasks(session_cache: Path) -> None:
    Shapes3D(ViewpointTask()).prepare()
    config = small_trial(VIEWS)
    trainer = Trainer(config)
    problem = trainer.problem
    subject = Subject(trainer.learner, config, problem.bank("test", 0, final=True))
    one = Examples(ExamplesConfig(tasks=2, rows=1, columns=3))
    rows = one.measure(subject)
    assert len(rows) == 2 * 4
    (case,) = subject.cases(1, 1)
    with torch.no_grad():
        outputs = trainer.learner.predict(case.adapted(), case.task.query.x)
    expected = distance(projected(outputs), square(case.task.query.y))
    assert [row["degrees"] for row in rows[4:]] == pytest.approx(expected.tolist())
    import pandas

    assert len(drawn(one.draw(pandas.DataFrame(rows), subject))) > 1000
    curves = Trainer(small_trial())
    with pytest.raises(UserError, match=r"^examples: sinusoid draws none of its examples$"):
        one.measure(Subject(curves.learner, curves.config, curves.problem.bank("validation", 0)))
