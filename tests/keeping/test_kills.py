"""`rm`, `mv` and `archive` killed with SIGKILL at random moments: never half a study, never half an archive."""

import random
import shutil
import zipfile
from pathlib import Path

import pytest
from keeping.killing import killed
from keeping.test_keeping import content, finished

import raymeta
from raymeta.keeping import moving

PROGRAM = """
import sys, raymeta.api.kept.keeping as keeping
print("ready", flush=True)
sys.stdin.readline()
{call}
print("done", flush=True)
"""
CALLS = {
    "rm": "keeping.remove('one')",
    "mv": "keeping.move('one', 'two')",
    "archive": "keeping.archive('one', sys.argv[1])",
    "open": "keeping.archives.unpack(keeping.Path(sys.argv[1]), keeping.studies_folder() / 'two')",
    "to another disk": "keeping.moving.os.rename = rename\nkeeping.move('one', sys.argv[1])",
}
# A rename that fails between folders of studies, as from disk to disk.
RENAME = """
import errno, os
plain = os.rename
def rename(old, new):
    if os.path.dirname(old) != os.path.dirname(new):
        raise OSError(errno.EXDEV, "other disk")
    plain(old, new)
"""


def large(name: str) -> None:
    """A study with enough files that a call takes a while."""
    folder = finished(name).folder
    for number in range(300):
        (Path(str(folder)) / "trials" / f"{number % 6:04d}" / f"more{number}.pt").write_bytes(bytes(100_000))


def kill_often(call: str, studies: Path, tmp_path: Path, times: int) -> None:
    large("one")
    kept = tmp_path / "kept"
    shutil.copytree(studies / "one", kept)
    whole, ended, generator = content(kept), 0, random.Random(call)
    argument = tmp_path / ("other/one" if call == "to another disk" else "one.zip")
    if call == "open":
        raymeta.archive("one", argument)
    packed = argument.read_bytes() if call == "open" else b""
    longest = 0.3
    for _ in range(times):
        done = killed(RENAME + PROGRAM.format(call=CALLS[call]), argument, generator.uniform(0, longest))
        ended += done
        longest = longest * (0.8 if done else 1.1)  # about as often before its end as after it
        there = [one.study for one in raymeta.listed()]
        for home in (studies, argument.parent):
            for folder in home.glob("*/study.yaml"):
                if folder.parent.name != "kept" and not folder.parent.name.startswith("."):
                    assert content(folder.parent) == whole, folder
        if call == "archive":
            assert content(studies / "one") == whole
            if argument.exists():
                with zipfile.ZipFile(argument) as archive:
                    assert archive.testzip() is None
                    assert len(archive.namelist()) == len(whole) + 1
            argument.unlink(missing_ok=True)
        elif call == "rm":
            assert there == ([] if done else there)
        elif call == "open":
            assert argument.read_bytes() == packed
            assert "one" in there
        else:
            assert len(there) + (argument / "study.yaml").exists() >= 1  # never lost
        for name in ("one", "two"):
            shutil.rmtree(studies / name, ignore_errors=True)
        shutil.rmtree(argument, ignore_errors=True)
        shutil.copytree(kept, studies / "one")
    if times > 10:  # neither always too early nor always too late
        assert times / 10 <= ended <= times * 9 / 10
    raymeta.remove("one")
    moving.clean(argument.parent)
    assert sorted(studies.glob(f"{moving.HIDDEN}*")) == sorted(argument.parent.glob(f"{moving.HIDDEN}*")) == []
    if call == "archive":
        large("one")
        raymeta.archive("one", argument)
        assert sorted(path.name for path in tmp_path.glob("*one.zip*")) == ["one.zip"]


@pytest.mark.parametrize("call", ["rm", "archive"])
def test_killed_a_few_times(call: str, studies: Path, tmp_path: Path) -> None:
    kill_often(call, studies, tmp_path, 4)


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_killed_often(call: str, studies: Path, tmp_path: Path) -> None:
    kill_often(call, studies, tmp_path, 40)
