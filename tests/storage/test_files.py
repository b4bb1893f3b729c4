"""Strict YAML and atomic writes."""

import datetime
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raymeta.errors import UserError
from raymeta.storage.files import (
    cache_folder,
    dump_yaml,
    missing,
    parse_yaml,
    read_yaml,
    studies_folder,
    write_atomically,
)
from raymeta.storage.places import any_path, expanded

# PyYAML does not bring back a text that is one of the rarer line breaks.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"))
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
TREES = st.dictionaries(TEXTS, st.recursive(VALUES, lambda v: st.lists(v) | st.dictionaries(TEXTS, v), max_leaves=8))


@settings(max_examples=50)
@given(TREES)
@example({"split": "1e3", "1e-3": "=", "x": "<<", "y": "0o7", "z": "12:30", "date": "2024-01-01", "no": "null"})
@example({"tiny": 1e-300, "huge": 1e300, "whole": 1e16, "text": "é\n\u2028 #: x"})
def test_yaml_gives_back_what_was_dumped(data: dict[str, Any]) -> None:
    back = parse_yaml(dump_yaml(data), "dump")
    assert back == data
    assert list(back) == list(data)
    assert repr(back) == repr(data)  # 1, 1.0 and True are equal but not the same


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1E5", 1e5), ("-1.5e+3", -1500.0), (".5e1", 5.0), ("1.e2", 100.0)]
)
def test_exponents_are_numbers(text: str, value: float) -> None:
    assert parse_yaml(f"a: {text}", "x") == {"a": value}
    assert isinstance(parse_yaml(text, "x"), float)
    assert parse_yaml(f"'{text}'", "x") == text


@pytest.mark.parametrize("text", ["e3", "1e", "1e-3x", "x1e3", "1e3.5"])
def test_what_only_looks_like_an_exponent_is_text(text: str) -> None:
    assert parse_yaml(text, "x") == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", " at line 1, column 1: the key 'a' is given twice"),
        ("x: 1\nb:\n  c: 1\n  d: 2\n  c: 3", " at line 3, column 3: the key 'c' is given twice"),
        ("a: b: c", " at line 1, column 5: mapping values are not allowed here"),
        ("? [a]\n: 1", " at line 1, column 3: found unhashable key"),
        ("a: 2024-13-45", ": a value does not fit its type: month must be in 1..12"),
        ("[" * 5000, ": nested too deeply"),
        ("\0", ": unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_bad_yaml_is_one_sentence(text: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "file.yaml")
    assert str(caught.value) == f"file.yaml: not valid YAML{problem}"


@pytest.mark.parametrize("tag", ["timestamp", "bool", "int", "float", "binary", "set", "python/name:os.system"])
def test_a_tag_that_does_not_fit_is_a_sentence(tag: str) -> None:
    with pytest.raises(UserError, match=r"^file\.yaml: not valid YAML"):
        parse_yaml(f"a: !!{tag} maybe", "file.yaml")


@given(st.text("[]{}!&*:,-#|>?'\"%@ \n\tab01e.~<=", max_size=30) | st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(UserError):
        parse_yaml(text, "text")


def test_nothing_in_yaml_is_executed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not determine a constructor"):
        parse_yaml(f"!!python/object/apply:os.mkdir ['{tmp_path}/made']", "x")
    assert not (tmp_path / "made").exists()


def test_dates_are_dates() -> None:
    assert parse_yaml("2024-01-02", "x") == datetime.date(2024, 1, 2)


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for content, sentence in (
        (None, "no such file"),
        (b"- 1", "expected a mapping of keys to values, found list"),
        (b"", "expected a mapping of keys to values, found NoneType"),
        (b"\xff", "cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_yaml(path)
        assert str(caught.value) == f"{path}: {sentence}"
    with pytest.raises(UserError, match="is a folder, where a file is expected"):
        read_yaml(tmp_path)
    path.write_text("a: {b: é}", encoding="utf-8")
    assert read_yaml(path) == {"a": {"b": "é"}}


@pytest.mark.parametrize("content", ["text é", b"\x00bytes", ""])
def test_what_is_written_is_there_and_nothing_else(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, "before")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == ["file"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path, (soft, hard) = tmp_path / "file", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_atomically(path, b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def stop(source: str, target: Path) -> None:
        assert Path(source).read_bytes() == b"new"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYMETA_CACHE", "cache")
    monkeypatch.setenv("RAYMETA_STUDIES", "mine")
    assert (cache_folder(), studies_folder()) == (tmp_path / "cache", tmp_path / "mine")
    monkeypatch.delenv("RAYMETA_CACHE")
    monkeypatch.delenv("RAYMETA_STUDIES")
    assert cache_folder().name == "raymeta"
    assert studies_folder() == tmp_path / "studies"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("08", 8), ("-3", -3), ("+5", 5), ("0x10", 16), ("0o17", 15), ("1e5", 1e5), ("3.", 3.0),
        ("1:30", "1:30"), ("190:20:30.15", "190:20:30.15"), ("1_000", "1_000"), ("0b11", "0b11"), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_numbers_are_those_that_a_reader_sees(text: str, value: Any) -> None:
    found = parse_yaml(text, "f")
    assert (found, type(found)) == (value, type(value))
    assert parse_yaml(dump_yaml({"key": text}), "f") == {"key": text}


@pytest.mark.parametrize(
    ("given", "what", "sentence"),
    [
        ("bset.yaml", "file", "bset.yaml: no such file, did you mean 'best.yaml'?"),
        ("best.yml", "file", "best.yml: no such file, did you mean 'best.yaml'?"),
        ("bset.csv", "file", "bset.csv: no such file"),
        ("cnfigs/best.yaml", "file", "cnfigs/best.yaml: no such file: there is no folder cnfigs, "
                                     "did you mean 'configs/best.yaml'?"),
        ("configs/deep/best.yaml", "file", "configs/deep/best.yaml: no such file: there is no folder configs/deep"),
        ("confgs", "folder", "confgs: no such folder, did you mean 'configs'?"),
        ("bset.yaml", "folder", "bset.yaml: no such folder"),
        ("best.yaml", "folder", "best.yaml: is a file, where a folder is expected"),
        ("configs", "file", "configs: is a folder, where a file is expected"),
        ("best.yaml/x.yaml", "file", "best.yaml/x.yaml: no such file: best.yaml is a file"),
        ("x" * 300, "file", f"{'x' * 300}: no such file: File name too long"),
    ],
)  # fmt: skip
def test_a_path_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, what: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("best.yaml").touch()
    assert str(missing(Path(given), what)) == sentence


def test_a_user_that_is_not_there() -> None:
    with pytest.raises(UserError, match="~nosuchuser/x: there is no user 'nosuchuser'"):
        expanded("~nosuchuser/x")
    with pytest.raises(UserError, match="there is no user 'nosuchuser'"):
        any_path("~nosuchuser/x")
