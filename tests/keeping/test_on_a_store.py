"""Studies kept in order on a store, a real S3 server's."""

import random
from pathlib import Path

import pytest
from keeping.killing import killed
from study.driving import give_all, noted, numbers, tiny_record

import raymeta
from raymeta.errors import UserError
from raymeta.keeping import moving
from raymeta.storage.places import RemotePath
from raymeta.study.record import folder, lease


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


PROGRAM = """
import sys, raymeta.api.kept.keeping as keeping
from raymeta.study.record import lease
lease.SETTLE_S = 0.0
keeping.names_in(keeping.studies_folder())
print("ready", flush=True)
sys.stdin.readline()
{call}
print("done", flush=True)
"""
OPEN = "keeping.archives.unpack(keeping.Path(sys.argv[1]), keeping.studies_folder() / 'two')"
REMOVE = "keeping.remove('two')"


def kill_often(store: RemotePath, tmp_path: Path, times: int) -> None:
    """`open` and `rm`, by turns: what is there is whole, and what is left of others stands in the way of nothing."""
    record = tiny_record("one", "study.trials=4")
    with record.locked():
        for score in range(4):
            noted(record, 9.0 - score)
    for number in range(60):
        (record.trial_folder(number % 4) / f"{number}.pt").write_bytes(bytes(1000))
    file, chance, halves = raymeta.archive("one", tmp_path / "one.zip"), random.Random(times), 0
    files = [name for name in record.folder.files() if not name.startswith("journal")]
    longest = {OPEN: 1.0, REMOVE: 0.1}
    for turn in range(times):
        for call in (OPEN, REMOVE):
            done = killed(PROGRAM.format(call=call), file, chance.uniform(0, longest[call]))
            longest[call] *= 0.8 if done else 1.1
            there = [row.study for row in raymeta.listed()]
            assert ("two" in there) == (call == OPEN) or not done
            if "two" in there:
                assert [name for name in (store / "two").files() if name in files] == files
                assert numbers("two") == numbers("one")
            else:
                halves += len((store / "two").files()) > 1
            if turn % 2 and "two" not in there:  # whatever command writes next
                tiny_record("other")
                raymeta.remove("other")
                assert (store / "two").files() in ([], ["driver.lease"])  # killed before it wrote anything
            if call == OPEN and "two" not in there:
                raymeta.open_archive(file, "two")
            if call == REMOVE and "two" in there:
                raymeta.remove("two")
    assert halves > 0
    if (store / "two" / "study.yaml").exists():
        raymeta.remove("two")
    moving.clean(store)
    assert {name for name in store.files() if not name.startswith("one/")} <= {"two/driver.lease"}


def test_what_was_left_on_its_way_is_gone_after_the_next_command(store: RemotePath, tmp_path: Path) -> None:
    """As a kill leaves it; what another process has on its way, and what has only lost its study.yaml, stays."""
    tiny_record("one")
    file = raymeta.archive("one", tmp_path / "one.zip")
    for name in ("left", "two", "driven", "valued"):
        (store / name / "trials" / "0000" / "a.pt").write_bytes(b"weights")
        (store / name / "journal" / "000000-000000" / "000000000.log").write_bytes(b"")
    for name in ("left", "two", "driven", "whole"):
        (store / folder.UNFINISHED / name).write_bytes(b"")
    with lease.Lease(store / "driven" / "driver.lease").held():
        (store / "one" / "study.yaml").copy_to(store / "whole" / "study.yaml")
        assert raymeta.open_archive(file, "two").name == "two"
        assert [path.name for path in store.iterdir()] == [folder.UNFINISHED, "driven", "one", "two", "valued", "whole"]
        with pytest.raises(UserError, match=r"has trials, but no study\.yaml: delete it"):
            raymeta.open_archive(file, "valued")
    assert [path.name for path in (store / folder.UNFINISHED).iterdir()] == ["driven"]
    raymeta.remove("two")
    assert [path.name for path in store.iterdir() if path.name != folder.UNFINISHED] == ["one", "valued", "whole"]
    assert [path.name for path in (store / folder.UNFINISHED).iterdir()] == []


@pytest.mark.slow
def test_open_and_rm_are_killed_often(store: RemotePath, tmp_path: Path) -> None:
    kill_often(store, tmp_path, 10)
