"""Studies kept in order on a store, a real S3 server's."""

from pathlib import Path

import pytest
from study.driving import give_all, noted, numbers, tiny_record

import raymeta
from raymeta.errors import UserError
from raymeta.storage.places import RemotePath
from raymeta.study.record import lease, stored_journal


@pytest.fixture
def store(bucket: RemotePath, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """An empty prefix for studies."""
    monkeypatch.setattr(lease, "SETTLE_S", 0.0)
    monkeypatch.setattr(stored_journal, "FRESH_S", 0.0)
    monkeypatch.setenv("RAYMETA_STUDIES", str(bucket / request.node.name))
    return bucket / request.node.name


def test_what_is_done_in_a_folder(store: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tiny_record("one", "study.trials=4", "study.finalists=1")
    with record.locked():
        for score in range(4):
            noted(record, 9.0 - score)
    give_all(record, t1=[3.0, 4.0], t3=[1.0, 2.0])
    for number in range(4):
        (record.trial_folder(number) / "checkpoint.pt").write_bytes(b"weights")
    found = numbers("one")
    assert (raymeta.note("one", "far away"), raymeta.tag("one", "s3")) == ("far away", ["s3"])
    (row,) = raymeta.listed(tags=["s3"], sizes=True)
    assert (row.state, row.best, row.note, row.size) == ("over", 3, "far away", None)
    with record.locked(), pytest.raises(UserError, match="is being driven by process"):
        raymeta.remove("one")
    pruned = raymeta.prune("one")
    assert (pruned.trials, pruned.size) == ([0, 2], None)
    pruned.delete()
    assert raymeta.prune("one").files == []
    with pytest.raises(UserError, match="on a store a study is not moved: archive it"):
        raymeta.move("one", "two")
    file = raymeta.archive("one", tmp_path / "one.zip")
    assert raymeta.open_archive(file, "two").best == record.best()
    assert numbers("two") == found
    raymeta.remove("one")
    assert [row.study for row in raymeta.listed()] == ["two"]
    assert not (store / "one").exists()
    again = raymeta.archive("two", tmp_path / "two.zip")
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "studies"))
    local = raymeta.open_archive(again)
    assert local.name == "two"
    assert numbers("two") == found
    assert (local.trial_folder(3) / "checkpoint.pt").read_bytes() == b"weights"
    assert raymeta.note("two") == "far away"
    with local.record.locked():
        local.record.extend(1)
        noted(local.record, 0.5)
    assert len(local.trials()) == 5
