"""Files that a user names: nothing but a plain file is ever replaced, and nothing is lost."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymeta.errors import UserError
from raymeta.storage.outputs import output, write_output

CONTENT = b"new\n"


def test_a_plain_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    write_output(tmp_path / "old", "new\n")
    write_output(tmp_path / "some" / "where" / "new", CONTENT)
    assert (tmp_path / "old").read_bytes() == (tmp_path / "some" / "where" / "new").read_bytes() == CONTENT


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "second").symlink_to("link")
    (tmp_path / "dangling").symlink_to("folder/elsewhere")
    for name, target in (("second", "target"), ("dangling", "folder/elsewhere")):
        write_output(tmp_path / name, CONTENT)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_bytes() == CONTENT
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_is_written_through_if_it_is_read(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is a pipe that nothing reads"):
        write_output(pipe, CONTENT)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    reader.start()
    while True:
        try:
            write_output(pipe, CONTENT * 50_000)  # more than a pipe holds
            break
        except UserError:  # the reader is not there yet
            continue
    reader.join(10)
    assert heard == [CONTENT * 50_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_through() -> None:
    write_output(Path(os.devnull), CONTENT)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "is a folder, and a file is to be written"),
        (lambda path: path.symlink_to(path.parent), "is a folder, and a file is to be written"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links|Symlink loop"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "is a socket, and a file is to be written"),
    ],
    ids=["folder", "link to a folder", "loop", "socket"],
)
def test_what_is_no_file_is_refused_before_anything_is_done(make: object, said: str, tmp_path: Path) -> None:
    make(tmp_path / "x")  # type: ignore[operator]
    for refused in (output, lambda path: write_output(path, CONTENT)):
        with pytest.raises(UserError, match=said):
            refused(tmp_path / "x")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (".", "'.' is not the name of a file"),
        ("~nosuchuser/x.yaml", "there is no user 'nosuchuser'"),
        ("a" * 300, "File name too long"),
        ("a\0b", "null byte|null character"),
        (f"{__file__}/below", "test_outputs.py is a file"),
        ("/proc/nothing/here", "cannot be written"),
    ],
)
def test_what_cannot_be_written(path: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        write_output(Path(path), CONTENT)


def test_an_ending(tmp_path: Path) -> None:
    assert output(tmp_path / "x.PNG", (".png", ".svg")) == tmp_path / "x.PNG"
    with pytest.raises(UserError, match=r"x.bmp2: its name is to end in .svg or .png"):
        output(tmp_path / "x.bmp2", (".svg", ".png"))


KINDS = ("file", "folder", "link to file", "link to folder", "dangling", "fifo", "nothing")


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.sampled_from(["a", "b", "c d", "é", "x#?%"]), min_size=1, max_size=3),
    kinds=st.lists(st.sampled_from(KINDS), min_size=3, max_size=3),
)
def test_whatever_lies_on_the_way_is_still_there(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], kinds: list[str]
) -> None:
    """Random paths through files, folders, links and pipes: written where they lead, or refused."""
    top = tmp_path_factory.mktemp("way")
    (top / "kept").mkdir()
    (top / "kept" / "file").write_text("kept")
    here = top
    for name, kind in zip(names, kinds, strict=False):
        here /= name
        if not here.parent.is_dir() or here.exists():  # a link may lead to what an earlier link has made
            break
        match kind:
            case "file":
                here.write_text("old")
            case "folder":
                here.mkdir()
            case "link to file":
                here.symlink_to(top / "kept" / "file")
            case "link to folder":
                here.symlink_to(top / "kept")
            case "dangling":
                here.symlink_to(here.parent / "not-yet")
            case "fifo":
                os.mkfifo(here)
    path = top.joinpath(*names)
    before = {one: one.lstat() for one in sorted(top.rglob("*"))}
    target = path.resolve()
    refusal = ""
    try:
        write_output(path, CONTENT)
    except UserError as error:
        refusal = str(error)
    assert (len(refusal.splitlines()) == 1) if refusal else (target.read_bytes() == CONTENT)
    if refusal:
        assert {one: one.lstat().st_mtime_ns for one in before} == {one: was.st_mtime_ns for one, was in before.items()}
    for one, was in before.items():
        now = one.lstat()
        assert stat.S_IFMT(now.st_mode) == stat.S_IFMT(was.st_mode)
        if one != target and stat.S_ISREG(was.st_mode):
            assert (now.st_ino, now.st_mtime_ns) == (was.st_ino, was.st_mtime_ns)
