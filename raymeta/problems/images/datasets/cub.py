"""CUB-200-2011: 11,788 photographs of 200 kinds of birds, 84x84 colour (Wah, Branson, Welinder, Perona, Belongie).

100 / 50 / 50 classes by the fixed rule of CloserLookFewShot, DropGrad, MGAug and CxGrad: of the sorted classes, counted
from 0, the even ones are for training, 1, 5, 9, ... for validation and 3, 7, 11, ... for the test. Images are made
96x96 and cropped to the centre, the evaluation transform of CloserLookFewShot, DropGrad and MGAug; in training these
crop at random, which is the regularizer `aug`. A class has 41 to 60 images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from PIL import Image

from raymeta import registry
from raymeta.errors import UserError
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.layouts.branches import Layout
from raymeta.problems.images.layouts.plan import Plan, needed, tree_at
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.reading.pictures import centred, plain
from raymeta.problems.images.reading.sources import Published, check_counts
from raymeta.problems.images.reading.trees import Tree, pack_files

SIDE = 84
FOLDER = "CUB_200_2011"
PUBLISHED = "CUB-200-2011 (www.vision.caltech.edu/datasets/cub_200_2011)"
LAYOUT = f"{FOLDER}.tgz or a folder {FOLDER}"


@registry.dataset("cub")
class Cub(ImageDataset):
    """See the module's docstring."""

    input_shape: tuple[int, ...] = (3, SIDE, SIDE)
    mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)
    fitted: ClassVar[str] = "made 96x96, bilinear, and cropped to the centre"
    published: ClassVar[Mapping[str, Published]] = {
        "standard": Published({"train": 100, "validation": 50, "test": 50}, (41, 60), 11_788)
    }

    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Pack the images.

        Args:
            root: the published archive `CUB_200_2011.tgz`, or a folder with it or with what is in it; not None: there
                is no download.
            progress: called per image.
        """
        tree, plan = _planned(needed(root, self.name, PUBLISHED, LAYOUT))
        check_counts(tree.source, plan.counts, self.published.get(self.split))
        return pack_files(tree, plan.layout.classes, self.input_shape, self.fit, progress, left=plan.left())

    def plan(self, root: Path | None) -> Plan:
        return _planned(needed(root, self.name, PUBLISHED, LAYOUT))[1]

    def fit(self, image: Image.Image) -> Image.Image:
        return centred(SIDE)(plain(image))


def _planned(root: Path) -> tuple[Tree, Plan]:
    tree = tree_at(root, [FOLDER])
    listed = _listed(tree)
    classes: dict[Split, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for number, name in enumerate(sorted(listed)):
        split: Split = "train" if number % 2 == 0 else "validation" if number % 4 == 1 else "test"
        classes[split][name] = sorted(listed[name])
    return tree, Plan(tree.source, Layout(classes, "every second class for training, as CloserLookFewShot", {}), tree)


def _listed(tree: Tree) -> dict[str, list[str]]:
    """Classes and their images as `images.txt` says: a number and `001.Black_footed_Albatross/NAME.jpg` a line."""
    lists = [path for path in tree.paths if path.rsplit("/", 1)[-1] == "images.txt"]
    if not lists:
        raise UserError(f"{tree.source}: cub is not in it, which is {LAYOUT}: no images.txt is there")
    base = min(lists, key=lambda path: path.count("/")).removesuffix("images.txt")
    ((_, text),) = tree.read([f"{base}images.txt"])
    there, classes = set(tree.paths), dict[str, list[str]]()
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), start=1):
        _, _, name = line.strip().partition(" ")
        label, _, file = name.partition("/")
        if not file:
            raise UserError(f"{tree.source}: images.txt: line {number} is not a number and CLASS/IMAGE")
        if f"{base}images/{name}" not in there:
            raise UserError(f"{tree.source}: images.txt names {name}, which is not in images")
        classes.setdefault(label, []).append(f"{base}images/{name}")
    return classes
