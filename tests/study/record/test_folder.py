"""A study on a store, a real S3 server's: made whole or not at all, and the same record as in a folder."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from study.driving import NAME, noted, numbers, tiny_plan, tiny_record

from raymeta.errors import UserError
from raymeta.metric import Metric
from raymeta.storage.files import studies_folder
from raymeta.storage.places import RemotePath
from raymeta.study.record.home import all_studies, open_study
from raymeta.study.record.journal import mend_journal
from raymeta.study.record.record import StudyRecord


def drive(name: str) -> StudyRecord:
    record = tiny_record(name)
    with record.locked():
        mend_journal(record.folder)
        noted(record, 3.0, 2.0)
        noted(record, 1.0, steps=2)
    record = open_study(name)
    with record.locked():
        assert record.resume() == []
        record.extend(2)
        noted(record, 2.5)
    return record


def test_the_record_is_a_local_one_s(store: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = drive(NAME)
    found, best = numbers(NAME), record.best()
    assert [one.name for one in all_studies()] == [NAME]
    again = pickle.loads(pickle.dumps(record))
    assert again.plan.study.trials == 10
    assert again.trials() == record.trials()
    assert again.trial_folder(1) == store / NAME / "trials" / "0001"
    assert not again.driven
    with record.locked():
        assert again.driven
        with pytest.raises(UserError, match="is being driven by process"), again.locked():
            pytest.fail("two drivers")
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path))
    local = drive(NAME)
    assert numbers(NAME) == found
    assert local.best() == best


def test_no_study_and_two_of_a_name(store: RemotePath) -> None:
    with pytest.raises(UserError) as caught:
        open_study("a")
    assert str(caught.value) == f"no study 'a' in {store}: allowed: none"
    tiny_record("a")
    with pytest.raises(UserError, match="the study 'a' exists: go on with `raymeta resume a`"):
        tiny_record("a")
    with pytest.raises(UserError, match="did you mean 'a'"):
        open_study("aa")


def test_a_study_is_made_whole_or_not_at_all(store: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    put = RemotePath.write_bytes

    def dying(self: RemotePath, data: bytes) -> None:
        if self.name == "study.yaml":
            raise Killed
        put(self, data)

    def create(*words: str) -> StudyRecord:
        return StudyRecord.create(studies_folder() / "a", tiny_plan(*words), Metric("mse", "min"), "f")

    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "write_bytes", dying)
        with pytest.raises(Killed):
            create()
    assert not (store / "a").exists()
    assert all_studies() == []
    record = create()
    labels: list[Any] = [record.ask().label for _ in range(4)]
    assert labels.count(labels[0]) == 1  # the killed one's starting points are not there, too
    assert len(numbers("a")) == 4

    (store / "a" / "study.yaml").unlink()
    record.trial_folder(0).mkdir()
    (store / "a" / "trials" / "0000" / "checkpoint.pt").touch()
    with pytest.raises(UserError, match=r"has trials, but no study\.yaml: delete it, or give another --name"):
        create()
