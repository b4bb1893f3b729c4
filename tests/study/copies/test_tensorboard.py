"""TensorBoard's own reader finds in the event files what the record says, whoever wrote and cut them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study.driving import give_all, noted, tiny_record
from study.record.test_record import entry
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    parse_session_end_info_plugin_data,
    parse_session_start_info_plugin_data,
)

from raymeta.storage.files import parse_yaml
from raymeta.study.copies.copy import Keeper, content_of, trials_of
from raymeta.study.copies.tensorboard import FILE, TensorBoard, events_of
from raymeta.study.record.record import StudyRecord


@pytest.fixture
def record(studies: Path) -> StudyRecord:
    """A trial that has ended, one that diverged, one that runs, and one that has just been proposed."""
    record = tiny_record("one", "study.trials=4", "study.finalists=1")
    noted(record, 3.0, 2.0, 2.5)
    record.ask()
    record.add_round(1, entry(2, 4.0, at=10.0))
    record.add_round(1, entry(4, None, at=20.0, last=True))
    record.finish(1)
    record.ask()
    record.add_round(2, entry(2, 5.0, at=30.0))
    record.ask()
    return record


def read(record: StudyRecord, number: int) -> EventAccumulator:
    found = EventAccumulator(str(record.folder / "tensorboard" / f"{number:04d}"), size_guidance={"scalars": 0})
    found.Reload()
    return found


def assert_equal(record: StudyRecord) -> None:
    """The scalars of every trial are those of its rounds, each once."""
    for trial in record.trials():
        if not trial.rounds:
            assert not (Path(str(record.folder)) / "tensorboard" / f"{trial.number:04d}").exists()
            continue
        found = read(record, trial.number)
        wanted: dict[str, list[tuple[int, float, float]]] = {}
        for one in trial.rounds:
            for key in ("val_mse", "val_ci95", "val_loss", "train_loss", "seconds"):
                if key in one:
                    wanted.setdefault(key, []).append((one["outer_steps"], one["at"], np.float32(one[key])))
        tags = [tag for tag in found.Tags()["scalars"] if not tag.startswith("reevaluated")]
        assert {tag: [(e.step, e.wall_time, e.value) for e in found.Scalars(tag)] for tag in tags} == wanted


def test_curves_hyperparameters_and_configs(record: StudyRecord) -> None:
    Keeper(TensorBoard(record)).look()
    assert_equal(record)
    for trial in record.trials()[:3]:
        found = read(record, trial.number)
        started = parse_session_start_info_plugin_data(
            found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        )
        for key, value in trial.point.items():
            kind = (
                "string_value"
                if isinstance(value, str)
                else "bool_value"
                if isinstance(value, bool)
                else "number_value"
            )
            assert getattr(started.hparams[key], kind) == value
        (text,) = found.Tensors("config")
        assert parse_yaml(text.tensor_proto.string_val[0].decode(), "") == record.config(trial).as_dict()
        assert ("_hparams_/session_end_info" in found.summary_metadata) == (trial.state != "running")
    ends = [
        parse_session_end_info_plugin_data(
            read(record, number).SummaryMetadata("_hparams_/session_end_info").plugin_data.content
        ).status
        for number in (0, 1)
    ]
    assert ends == [1, 2]  # of TensorBoard: success, failure


def test_a_session_more_adds_what_is_new_and_doubles_nothing(record: StudyRecord) -> None:
    Keeper(TensorBoard(record)).look()
    file = Path(str(record.folder)) / "tensorboard" / "0002" / FILE
    before, node = file.read_bytes(), file.stat().st_ino
    record.add_round(2, entry(4, 4.5, at=40.0))
    for _ in range(2):
        Keeper(TensorBoard(StudyRecord.load(record.folder))).look()
    assert_equal(record)
    assert file.read_bytes().startswith(before)
    assert file.stat().st_ino == node  # TensorBoard reads on in a file that it has open
    file.write_bytes(b"what somebody else has written")
    Keeper(TensorBoard(record)).look()
    assert_equal(record)


def test_a_finalist_s_scores_come_last(record: StudyRecord) -> None:
    Keeper(TensorBoard(record)).look()
    for number in (2, 3):
        record.add_round(number, entry(18, 9.0, at=50.0, last=True))
        record.finish(number)
    give_all(record, t0=[3.0, 4.0], t2=[1.0, 2.0], t3=[1.0, 2.0])
    Keeper(TensorBoard(record)).look()
    assert_equal(record)
    (score,) = read(record, 0).Scalars("reevaluated_val_mse")
    assert (score.value, score.step, score.wall_time) == (3.5, 18, 2.0)
    assert "reevaluated_val_mse" not in read(record, 1).Tags()["scalars"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000), rounds=st.integers(1, 3))
def test_wherever_a_file_was_cut_it_becomes_whole(record: StudyRecord, cut: int, rounds: int) -> None:
    (trial, fresh), *_ = trials_of(record)
    whole = events_of(content_of(record, trial, fresh))
    older = events_of(content_of(record, replace(trial, rounds=trial.rounds[:rounds], state="running"), None))
    assert whole.startswith(older)
    file = Path(str(record.folder)) / "tensorboard" / "0000" / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(whole[:cut])
    TensorBoard(record).take(content_of(record, trial, fresh))
    assert file.read_bytes() == whole
