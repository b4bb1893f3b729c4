"""What is shown while trials run: nothing that decides is cut off, however narrow the screen."""

import io
import random
from pathlib import Path

import pytest
from rich.console import Console
from study.driving import tiny_record
from study.record.test_record import entry

from raymeta.report.live.progress import Progress
from raymeta.report.live.views import TrialsView
from raymeta.report.tables import settings, varying
from raymeta.study.machines.resources import Slots
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.halving import end_waiting, to_promote


@pytest.fixture
def record(studies: Path) -> StudyRecord:
    record = tiny_record("one", "study.trials=4")
    for _ in range(4):
        record.ask()
    record.add_round(0, entry(18, 2.0, at=1.0, last=True))
    record.finish(0)
    record.add_round(1, entry(2, 3.5, at=1.0, last=True))
    record.finish(1, "pruned")
    record.add_round(2, entry(6, 1.5, at=1.0))
    return record


def test_a_trial_that_waits_is_said_once_at_each_rung(studies: Path) -> None:
    record = tiny_record("one", "study.trials=2")
    view = TrialsView(record)
    for number in range(2):
        record.ask()
        record.add_round(number, entry(2, 3.5 - number, at=1.0, waits=True))
    first = dict(view.ended())
    assert list(first.values()) == [
        "trial   0 waits at 2 steps: 3.5000 ± 0.1000",
        "trial   1 waits at 2 steps: 2.5000 ± 0.1000",
    ]
    assert view.summary(None) == "2/2 trials begun, 2 wait at a rung, best 2.5000 ± 0.1000 (trial 1), no estimate yet"
    record.promote(1)
    assert dict(view.ended()).keys() == {"trial 0 at 2"}
    record.add_round(1, entry(6, 2.0, at=2.0, waits=True))
    record.finish(0)
    later = dict(view.ended())
    assert [line for name, line in later.items() if name not in first] == [
        "trial   1 waits at 6 steps: 2.0000 ± 0.1000"
    ]
    record.finish(1)
    assert view.summary(None) == "2/2 trials ended, best 2.0000 ± 0.1000 (trial 1)"
    assert later["trial 0 at 2"] == "trial   0 pruned at 2 steps: 3.5000 ± 0.1000"


@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_trial_is_a_line_with_its_number_state_steps_and_score(record: StudyRecord, width: int) -> None:
    screen = Console(width=width, file=io.StringIO(), force_terminal=False)
    screen.print(TrialsView(record).table())
    head, *rows = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(rows) == 4
    assert all(len(row) <= width for row in rows)
    if width >= 80:
        assert head.split()[:7] == ["trial", "state", "steps", "of", "18", "validation", "mse"]
        assert [row.split()[:3] for row in rows] == [
            ["2", "running", "6"], ["3", "running", "0"], ["0", "*", "completed"], ["1", "pruned", "2"],
        ]  # fmt: skip
        assert "1.5000 ± 0.1000" in rows[0]
        longest = max(len(settings(trial)) for trial in record.trials())
        assert any("…" in row for row in rows) == (longest > width - 50)


def test_settings_are_those_that_differ(record: StudyRecord) -> None:
    trials = record.trials()
    for trial in trials:
        trial.point["maml.inner_lr"] = 0.1
    keys = varying(trials)
    assert keys == set(trials[0].point) - {"maml.inner_lr"}
    assert "inner_lr" not in settings(trials[0], keys)
    assert settings(trials[0], keys).endswith(f"[{trials[0].label}]")
    assert varying(trials[:1]) == set(trials[0].point)


@pytest.mark.parametrize("halving", ["stopping", "promoting"])
@pytest.mark.parametrize(
    ("first_rung", "share"),
    [(2, 0.75), pytest.param(6, 0.95, marks=pytest.mark.slow), pytest.param(18, 1.0, marks=pytest.mark.slow)],
)
def test_the_time_left_is_mostly_right_within_a_factor_of_two_after_a_third(
    studies: Path, monkeypatch: pytest.MonkeyPatch, first_rung: int, share: float, halving: str
) -> None:
    """Two slots, an outer step a second, a start of five seconds, and successive halving of random scores.

    The more rungs, the more of the time depends on which of the last trials pass them, which nothing can know.
    """
    found, words = [], ("study.trials=20", f"study.first_rung={first_rung}", f"study.halving={halving}")
    for seed in range(8):
        record = tiny_record(f"s{first_rung}-{seed}", *words)
        found += [0.5 < left / true < 2 for left, true in estimates(record, monkeypatch, random.Random(seed))]
    assert sum(found) / len(found) >= share


def estimates(record: StudyRecord, monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> list[tuple[float, float]]:
    """Seconds that were said to be left, and that were left, in the middle of a study."""
    now, scores, said = [5.0], dict[int, float](), list[tuple[float, float | None]]()
    monkeypatch.setattr(Session, "wall_s", property(lambda self: now[0]))
    shown = Progress(record, Session(slots=Slots(2, 1.0, 0.0)))
    promoting = record.plan.study.halving == "promoting"
    rungs: dict[int, list[float]] = {rung: [] for rung in record.plan.rungs}
    while True:
        trials = record.trials()
        running = [trial for trial in trials if trial.state == "running"]
        if len(running) < 2 and (one := to_promote(record)) is not None:
            record.promote(one)
            continue
        if len(running) < 2 and len(trials) < 20:
            scores[record.ask().number] = chance.random()
            continue
        if not running:
            end_waiting(record)
            break
        now[0] += 2.0
        for trial in running:
            steps, score = trial.outer_steps + 2, scores[trial.number]
            rung = steps in rungs and steps < 18
            waits = promoting and rung and to_promote(record, (trial.number, steps, score)) != trial.number
            record.add_round(trial.number, entry(steps, score, at=now[0]) | ({"waits": True} if waits else {}))
            if rung:
                rungs[steps].append(score)
            cut = not promoting and rung and sorted(rungs[steps]).index(score) >= max(1, len(rungs[steps]) // 3)
            if cut or steps == 18:
                record.finish(trial.number)
        said.append((now[0], shown.left_s()))
    assert record.over
    return [(left, now[0] - at) for at, left in said if left is not None and now[0] / 3 < at < 0.7 * now[0]]
