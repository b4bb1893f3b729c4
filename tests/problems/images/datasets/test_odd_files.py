"""Folders of pictures with all that lies among them: never a traceback, never a hang, never a picture lost silently."""

import io
import os
import random
import signal
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from photos import dataset
from PIL import Image

from raymeta.errors import UserError

CLASSES = [b"cat", b"dog", b"eel", b"caf\xe9", b"two\nlines", b"it's (1)"]


def png(seed: int) -> bytes:
    """A picture unlike any other."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def whole(path: bytes, draw: random.Random) -> None:
    with open(path + draw.choice([b".png", b".PNG", b"", b"\xff.png", b"\n.png"]), "wb") as file:
        file.write(png(draw.getrandbits(60)))


def broken(path: bytes, draw: random.Random) -> None:
    with open(path + b".png", "wb") as file:
        file.write(draw.choice([b"", b"<html>", png(1)[:40]]))


def other(path: bytes, draw: random.Random) -> None:
    with open(path + draw.choice([b".heic", b".npy", b".pdf", b".h5", b".json", b".Db"]), "wb") as file:
        file.write(b"no picture")


ODD: list[Callable[[bytes, random.Random], None]] = [
    broken,
    other,
    lambda path, draw: os.mkfifo(path + b".png"),
    lambda path, draw: os.symlink(draw.choice([b"gone.png", b"..", b".", b"../..", path]), path + b".png"),
    lambda path, draw: os.symlink(b"0.png", path + b".link.png"),
]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """An error if it takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(CLASSES), min_size=3, max_size=6, unique=True),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, len(ODD) - 1)), max_size=8),
    st.sampled_from(["folder", "zip", "tar"]),
    st.randoms(),
)
def test_every_picture_is_packed_or_named(
    tmp_path_factory: pytest.TempPathFactory, cache: Path,
    classes: list[bytes], odd: list[tuple[int, int]], form: str, draw: random.Random,
) -> None:  # fmt: skip
    source = tmp_path_factory.mktemp("odd") / "data"
    for number, name in enumerate(classes):
        os.makedirs(folder := os.path.join(os.fsencode(source), name))
        with open(os.path.join(folder, b"0.png"), "wb") as file:
            file.write(png(number))
        whole(os.path.join(folder, b"1"), draw)
    for number, (home, kind) in enumerate(odd):
        ODD[kind](os.path.join(os.fsencode(source), classes[home % len(classes)], b"odd%d" % number), draw)
    source = packed(source, form)
    damaged = sum(ODD[kind] is broken for _, kind in odd)
    with within(20):
        found = dataset("folder", source=str(source))
        if damaged:
            with pytest.raises(UserError, match=r"images? that can be read") as caught:
                found.prepare()
            assert str(caught.value).isprintable()
            found = dataset("folder", source=str(source), skip_broken=True)
        found.prepare()
        said = found.describe()
    assert sum(found.store.sizes) == len(found.store.images) == said["images"]
    assert len(found.store.class_names) == len(classes)
    assert all(name.isprintable() for name in found.store.class_names)
    listed = found.folder / "left_out.txt"
    left = listed.read_text().splitlines() if listed.exists() else []
    counts = [sum(ODD[kind] is one for _, kind in odd) for one in ODD]
    assert sum(line.startswith("broken picture") for line in left) == damaged
    assert sum(line.startswith(("FIFO", "device")) for line in left) == (0 if form == "zip" else counts[2])
    links = sum(line.startswith("link") for line in left)
    assert len(found.store.images) + links == 2 * len(classes) + counts[3] + counts[4]


def packed(source: Path, form: str) -> Path:
    """The folder itself, or an archive of it."""
    archive = source.parent / "data"
    if form == "tar":
        with tarfile.open(archive.with_suffix(".bin"), "w:gz") as tape:
            tape.add(source, ".")
        return archive.with_suffix(".bin")
    if form == "zip":
        with zipfile.ZipFile(archive.with_suffix(".ZIP"), "w") as file:
            for where, folders, names in os.walk(source):
                for name in [*folders, *names]:
                    path = Path(where, name)
                    inside = os.fsencode(path.relative_to(source)).decode("latin1")
                    if path.is_symlink():
                        info = zipfile.ZipInfo(inside)
                        info.external_attr = 0o120777 << 16
                        file.writestr(info, os.readlink(path).encode(errors="replace"))
                    elif path.is_file():
                        file.writestr(inside, path.read_bytes())
        return archive.with_suffix(".ZIP")
    return source
