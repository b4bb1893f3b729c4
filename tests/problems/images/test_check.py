"""`raymeta data check`: every kind of thing that can be wrong is found, and nothing else."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photos import class_tree, dataset
from traced import CLASSES, IMAGES, Traced

from raymeta import cli
from raymeta.problems.images.check import check_dataset
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.sources import Published
from raymeta.problems.images.task import ImagesTask


def checked(
    change: Any = lambda packed: packed, published: Published | None = None
) -> dict[str, tuple[str, str | None, bool]]:
    """What is found in `Traced` after a change."""

    class Changed(Traced):
        def build(self, root: Path | None, progress: Progress) -> Packed:
            packed = super().build(root, progress)
            return change(packed)

    Changed.published = {"standard": published} if published else {}
    found = Changed(ImagesTask())
    found.prepare(rebuild=True)
    return {one.what: (one.found, one.expected, one.ok) for one in check_dataset(found)}


RIGHT = Published({"train": 13, "validation": 5, "test": 5}, (IMAGES, IMAGES), CLASSES * IMAGES)


def test_what_is_right_is_right(cache: Path) -> None:
    assert checked(published=RIGHT) == {
        "classes, train": ("13", "13", True),
        "classes, validation": ("5", "5", True),
        "classes, test": ("5", "5", True),
        "images": ("460", "460", True),
        "images of a class": ("20 to 20", "20 to 20", True),
        "classes in two splits": ("0", "0", True),
        "images in two splits": ("0", "0", True),
        "images twice in a split": ("0", None, True),
    }
    unknown = checked()
    assert unknown["images"] == ("460", None, True)
    assert all(ok for _, _, ok in unknown.values())


def _wrong(found: dict[str, tuple[str, str | None, bool]]) -> dict[str, str]:
    return {what: shown for what, (shown, _, ok) in found.items() if not ok}


def test_counts_that_differ_from_the_published_ones(cache: Path) -> None:
    other = Published({"train": 12, "validation": 5, "test": 6}, (21, 25), 461)
    assert _wrong(checked(published=other)) == {
        "classes, train": "13", "classes, test": "5", "images": "460", "images of a class": "20 to 20"
    }  # fmt: skip


def test_a_class_in_two_splits(cache: Path) -> None:
    split = {"train": range(14), "validation": range(13, 18), "test": range(18, 23)}
    found = _wrong(checked(lambda packed: packed._replace(splits={"standard": split})))
    assert found == {"classes in two splits": "1: class 13 (train, validation)"}
    names = ["same", *[f"class {i}" for i in range(1, 22)], "same"]
    found = _wrong(checked(lambda packed: packed._replace(class_names=names)))
    assert found == {"classes in two splits": "1: same (train, test)"}


def test_images_that_are_there_twice(cache: Path) -> None:
    def copied(packed: Packed) -> Packed:
        images = np.array(packed.images)
        images[20 * 20 + 3] = images[2 * 20 + 7]  # class 20 is a test class, class 2 one for training
        images[14 * 20] = images[15 * 20 + 1]  # both are for validation
        return packed._replace(images=images)

    found = checked(copied)
    assert _wrong(found) == {"images in two splits": "1: class 2 (train) = class 20 (test)"}
    assert found["images twice in a split"] == ("1", None, True)


def test_of_what_was_published_duplicates_are_a_remark_and_classes_are_named_once(cache: Path) -> None:
    def copied(packed: Packed) -> Packed:
        images = np.array(packed.images)
        images[20 * 20 : 20 * 20 + 7] = images[2 * 20 + 7]  # 7 of class 20, for the test, and one for training
        for row in range(3):
            images[14 * 20 + row] = images[3 * 20 + row]  # 3 pairs of classes 3 and 14
        return packed._replace(images=images)

    expected = "4: class 3 (train) = class 14 (validation), 3 times, class 2 (train) = class 20 (test, 7)"
    found = checked(copied, RIGHT)
    assert found["images in two splits"] == (expected, "0", True)
    assert found["images twice in a split"] == ("6", None, True)
    assert checked(copied)["images in two splits"] == (expected, "0", False)


def test_every_class_split_is_checked(glyphs: Any) -> None:
    assert {one.split for one in check_dataset(glyphs)} == set(glyphs.splits)
    assert all(one.ok for one in check_dataset(glyphs))


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["raymeta", "data", "check", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_verb_says_what_is_wrong_by_its_exit_code(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "pets"
    for split, name in {"train": "cat", "val": "dog", "test": "eel"}.items():
        class_tree(source / split, [name], 2)
    dataset("folder", source=str(source)).prepare()
    assert run(monkeypatch, "folder", "--data-root", str(source), "--json") == 0
    out = capsys.readouterr().out
    assert all(one["ok"] for one in json.loads(out)[f"folder {source}"])
    (source / "test" / "eel" / "2.png").write_bytes((source / "train" / "cat" / "1.png").read_bytes())
    dataset("folder", source=str(source)).prepare()
    assert run(monkeypatch, "folder", "--data-root", str(source)) == 1
    out = capsys.readouterr().out
    assert "cat (train) = eel (test)" in out
    assert "WRONG" in out
    assert run(monkeypatch) == 1
    capsys.readouterr()
    shutil.rmtree(cache)
    assert run(monkeypatch) == 0
    assert "nothing to check: no data set is prepared" in capsys.readouterr().err
    assert run(monkeypatch, "sinusoid") == 0
    assert "nothing to check: sinusoid has no images" in capsys.readouterr().err
    assert run(monkeypatch, "cub") == 2
    assert "run `raymeta data prepare cub`" in capsys.readouterr().err
