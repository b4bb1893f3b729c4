"""OTB's and VOT's folders as small made ones; what is damaged is a sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raymeta.api import data
from raymeta.errors import UserError
from raymeta.problem import open_problem
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.tracking.clips import clips_of
from raymeta.problems.tracking.sdnet.datasets import Sequences
from raymeta.problems.tracking.sdnet.problem import TrackingTask


def frames(folder: Path, count: int, size: tuple[int, int] = (60, 40), first: int = 1, width: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", size, (number % 256, 50, 60)).save(folder / f"{number:0{width}}.jpg", quality=95)


def otb(root: Path, name: str, lines: list[str], count: int | None = None, file: str = "groundtruth_rect.txt") -> Path:
    frames(root / name / "img", len(lines) if count is None else count)
    (root / name / file).write_text("\n".join(lines) + "\n")
    return root


BOXES = ["11,21,10,8", "12\t21\t10\t8", "13 21 10 8"]


def test_otb_counts_from_one_with_commas_tabs_or_blanks(tmp_path: Path) -> None:
    otb(tmp_path, "Basketball", BOXES)
    otb(tmp_path, "Jogging", BOXES, file="groundtruth_rect.1.txt")
    (tmp_path / "Jogging" / "groundtruth_rect.2.txt").write_text("1,1,5,5\n2,1,5,5\n3,1,5,5\n")
    otb(tmp_path, "BlurCar3", BOXES, count=5)  # the boxes are of frames 3 to 5
    otb(tmp_path, "Short", BOXES, count=5)
    clips = {clip.name: clip for clip in clips_of(Tree(tmp_path))}
    assert list(clips) == ["Basketball", "BlurCar3", "Jogging.1", "Jogging.2", "Short"]
    np.testing.assert_array_equal(clips["Basketball"].boxes, [[10, 20, 10, 8], [11, 20, 10, 8], [12, 20, 10, 8]])
    assert clips["Basketball"].size == (60, 40)
    assert abs(np.asarray(clips["BlurCar3"].read(0))[0, 0, 0].astype(int) - 3) <= 2
    assert clips["Short"].remark == "2 of 5 frames have no box and are left out"
    assert len(clips["Jogging.2"]) == 3


def test_vot_has_polygons_and_absent_targets(tmp_path: Path) -> None:
    frames(tmp_path / "ball" / "color", 3, width=8)
    (tmp_path / "ball" / "groundtruth.txt").write_text(
        "5,6,15,4,17,12,6,14\nnan,nan,nan,nan,nan,nan,nan,nan\n5,6,15,4,17,12,6,14\n"
    )
    frames(tmp_path / "car", 2, width=8)
    (tmp_path / "car" / "groundtruth.txt").write_text("5.5,6,15,4\n6,6,15,4\n")
    ball, car = clips_of(Tree(tmp_path))
    np.testing.assert_array_equal(ball.boxes[0], [5, 4, 12, 10])
    assert ball.there.tolist() == [0, 2]
    assert ball.remark == "bounding boxes of polygons"
    np.testing.assert_array_equal(car.boxes[0], [5.5, 6, 15, 4])


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    frames(tmp_path / "a", 11, width=1)
    (tmp_path / "a" / "groundtruth.txt").write_text("5,6,15,4\n" * 11)
    (clip,) = clips_of(Tree(tmp_path))
    reds = [int(np.asarray(clip.read(number))[0, 0, 0]) for number in range(11)]
    assert reds == sorted(reds)


@pytest.mark.parametrize(
    ("lines", "count", "sentence"),
    [
        ([], 3, "is empty: expected a line for every frame"),
        (["1,1,5,5"], 1, "found 1 boxes: a sequence needs two frames or more"),
        (BOXES, 2, "has 3 boxes, but only 2 frames are there"),
        (
            ["1,1,5,5", "1,1,5"],
            2,
            "line 2: found 3 numbers: expected 4 (x, y, w, h) or 8 (a polygon), the same in every line",
        ),
        (["1,1,5,5", "1,1,5,x"], 2, "line 2: found '1,1,5,x': expected numbers"),
        (["1,1,5,5", "1,1,0,5"], 2, "line 2: the box 0, 0, 0, 5 has no area"),
        (["1,1,5,5", "100,1,9,5"], 2, "line 2: the box 99, 0, 9, 5 lies outside its frame, which is 60x40"),
        (["1,1,5,5", "1,1,inf,5"], 2, "line 2: found a number that is not finite"),
        (["nan,nan,nan,nan", "1,1,5,5"], 2, "fewer than two of its 2 frames have a box"),
    ],
)
def test_a_list_that_is_wrong_is_a_sentence(tmp_path: Path, lines: list[str], count: int, sentence: str) -> None:
    otb(tmp_path, "Bird", lines, count)
    with pytest.raises(UserError) as caught:
        clips_of(Tree(tmp_path))
    assert sentence in str(caught.value)
    assert "Bird/groundtruth_rect.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frames_that_are_wrong_are_a_sentence(tmp_path: Path) -> None:
    otb(tmp_path, "Bird", BOXES)
    Image.new("RGB", (30, 20)).save(tmp_path / "Bird" / "img" / "0002.jpg")
    (tmp_path / "Bird" / "img" / "0003.jpg").write_bytes(b"no")
    (clip,) = clips_of(Tree(tmp_path))
    with pytest.raises(UserError, match=r"Bird/img/0002.jpg is 30x20, and the first frame of its sequence 60x40$"):
        clip.read(1)
    with pytest.raises(UserError, match=r"Bird/img/0003.jpg is not an image that can be read$"):
        clip.read(2)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"no sequence is in it: expected NAME/groundtruth_rect.txt beside NAME/img"):
        clips_of(Tree(tmp_path / "none"))


def test_a_folder_of_sequences_is_a_data_set(tmp_path: Path) -> None:
    for number in range(6):
        otb(tmp_path / "own", f"s{number}", BOXES)
    for number in range(2):
        otb(tmp_path / "test", f"t{number}", BOXES)
    small = {"side": 16, "positives": 2, "negatives": 3}
    problem = open_problem(TrackingTask(dataset="sequences", source=str(tmp_path / "own"), **small))  # type: ignore[arg-type]
    assert isinstance(problem, Sequences)
    assert [problem.count(split) for split in ("train", "validation", "test")] == [4, 1, 1]  # type: ignore[arg-type]
    assert problem.bank("train", 0).draw(0, 2).support.x.shape == (2, 5, 3, 16, 16)
    described = data.prepare("sequences", tmp_path / "own", quiet=True)
    assert described["classes"] == {"train": 4, "validation": 1, "test": 1}
    assert described["images"] == 18
    both = {"source": str(tmp_path / "own"), "test_source": str(tmp_path / "test")}
    other = open_problem(TrackingTask(dataset="sequences", **both, **small))  # type: ignore[arg-type]
    assert isinstance(other, Sequences)
    assert [other.count(split) for split in ("train", "validation", "test")] == [5, 1, 2]  # type: ignore[arg-type]
    assert other.fingerprint != problem.fingerprint
    assert other.clip("test", 0).name == "t0"
    data.draw_data("sequences", tmp_path / "x.png", tmp_path / "own")
    assert (tmp_path / "x.png").stat().st_size > 1000
    with pytest.raises(UserError, match=r"^sequences: name the folder of sequences by --data-root$"):
        data.prepare("sequences", quiet=True)
    otb(tmp_path / "one", "s", BOXES)
    with pytest.raises(UserError, match=r"the train split has no sequence, of 1 in all$"):
        data.prepare("sequences", tmp_path / "one", quiet=True)
    assert {"sequences", "sprites"} <= set(data.datasets())
