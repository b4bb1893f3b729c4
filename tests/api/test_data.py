"""What `raymeta data` says of the data sets on this machine, those of a user's own among them."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raymeta import cli
from raymeta.api import data
from raymeta.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def pictures(folder: Path, images: int = 4) -> Path:
    """Four classes of pictures that are all different."""
    for number, name in enumerate(["cat", "dog", "eel", "fox"]):
        (folder / name).mkdir(parents=True)
        for image in range(images):
            rng = np.random.default_rng([number, image, len(str(folder))])
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / name / f"{image}.png")
    return folder


def run(*words: str) -> int:
    """A verb of `raymeta data`; its exit code."""
    before, sys.argv = sys.argv, ["raymeta", "data", *words]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def test_each_prepared_folder_has_a_row_with_its_path(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pictures(tmp_path / "one"), pictures(tmp_path / "the others")
    assert "folder" in data.datasets()
    data.prepare("folder", one)
    data.prepare("folder", one, size=28, grey=True)
    data.prepare("folder", other)
    rows = data.datasets()
    named = [name for name in rows if name.startswith("folder")]
    assert named == [f"folder {one}", f"folder {one} (size 28, grey)", f"folder {other}"]
    assert [rows[name]["input_shape"] for name in named] == [[3, 84, 84], [1, 28, 28], [3, 84, 84]]
    shutil.rmtree(one)
    (other / "cat" / "0.png").unlink()
    (cache / "omniglot-1").mkdir()  # damaged
    assert run("ls") == 0
    lines = capsys.readouterr().out.splitlines()
    (changed,) = [line for line in lines if line.startswith(f"folder {other}")]
    assert "(changed since)" in changed
    assert "squeezed with Lanczos" in changed
    assert any(line.startswith("omniglot") and "--rebuild" in line for line in lines)


def test_folders_are_checked_without_naming_them(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data.check_data("folder") == {}
    one, other = pictures(tmp_path / "one"), pictures(tmp_path / "other")
    (other / "page.html").touch()
    for folder in (one, other):
        data.prepare("folder", folder)
    assert list(data.check_data()) == list(data.check_data("folder")) == [f"folder {one}", f"folder {other}"]
    assert list(data.check_data("folder", other)) == [f"folder {other}"]
    (found,) = data.check_data("folder", other).values()
    said = {finding.what: finding.found for finding in found}
    assert said["the pictures now"] == "as they were packed"
    assert said["left out"].startswith("1 .html")
    (store,) = [
        path
        for path in cache.glob("folder-*-1")
        if json.loads((path / "meta.json").read_text())["task"]["source"] == str(one)
    ]
    meta = json.loads((store / "meta.json").read_text())
    del meta["task"]  # as raymeta 0.1.0 wrote it
    (store / "meta.json").write_text(json.dumps(meta))
    capsys.readouterr()
    assert list(data.check_data()) == [f"folder {other}"]
    assert f"{store.name}: not checked: a store of raymeta 0.1.0" in capsys.readouterr().err
    (found,) = data.check_data("folder", one).values()
    assert "0.1.0" in {finding.what: finding.found for finding in found}["packed by"]
    assert data.datasets()[store.name]["problem"].endswith("name it by --data-root")


def test_a_folder_is_shown_with_names_and_a_drawn_sample(tmp_path: Path, cache: Path) -> None:
    one, other = pictures(tmp_path / "one", 30), tmp_path / "other"
    data.prepare("folder", one, size=28)
    drawn = data.draw_data("folder", "x.svg")  # the only one
    assert "cat" in drawn.read_text() or "dog" in drawn.read_text()
    before = data.draw_data("folder", "new/x.png", one).read_bytes()
    assert data.draw_data("folder", "y.png", one).read_bytes() == before
    data.prepare("folder", pictures(other))
    with pytest.raises(UserError, match=rf"^folder: name one by --data-root: {one}, {other}$"):
        data.draw_data("folder", "x.png")


@pytest.mark.parametrize(("path", "sentence"), [
    ("x.bmp2", r"^x.bmp2: its name is to end in .png, .svg or .pdf$"),
    ("x", "^x: its name is to end in"),
    ("made.png", "^made.png: is a folder"),
    ("pipe.png", "^pipe.png: is a pipe that nothing reads$"),
    ("~nosuchuser/x.png", "^~nosuchuser/x.png: there is no user 'nosuchuser'$"),
    ("file.png/x.png", "^file.png/x.png: cannot be written: .*file.png is a file$"),
])  # fmt: skip
def test_a_picture_that_can_not_be_written_is_refused(tmp_path: Path, path: str, sentence: str) -> None:
    Path("made.png").mkdir()
    Path("file.png").touch()
    os.mkfifo("pipe.png")
    with pytest.raises(UserError, match=sentence):
        data.draw_data("folder", path, pictures(tmp_path / "one"))


def test_a_root_that_is_not_used_is_refused_or_said(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("prepare", "check", "show"):
        assert run(verb, "sinusoid", "--data-root", "/nowhere/at/all") == 2
        assert "--data-root /nowhere/at/all: no such folder" in capsys.readouterr().err
        assert run(verb, "sinusoid", "--data-root", str(tmp_path)) == 2
        assert (
            f"--data-root {tmp_path}: sinusoid is computed and reads no data: leave it out" in capsys.readouterr().err
        )
    with pytest.raises(UserError, match=r"^~nosuchuser/x: there is no user 'nosuchuser'$"):
        data.prepare("folder", "~nosuchuser/x")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(
        UserError, match=r"caf\\xe9': this name can't be written into a config; name it by a link to it$"
    ):
        data.prepare("folder", pictures(Path(odd)))


def test_the_command_line_says_how_pictures_are_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = pictures(tmp_path / "one")
    (one / "cat" / "0.png").write_bytes(b"")
    (one / "cat" / "photo.heic").touch()
    words = ["prepare", "folder", "--data-root", str(one), "--size", "20", "--grey", "--background", "#123"]
    assert run(*words) == 2
    assert "one: cat/0.png is not an image that can be read; --skip-broken" in capsys.readouterr().err
    assert run(*words, "--skip-broken") == 0
    out = capsys.readouterr().out
    assert "input shape: [1, 20, 20]\n" in out
    assert "left out: 1 .heic, 1 broken picture (cat/0.png); all of it: " in out
    assert run("prepare", "glyphs", "--size", "20") == 2
    assert "task.size: found '20', but glyphs is packed as published" in capsys.readouterr().err
    assert run("prepare", "folder", "--data-root", str(one), "--background", "whiet") == 2
    assert "background: found 'whiet': expected a colour" in capsys.readouterr().err
