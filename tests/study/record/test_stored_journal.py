"""A journal of objects on a real S3 server: whoever is killed wherever, what was told is there, once and in order."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from raymeta.errors import StorageError, UserError
from raymeta.storage.places import RemotePath
from raymeta.study.record import stored_journal
from raymeta.study.record.stored_journal import StoredJournal


@pytest.fixture
def folder(bucket: RemotePath, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    monkeypatch.setattr(stored_journal, "FRESH_S", 0.0)
    return bucket / request.node.name / "journal"


class Killed(BaseException):
    """As `kill -9`: nobody catches it on the way."""


def nobody_else() -> None:
    """Nothing has taken the study over."""


def read(folder: RemotePath) -> list[int]:
    return [log["n"] for log in StoredJournal(folder).read_logs(0)]


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Die at the n-th of the moments before and after every operation that changes the store, or in its middle."""
    seen = 0

    def dying(method: Callable[..., Any], halfway: Callable[[RemotePath], None] | None) -> Callable[..., Any]:
        def changed(self: RemotePath, *arguments: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == moment:
                raise Killed
            if halfway is not None:
                seen += 1
                if seen == moment:
                    halfway(self)
                    raise Killed
            method(self, *arguments)
            seen += 1
            if seen == moment:
                raise Killed

        return changed

    def first_half(folder: RemotePath) -> None:
        files = folder.files()
        for path in files[: (len(files) + 1) // 2]:
            (folder / path).unlink()

    monkeypatch.setattr(RemotePath, "write_bytes", dying(RemotePath.write_bytes, None))
    monkeypatch.setattr(RemotePath, "rmtree", dying(RemotePath.rmtree, first_half))


def drive(folder: RemotePath, told: list[int]) -> None:
    """A driver's life; `told` has what it was told is noted."""
    journal = StoredJournal(folder)
    with journal.owned(nobody_else):
        known = [log["n"] for log in journal.read_logs(0)]
        assert known[: len(told)] == told
        told[:] = known
        for n in range(len(known), len(known) + 4, 2):
            with journal.together():
                journal.append_logs([{"n": n}])
                journal.append_logs([{"n": n + 1}])
                assert [log["n"] for log in journal.read_logs(n)] == [n, n + 1]  # not told yet, but known
            told += [n, n + 1]


def test_killed_at_any_operation(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_journal, "MOST_OBJECTS", 2)
    moment, killed = 0, True
    while killed:
        moment, killed = moment + 1, False
        place, told = folder.parent / f"killed{moment}", [0, 1]
        StoredJournal(place).append_logs([{"n": n} for n in told])
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, moment)
            try:
                drive(place, told)
            except Killed:
                killed = True
        there = read(place)
        assert there == list(range(len(there)))  # nothing doubled, nothing out of order
        assert there[: len(told)] == told  # nothing lost
        assert len(there) - len(told) in (0, 2)  # and nothing torn: at most what was on its way
        drive(place, told)
        assert read(place) == told == list(range(len(there) + 4))
    assert moment > 12  # three puts, a merge and two deletions


def test_what_belongs_together_is_one_object(folder: RemotePath) -> None:
    journal, other = StoredJournal(folder), StoredJournal(folder)
    assert list(other.read_logs(0)) == []
    with journal.together():
        journal.append_logs([{"n": 0, "x": [1.5, "ü", None]}])
        assert list(other.read_logs(0)) == []
        journal.append_logs([{"n": 1}])
    assert folder.files() == ["000000-000000/000000000.log"]
    assert list(other.read_logs(0)) == [{"n": 0, "x": [1.5, "ü", None]}, {"n": 1}]
    other.append_logs([{"n": 2}])
    assert list(journal.read_logs(1)) == [{"n": 1}, {"n": 2}]
    assert len(folder.files()) == 2


def test_a_driver_merges_and_readers_go_on(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_journal, "MOST_OBJECTS", 3)
    reader, journal = StoredJournal(folder), StoredJournal(folder)
    with journal.owned(nobody_else):
        for n in range(12):
            journal.append_logs([{"n": n}])
            assert [log["n"] for log in reader.read_logs(n)] == [n]
            assert len(folder.files()) <= 3
    assert read(folder) == list(range(12))


def test_a_driver_that_was_thought_dead_changes_nothing(folder: RemotePath) -> None:
    old, new = StoredJournal(folder), StoredJournal(folder)
    with old.owned(nobody_else):
        old.append_logs([{"n": 0}])
        with new.owned(nobody_else):
            new.append_logs([{"n": 1}])
            old.append_logs([{"n": 66}])
            old._begin((1, 1))
            new.append_logs([{"n": 2}])
            assert read(folder) == [0, 1, 2]
    with StoredJournal(folder).owned(nobody_else):
        assert {path.split("/")[0] for path in folder.files()} == {"000003-000000"}
    assert read(folder) == [0, 1, 2]


def test_a_store_that_is_away_for_a_while(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, arrives = StoredJournal(folder), False
    put = RemotePath.write_bytes

    def failing(self: RemotePath, data: bytes) -> None:
        if arrives:  # and only the answer was lost
            put(self, data)
        raise StorageError(5, "away", str(self))

    with journal.owned(nobody_else):
        for n in (0, 10):
            with monkeypatch.context() as patch:
                patch.setattr(RemotePath, "write_bytes", failing)
                with pytest.raises(StorageError):
                    journal.append_logs([{"n": n}])
            reader = StoredJournal(folder)
            before = [log["n"] for log in reader.read_logs(0)]
            journal.append_logs([{"n": n + 1}])
            assert before + [log["n"] for log in reader.read_logs(len(before))] == read(folder)
            arrives = True
    assert read(folder) == [0, 1, 10, 11]


def test_nothing_is_put_once_the_study_is_another_s(folder: RemotePath) -> None:
    def lost() -> None:
        if taken:
            raise StorageError(5, "taken over", "s3://b/study")

    journal, taken = StoredJournal(folder), False
    with journal.owned(lost):
        journal.append_logs([{"n": 0}])
        taken = True
        with pytest.raises(StorageError, match="taken over"):
            journal.append_logs([{"n": 1}])
    assert read(folder) == [0]


def test_a_lost_object_is_told(folder: RemotePath) -> None:
    journal = StoredJournal(folder)
    for n in range(3):
        journal.append_logs([{"n": n}])
    (folder / "000000-000000" / "000000001.log").unlink()
    with pytest.raises(UserError, match=r"000000001\.log\S*: an object of the study's journal is not there"):
        read(folder)


def test_lines_are_those_of_a_journal_file(folder: RemotePath) -> None:
    logs = [{"op_code": 0, "value": 0.1}, {"op_code": 1, "name": "ü"}]
    StoredJournal(folder).append_logs(logs)
    content = (folder / "000000-000000" / "000000000.log").read_text()
    assert content == "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
