"""Packing, opening and sharing a store, and what happens when it is killed, cut off or somebody else's."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from traced import Traced

from raymeta.errors import UserError
from raymeta.problem import TestSplitClosed, open_problem
from raymeta.problems.images.reading import packing
from raymeta.problems.images.task import ImagesTask

HERE = Path(__file__).parents[1]  # where traced.py is


def python(code: str) -> "subprocess.Popen[str]":
    """Another process; it has `Traced`."""
    start = "from raymeta.problems.images.task import ImagesTask\nfrom traced import Traced\n"
    code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{start}{code}"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_images_are_one_read_only_map(traced: type[Traced]) -> None:
    images = traced(ImagesTask()).store.images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_describe_before_and_after(cache: Path) -> None:
    dataset = Traced(ImagesTask())
    assert not dataset.ready
    assert "classes" not in dataset.describe()
    dataset.prepare()
    about = json.loads(json.dumps(dataset.describe()))
    assert about["ready"]
    assert about["classes"] == {"train": 13, "validation": 5, "test": 5}
    assert (about["images"], about["fingerprint"]) == (460, dataset.fingerprint)


def test_fingerprint_follows_pixels_classes_and_splits(traced: type[Traced]) -> None:
    packed = Traced(ImagesTask()).build(None, lambda done, total: None)
    other = packed.images.copy()
    other[-1, 0, 1, 1] ^= 1
    split = packed.splits["standard"]
    changed = [
        packed._replace(images=other),
        packed._replace(class_names=["x", *packed.class_names[1:]]),
        packed._replace(sizes=[19, 21, *packed.sizes[2:]]),
        packed._replace(splits={"standard": {**split, "train": split["test"], "test": split["train"]}}),
    ]
    assert packing.fingerprint(packed) == traced(ImagesTask()).fingerprint
    assert len({packing.fingerprint(one) for one in [packed, *changed]}) == 5


def test_test_split_is_closed_but_for_final_runs(traced: type[Traced]) -> None:
    with pytest.raises(TestSplitClosed, match="the test split is opened by final runs only"):
        traced(ImagesTask()).bank("test", 0)
    assert traced(ImagesTask()).bank("test", 0, final=True).draw(0, 1).size == 1


def test_a_builder_killed_half_way_leaves_no_store_and_is_cleaned_up(cache: Path) -> None:
    builder = python("""
import os, time
def stop(handle):  # called when the images are written and the rest is not
    print("half", flush=True)
    time.sleep(60)
os.fsync = stop
Traced(ImagesTask()).prepare()""")
    assert builder.stdout is not None
    assert builder.stdout.readline() == "half\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert list(cache.glob(".traced-1.*/new/images.npy"))
    dataset = Traced(ImagesTask())
    assert not dataset.ready
    dataset.prepare()
    assert dataset.bank("train", 0).draw(0, 1).size == 1
    assert sorted(path.name for path in cache.iterdir()) in (["traced-1"], ["traced-1", "traced-1.lock"])


def test_two_builders_at_once_make_one_store(cache: Path, tmp_path: Path) -> None:
    code = f"""
import time
class Slow(Traced):
    def build(self, root, progress):
        with open({str(tmp_path / "built")!r}, "a") as file:
            file.write("built\\n")
        time.sleep(1)
        return super().build(root, progress)
print("up", flush=True)
sys.stdin.readline()
dataset = Slow(ImagesTask())
dataset.prepare()
print(dataset.fingerprint)"""
    builders = [python(code), python(code)]
    for builder in builders:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "up\n"
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write("go\n")
        builder.stdin.flush()
    prints = {builder.communicate()[0] for builder in builders}
    assert [builder.returncode for builder in builders] == [0, 0]
    assert prints == {Traced(ImagesTask()).fingerprint + "\n"}
    assert (tmp_path / "built").read_text() == "built\n"


def test_a_builder_that_waits_for_one_that_is_killed_makes_the_store(cache: Path) -> None:
    killed = python("""
import time
from raymeta.problems.images.reading.packing import Stream
class Stuck(Traced):
    def build(self, root, progress):
        packed = super().build(root, progress)
        def parts():
            yield 0, packed.images[:200]
            print("half", flush=True)
            time.sleep(60)
        return packed._replace(images=Stream(packed.images.shape, parts()))
