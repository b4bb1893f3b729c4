"""Scoring the finalists: real weights on fresh episodes, the same however often it was interrupted."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from math import isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from study.driving import (
    ctrl_c,
    give,
    kill,
    load,
    noted,
    parse,
    processes,
    raymeta,
    runs_of,
    start,
    tiny_record,
    undisturbed,
    until,
)  # fmt: skip

from raymeta.inner import predictions
from raymeta.report.export import against_start, exported
from raymeta.storage.files import studies_folder, write_atomically
from raymeta.study.machines.resources import Slots
from raymeta.study.machines.session import Session
from raymeta.study.plan.preview import Preview
from raymeta.study.record.finalists import FILE, Standings, Weights, settled, standings, weights
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.reevaluate import Scoring, missing, reevaluate
from raymeta.study.tracking.connection import connect
from raymeta.training.trainer import Trainer

ROUNDS = ["budget.validate_every=6", "study.first_rung=6"]  # at 6, 12 and 18 outer steps; rungs at 6 and 18


def trained(record: StudyRecord, *, rounds: int = 3, tell: Callable[[list[float]], list[float]] = list) -> Trainer:
    """The next trial, trained for real; `tell` makes what the search hears of its scores."""
    trial = record.ask()
    trainer = Trainer(record.config(trial))
    for _ in range(rounds):
        trainer.round()
    trainer.save(record.trial_folder(trial.number) / "checkpoint.pt")
    told = tell([entry["val_mse"] for entry in trainer.rounds])
    for entry, value in zip(trainer.rounds, told, strict=True):
        record.add_round(trial.number, {**entry, "val_mse": value, "at": 1.0})
    record.finish(trial.number, "completed" if rounds == 3 else "pruned")
    return trainer


def score(record: StudyRecord, one: Weights) -> None:
    """As a worker does it."""
    *_, last = Scoring(one, record.metric).work()
    found = one.read()
    assert found is not None
    assert last.state == ("done" if found["values"] else "failed")


def scored(record: StudyRecord) -> Standings:
    for one in missing(record):
        score(record, one)
    final = standings(record)
    assert final is not None
    return final


def files(record: StudyRecord) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in record.folder.rglob(FILE)}


def reference(trainer: Trainer, steps: int, tasks: int) -> list[float]:
    """The mean squared error of every fresh episode, one by one."""
    (kept,) = [entry["weights"] for entry in trainer.top if entry["outer_step"] == steps]
    trainer.learner.load_state_dict(kept)
    bank = trainer.problem.bank("validation", 2**32)
    episodes = [bank.draw(number, 1) for number in range(tasks)]
    with torch.no_grad():
        outputs = [predictions(trainer.learner, episode, False) for episode in episodes]
    return [float(((out - e.query.y) ** 2).mean()) for out, e in zip(outputs, episodes, strict=True)]


# Their scores


def test_a_lucky_trial_is_not_called_best(studies: Path) -> None:
    """Four trials trained for real; the search heard of each score the wrong way round."""
    record = tiny_record("tiny", *ROUNDS, "study.trials=4")
    trainers = [trained(record, tell=lambda values: [*values[:-1], min(values) / 10]) for _ in range(4)]
    truth = [reference(trainer, 18, 40) for trainer in trainers]
    worst_first = sorted(range(4), key=lambda number: -float(np.mean(truth[number])))
    shutil.rmtree(record.folder)
    record = tiny_record("tiny", *ROUNDS, "study.trials=4")
    for number in range(4):
        lie = 0.01 * (1 + worst_first.index(number))
        trained(record, tell=lambda values, lie=lie: [*values[:-1], lie])  # type: ignore[misc]
    assert [trial.number for trial in record.ranking()] == worst_first
    lucky, best = record.best(), worst_first[-1]
    assert lucky is not None
    assert lucky.number == worst_first[0] != best
    assert not settled(record)

    final = scored(record)
    assert settled(record)
    found = record.best()
    assert found is not None
    assert found.number == best
    assert [one.trial.number for one in final.finalists] == worst_first[::-1]
    for one in final.finalists:
        assert one.values == pytest.approx(truth[one.trial.number], rel=1e-5)
        assert one.mean == pytest.approx(float(np.mean(truth[one.trial.number])))
    gap = final.to_best(final.finalists[-1])
    assert gap is not None
    expected = np.array(truth[worst_first[0]]) - np.array(truth[best])
    assert gap.mean == pytest.approx(expected.mean(), rel=1e-4)
    assert gap.ci95 == pytest.approx(1.96 * expected.std(ddof=1) / sqrt(40), rel=1e-4)

    provenance = exported(record, found.number)["provenance"]
    assert (provenance["trial"], provenance["val_mse"]) == (best, 0.04)  # as the search heard it
    assert provenance["reevaluated_val_mse"] == final.finalists[0].mean
    assert provenance["reevaluated_tasks"] == 40
    assert provenance["finalists"] == final.verdict
    start = final.of(1)  # of the same rung, so it may be called best itself, and is compared on the fresh episodes
    assert start is not None
    assert start.equal
    about = against_start(record, found)
    assert about == provenance["against_start"]
    assert ("on 40 fresh episodes" in about) is (best != 1)


def test_the_episodes_are_fresh(studies: Path) -> None:
    record = tiny_record("tiny", "task.bank_seed=7", "study.finalist_tasks=30")
    noted(record, 1.0)
    (one,) = missing(record)
    assert (one.bank_seed, one.tasks) == (7 + 2**32, 30)
    problem = Trainer(record.config(record.trial(0))).problem
    banks = [problem.bank("validation", seed).draw(0, 40).support.x for seed in (7, one.bank_seed)]
    assert not any(bool((row == other).all()) for row in banks[0] for other in banks[1])


def test_scores_of_something_else_are_not_taken(studies: Path) -> None:
    record = tiny_record()
    noted(record, 3.0, 2.0)
    (own,) = missing(record)
    give(own, [1.0, 2.0])
    assert missing(record) == []
    content = json.loads((own.folder / FILE).read_text())
    assert content["of"] == {"bank_seed": 2**32, "tasks": 40, "seed": 0, "trained_at": 18}
    for key in content["of"]:
        changed = {**content, "of": {**content["of"], key: 17}}
        (own.folder / FILE).write_text(json.dumps(changed))
        assert missing(record) == [own]
    (own.folder / FILE).write_text(json.dumps(content)[:-9])
    assert missing(record) == [own]


def test_weights_that_are_not_there_say_so_and_leave_the_others_to_it(studies: Path) -> None:
    record = tiny_record("tiny", *ROUNDS)
    trained(record)
    for number, content in ((1, b"no checkpoint"), (2, None)):
        noted(record, 0.1 * number)
        if content:
            write_atomically(record.trial_folder(number) / "checkpoint.pt", content)
    trained(record, tell=lambda values: [0.05, *values[1:]])
    path = record.trial_folder(3) / "checkpoint.pt"
    other = torch.load(path, weights_only=True)
    other["top"] = [entry for entry in other["top"] if entry["outer_step"] != 6]
    torch.save(other, path)
    final = scored(record)
    best = record.best()
    assert best is not None
    assert best.number == 0
    assert final.rivals == []
    reasons = {one.trial.number: one.reason for one in final.finalists}
    assert reasons[0] == ""
    assert reasons[1].endswith("trials/0001/checkpoint.pt: not a checkpoint, or a damaged one")
    assert reasons[2].endswith("trials/0002/checkpoint.pt: cannot be read: No such file or directory")
    assert reasons[3].endswith("lacks the weights of 6 outer steps, which were the trial's best")
    assert all(isnan(one.mean) for one in final.finalists[1:])
    assert sorted(one.trial for one in missing(record)) == [1, 2, 3]  # a resume looks again


# Trained again


SEEDS = [*ROUNDS, "study.finalist_seeds=2", "study.finalist_tasks=20"]


def test_training_again_with_fresh_seeds(studies: Path) -> None:
    record = tiny_record("tiny", *SEEDS)
    trained(record, tell=lambda values: [*values[:-1], 0.01])
    trained(record, rounds=1)  # the start, cut: its config is trained again like the others
    todo = missing(record)
    assert [(one.trial, one.folder.name, one.config["seed"]) for one in todo] == [
        (0, "0000", 0), (1, "0001", 0),
        (0, "seed0", 2**31), (0, "seed1", 2**31 + 1), (1, "seed0", 2**31), (1, "seed1", 2**31 + 1),
    ]  # fmt: skip
    half = Trainer(record.config(record.trial(0)).model_copy(update={"seed": 2**31}))
    half.round()
    half.save(todo[2].folder / "checkpoint.pt")  # as a killed worker leaves it
    final = scored(record)
    for number in (0, 1):
        one = final.of(number)
        assert one is not None
        assert one.equal
        expected = []
        for seed in (2**31, 2**31 + 1):
            trainer = Trainer(record.config(record.trial(number)).model_copy(update={"seed": seed}))
            while not trainer.done:
                trainer.round()
            assert trainer.best is not None
            expected.append(reference(trainer, trainer.best["outer_step"], 20))
        assert np.array(one.retrained) == pytest.approx(np.array(expected), rel=1e-5)
        assert one.values == pytest.approx(np.mean(expected, axis=0), rel=1e-5)
        assert one.own != one.retrained[0]
    means = {one.trial.number: one.mean for one in final.finalists}
    best = record.best()
    assert best is not None
    assert best.number == min(means, key=lambda number: means[number])


def test_a_config_that_diverges_with_another_seed_is_not_the_best(studies: Path) -> None:
    record = tiny_record("tiny", *SEEDS)
    trained(record)
    noted(record, 1e6)
    own, first, second = (one for one in missing(record) if one.trial == 0)
    for one in (own, first):
        give(one, [0.1, 0.1])
    lost = Trainer(record.config(record.trial(0)).model_copy(update={"seed": second.config["seed"]}))
    lost.diverged = True
    lost.save(second.folder / "checkpoint.pt")
    for one in weights(record, record.trial(1)):
        give(one, [5.0, 5.0])
    assert not settled(record)  # one of a finalist's scores lacks
    score(record, second)
    final, best = standings(record), record.best()
    assert final is not None
    assert best is not None
    assert best.number == 1
    assert final.finalists[1].reason == f"seed {2**31 + 1} diverged at 0 outer steps"


# In a search


def session() -> Session:
    return Session(slots=Slots(1, 1.0, 0.0))


def test_nothing_is_scored_twice(studies: Path) -> None:
    """Without a Ray there would be nobody to do it."""
    record = tiny_record("tiny", *ROUNDS)
    trained(record)
    scored(record)
    before, this = files(record), session()
    reevaluate(record, this)
    assert files(record) == before
    assert (this.busy_s, this.problems, this.leaving) == (0, [], False)


def test_the_time_that_they_take() -> None:
    shown = Preview("maml", [], [], [2], 2, 1.0, 4.0, 2, 100, 200, 0, 0, 0, finalists=3, finalist_s=10.0)
    assert 3600 * shown.hours(100) == (100 * (1.0 + 4.0 / 2) + 3 * 10.0) / 2


@pytest.mark.ray
def test_a_search_ends_with_them(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    found = undisturbed(tmp_path_factory.getbasetemp())
    monkeypatch.setenv("RAYMETA_STUDIES", str(found.studies))
    answer, record = parse(found.done.stdout), load("maml+dropgrad-sinusoid-5s")
    final = standings(record)
    assert final is not None
    assert answer["finalists"] == json.loads(json.dumps(final.as_dict()))
    assert final.best is not None
    assert answer["best"]["trial"] == answer["finalists"]["best"] == final.best.trial.number
    for one in final.finalists:
        trainer = Trainer(record.config(one.trial))
        trainer.load(record.trial_folder(one.trial.number) / "checkpoint.pt")
        steps = (one.trial.best(record.metric) or {})["outer_steps"]
        assert one.values == pytest.approx(reference(trainer, steps, 40), rel=1e-5)

    client = connect()
    (parent,), children = runs_of(record.name)
    told = {int(run.data.tags["raymeta.trial"]): run.data.metrics.get("reevaluated_val_mse") for run in children}
    assert {number: score for number, score in told.items() if score is not None} == {
        one.trial.number: one.mean for one in final.finalists
    }
    assert parent.data.metrics["reevaluated_val_mse"] == final.best.mean
    assert parent.data.metrics["reevaluated_val_ci95"] == final.best.ci95
    kept = Path(client.download_artifacts(parent.info.run_id, "finalists.json"))
    assert json.loads(kept.read_text()) == answer["finalists"]


LONG = ["maml+dropgrad", "--task", "sinusoid-5s", "--preset", "smoke", "study.trials=2", "study.finalist_tasks=6000"]


def between_finalists(name: str, *words: str) -> "subprocess.Popen[str]":
    """A search that has scored one finalist and scores the next."""
    driver = start("search", *LONG, *words, "--slots", "1", "--name", name)
    folder = studies_folder() / name
    until(lambda: list(folder.glob(f"trials/*/{FILE}")), driver, seconds=240)
    return driver


@pytest.mark.slow
@pytest.mark.ray
def test_killed_between_two_finalists(studies: Path) -> None:
    kill(between_finalists("killed"))
    record = load("killed")
    assert not settled(record)
    before = files(record)
    best = record.best()
    assert best is not None
    assert best.number == record.ranking()[0].number
    done = raymeta("resume", "killed", "--slots", "1")
    assert done.returncode == 0, done.stderr
    after = files(record)
    assert len(before) == 1
    assert len(after) == 2
    assert {path: after[path] for path in before} == before
    final = standings(record)
    assert final is not None
    assert final.verdict in done.stdout
    assert "on fresh episodes" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("next: raymeta export killed")


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_between_two_finalists(studies: Path) -> None:
    """The one that is being scored is finished, and no other is begun: here a training with a fresh seed."""
    driver = between_finalists("left", "study.finalist_seeds=1")
    ctrl_c(driver)
    _, err = driver.communicate(timeout=240)
    assert driver.returncode == 130, err
    assert "no new trials or finalists; the running ones finish" in err
    assert err.splitlines()[-1] == "go on with: raymeta resume left"
    record = load("left")
    before = files(record)
    assert [path.parent.name for path in sorted(before)] == ["0000", "0001"]
    assert not settled(record)
    (parent,), _ = runs_of("left")
    assert parent.info.status == "KILLED"
    done = raymeta("resume", "left", "--slots", "1")
    assert done.returncode == 0, done.stderr
    assert before.items() <= files(record).items()
    assert settled(load("left"))
    (parent,), _ = runs_of("left")
    assert parent.info.status == "FINISHED"


@pytest.mark.ray
@pytest.mark.slow
def test_a_finalists_worker_is_killed(studies: Path) -> None:
    driver = between_finalists("worker")
    (worker,) = processes(studies, b"ray::_Worker")
    os.kill(worker, signal.SIGKILL)
    _, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err
    assert "its worker died; it goes on from its checkpoint (try 2 of 4)" in err
    assert "Traceback" not in err
    assert settled(load("worker"))
    assert len(files(load("worker"))) == 2
