"""Data roots that are URLs, on a loopback server and as file URLs, and stores that were packed elsewhere."""

import functools
import http.server
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from traced import Traced

from raymeta.errors import UserError
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.task import ImagesTask


class Filed(Traced):
    """`Traced`, from a folder that holds its images as one PNG file."""

    def build(self, root: Path | None, progress: Progress) -> Packed:
        assert root is not None
        if not (root / "traced.png").exists():
            raise UserError(f"{root}: traced.png is not in it")
        images = np.asarray(Image.open(root / "traced.png")).reshape(-1, 1, 2, 2)
        return super().build(None, progress)._replace(images=images)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is on the server."""
    folder = tmp_path_factory.mktemp("served")
    pixels = Traced(ImagesTask()).build(None, lambda done, total: None).images
    png = io.BytesIO()
    Image.fromarray(np.asarray(pixels).reshape(-1, 4)).save(png, "png")
    with zipfile.ZipFile(folder / "traced.zip", "w") as archive:
        archive.writestr("traced.png", png.getvalue())
    with tarfile.open(folder / "traced.tgz", "w:gz") as tape:
        member = tarfile.TarInfo("traced.png")
        member.size = len(png.getvalue())
        tape.addfile(member, io.BytesIO(png.getvalue()))
    (folder / "cut.tgz").write_bytes((folder / "traced.tgz").read_bytes()[:-200])
    (folder / "page.html").write_text("<html>not found</html>")
    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.writestr("readme", "")
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """Says nothing, and breaks off in the middle of what is called `broken`."""

    def do_GET(self) -> None:
        if "broken" not in self.path:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(served))) as one:
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> str:
    from raymeta.problems.images.reading.packing import fingerprint

    return fingerprint(Traced(ImagesTask()).build(None, lambda done, total: None))


@pytest.mark.parametrize("name", ["traced.zip", "traced.tgz"])
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_an_archive_is_fetched_unpacked_and_packed(
    cache: Path, served: Path, server: str, fingerprint: str, scheme: str, name: str
) -> None:
    url = f"{server}/{name}" if scheme == "http" else f"file://{served}/{name}"
    dataset, steps = Filed(ImagesTask()), []
    dataset.prepare(url, lambda done, total: steps.append((done, total)))
    assert dataset.fingerprint == fingerprint
    size = (served / name).stat().st_size
    assert (size, size) in steps
    left = {path.name for path in cache.iterdir()}
    assert left in ({"traced-1"}, {"traced-1", "traced-1.lock"})
    dataset.prepare("http://127.0.0.1:9/not-read-again")


def test_pyarrow_opens_other_schemes(
    cache: Path, served: Path, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import fs

    class Mounted:
        """In place of what needs a network: the bucket is the folder."""

        @staticmethod
        def from_uri(url: str) -> tuple[fs.FileSystem, str]:
            return fs.SubTreeFileSystem(str(served), fs.LocalFileSystem()), url.removeprefix("s3://bucket/")

    monkeypatch.setattr(fs, "FileSystem", Mounted)
    dataset = Filed(ImagesTask())
    dataset.prepare("s3://bucket/traced.zip")
    assert dataset.fingerprint == fingerprint


@pytest.mark.parametrize(("name", "problem"), [
    ("missing.zip", "cannot be read: HTTP Error 404: File not found"),
    ("page.html", "neither a zip nor a tar archive"),
    ("cut.tgz", "an archive that is cut off or damaged (Compressed file ended before the end-of-stream marker was "
     "reached)"),
    ("broken", "cannot be read: it broke off after 10 of 1000 bytes"),
    ("other.zip", "traced.png is not in it"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_sentence_and_leaves_nothing(
    cache: Path, server: str, name: str, problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        Filed(ImagesTask()).prepare(f"{server}/{name}")
    assert str(caught.value) == f"{server}/{name}: {problem}"
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_host_that_is_not_there_and_an_unknown_scheme_are_one_sentence(cache: Path) -> None:
    with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:9/x\.zip: cannot be read: .*refused"):
        Filed(ImagesTask()).prepare("http://127.0.0.1:9/x.zip")
    with pytest.raises(UserError, match=r"^bogus://x/y\.zip: cannot be read: .*[Uu]nrecognized filesystem type"):
        Filed(ImagesTask()).prepare("bogus://x/y.zip")


def packed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ImageDataset:
    """A store in another cache."""
    with monkeypatch.context() as patch:
        patch.setenv("RAYMETA_CACHE", str(folder))
        dataset = Traced(ImagesTask())
        dataset.prepare()
        _ = dataset.store
    return dataset


class Never(Traced):
    """`Traced`, which must not be drawn again."""

    def build(self, root: Path | None, progress: Progress) -> Packed:
        raise AssertionError("it was built")


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("archived", [True, False])
def test_a_packed_store_is_taken_as_it_is(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprint: str, archived: bool, deep: bool
) -> None:
    packed(tmp_path / "there", monkeypatch)
    folder = tmp_path / "there" if deep else tmp_path / "there" / "traced-1"
    for lock in folder.glob("*.lock"):
        lock.unlink()
    root: Path | str = folder
    if archived:
        root = Path(shutil.make_archive(str(tmp_path / "store"), "gztar", folder)).as_uri()
    dataset = Never(ImagesTask())
    dataset.prepare(root)
    assert dataset.fingerprint == fingerprint


def test_a_packed_store_whose_pixels_changed_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprint: str
) -> None:
    packed(tmp_path / "there", monkeypatch)
    with open(tmp_path / "there" / "traced-1" / "images.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x00")
    with pytest.raises(UserError, match=rf"^traced: what came has fingerprint \w+ and should have {fingerprint[:12]}$"):
        Never(ImagesTask()).prepare(tmp_path / "there" / "traced-1")
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_packed_store_of_another_data_set_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tmp_path / "there", monkeypatch)
    meta = tmp_path / "there" / "traced-1" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"version": 7}))
    with pytest.raises(UserError, match=r"damaged or not a store of 'traced' \(its files don't belong together\)"):
        Never(ImagesTask()).prepare(tmp_path / "there" / "traced-1")


def test_a_store_is_received_in_parts(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = packed(tmp_path / "there", monkeypatch).store
    dataset = Never(ImagesTask())
    dataset.receive(there.meta, ((row, there.images[row : row + 100]) for row in range(0, 460, 100)))
    assert dataset.store.meta == there.meta
    assert (dataset.store.images == there.images).all()
    dataset.receive(there.meta, iter([]))  # it is there
