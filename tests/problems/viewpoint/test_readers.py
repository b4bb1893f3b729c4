"""ObjectNet3D, Pascal3D+ and one's own list, as small made folders in their formats; what is damaged is a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from raymeta.api import data
from raymeta.errors import UserError
from raymeta.problem import open_problem
from raymeta.problems.viewpoint.datasets import NOVEL, ObjectNet3D, OwnViews, Pascal3D
from raymeta.problems.viewpoint.listing import GREY
from raymeta.problems.viewpoint.rotations import of_angles
from raymeta.problems.viewpoint.viewpoint import ViewpointTask

FINE = {"azimuth": 100.0, "elevation": 10.0, "theta": -5.0, "distance": 3.0, "azimuth_coarse": 90.0}
COARSE = {"azimuth": 0.0, "elevation": 0.0, "theta": 0.0, "distance": 0.0, "azimuth_coarse": 90.0}


def thing(name: str, box: tuple[float, ...] = (3, 5, 22, 14), view: Any = None, **marks: int) -> dict[str, Any]:
    view = FINE if view is None else view
    return {"class": name, "bbox": np.array(box, float), "viewpoint": view, "difficult": 0, "truncated": 0, **marks}


def record(folder: Path, name: str, *things: dict[str, Any], ending: str = ".JPEG", sub: str = "") -> None:
    """A picture 40x30 whose pixels say their place, and its record as MATLAB writes it."""
    for kind in ("Annotations", "Images"):
        (folder / kind / sub).mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:30, :40]
    pixels = np.stack([columns * 5, rows * 7, np.full((30, 40), 50)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "Images" / sub / f"{name}{ending}", quality=100, subsampling=0)
    objects = np.empty((1, len(things)), object)
    objects[0, :] = things
    file = folder / "Annotations" / sub / f"{name}.mat"
    if len(things) == 1:  # a struct by itself, as MATLAB has it
        savemat(file, {"record": {"filename": f"{name}{ending}", "objects": things[0]}})
        return
    keys = list(dict.fromkeys(key for one in things for key in one))
    array = np.zeros((1, len(things)), dtype=[(key, object) for key in keys])
    for place, one in enumerate(things):
        for key in keys:
            array[0, place][key] = one.get(key, np.zeros((0, 0)))
    savemat(file, {"record": {"filename": f"{name}{ending}", "objects": array}})


def objectnet(tmp_path: Path) -> Path:
    folder = tmp_path / "ObjectNet3D"
    for number in range(3):
        for name in ("aeroplane", "bottle", "bus", "car", "chair", "clock", "cup", "desk_lamp", "bed"):
            record(folder, f"n_{name}_{number}", thing(name))
    return tmp_path


def test_objectnet3d_as_it_is_distributed(tmp_path: Path, cache: Path) -> None:
    root = objectnet(tmp_path)
    folder = root / "ObjectNet3D"
    skipped = [thing("car", truncated=1), thing("car", difficult=1), thing("car", view=COARSE), thing("cup")]
    record(folder, "n_many", thing("bus", (1, 1, 10, 30), FINE | {"azimuth": 200.0}), *skipped)
    assert "bed" in NOVEL
    found = data.preview("objectnet3d", root)
    assert found["validation"] == "1 categories, 3 views (desk_lamp)"
    assert found["test"] == "1 categories, 3 views (bed)"
    assert found["skipped"] == "1 difficult, 1 truncated, 1 without a fine viewpoint"
    made = data.prepare("objectnet3d", root, quiet=True)
    assert (made["images"], made["skipped"]) == (29, found["skipped"])
    problem = open_problem(ViewpointTask(dataset="objectnet3d", shots=2, queries=1, eval_queries=1))
    assert isinstance(problem, ObjectNet3D)
    store = problem.store
    where = store.starts[store.class_names.index("bus")]
    angles = np.array(store.meta["angles"][where : where + 4])
    assert sorted(angles[:, 0].tolist()) == [100, 100, 100, 200]
    (odd,) = np.flatnonzero(angles[:, 0] == 200)
    tall = store.images[where + odd].astype(int)  # 10x30 in the middle of 84x84
    assert np.abs(tall[:, :, :25].mean((1, 2)) - GREY).max() < 1
    assert tall[0, 40, 42] == pytest.approx(5 * 4.5, abs=6)
    other = store.images[where + (odd == 0)].astype(int)  # columns 2 to 21, rows 4 to 13 of the picture, counted from 0
    assert other[0, 42, 4] < other[0, 42, 79]
    assert other[0, 42, 42] == pytest.approx(5 * 12, abs=6)
    assert other[1, 42, 42] == pytest.approx(7 * 9, abs=6)
    tasks = problem.bank("train", 0).draw(0, 20)
    turned = of_angles(np.array([[100.0, 10, -5], [200.0, 10, -5]])).reshape(2, 9)
    for y in tasks.query.y[:, 0].numpy():
        assert min(np.abs(turned - y).max(1)) < 1e-6


def test_pascal3d_has_a_folder_for_every_class(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "PASCAL3D+_release1.1"
    for name in ("aeroplane", "car", "bottle", "chair"):
        record(folder, f"{name}_1", thing(name), sub=f"{name}_imagenet")
        record(folder, f"{name}_2", thing(name), thing("person", view={}), sub=f"{name}_pascal", ending=".jpg")
    made = data.prepare("pascal3d", tmp_path, quiet=True)
    assert made["classes"] == {"train": 2, "validation": 1, "test": 1}
    assert (made["images"], made["skipped"]) == (8, "4 of another class than the folder's")
    problem = open_problem(ViewpointTask(dataset="pascal3d", shots=1, queries=1, eval_queries=1))
    assert isinstance(problem, Pascal3D)
    assert problem.store.class_names == ["aeroplane", "bottle", "car", "chair"]


def damaged(tmp_path: Path, change: Callable[[Path], None]) -> str:
    root = objectnet(tmp_path)
    change(root / "ObjectNet3D")
    with pytest.raises(UserError) as caught:
        ObjectNet3D(ViewpointTask(dataset="objectnet3d")).prepare(root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda f: (f / "Images" / "n_car_0.JPEG").unlink(),
            "n_car_0.mat describes a picture that is not there: Images/",
        ),
        (
            lambda f: (f / "Images" / "n_car_0.JPEG").write_bytes(b"no"),
            "Images/n_car_0.JPEG is not an image that can be",
        ),
        (
            lambda f: (f / "Annotations" / "n_car_0.mat").write_bytes(b"no"),
            "n_car_0.mat: not a MATLAB file that can be",
        ),
        (lambda f: savemat(f / "Annotations" / "n_car_0.mat", {"x": 1}), "a MATLAB file without the variable 'record'"),
        (lambda f: record(f, "n_z", thing("car", (50, 5, 60, 9))), "the box 49, 4, 60, 9 lies outside Images/n_z.JPEG"),
        (lambda f: record(f, "n_z", thing("car", (9, 5, 4, 9))), "n_z.mat, object 1: the box 8, 4, 4, 9 has no area"),
        (
            lambda f: record(f, "n_z", thing("chiar")),
            "n_z.mat, object 1: class: found 'chiar': did you mean 'chair'? (allowed: aeroplane, ",
        ),
        (lambda f: record(f, "n_z", thing("car", (9, 5, 4))), "n_z.mat, object 1: bbox: found 3 numbers: expected 4"),
        (lambda f: record(f, "n_z", thing("car", (9, np.nan, 14, 9))), "object 1: found a number that is not finite"),
    ],
)
def test_what_is_damaged_is_a_sentence(tmp_path: Path, cache: Path, change: Any, sentence: str) -> None:
    said = damaged(tmp_path, change)
    assert sentence in said
    assert "\n" not in said


def test_where_nothing_is_or_not_enough(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"^objectnet3d can't be downloaded by raymeta: get ObjectNet3D .* --data-root"):
        data.prepare("objectnet3d", quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no Annotations/\*\.mat are in it, beside Images$"):
        data.prepare("objectnet3d", tmp_path / "empty", quiet=True)
    record(tmp_path / "few", "n_1", thing("car"))
    with pytest.raises(UserError, match="no category of the validation split is in it; is it the whole data set"):
        data.prepare("objectnet3d", tmp_path / "few", quiet=True)
    root = objectnet(tmp_path)
    data.prepare("objectnet3d", root, quiet=True)
    with pytest.raises(UserError, match=r"10 shots and 10 queries are 20 views, but the category '\w+' .* has 3$"):
        open_problem(ViewpointTask(dataset="objectnet3d")).bank("train", 0)
    data.prepare("objectnet3d", root, size=32, quiet=True)
    assert open_problem(ViewpointTask(dataset="objectnet3d", size=32)).ready


HEAD = "path,category,x0,y0,x1,y1,azimuth,elevation,tilt"


def own(folder: Path, lines: list[str], head: str = HEAD) -> Path:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    (folder / "views.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder


def test_ones_own_list_is_packed_and_made_anew_when_it_changes(tmp_path: Path, cache: Path) -> None:
    lines = [f"a.png,{name},0,0,40,30,{10 * k},5,0" for name in ("cup", "hat", "pen", "mug", "box") for k in range(4)]
    folder = own(tmp_path / "mine", lines)
    assert data.preview("views", folder)["skipped"] == "nothing"
    made = data.prepare("views", folder, quiet=True)
    assert made["classes"] == {"train": 3, "validation": 1, "test": 1}
    task = ViewpointTask(dataset="views", source=str(folder), shots=2, queries=2, eval_queries=2)
    problem = open_problem(task)
    assert isinstance(problem, OwnViews)
    assert problem.ready
    problem.bank("train", 0).draw(0, 2)
    own(
        tmp_path / "mine",
        [f"{line},{'train' if 'cup' in line else 'validation'}" for line in lines[:8]],
        f"{HEAD},split",
    )
    assert not problem.ready
    with pytest.raises(UserError, match="the test split has no category, of 2 in all; each needs one or more"):
        problem.prepare()
    with pytest.raises(UserError, match=r"^views: name the folder with views.csv and its pictures by --data-root$"):
        open_problem(ViewpointTask(dataset="views")).prepare()
    assert "views" in data.datasets()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["a.png,cup,0,0,40,30,10,5"], "views.csv, line 2: tilt: found '': expected a number"),
        (["a.png,cup,0,0,4o,30,10,5,0"], "views.csv, line 2: x1: found '4o': expected a number"),
        (["a.png,,0,0,40,30,10,5,0"], "views.csv, line 2: no category"),
        (["b.png,cup,0,0,40,30,10,5,0"], "views.csv, line 2 names the picture b.png, which is not there"),
        (["a.png,cup,0,0,40,0,10,5,0"], "views.csv, line 2: the box 0, 0, 40, 0 has no area"),
        (["a.png,cup,60,0,80,9,10,5,0"], "views.csv, line 2: the box 60, 0, 80, 9 lies outside a.png, which is 40x30"),
        (["a.png,cup,0,0,nan,30,10,5,0"], "views.csv, line 2: found a number that is not finite"),
        ([], "no view of a thing is in it"),
    ],
)
def test_a_line_that_is_wrong_is_a_sentence(tmp_path: Path, cache: Path, lines: list[str], sentence: str) -> None:
    more = [f"a.png,{name},0,0,40,30,1,5,0" for name in ("hat", "pen", "mug") if lines]
    folder = own(tmp_path / "mine", [*lines, *more])
    with pytest.raises(UserError) as caught:
        data.prepare("views", folder, quiet=True)
    assert sentence in str(caught.value)
    with pytest.raises(UserError, match="no column 'tilt'; expected path,category"):
        data.prepare("views", own(tmp_path / "mine", [], HEAD.removesuffix(",tilt")), quiet=True)
