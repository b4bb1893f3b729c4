"""Studies noted, tagged, moved, packed, pruned and removed: what comes of it, and what is refused."""

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from study.driving import give_all, noted, numbers, tiny_record
from typer.testing import CliRunner

import raymeta
from raymeta.cli import app
from raymeta.errors import UserError
from raymeta.keeping import moving
from raymeta.study.record.finalists import settled
from raymeta.study.record.folder import is_driven
from raymeta.study.record.record import StudyRecord


def finished(name: str = "one") -> StudyRecord:
    """Six trials, of which 3, 4 and 5 are the finalists, with checkpoints that are none."""
    record = tiny_record(name, "study.trials=6", "study.finalists=3")
    for score in range(6):
        noted(record, 9.0 - score)
    give_all(record, t1=[3.0, 4.0], t3=[2.0, 3.0], t4=[2.0, 2.0], t5=[1.0, 2.0])
    for number in range(6):
        record.trial_folder(number).mkdir(parents=True, exist_ok=True)
        for file in ("checkpoint.pt", "previous-checkpoint.pt"):
            (record.trial_folder(number) / file).write_bytes(os.urandom(5000))
    assert settled(record)
    return record


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "driver.lock"
    }


def refused(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert isinstance(done.exception, UserError), done
    return str(done.exception)


@pytest.fixture
def study(studies: Path) -> Path:
    finished()
    return studies / "one"


@pytest.fixture
def driven(study: Path) -> Iterator[Path]:
    with raymeta.open_study("one").record.locked():
        yield study


def test_rm(study: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (study / "trials" / "0001" / "link").symlink_to(outside)
    (study / "file").symlink_to(outside / "precious")
    assert refused("rm", "one").endswith("There is no terminal to ask on: --yes says so")
    assert study.exists()
    assert CliRunner().invoke(app, ["rm", "one", "--yes"]).exit_code == 0
    assert list(study.parent.iterdir()) == []
    assert (outside / "precious").read_text() == "x"
    assert "no study 'one'" in refused("rm", "one", "--yes")
    assert "no study '../outside'" in refused("rm", "../outside", "--yes")


def test_rm_of_a_damaged_one(study: Path) -> None:
    (study / "study.yaml").write_bytes(b"\xff")
    (study / "journal.log").unlink()
    raymeta.remove("one")
    assert not study.exists()


def test_a_study_that_is_a_link_is_left_alone(study: Path, tmp_path: Path) -> None:
    shutil.move(study, tmp_path / "elsewhere")
    study.symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path / "elsewhere")
    for words in (["rm", "one", "--yes"], ["mv", "one", "two"], ["prune", "one", "--yes"], ["tag", "one", "x"]):
        assert f"{study}: is a link to {tmp_path}/elsewhere" in refused(*words)
    assert content(tmp_path / "elsewhere") == before


def test_one_that_is_driven_is_refused(driven: Path, tmp_path: Path) -> None:
    before = content(driven)
    out = str(tmp_path / "a.zip")
    for words in (["rm", "one", "-y"], ["mv", "one", "two"], ["prune", "one", "-y"], ["archive", "one", "-o", out]):
        assert "the study 'one' is in use by another process" in refused(*words)
    assert content(driven).keys() == before.keys()
    assert {**content(driven), "driver.json": b""} == {**before, "driver.json": b""}  # which its driver renews
    assert list(tmp_path.glob("*.zip*")) == []
    assert raymeta.tag("one", "seen") == ["seen"]  # a driver does not look at them


def test_mv(study: Path, tmp_path: Path) -> None:
    finished("two")
    before, found = content(study), numbers("one")
    assert "is there already" in refused("mv", "one", "two")
    assert "cannot name a study" in refused("mv", "one", "finals")
    assert raymeta.move("one", "three") == study.parent / "three"
    assert content(study.parent / "three") == before
    assert numbers("three") == found
    assert raymeta.move("three", f"{tmp_path}/other/") == tmp_path / "other" / "three"
    assert raymeta.move("two", f"{tmp_path}/other/four") == tmp_path / "other" / "four"
    assert list(study.parent.iterdir()) == []
    record = StudyRecord.load(tmp_path / "other" / "three")
    with record.locked():
        record.extend(1)
        noted(record, 1.0)


def test_mv_to_another_file_system(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Path("/dev/shm") / f"raymeta-{os.getpid()}" / "one"
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        target, rename = tmp_path / "other" / "one", os.rename  # there is none: the system says what it would say

        def apart(source: Path, new: Path) -> None:
            if source == study and new == target:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            rename(source, new)

        monkeypatch.setattr(os, "rename", apart)
    before = content(study)
    try:
        (study / "trials" / "0001" / "link").symlink_to(tmp_path)
        with pytest.raises(UserError, match="0001/link: is a link or a device, which can't go along"):
            raymeta.move("one", target)
        assert sorted(target.parent.iterdir()) == []
        (study / "trials" / "0001" / "link").unlink()

        def spoiling(source: Path, copied: Path) -> None:
            copied.write_bytes(source.read_bytes()[::-1])

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copy2", spoiling)
            with pytest.raises(UserError, match="is not what was copied there"):
                raymeta.move("one", target)
        assert content(study) == before
        assert sorted(target.parent.iterdir()) == []
        assert raymeta.move("one", target) == target
        assert content(target) == before
        assert sorted(study.parent.iterdir()) == []
    finally:
        shutil.rmtree(target.parent, ignore_errors=True)


def test_archive_and_open(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raymeta.note("one", "remember")
    raymeta.tag("one", "paper")
    before, found = content(study), numbers("one")
    file = raymeta.archive("one", tmp_path / "one.zip")
    assert content(study) == before
    assert refused("archive", "one", "-o", str(file)).startswith(f"replace {file}?")
    assert "its name is to end in .zip" in refused("archive", "one", "-o", str(tmp_path / "one.tar"))
    assert "the study 'one' exists" in refused("open", str(file))
    assert raymeta.open_archive(file, "again").best == raymeta.open_study("one").best
    assert content(study.parent / "again") == before
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "elsewhere"))
    assert CliRunner().invoke(app, ["open", str(file)]).exit_code == 0
    assert content(tmp_path / "elsewhere" / "one") == before
    assert numbers("one") == found
    assert (raymeta.note("one"), raymeta.tag("one")) == ("remember", ["paper"])


def test_whatever_lies_in_a_study_goes_along(study: Path, tmp_path: Path) -> None:
    (study / ".ipynb_checkpoints").mkdir()
    for name in (".env", ".ipynb_checkpoints/a.md", "journal-notes.md"):
        (study / name).write_text("mine")
    (study / "trials" / ".result.json.ab12cd_9").write_text("was being written")
    os.utime(study / "journal-notes.md", (0, 0))  # before what a zip knows of
    before = {name: data for name, data in content(study).items() if "ab12cd_9" not in name}
    raymeta.open_archive(raymeta.archive("one", tmp_path / "one.zip"), "two")
    assert content(study.parent / "two") == before
    (study / "a\\b").write_text("")
    with pytest.raises(UserError, match=r"has a file .*, which an archive can't have: rename it"):
        raymeta.archive("one", tmp_path / "other.zip")


def test_any_damage_to_an_archive_is_a_sentence(study: Path, tmp_path: Path) -> None:
    data, bad = raymeta.archive("one", tmp_path / "one.zip").read_bytes(), tmp_path / "bad.zip"
    opened, said = 0, list[str]()
    for place in range(0, len(data), max(len(data) // 80, 1)):
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            raymeta.open_archive(bad, "two")
        except UserError as error:
            said.append(str(error))
        else:  # a date, say, is no damage
            opened += 1
            raymeta.remove("two")
        assert sorted(path.name for path in study.parent.iterdir()) == ["one"]
    assert opened < 10
    assert all(len(sentence.splitlines()) == 1 for sentence in said)


def test_a_study_is_not_moved_into_a_study(study: Path) -> None:
    before = content(study)
    for to in (f"{study}/", f"{study}/a/b"):
        with pytest.raises(UserError, match="is inside the study 'one'"):
            raymeta.move("one", to)
    assert content(study) == before


def test_tags_are_not_looked_for_behind_a_link(study: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis").write_text("")
    (study / "tags").symlink_to(tmp_path / "docs")
    with pytest.raises(UserError, match="is a link to"):
        raymeta.tag("one", "new", remove=["thesis"])
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["thesis"]


def test_hidden_folders_of_the_users_stay(study: Path) -> None:
    mine = study.parent / ".raymeta-backup"
    mine.mkdir()
    os.utime(mine, (0, 0))
    raymeta.remove("one")
    assert mine.is_dir()


def test_a_study_with_links_is_not_packed(study: Path, tmp_path: Path) -> None:
    (study / "trials" / "0000" / "data").symlink_to("/etc")
    assert "0000/data: is a link or a device" in refused("archive", "one", "-o", str(tmp_path / "a.zip"))
    assert list(tmp_path.glob("*zip*")) == list(tmp_path.glob(".*zip*")) == []


def changed(file: Path, out: Path, **members: bytes | None) -> Path:
    """A copy of an archive with other members; None: without it."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w") as new:
        there = {info.filename: old.read(info) for info in old.infolist()}
        for name, data in (there | members).items():
            if data is not None:
                new.writestr(name, data)
    return out


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "trials/../../evil", "a\\b", "trials/.", "journal/0", "driver.lock", "a//b"]
)
def test_an_archive_that_would_write_elsewhere(study: Path, tmp_path: Path, name: str) -> None:
    file = raymeta.archive("one", tmp_path / "one.zip")
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read("raymeta-study.json"))
    about["files"] += 1
    members = {"raymeta-study.json": json.dumps(about).encode(), name: b"x"}
    with pytest.raises(UserError, match="not a study's archive: it has a file"):
        raymeta.open_archive(changed(file, tmp_path / "evil.zip", **members), "two")
    assert sorted(path.name for path in study.parent.iterdir()) == ["one"]


def test_what_is_no_archive(study: Path, tmp_path: Path) -> None:
    file = raymeta.archive("one", tmp_path / "one.zip")
    data = file.read_bytes()
    about = b'{"format": 1, "name": "one", "files": 2}'
    junk = dict.fromkeys(zipfile.ZipFile(file).namelist()) | {"study.yaml": b"x", "journal.log": b""}
    place = data.index(b"checkpoint.pt") + 1000
    files = {
        "damaged archive": data[:place] + bytes(50) + data[place + 50 :],
        "not a study's archive, or a damaged one": data[: len(data) // 2],
        "it has not the files that it says": changed(file, tmp_path / "a.zip", **{"study.yaml": None}).read_bytes(),
        "not a study's archive$": changed(file, tmp_path / "b.zip", **{"raymeta-study.json": b"[]"}).read_bytes(),
        "which this one can't read": changed(
            file, tmp_path / "c.zip", **{"raymeta-study.json": about.replace(b"1", b"2")}
        ).read_bytes(),
        "expected a mapping": changed(file, tmp_path / "d.zip", **(junk | {"raymeta-study.json": about})).read_bytes(),
    }
    for why, content_ in files.items():
        (tmp_path / "bad.zip").write_bytes(content_)
        with pytest.raises(UserError, match=why):
            raymeta.open_archive(tmp_path / "bad.zip", "two")
        assert sorted(path.name for path in study.parent.iterdir()) == ["one"], why
    with pytest.raises(UserError, match="no such file"):
        raymeta.open_archive(tmp_path / "none.zip")


def test_prune(study: Path) -> None:
    before = content(study)
    found = raymeta.prune("one")
    assert found.trials == [0, 2]  # 1 is the baseline, 3 to 5 are finalists
    assert (found.size or 0) >= 4 * 5000
    assert "delete 4 checkpoints of 2 trials of one (" in refused("prune", "one")
    assert content(study) == before
    assert CliRunner().invoke(app, ["prune", "one", "--yes"]).exit_code == 0
    gone = {f"trials/000{n}/{file}" for n in (0, 2) for file in ("checkpoint.pt", "previous-checkpoint.pt")}
    assert content(study) == {name: data for name, data in before.items() if name not in gone}
    assert raymeta.prune("one").files == []
    best = raymeta.open_study("one").best
    assert best is not None
    assert best.number == 5
    with pytest.raises(UserError, match=r"checkpoint\.pt"):
        raymeta.open_study("one").load(0)


def test_prune_leaves_links_and_unfinished_studies_alone(study: Path, tmp_path: Path) -> None:
    shutil.move(study / "trials" / "0000", tmp_path / "0000")
    (study / "trials" / "0000").symlink_to(tmp_path / "0000")
    assert raymeta.prune("one").trials == [2]
    waiting = raymeta.prune("one")
    record = raymeta.open_study("one").record
    with record.locked():
        record.extend(1)
    assert "has trials that go on, so which can't win is not known yet" in refused("prune", "one", "--yes")
    with pytest.raises(UserError, match="has trials that go on"):
        waiting.delete()


def test_note_and_tag(study: Path) -> None:
    assert raymeta.note("one") == ""
    assert CliRunner().invoke(app, ["note", "one", "first\nline"]).exit_code == 0
    assert refused("note", "one", "other").startswith("replace the note on one, 'first'?")
    assert raymeta.note("one") == "first\nline"
    assert CliRunner().invoke(app, ["note", "one", "", "--yes"]).exit_code == 0
    assert raymeta.note("one") == ""
    assert raymeta.tag("one", "b", "a") == ["a", "b"]
    assert raymeta.tag("one", "c", remove=["a"]) == ["b", "c"]
    assert "'../x' cannot be a tag" in refused("tag", "one", "../x")
    assert "the study 'one' has no tag 'z': b, c" in refused("tag", "one", "--remove", "z")


def test_what_a_killed_one_left_is_cleaned(study: Path, tmp_path: Path) -> None:
    home = study.parent
    left = home / f"{moving.HIDDEN}old-12345678"
    shutil.copytree(study, left)
    (left / "driver.lock").touch()
    link = home / f"{moving.HIDDEN}link-12345678"
    link.symlink_to(tmp_path)
    part = tmp_path / ".a.zip.1234.part"
    part.write_bytes(b"half")
    assert [one.study for one in raymeta.listed()] == ["one"]
    assert [one.name for one in raymeta.studies()] == ["one"]
    raymeta.archive("one", tmp_path / "a.zip")
    assert not part.exists()
    with moving.held_still(left):
        moving.clean(home)
        assert left.exists()  # somebody is at work on it
    moving.clean(home)
    assert not left.exists()
    assert link.is_symlink()
    assert not is_driven(study)
