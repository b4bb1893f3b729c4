"""Files of a study that a disk, an editor or a copy has damaged: a sentence, the rest is shown, and no traceback."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from report.made import made
from typer.testing import CliRunner

from raymeta import installed
from raymeta.cli import app
from raymeta.errors import UserError
from raymeta.study.record.finalists import all_weights, missing
from raymeta.study.record.record import StudyRecord

VERBS = (["status"], ["status", "--json"], ["export", "-o", "-"], ["report", "--format", "md", "-o", "-"])
SOME = (Phase.reuse, Phase.generate)  # to shrink an example takes minutes
STRANGE = st.sampled_from(
    [None, True, -1, 0, 3, 0.5, 1e308, float("nan"), float("inf"), 10**400, "", "many", "\x1b[31m", [], ["x"], {},
     {"a": 1}]
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study of six trials with three finalists, settled."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("damaged")
        patch.setenv("RAYMETA_STUDIES", str(home / "studies"))
        patch.setenv("RAYMETA_CACHE", str(home / "cache"))
        record = made("whole", 6)
        (home / "studies" / "whole" / "driver.json").write_text(json.dumps({"machine": "a", "pid": 1, "at": 1.0}))
        assert not missing(record)
        yield home / "studies" / "whole"


def said(verb: list[str], name: str) -> tuple[int, str, str]:
    """What a command says of a study, in this process."""
    installed.remark.cache_clear()
    found = CliRunner().invoke(app, [verb[0], *([name] if verb[0] != "ls" else []), *verb[1:]])
    if found.exception is None or isinstance(found.exception, UserError | SystemExit):
        refused = isinstance(found.exception, UserError)  # which `main` makes a sentence of
        return 2 if refused else found.exit_code, found.stdout, f"{found.stderr}{found.exception or ''}"
    raise found.exception


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in nested data."""
    if at:
        yield at
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inside:
        yield from places(value, (*at, key))


def change(data: Any, draw: Callable[..., Any]) -> Any:
    """Something in nested data is away, or something else."""
    where = draw(st.sampled_from(sorted(places(data), key=str)))
    parent = data
    for key in where[:-1]:
        parent = parent[key]
    if draw(st.booleans()):
        del parent[where[-1]]
    else:
        parent[where[-1]] = draw(STRANGE)
    return data


def damage(path: Path, draw: Callable[..., Any]) -> None:
    content = path.read_bytes()
    how = draw(st.sampled_from(["cut", "bytes", "lines", "inside", "inside", "inside", "a folder", "text"]))
    if how == "cut":
        path.write_bytes(content[: draw(st.integers(0, len(content) - 1))])
    elif how == "bytes":
        at = draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:at] + draw(st.binary(min_size=1, max_size=3)) + content[at + 1 :])
    elif how == "lines":
        lines = content.splitlines(keepends=True)
        line = draw(st.integers(0, len(lines) - 1))
        path.write_bytes(
            b"".join(lines[:line] + draw(st.sampled_from([[], lines[line : line + 1] * 2])) + lines[line + 1 :])
        )
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "text":
        path.write_bytes(draw(st.sampled_from([b"", b"\0", b"[]", b"{}", b"null", b"x: [", b"[" * 100_000])))
    elif path.name == "journal.log":
        lines = content.splitlines()
        line = draw(st.integers(0, len(lines) - 1))
        lines[line] = json.dumps(change(json.loads(lines[line]), draw)).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        kind: Any = yaml.safe_load if path.suffix == ".yaml" else json.loads
        written: Any = yaml.safe_dump if path.suffix == ".yaml" else json.dumps
        path.write_text(written(change(kind(content), draw)))


@settings(max_examples=5, phases=SOME)
@given(data=st.data())
def test_whatever_is_damaged_no_command_ends_in_a_traceback(whole: Path, data: st.DataObject) -> None:
    no_traceback(whole, data)


@pytest.mark.slow
@settings(max_examples=150, phases=SOME)
@given(data=st.data())
def test_the_same_often(whole: Path, data: st.DataObject) -> None:
    no_traceback(whole, data)


def no_traceback(whole: Path, data: st.DataObject) -> None:
    broken = whole.with_name("broken")
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(whole, broken)
    files = [
        broken / "study.yaml",
        broken / "journal.log",
        broken / "driver.json",
        *broken.glob("trials/*/finalist.json"),
    ]
    damage(data.draw(st.sampled_from(sorted(files))), data.draw)
    for verb in VERBS:
        code, _, err = said(verb, "broken")
        assert code in (0, 2), err
    code, out, err = said(["ls"], "")
    assert code == 0
    assert "whole" in out
    assert ("broken" in out) or ("broken" in err)


def test_what_is_left_out_is_said_and_the_rest_is_shown(whole: Path) -> None:
    broken = whole.with_name("half")
    shutil.copytree(whole, broken)
    first, *_ = all_weights(StudyRecord.load(broken))
    file = Path(str(first.folder)) / "finalist.json"
    scores = json.loads(file.read_text())
    del scores["values"]
    file.write_text(json.dumps(scores))
    text = (broken / "journal.log").read_text()
    (broken / "journal.log").write_text(text.replace('"outer_steps":4,', '"outer_steps":"many",', 1))
    code, out, err = said(["status"], "half")
    assert code == 0
    assert len(out.splitlines()) >= 7
    assert f"raymeta: {file}: is damaged, and left out: `raymeta resume` scores trial {first.trial} again\n" in err
    assert f"raymeta: {broken}: the journal's lines on trial 0 are damaged in part, which is left out\n" in err
    assert err.endswith("go on with: raymeta resume half\n")
    assert [one.trial for one in missing(StudyRecord.load(broken))] == [first.trial]
    scores["values"] = [1.0, 2.0]  # of other episodes than the others' are
    file.write_text(json.dumps(scores))
    assert "is damaged, and left out" in said(["status"], "half")[2]
    shutil.rmtree(broken)
