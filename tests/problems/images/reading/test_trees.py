"""Folders and archives as users have them: every file is listed once, or is left out with a line that says why."""

import io
import os
import random
import socket
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymeta.errors import UserError, shown
from raymeta.problems.images.reading.files import sentence
from raymeta.problems.images.reading.trees import Tree

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def put(path: Path, content: bytes = PNG) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def said(root: Path) -> tuple[list[str], str]:
    """The pictures, all taken for packed, and the line about the others."""
    tree = Tree(root)
    return tree.pictures, sentence(tree.left_out(tree.pictures))


def test_what_is_no_picture_is_counted_by_its_suffix(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.jpeg", "c.HEIC", "d.heic", "e.npy", "f.pdf", "g.mpg", "h.hdf", "i", ".j.png", ".k/l.png"):
        put(tmp_path / "cat" / name, b"" if name != "i" else PNG)
    put(tmp_path / "README", b"text")
    pictures, line = said(tmp_path)
    assert pictures == ["cat/a.PNG", "cat/b.jpeg", "cat/i"]
    assert line == "left out: 1 .hdf, 2 .heic, 1 .mpg, 1 .npy, 1 .pdf, 1 without a suffix, 2 hidden"


def test_a_picture_of_no_class_is_named(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "1.png")
    put(tmp_path / "cover.png")
    put(tmp_path / "list.csv")
    tree = Tree(tmp_path)
    list(tree.read(["list.csv"]))
    assert sentence(tree.left_out(["cat/1.png"])) == "left out: 1 picture of no class (cover.png)"


def test_what_waits_or_leads_nowhere_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "cat" / "1.png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    monkeypatch.chdir(tmp_path / "cat")  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("plug.png")
    (tmp_path / "cat" / "gone.png").symlink_to("/nowhere/1.png")
    (tmp_path / "cat" / "itself.png").symlink_to("itself.png")
    (tmp_path / "cat" / "through.png").symlink_to("1.png/2.png")
    (tmp_path / "cat" / "null.png").symlink_to(os.devnull)
    pictures, line = said(tmp_path)
    assert pictures == ["cat/1.png"]
    assert line == (
        "left out: 1 FIFO (cat/pipe.png), 1 device (cat/null.png), 3 links that lead nowhere (cat/gone.png, "
        "cat/itself.png, cat/through.png), 1 socket (cat/plug.png)"
    )
    for odd in ("pipe.png", "plug.png", "null.png"):
        with pytest.raises(UserError, match="neither a folder nor a zip or tar archive"):
            Tree(tmp_path / "cat" / odd)


def test_links_that_lead_in_a_circle_are_read_once(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        put(tmp_path / name / "1.png")
        (tmp_path / name / "up").symlink_to("..")
        (tmp_path / name / "here").symlink_to(".")
    (tmp_path / "cat" / "dog").symlink_to("../dog")
    (tmp_path / "dog" / "cat").symlink_to("../cat")
    pictures, line = said(tmp_path)
    assert pictures == ["cat/1.png", "dog/1.png"]
    assert line.startswith(
        "left out: 6 links to folders that are read by their own names (cat/dog, cat/here, cat/up and 3"
    )


def test_links_to_class_folders_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "data" / "all" / "cat" / "1.png")
    put(tmp_path / "elsewhere" / "dog" / "big" / "2.png")
    for name, target in {"train/cat": "../all/cat", "val/dog": "../../elsewhere/dog"}.items():
        (tmp_path / "data" / name).parent.mkdir()
        (tmp_path / "data" / name).symlink_to(target)
    assert said(tmp_path / "data") == (["all/cat/1.png", "train/cat/1.png", "val/dog/big/2.png"], "")


def test_names_are_one_line_that_a_shell_takes() -> None:
    assert shown("caf\u00e9 (1).png") == "caf\u00e9 (1).png"
    assert shown(os.fsdecode(b"caf\xe9/two\nlines'.png")) == r"$'caf\xe9/two\nlines\'.png'"
    assert shown("\u2028\x07\U000e0001") == r"$'\u2028\x07\U000e0001'"


def _zip(path: Path, entries: list[tuple[str, bytes]], made_by: int = 3) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, made_by
            archive.writestr(info, content)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips(tmp_path: Path) -> None:
    twice = Tree(_zip(tmp_path / "TWICE.ZIP", [("cat/1.png", b"old"), ("./cat//1.png", b"new"), ("cat/", b"")]))
    assert list(twice.read(twice.paths)) == [("cat/1.png", b"new")]
    assert Tree(_zip(tmp_path / "windows", [("cat\\1.png", PNG), ("cat\\", b"")])).paths == ["cat/1.png"]
    assert Tree(_zip(tmp_path / "dos.zip", [("cat\\1.png", PNG), ("dog/2.png", PNG)], 0)).paths[0] == "cat/1.png"
    assert Tree(_zip(tmp_path / "unix.zip", [("cat\\1.png", PNG), ("dog/2.png", PNG)])).paths[0] == "cat\\1.png"
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        for name, target in {"dog/1.png": "../cat/1.png", "dog/2.png": "gone.png", "dog/3": "../cat"}.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
        archive.writestr("cat/1.png", PNG)
    assert said(tmp_path / "links.zip") == (
        ["cat/1.png", "dog/1.png"],
        "left out: 1 link that leads nowhere (dog/2.png), 1 link to a folder of the archive (dog/3)",
    )
    damaged = bytearray((tmp_path / "links.zip").read_bytes())
    damaged[damaged.index(PNG) + 9] ^= 1
    (tmp_path / "damaged.zip").write_bytes(damaged)
    lost: list[str] = []
    assert list(Tree(tmp_path / "damaged.zip").read(["cat/1.png"], lost.append)) == []
    assert lost == ["cat/1.png"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_whatever_their_name(tmp_path: Path, mode: str) -> None:
    with tarfile.open(tmp_path / "photos", mode) as tape:  # type: ignore[call-overload]

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, target
            tape.addfile(member, io.BytesIO(content))

        add("dog/later.png", kind=tarfile.SYMTYPE, target="../cat/1.png")
        add("./cat/1.png", b"old")
        add("dog/hard.png", kind=tarfile.LNKTYPE, target="cat/1.png")
        add("cat/1.png", b"new")
        add("dog/again.png", kind=tarfile.LNKTYPE, target="cat/1.png")
        add("dog/gone.png", kind=tarfile.SYMTYPE, target="nowhere.png")
        add("dog/pipe.png", kind=tarfile.FIFOTYPE)
        add("dog/bare", PNG)
    tree = Tree(tmp_path / "photos")
    assert dict(tree.read(tree.pictures)) == {
        "cat/1.png": b"new", "dog/later.png": b"new", "dog/hard.png": b"old", "dog/again.png": b"new", "dog/bare": PNG
    }  # fmt: skip
    order = ["dog/bare", "cat/1.png", "dog/later.png", "dog/hard.png"]
    assert [path for path, _ in tree.read_in_order(order)] == order
    assert sentence(tree.left) == "left out: 1 FIFO (dog/pipe.png), 1 link that leads nowhere (dog/gone.png)"


def test_a_tar_that_is_damaged_in_its_middle_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tape:
        for number in range(3):
            tape.addfile(member := tarfile.TarInfo(f"{number}.png"), io.BytesIO())
            assert member.size == 0
    content = bytearray((tmp_path / "photos.tar").read_bytes())
    content[512 + 10] ^= 1
    (tmp_path / "photos.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"photos\.tar: not a tar file, or one that is cut off or damaged"):
        _ = Tree(tmp_path / "photos.tar").paths


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("notes.txt", b"the pictures are elsewhere", "neither a folder nor a zip or tar archive (tar as it is, or"),
    ("empty", b"", "neither a folder nor a zip or tar archive"),
    ("a.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(60), "compressed by zstd, which is not read: name a folder, or a zip"),
    ("a.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive, which is not read"),
    ("a.ZIP", b"text", "not a zip file, or one that is cut off"),
    ("a.TAR.GZ", b"text", "not a tar file, or one that is cut off"),
])  # fmt: skip
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        _ = Tree(tmp_path / name).paths
    assert str(caught.value).startswith(f"{tmp_path / name}: {expected}")


def test_a_folder_is_listed_once_and_each_file_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        put(tmp_path / f"c{number % 3}" / f"{number}.png")
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    monkeypatch.setattr(Path, "stat", None)
    tree = Tree(tmp_path)
    assert len(tree.paths) == len(tree.pictures) == len(tree.stamps(tree.paths)) == 30
    assert len(tree.listing) == 64
    assert len(listed) == 4


NAMES = st.sampled_from([
    b"a.png", b"b.JPG", b"c.heic", b"d", b".e.png", b"f\n.png", b"g\xe9.png", b"caf\xc3\xa9", b"h i.png", b"'.png",
    b"\\.gif",
])  # fmt: skip
ODD: list[Callable[[bytes, random.Random], None]] = [
    lambda path, draw: os.mkfifo(path),
    lambda path, draw: os.symlink(draw.choice([b"gone", b".", b"..", b"../..", path, b"a.png", b"../d"]), path),
    lambda path, draw: os.mkdir(path),
]


@settings(max_examples=60, deadline=2000)
@given(st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.integers(0, 8)), max_size=25), st.randoms())
def test_every_picture_of_a_random_tree_is_listed_once_or_named(
    entries: list[tuple[list[bytes], int]], draw: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as outer:
        folder = f"{outer}/1/2/3"  # from which no link leads out
        os.makedirs(folder)
        root, real = os.fsencode(folder), set()
        for parts, kind in entries:
            path = b"/".join([root, *parts])
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if kind < len(ODD):
                    ODD[kind](path, draw)
                else:
                    with open(path, "xb") as file:
                        file.write(PNG)
            except OSError:  # a folder where there is a file, or the other way round
                continue
        for where, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(b".")]
            real |= {os.path.realpath(os.path.join(where, name)) for name in names}
        tree = Tree(Path(folder))
        left = {path for paths in tree.left_out(tree.pictures).values() for path in paths}
        listed = [os.path.realpath(os.fsencode(f"{folder}/{path}")) for path in (*tree.pictures, *left)]
        assert real <= {*listed}
        assert len(set(tree.paths)) == len(tree.paths)
        assert "\n" not in sentence(tree.left_out(tree.pictures))
        assert all(content == PNG for _, content in tree.read(tree.pictures))
