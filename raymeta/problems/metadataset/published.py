"""The ten data sets of Meta-Dataset, as its specification files count them (counted in their published form)."""

from collections.abc import Mapping
from typing import NamedTuple

from raymeta.problem import SPLITS, Split


class Source(NamedTuple):
    """A data set.

    Attributes:
        title: as the papers' tables call it.
        classes: for training, validation and the test.
        images: in all.
        per_class: of the smallest and of the largest class.
    """

    title: str
    classes: tuple[int, int, int]
    images: int
    per_class: tuple[int, int]

    @property
    def by_split(self) -> Mapping[Split, int]:
        """Classes of each split."""
        return dict(zip(SPLITS, self.classes, strict=True))


SOURCES: Mapping[str, Source] = {
    "ilsvrc_2012": Source("ILSVRC", (712, 158, 130), 1_280_764, (732, 1300)),
    "omniglot": Source("Omniglot", (883, 81, 659), 32_460, (20, 20)),
    "aircraft": Source("Aircraft", (70, 15, 15), 10_000, (100, 100)),
    "cu_birds": Source("Birds", (140, 30, 30), 11_788, (41, 60)),
    "dtd": Source("Textures", (33, 7, 7), 5_640, (120, 120)),
    "quickdraw": Source("QuickDraw", (241, 52, 52), 50_426_266, (113_613, 340_029)),
    "fungi": Source("Fungi", (994, 200, 200), 89_760, (6, 442)),
    "vgg_flower": Source("Flower", (71, 15, 16), 8_189, (40, 258)),
    "traffic_sign": Source("Traffic", (0, 0, 43), 39_209, (210, 2_250)),
    "mscoco": Source("MSCOCO", (0, 40, 40), 860_001, (198, 262_465)),
}
TEST_ONLY = tuple(name for name, source in SOURCES.items() if not source.classes[0])
