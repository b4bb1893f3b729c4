"""The studies of a home: one that cannot be read hides none of the others, and looking writes nothing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study.driving import noted, tiny_record

import raymeta
from raymeta.errors import UserError
from raymeta.study.record.finalists import FILE
from raymeta.study.record.folder import is_driven
from raymeta.study.record.home import all_studies, new_study, open_study

LETTERS = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20)
NAMES = LETTERS.filter(
    lambda name: not name.startswith(".") and name not in ("one", "two") and len(name.encode()) < 200
)


def _text(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def _folder_for(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return change


def _cut(folder: Path) -> None:
    lines = (folder / "journal.log").read_bytes().splitlines(keepends=True)
    (folder / "journal.log").write_bytes(b"".join([lines[0], b"{\n", *lines[1:]]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "text as plan": _text("study.yaml", b"x\n"),
    "a list as plan": _text("study.yaml", b"- 1\n"),
    "bytes as plan": _text("study.yaml", b"\xff\xfe\0"),
    "another's plan": _text("study.yaml", b"plan: {spec: 3}\nmetric: []\n"),
    "an empty plan": _text("study.yaml", b""),
    "text as journal": _text("journal.log", b"hello\nthere\n"),
    "an empty journal": _text("journal.log", b""),
    "a line in the middle": _cut,
    "no journal": lambda folder: (folder / "journal.log").unlink(),
    "a folder as journal": _folder_for("journal.log"),
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, damage=st.sampled_from(sorted(DAMAGE)))
def test_one_that_cannot_be_read_hides_no_other(studies: Path, name: str, damage: str) -> None:
    if not (studies / "one").exists():
        for each in ("one", "two"):
            noted(tiny_record(each), 3.0, 2.0)
    try:
        shutil.copytree(studies / "one", studies / name)
    except OSError:  # no name for this file system
        return
    try:
        DAMAGE[damage](studies / name)
        found = all_studies()
        assert [one.name for one in found if not isinstance(one, UserError)] == ["one", "two"]
        (error,) = [one for one in found if isinstance(one, UserError)]
        assert name in str(error)
    finally:
        shutil.rmtree(studies / name)


def test_a_folder_s_name_is_the_study_s(studies: Path) -> None:
    """As after `mv` and `cp -r`: the journal has the name that it was made with."""
    noted(tiny_record("first"), 3.0, 2.0)
    (studies / "first").rename(studies / "renamed")
    shutil.copytree(studies / "renamed", studies / "other")
    assert [study.name for study in raymeta.studies()] == ["other", "renamed"]
    record = open_study("other")
    with record.locked():
        noted(record, 1.0)
    assert [len(open_study(name).trials()) for name in ("renamed", "other")] == [1, 2]


def test_a_damaged_finalist_is_one_sentence(studies: Path) -> None:
    record = tiny_record("one", "study.trials=1", "study.finalists=1")
    noted(record, 3.0, 2.0)
    folder = record.trial_folder(0)
    folder.mkdir(parents=True)
    (folder / FILE).write_text("[]")  # scores that are none are scored again
    assert [one.name for one in all_studies()] == ["one"]


def test_looking_makes_no_file(studies: Path) -> None:
    record = tiny_record("one")
    noted(record, 3.0, 2.0)
    before = sorted(studies.rglob("*"))
    assert not is_driven(record.folder)
    assert raymeta.studies()[0].status.trials == {"completed": 1}
    raymeta.open_study("one").exported()
    assert sorted(studies.rglob("*")) == before
    with record.locked():
        assert is_driven(record.folder)


LOOK = """
import raymeta
from raymeta.errors import UserError
(study,) = raymeta.studies()
print(study.status.study, len(study.frame()), study.exported()["provenance"]["mlflow_run"], study.running)
for verb in (study.resume, lambda: study.extend(1), lambda: raymeta.search("maml", name="new", task="sinusoid-5s")):
    try:
        verb()
    except UserError as error:
        print(error)
"""


# For root, whom permissions do not stop: a mount in a namespace of its own, or root without the right to ignore them.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
OBEYING = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


def test_a_home_that_cannot_be_written(studies: Path) -> None:
    noted(tiny_record("one"), 3.0, 2.0)
    command = [sys.executable, "-P", "-c", LOOK]
    if os.getuid() == 0:
        mounted = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(studies)]
        may_mount = subprocess.run([*mounted, "true"], capture_output=True).returncode == 0
        command = [*(mounted if may_mount else OBEYING), *command]
    before = {path: path.stat().st_mtime_ns for path in [studies, *studies.rglob("*")]}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    finally:
        for path in before:
            path.chmod(0o755)
    first, *refused = done.stdout.splitlines()
    assert first == "one 1 None False", done.stderr
    words = ("one: cannot be written to (", "one: cannot be written to (", "studies: studies can't be kept there: ")
    assert len(refused) == len(words)
    assert all(word in line for word, line in zip(words, refused, strict=True)), refused
    assert {path: path.stat().st_mtime_ns for path in [studies, *studies.rglob("*")]} == before


def test_a_name_that_is_taken_by_something_else(studies: Path) -> None:
    studies.mkdir()
    (studies / "notes").write_text("mine")
    with pytest.raises(UserError, match="notes is there already, and is no study"):
        new_study("notes")
    tiny_record("one")
    with pytest.raises(UserError, match="the study 'one' exists: go on with `raymeta resume one`"):
        new_study("one")
    assert new_study("two") == studies / "two"