Stuck(ImagesTask()).prepare()""")
    assert killed.stdout is not None
    assert killed.stdout.readline() == "half\n"
    other = python(
        "print('up', flush=True)\ndataset = Traced(ImagesTask())\ndataset.prepare()\nprint(dataset.fingerprint)"
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "up\n"
    time.sleep(0.5)
    assert other.poll() is None
    assert not (cache / "traced-1").exists()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    printed = other.communicate()[0]
    assert other.returncode == 0
    assert printed == Traced(ImagesTask()).fingerprint + "\n"
    assert not list(cache.glob(".traced-1.*"))


def streamed(images: np.ndarray, parts: Iterable[tuple[int, np.ndarray]]) -> type[Traced]:
    """`Traced`, but with a stream of images, as one class."""

    class Streamed(Traced):
        def build(self, root: Path | None, progress: packing.Progress) -> packing.Packed:
            split = {"train": [0], "validation": [], "test": []}
            stream = packing.Stream(images.shape, parts)
            return packing.Packed(stream, ["all"], [len(images)], {"standard": split})

    return Streamed


def test_a_stream_makes_the_same_store_in_any_order(cache: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 4), np.uint8)
    rows = [(4, images[4:6]), (0, images[:3]), (6, images[6:]), (3, images[3:4])]
    dataset = streamed(images, rows)(ImagesTask())
    dataset.prepare()
    assert (dataset.store.images == images).all()
    labels = {"train": [0], "validation": [], "test": []}
    assert dataset.fingerprint == packing.fingerprint(packing.Packed(images, ["all"], [7], {"standard": labels}))


def test_a_stream_that_breaks_off_leaves_nothing(cache: Path) -> None:
    images = np.zeros((7, 3, 4, 4), np.uint8)

    def damaged() -> Iterator[tuple[int, np.ndarray]]:
        yield 0, images[:3]
        raise UserError("photo 4: not an image that can be read")

    with pytest.raises(UserError, match=r"^photo 4: "):
        streamed(images, damaged())(ImagesTask()).prepare()
    with pytest.raises(ValueError, match="3 images were streamed, 7 were promised"):
        streamed(images, [(0, images[:3])])(ImagesTask()).prepare()
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_stream_takes_little_memory(cache: Path) -> None:
    shape = (5000, 3, 84, 84)  # 106 MB
    one = np.ones((1, *shape[1:]), np.uint8)
    dataset = streamed(np.broadcast_to(one, shape), ((row, one) for row in range(shape[0])))(ImagesTask())
    tracemalloc.start()
    dataset.prepare()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.store.images.nbytes > 100e6
    assert peak < 5e6


def test_a_full_disk_is_one_sentence(cache: Path) -> None:
    shape = (500, 3, 84, 84)
    one = np.ones((1, *shape[1:]), np.uint8)
    dataset = streamed(np.broadcast_to(one, shape), ((row, one) for row in range(shape[0])))(ImagesTask())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))  # the system writes no more than that into a file
    try:
        with pytest.raises(UserError) as caught:
            dataset.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == f"{dataset.folder}: cannot be written: File too large (RAYMETA_CACHE moves it)"
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    class Failing(Traced):
        def build(self, root: Path | None, progress: packing.Progress) -> packing.Packed:
            raise UserError("no data")

    with pytest.raises(UserError, match=r"^no data$"):
        Failing(ImagesTask()).prepare()
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_rebuild_replaces_and_an_open_map_lives_on(cache: Path) -> None:
    dataset = Traced(ImagesTask())
    dataset.prepare()
    mapped, before = dataset.store.images, dataset.folder.stat().st_ino
    dataset.prepare()
    assert dataset.folder.stat().st_ino == before
    dataset.prepare(rebuild=True)
    assert dataset.folder.stat().st_ino != before
    assert (mapped == dataset.store.images).all()


def _cut_off(folder: Path) -> None:
    os.truncate(folder / "images.npy", 1000)


def _cut_off_meta(folder: Path) -> None:
    os.truncate(folder / "meta.json", 100)


def _without_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def _of_another_shape(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((3, 1, 2, 2), np.uint8))


def _foreign(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "meta.json").write_text("[]")
    np.save(folder / "images.npy", np.zeros((3, 1, 2, 2), np.uint8))


@pytest.mark.parametrize("damage", [_cut_off, _cut_off_meta, _without_meta, _of_another_shape, _foreign])
def test_damage_is_one_sentence_and_rebuild_mends_it(cache: Path, damage: object) -> None:
    dataset = Traced(ImagesTask())
    dataset.prepare()
    damage(dataset.folder)  # type: ignore[operator]
    for use in (lambda: Traced(ImagesTask()).bank("train", 0), dataset.prepare):
        with pytest.raises(UserError) as caught:
            use()  # type: ignore[operator]
        assert str(caught.value).startswith(f"{dataset.folder}: damaged or not a store of 'traced' (")
        assert str(caught.value).endswith("): run `raymeta data prepare traced --rebuild`")
        assert "\n" not in str(caught.value)
    dataset.prepare(rebuild=True)
    assert dataset.bank("train", 0).draw(0, 1).size == 1


def test_what_is_not_there_is_one_sentence(cache: Path) -> None:
    with pytest.raises(UserError, match=r"the data set 'traced' is not in .*: run `raymeta data prepare traced`$"):
        Traced(ImagesTask()).bank("train", 0)
    with pytest.raises(UserError, match="did you mean 'omniglot'"):
        open_problem(ImagesTask(dataset="omnigot"))
    with pytest.raises(UserError, match=r"^task\.split: omniglot has no split 'fin': did you mean 'finn'"):
        open_problem(ImagesTask(dataset="omniglot", split="fin"))


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written: .*RAYMETA_CACHE moves it"):
        Traced(ImagesTask()).prepare()


def test_nothing_heavy_is_imported() -> None:
    code = "import raymeta.problems.images.datasets.glyphs, raymeta.problems.images.datasets.omniglot, sys\n"
    code += "import raymeta.problems.sinusoid, raymeta.problems.images.gallery\n"
    code += "print([name for name in ('ray', 'optuna', 'mlflow', 'torchvision', 'matplotlib') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
