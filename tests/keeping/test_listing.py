"""`ls`: which studies, in which order, and nothing remembered that is not so any more."""

import json
import resource
import shutil
import time
from pathlib import Path

import pytest
from keeping.test_keeping import finished
from study.driving import give_all, noted, raymeta, tiny_record
from study.record.test_record import entry
from typer.testing import CliRunner

import raymeta as package
from raymeta.cli import app
from raymeta.errors import UserError
from raymeta.keeping import listing
from raymeta.keeping.listing import Filters, in_words, size_of
from raymeta.storage.files import studies_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def three(studies: Path) -> Path:
    """Studies `a`, over with a best of 1.5; `b`, left with one of 0.5 and the most bytes; `c`, with nothing."""
    finished("a")
    noted(tiny_record("b"), 1.0, 0.5)
    tiny_record("c", "maml.inner_lr=0.1")
    (studies / "b" / "large").write_bytes(bytes(1 << 20))
    package.tag("a", "paper", "good")
    package.tag("b", "paper")
    package.note("c", "why\nso")
    return studies


def names(*words: str) -> list[str]:
    done = CliRunner().invoke(app, ["ls", *words, "--json"])
    assert done.exit_code == 0, done
    return [row["study"] for row in json.loads(done.stdout)]


def test_filters_and_orders(three: Path) -> None:
    for _ in range(2):  # read, and remembered
        assert names() == ["a", "b", "c"]
        assert names("[bc]") == ["b", "c"]
        assert names("--tag", "paper") == ["a", "b"]
        assert names("--tag", "paper", "--tag", "good") == ["a"]
        assert names("--state", "over") == ["a"]
        assert names("--state", "left") == ["b", "c"]
        assert names("--method", "dropgrad") == names("--task", "sinusoid*") == ["a", "b", "c"]
        assert names("--method", "alfa") == []
        assert names("--sort", "score") == ["b", "a", "c"]
        assert names("--sort", "trials", "--reverse") == ["c", "b", "a"]
        assert names("--sort", "size")[0] == "b"
    with pytest.raises(UserError, match="sort: found 'sise', did you mean 'size'"):
        package.listed(sort="sise")
    with pytest.raises(UserError, match="state: found 'done'"):
        package.listed(state="done")


def test_the_table(three: Path) -> None:
    said = CliRunner().invoke(app, ["ls", "--size"], env={"COLUMNS": "200"}).stdout
    assert "good, paper" in said
    assert "why …" in said
    assert "6/6" in said
    assert "1.1 MB" in said or "1.0 MB" in said


def test_remembered_is_what_is_read(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {row.study: row for row in package.listed()}
    with monkeypatch.context() as patch:
        patch.setattr(listing, "read_row", lambda folder: pytest.fail("it is remembered"))
        assert {row.study: row for row in package.listed()} == read
        with package.open_study("b").record.locked():
            assert [row.state for row in package.listed()] == ["over", "running", "left"]
    noted(package.open_study("b").record, 0.1)
    package.tag("a", remove=["good"])
    give_all(package.open_study("a").record, t4=[0.0, 0.0])
    shutil.rmtree(three / "c")
    now = {row.study: row for row in package.listed()}
    assert sorted(now) == ["a", "b"]
    assert (now["b"].value, now["a"].value, now["a"].best, now["a"].tags) == (0.1, 0.0, 4, ["paper"])


def test_a_spoiled_cache_and_a_damaged_study(three: Path, cache: Path) -> None:
    read = package.listed()
    (file,) = (cache / "studies").iterdir()
    for spoiled in ("", "[]", '{"raymeta": 1}', file.read_text().replace('"method"', '"m"')):
        file.write_text(spoiled)
        assert package.listed() == read
    (three / "b" / "study.yaml").write_bytes(b"x")
    assert [row.study for row in package.listed()] == ["a", "c"]
    rows, wrong = listing.listed(studies_folder(), Filters())
    assert [row.study for row in rows] == ["a", "c"]
    assert str(three / "b") in str(wrong[0])


def test_sizes_stop_at_links(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    (tmp_path / "study" / "file").write_bytes(bytes(5000))
    (tmp_path / "study" / "link").symlink_to(tmp_path)
    assert 5000 <= (size_of(tmp_path / "study") or 0) < 100_000
    assert [in_words(size) for size in (0, 999, 1500, 99_600, 2_340_000_000)] == [
        "0 B", "999 B", "1.5 kB", "100 kB", "2.3 GB"]  # fmt: skip


@pytest.mark.slow
def test_500_studies_in_a_second(studies: Path) -> None:
    """The whole command, of the processor's time, the second time: the first reads each study."""
    finished("one")
    for number in range(499):
        shutil.copytree(studies / "one", studies / f"s{number:03d}")
    assert len(json.loads(raymeta("ls", "--json").stdout)) == 500
    for words in (["ls"], ["ls", "--sort", "size"], ["ls", "--state", "over", "--sort", "score"]):
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        assert raymeta(*words).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{' '.join(words)}: {took:.2f} s, {time.monotonic() - began:.2f} s with waiting")
        assert took < 1


def test_a_trial_that_waits_has_not_ended(studies: Path) -> None:
    record = tiny_record("a")
    for number in range(2):
        record.ask()
        record.add_round(number, entry(2, 1.0, at=1.0, waits=True))
    record.finish(0)
    for _ in range(2):  # read, and remembered
        done = CliRunner().invoke(app, ["ls"])
        assert "1/8" in done.stdout
    assert raymeta("status", "a").stdout.count("waiting") == 1
