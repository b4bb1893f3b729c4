"""The record: made whole or not at all, the same however often it was interrupted, truthful in Optuna's words."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from study.driving import WORDS, load, tiny_plan, tiny_record

import raymeta
from raymeta.errors import UserError
from raymeta.metric import Metric
from raymeta.storage.files import studies_folder
from raymeta.study.plan.plan import make_plan
from raymeta.study.plan.space import AUTHORS, BASELINE
from raymeta.study.plan.warm_start import warm_started
from raymeta.study.record import folder
from raymeta.study.record.folder import check_name
from raymeta.study.record.home import open_study
from raymeta.study.record.journal import mend_journal
from raymeta.study.record.record import StudyRecord

METRIC = Metric("mse", "min")


def entry(steps: int, value: float | None, **more: Any) -> dict[str, Any]:
    scores = {} if value is None else {"val_mse": value, "val_ci95": 0.1, "val_loss": value}
    return {
        "outer_steps": steps,
        "train_loss": 1.0,
        **scores,
        "diverged": value is None,
        "seconds": 0.5,
        "at": 1.0,
        **more,
    }


def frozen(record: StudyRecord) -> list[optuna.trial.FrozenTrial]:
    """The journal as Optuna itself reads it."""
    storage = JournalStorage(JournalFileBackend(str(record.folder / "journal.log")))
    return optuna.load_study(study_name=record.name, storage=storage).get_trials()


# Making one


def test_a_study_is_made_whole(studies: Path) -> None:
    record = tiny_record("one")
    assert sorted(os.listdir(studies)) == ["one"]
    assert record.trials() == []
    again = load("one")
    assert (again.plan, again.about, again.metric) == (record.plan, record.about, record.metric)
    assert again.metric == METRIC
    assert set(again.about["versions"]) == {"raymeta", "torch", "ray", "optuna", "mlflow", "numpy"}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/x", ".hidden", "-x", "a b", "a\nb", "é", "a" * 101]
)
def test_names_that_no_folder_should_have(name: str, studies: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_name(name)
    assert str(caught.value) == f"'{name}' cannot name a study: use letters, digits and . _ + - (at most 100)"


def test_a_name_that_is_taken_for_something_else(studies: Path) -> None:
    with pytest.raises(UserError) as caught:
        tiny_record("finals")
    assert str(caught.value) == "'finals' cannot name a study: raymeta keeps something else there"
    assert not studies.exists()


def test_a_name_that_exists_is_refused_and_left_alone(studies: Path) -> None:
    first = tiny_record("one")
    first.ask()
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        tiny_record("one")
    assert str(caught.value) == "the study 'one' exists: go on with `raymeta resume one`, or give another --name"
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == before
    assert os.listdir(studies) == ["one"]


def test_nothing_is_left_of_a_study_that_could_not_be_made(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raymeta.study.record.record.write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        tiny_record("one")
    assert os.listdir(studies) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../one", "a/b", "/etc"])
def test_a_study_is_opened_by_name_not_by_path(name: str, studies: Path) -> None:
    tiny_record("one")
    with pytest.raises(UserError) as caught:
        open_study(name)
    assert str(caught.value) == f"'{name}' is not a study's name: a name, not a path"


def test_an_unknown_study_has_a_nearest_match(studies: Path) -> None:
    tiny_record("one")
    with pytest.raises(UserError) as caught:
        open_study("onee")
    assert str(caught.value) == f"no study 'onee' in {studies}: did you mean 'one'? (allowed: one)"


# Proposals


def value_of(point: dict[str, Any], steps: int) -> float:
    """What a trial scores: a function of its point."""
    return abs(point["outer.lr"] - 3e-3) * 100 + point.get("regularizers.dropgrad.rate", 0) + 1 / steps


def drive(record: StudyRecord, trials: int, slots: int = 2) -> list[dict[str, Any]]:
    """A driver whose every move follows from the record alone: goes on where another one was cut."""
    record.resume()
    while True:
        running = [trial for trial in record.trials() if trial.state == "running"]
        if len(running) < slots and len(record.trials()) < trials:
            record.ask()
            continue
        if not running:
            return [trial.point for trial in record.trials()]
        trial = min(running, key=lambda t: (t.outer_steps, t.number))
        if len(trial.rounds) < 1 + trial.number % 3:
            steps = trial.outer_steps + 2
            record.add_round(trial.number, entry(steps, value_of(trial.point, steps)))
        else:
            record.finish(trial.number, ("completed", "pruned", "diverged", "failed")[trial.number % 4])


TRIALS = 9
SEARCH = ("study.trials=9", "study.startup_trials=3", "study.seed=5")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A study that nobody interrupted, and its points."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(tmp_path_factory.mktemp("whole")))
        record = tiny_record("tiny", *SEARCH)
        return record.folder, drive(record, TRIALS)


def test_the_starting_points_come_first(whole: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, points = whole
    record = StudyRecord.load(folder)
    assert points[:2] == record.plan.space.start_from
    assert [trial.label for trial in record.trials()] == [AUTHORS, BASELINE] + [""] * (TRIALS - 2)
    assert len({str(point) for point in points}) == TRIALS
    for point in points:
        record.plan.config(point)


def cut(folder: Path, to: Path, length: int) -> StudyRecord:
    """The study as a driver left it that was killed after so many bytes of the journal."""
    shutil.copytree(folder, to / "tiny")
    os.truncate(to / "tiny" / "journal.log", length)
    mend_journal(to / "tiny")
    return StudyRecord.load(to / "tiny")


def first_cut(folder: Path) -> int:
    """Bytes of the journal when `create` was done."""
    fresh = tiny_record("fresh", *SEARCH)
    lines = (fresh.folder / "journal.log").read_bytes().count(b"\n")
    return sum(map(len, (folder / "journal.log").read_bytes().splitlines(keepends=True)[:lines]))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_proposals_are_the_same_after_any_interruption(
    share: float, whole: tuple[Path, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory, studies: Path
) -> None:
    """Cut at any byte, torn lines too, and between two values of a trial."""
    shutil.rmtree(studies, ignore_errors=True)
    folder, points = whole
    low, high = first_cut(folder), (folder / "journal.log").stat().st_size
    record = cut(folder, tmp_path_factory.mktemp("cut"), low + int(share * (high - low)))
    with warnings.catch_warnings(action="error"):  # Optuna warns of a score that it is told twice
        assert drive(record, TRIALS) == points
    ends = [(t.state, [r["val_mse"] for r in t.rounds]) for t in record.trials()]
    assert ends == [(t.state, [r["val_mse"] for r in t.rounds]) for t in StudyRecord.load(folder).trials()]


def test_a_trial_cut_between_two_of_its_values_gets_the_rest(
    whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, points = whole
    lines = (folder / "journal.log").read_bytes().splitlines(keepends=True)
    asked = [i for i, line in enumerate(lines) if b'"outer.lr"' in line and b'"param_name"' in line]
    record = cut(folder, tmp_path, sum(map(len, lines[: asked[5] + 1])))
    (partial,) = [trial for trial in record.trials() if trial.number == 5]
    assert partial.point.keys() < points[5].keys()
    (left,) = [trial for trial in record.resume() if trial.number == 5]
    assert left.point == points[5]


@pytest.mark.parametrize(
    ("metrics", "state"),
    [(entry(18, 1.0), "completed"), (entry(6, 1.0), "pruned"), (entry(4, None), "diverged")],
)
def test_a_trial_cut_between_its_last_round_and_its_end_is_over(
    metrics: dict[str, Any], state: str, studies: Path
) -> None:
    record = tiny_record()
    for _ in range(2):
        record.ask()
    record.add_round(0, metrics | {"last": True})
    record.add_round(1, entry(6, 1.0))
    again = load("tiny")
    assert [trial.number for trial in again.resume()] == [1]
    assert again.trial(0).state == state


def test_seeds_are_other_proposals(studies: Path) -> None:
    points = [drive(tiny_record(f"s{seed}", f"study.seed={seed}"), 4)[2:] for seed in (1, 2)]
    assert points[0] != points[1]


# Rounds and ends


def test_a_round_is_noted_once(studies: Path) -> None:
    record = tiny_record()
    record.ask()
    assert record.add_round(0, entry(2, 5.0, at=1.0)) is True
    size = (record.folder / "journal.log").stat().st_size
    assert record.add_round(0, entry(2, 4.0, at=9.0)) is False
    assert load("tiny").add_round(0, entry(2, 4.0, at=9.0)) is False
    assert (record.folder / "journal.log").stat().st_size == size
    assert record.add_round(0, entry(4, 3.0)) is True
    assert [(r["outer_steps"], r["val_mse"]) for r in load("tiny").trial(0).rounds] == [(2, 5.0), (4, 3.0)]


def test_rounds_are_in_the_order_of_their_steps(studies: Path) -> None:
    record = tiny_record()
    record.ask()
    for steps in (2, 10, 1000, 4):
        record.add_round(0, entry(steps, 1.0))
    assert [r["outer_steps"] for r in record.trial(0).rounds] == [2, 4, 10, 1000]


def test_optuna_is_told_the_truth(studies: Path) -> None:
    record = tiny_record("tiny", "study.trials=6")
    for number in range(6):
        record.ask()
        record.add_round(number, entry(2, float(number)))
        if number != 4:
            record.add_round(number, entry(4, number + 0.5))
        else:
            record.add_round(4, entry(4, None))
    for number, state in enumerate(["completed", "pruned", "diverged", "failed"]):
        record.finish(number, state, "its worker died" if state == "failed" else "")  # type: ignore[arg-type]
    record.finish(4, "diverged")
    trials = frozen(record)
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.PRUNED,
        TrialState.RUNNING,
    ]
    assert trials[0].value == 0.5
    assert trials[1].intermediate_values == {2: 1.0, 4: 1.5}
    assert trials[4].intermediate_values == {2: 4.0}
    states = [(trial.state, trial.reason) for trial in load("tiny").trials()]
    assert states[:4] == [("completed", ""), ("pruned", ""), ("diverged", ""), ("failed", "its worker died")]


def test_proposals_learn_from_trials_that_diverged(studies: Path) -> None:
    """Half of the range of `inner_lr` diverges at once; random proposals hit it as often as not, later ones rarely."""
    record = tiny_record("tiny", "study.trials=60", "study.startup_trials=20")
    limit = 0.03
    for number in range(60):
        diverges = record.ask().point["maml.inner_lr"] > limit
        record.add_round(number, entry(2, None if diverges else 1.0, last=True))
        record.finish(number, "diverged" if diverges else "pruned")
    states = [trial.state == "diverged" for trial in record.trials()]
    assert sum(states[2:20]) >= 4
    assert sum(states[20:]) / 40 < sum(states[2:20]) / 18 / 2


def test_an_end_is_final(studies: Path) -> None:
    record = tiny_record()
    record.ask()
    record.add_round(0, entry(2, 1.0))
    record.finish(0, "completed")
    record.finish(0, "failed", "late")
    assert (record.trial(0).state, record.trial(0).reason) == ("completed", "")


def test_there_is_no_such_trial(studies: Path) -> None:
    record = tiny_record()
    record.ask()
    for number in (-1, 1, 99):  # 1 is queued, not asked for
        with pytest.raises(UserError) as caught:
            record.trial(number)
        assert str(caught.value) == f"the study 'tiny' has no trial {number}: allowed are 0 to 0"


# Two drivers, and what a killed one leaves

DRIVE = """
import sys, time
from study.driving import load
with load("tiny").locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_driver_at_a_time(studies: Path) -> None:
    record = tiny_record()
    tests = str(Path(__file__).parents[2])
    other = subprocess.Popen(
        [sys.executable, "-c", DRIVE], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": tests}
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(UserError) as caught, record.locked():
        pytest.fail("two drivers")
    assert str(caught.value) == "the study 'tiny' is being driven by another process on this machine"
    other.kill()
    other.communicate()
    with record.locked():  # a dead driver's lock is none
        pass


def test_a_torn_line_and_a_stale_lock_are_mended(studies: Path) -> None:
    record = tiny_record()
    record.ask()
    journal = record.folder / "journal.log"
    whole = journal.read_bytes()
    record.add_round(0, entry(2, 1.0))
    added = journal.read_bytes()[len(whole) :]
    for torn in (1, len(added) - 1):
        journal.write_bytes(whole + added[:torn])
        Path(f"{journal}.lock").symlink_to("nowhere")
        mend_journal(record.folder)
        assert journal.read_bytes() == (whole + added[:torn]).rpartition(b"\n")[0] + b"\n"
        assert os.listdir(record.folder).count("journal.log.lock") == 0
        again = load("tiny")
        assert again.trial(0).rounds == []
    assert again.add_round(0, entry(2, 1.0)) is True
    again.ask()
    last = journal.read_bytes()
    assert last.startswith(whole)
    mend_journal(record.folder)  # nothing to mend
    assert journal.read_bytes() == last
    assert [len(trial.rounds) for trial in load("tiny").trials()] == [1, 0]


# The best


def test_the_best_is_of_those_that_came_furthest(studies: Path) -> None:
    record = tiny_record()  # rungs at 2, 6 and 18
    assert record.best() is None
    histories = [
        [(2, 0.1)],  # the best number of all, after the shortest training
        [(2, 5.0), (4, 0.3), (6, 4.0)],
        [(2, 6.0), (4, 1.0), (6, 3.0), (8, 0.9), (10, 2.0)],
        [(2, 0.2), (4, None)],
    ]
    for number, history in enumerate(histories):
        record.ask()
        for steps, value in history:
            record.add_round(number, entry(steps, value))
        best = record.best()
        assert best is not None
        assert best.number == [0, 1, 1, 1][number]
    record.finish(3, "diverged")
    record.finish(1, "failed")
    best = record.best()
    assert best is not None
    assert best.number == 2
    assert (best.best(METRIC) or {})["outer_steps"] == 8
    assert (best.best(METRIC, until=6) or {})["outer_steps"] == 4
    assert best.best(METRIC, until=1) is None


def test_larger_is_better_for_accuracy(studies: Path) -> None:
    plan = tiny_plan()
    record = StudyRecord.create(studies_folder() / "a", plan, Metric("accuracy", "max"), "f")
    for number, value in enumerate((0.3, 0.6, 0.5)):
        record.ask()
        record.add_round(number, {"outer_steps": 2, "val_accuracy": value, "val_ci95": 0.1, "seconds": 0.1, "at": 1.0})
    best = record.best()
    assert best is not None
    assert best.number == 1


# More trials, and other studies


def test_an_extended_study_proposes_what_a_larger_one_would(
    whole: tuple[Path, list[dict[str, Any]]], studies: Path
) -> None:
    record = tiny_record("tiny", *SEARCH[1:], "study.trials=4")
    drive(record, 4)
    with record.locked():
        record.extend(TRIALS - 4)
    again = load("tiny")
    assert again.plan.study.trials == TRIALS
    assert not again.over
    assert drive(again, TRIALS)[:4] == whole[1][:4]
    assert again.over


def test_driven_tells_whether_somebody_holds_the_study(studies: Path) -> None:
    record = tiny_record()
    assert not record.driven
    with record.locked():
        assert load("tiny").driven
        with pytest.raises(UserError, match="the study 'tiny' is being driven by another process on this machine"):
            load("tiny").locked().__enter__()
    assert not record.driven


def test_a_warm_start_begins_with_the_best_of_the_other_that_fit(studies: Path) -> None:
    old = tiny_record("old", "study.trials=7", "study.startup_trials=9")
    for number, value in enumerate([5.0, 1.0, 3.0, 2.0, 4.0, 0.5, 6.0]):
        old.ask()
        old.add_round(number, entry(18 if number != 5 else 2, value, last=True))
        old.finish(number)
    plan = tiny_plan()
    warm = warm_started(plan, old)
    own = len(plan.space.start_from)
    assert warm.space.start_from[:own] == plan.space.start_from
    # The best come first; 5 was cut, 0 and 1 are the starting points that the new study has anyway.
    assert warm.space.labels[own:] == [f"old: trial {number}" for number in (3, 2, 4)]
    assert warm.space.start_from[own:] == [old.trial(number).point for number in (3, 2, 4)]

    fixed = make_plan("maml", "sinusoid-5s", None, [*WORDS, "maml.inner_lr=0.01"])
    points = warm_started(fixed, old).space.start_from[1:]
    assert points
    assert {frozenset(point) for point in points} == {frozenset(fixed.space.params)}
    assert points[0]["outer.lr"] == old.trial(3).point["outer.lr"]  # trial 1 has the plan's own

    words = [f"{key}={value}" for key, value in fixed.space.start_from[0].items()]
    nothing = make_plan("maml", "sinusoid-5s", None, [*WORDS, "maml.inner_lr=0.01", *words])
    with pytest.raises(UserError, match=r"--warm-start old: no scored trial of it has a value that this search space"):
        warm_started(nothing, old)


def test_a_study_that_was_moved_is_no_ghost(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = raymeta.open_study(tiny_record("a").name)
    study.folder.rename(studies / "b")
    for verb in (study.resume, lambda: study.extend(1)):
        with pytest.raises(UserError, match=r"^the study 'a' is not in .* any more: it was moved or removed$"):
            verb()
        assert [path.name for path in studies.iterdir() if path.is_dir()] == ["b"]

    class Late(FileLock):
        def acquire(self, *args: Any, **options: Any) -> Any:
            (studies / "b").rename(studies / "c")
            return super().acquire(*args, **options)

    monkeypatch.setattr(folder, "FileLock", Late)  # it is moved between the look and the lock
    with pytest.raises(UserError, match="the study 'b' is not in"), open_study("b").locked():
        pytest.fail("a ghost is driven")
    assert not (studies / "b").exists()
