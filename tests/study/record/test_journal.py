"""The journal's file is Optuna's own, byte for byte; what belongs together waits for the disk once."""

import os
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend

from raymeta.study.record.journal import Journal

ENTRIES = st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.text() | st.none())


@given(st.lists(st.lists(ENTRIES, min_size=1), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_writes_what_optuna_writes(tmp_path: Path, batches: list[list[dict[str, object]]]) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).write_bytes(b"")
    mine, theirs = Journal(tmp_path / "mine"), JournalFileBackend(str(tmp_path / "theirs"))
    for batch in batches:
        mine.append_logs(batch)
        theirs.append_logs(batch)
    assert (tmp_path / "mine").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert list(JournalFileBackend(str(tmp_path / "mine")).read_logs(0)) == [*chain(*batches)]


def test_lines_are_with_the_system_at_once_and_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, fsync = tmp_path / "journal.log", [], os.fsync

    def watched(descriptor: int) -> None:
        synced.append(path.read_text().count("\n"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    journal = Journal(path)
    with journal.together():
        for number in range(3):
            journal.append_logs([{"n": number}])
            assert path.read_text().count("\n") == number + 1
        assert synced == []
    assert synced == [3]
    journal.append_logs([{"n": 3}])
    assert synced == [3, 4]
    assert not Path(f"{path}.lock").is_symlink()
