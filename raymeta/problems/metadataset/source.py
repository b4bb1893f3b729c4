"""One data set of Meta-Dataset: packed from its records into a store like that of any other data set.

    DIR/omniglot/dataset_spec.json    which classes there are (spec.py)
    DIR/omniglot/0.tfrecords, ...     the encoded images of class 0, ... with their labels (records.py)

Images are decoded to RGB and resized bilinearly, corners on corners and without antialiasing, as the benchmark does; it
keeps floats where the store has them rounded to 8 bits. Networks see them in -1..1. Of a class with more images than
`task.images_per_class` so many are drawn, the same every time; the sampler knows how many there are.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar
from warnings import catch_warnings

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from raymeta.errors import UserError, shown, some
from raymeta.problem import SPLITS, Bank, Split
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.images import Images
from raymeta.problems.images.reading.packing import Packed, Progress, Stream
from raymeta.problems.images.reading.sources import Published
from raymeta.problems.images.variable import VariableEpisodes
from raymeta.problems.metadataset.published import SOURCES
from raymeta.problems.metadataset.records import CHECKS_PAYLOADS, damaged, parse_example, records
from raymeta.problems.metadataset.sampling import GroupEpisodes
from raymeta.problems.metadataset.spec import FILE, Spec, read_spec
from raymeta.problems.metadataset.task import MetaDatasetTask
from raymeta.problems.uniforms import Uniforms
from raymeta.storage.files import cache_folder

PART = 256  # images that are handed over together
SIDE, CAP = (int(MetaDatasetTask.model_fields[key].default) for key in ("size", "images_per_class"))


class MetaDatasetSource(ImageDataset):
    """See the module's docstring.

    Args:
        source: the name of its folder.
        task: the problem's section.
    """

    mean: ClassVar[tuple[float, ...] | None] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...] | None] = (0.5, 0.5, 0.5)
    fitted: ClassVar[str] = "bilinear, corners on corners"

    def __init__(self, source: str, task: MetaDatasetTask) -> None:
        self.source, self._most = source, task.images_per_class
        self.name = f"metadataset:{source}"  # type: ignore[misc]
        self.input_shape = (3, task.size, task.size)
        super().__init__(task.of_a_source)

    @property
    def _stored_as(self) -> str:
        cap = "" if self._most == CAP else f"-{self._most}"
        return f"metadataset-{self.source}-{self.input_shape[-1]}{cap}"

    @property
    def title(self) -> str:
        """`metadataset:omniglot`, and how it is packed where that is not the default."""
        side = self.input_shape[-1]
        words = [*([f"size {side}"] if side != SIDE else []), *([f"{self._most} a class"] if self._most != CAP else [])]
        return self.name + (f" ({', '.join(words)})" if words else "")

    @property
    def _command(self) -> str:
        return f"raymeta data prepare metadataset --size {self.input_shape[-1]}"

    def _about(self) -> dict[str, Any]:
        size = self.input_shape[-1]
        return super()._about() | {"source": self.source, "task": {"size": size, "images_per_class": self._most}}

    @property
    def fingerprint(self) -> str:
        """Of the images, and of what else episodes are drawn by."""
        meta = self.store.meta
        law = json.dumps([meta["kind"], meta["counts"], meta["groups"]])
        return sha256(f"{self.store.fingerprint}{law}".encode()).hexdigest()

    @property
    def published(self) -> Mapping[str, Published]:  # type: ignore[override]
        """Of one of the benchmark's ten, less what is not packed of large classes."""
        own = SOURCES.get(self.source)
        if own is None:
            return {}
        least, most = (min(count, self._most) for count in own.per_class)
        images = own.images - sum(self.store.meta["counts"]) + len(self.store.images)
        return {"standard": Published(own.by_split, (least, most), images)}

    def under(self, split: str) -> ImageDataset:
        return self

    def has(self, split: Split) -> bool:
        """Whether there are classes in a split."""
        return len(self.store.classes(split)) > 0

    def fit(self, image: Image.Image) -> Image.Image:
        return Image.fromarray(resized(np.asarray(image.convert("RGB")), self.input_shape[-1]))

    def build(self, root: Path | None, progress: Progress) -> Packed:
        """Pack the images.

        Args:
            root: a folder of the data set's name, or one with such a folder in it.
            progress: called per image.
        """
        spec = read_spec(spec_file(root, self.source))
        counts = counted(spec)
        sizes = [min(count, self._most) for count in counts]
        total = sum(sizes)
        shape = (total, *self.input_shape)
        about = {
            "kind": spec.kind,
            "groups": _within_splits(spec),
            "counts": counts,
            "notes": self._notes(spec, counts),
        }
        stream = Stream(shape, self._parts(spec, counts, total, progress))  # type: ignore[arg-type]
        return Packed(stream, spec.names, sizes, {"standard": dict(spec.splits.items())}, about=about)

    def _parts(
        self, spec: Spec, counts: Sequence[int], total: int, progress: Progress
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        row = 0
        for number, count in enumerate(counts):
            images = []
            for at, image in self._images(spec, number, count):
                try:
                    with catch_warnings(action="ignore"), Image.open(io.BytesIO(image)) as opened:
                        images.append(np.asarray(self.fit(opened)).transpose(2, 0, 1))
                except Exception as error:  # a damaged file can do all sorts of things wrong
                    raise damaged(spec.file(number), at, "is not an image that can be read") from error
                if len(images) == PART:
                    yield row, np.stack(images)
                    row, images = row + len(images), []
                progress(row + len(images), total)
            if images:
                yield row, np.stack(images)
                row += len(images)

    def _images(self, spec: Spec, number: int, count: int) -> Iterator[tuple[int, bytes]]:
        """Encoded images of a class, with the bytes that their records start at."""
        wanted = None
        if count > self._most:
            keys = Uniforms(self.name, "kept", spec.names[number], number).rows(0, 1, count)[0]
            wanted = set(np.argpartition(keys, self._most)[: self._most].tolist())
        file = spec.file(number)
        for record in records(file, wanted):
            if record.payload is None:
                continue
            try:
                features = parse_example(record.payload)
                (image,), (label,) = features["image"], features["label"]
            except KeyError as error:
                raise damaged(file, record.at, f"has no feature {error}") from error
            except ValueError as error:
                raise damaged(file, record.at, f"is no Example with an image and a label ({error})") from error
            if not isinstance(image, bytes) or not isinstance(label, int):
                raise damaged(file, record.at, "has an image that is not of bytes, or a label that is no whole number")
            if label != number:
                raise damaged(file, record.at, f"has the label {label}, in the file of class {number}")
            yield record.at, image

    def _notes(self, spec: Spec, counts: Sequence[int]) -> dict[str, str]:
        classes, images = "/".join(str(len(spec.splits[split])) for split in SPLITS), sum(counts)
        found = f"{classes} classes, {images:,} images"
        notes = {"found": f"{found}, {compared(self.source, spec, counts)}"}
        if not CHECKS_PAYLOADS:
            notes["checksums"] = "of lengths only: pip install raymeta[meta-dataset] has those of images checked, too"
        return notes

    def _bank(self, split: Split, seed: int) -> Bank:
        meta, more = self.store.meta, {"counts": np.array(self.store.meta["counts"], np.int64)}
        images: Images | None = self._on_device
        if meta["kind"] == "even":
            return VariableEpisodes(self.store, self.task, split, seed, images, **more)
        groups, whole = meta["groups"][split], meta["kind"] == "nodes"
        return GroupEpisodes(self.store, self.task, split, seed, images, groups=groups, whole=whole, **more)


def spec_file(root: Path | None, source: str) -> Path:
    """The specification of a data set.

    Raises:
        UserError: it is not in `root`.
    """
    if root is None:
        stores = sorted(cache_folder().glob(f"metadataset-{source}-*-*/meta.json"))
        sizes = dict.fromkeys(path.parent.name.split("-")[2] for path in stores)
        there = f" (it is packed in {', '.join(sizes)} pixels: task.size or --size)" if sizes else ""
        raise UserError(
            f"metadataset:{source} can't be downloaded by raymeta{there}: make its records with Meta-Dataset's scripts "
            f"or by raymeta data convert, and name by --data-root the folder that has a folder {source} of them"
        )
    for folder in (root / source, root):
        if (folder / FILE).exists() and folder.name == source:
            return folder / FILE
    raise UserError(f"{shown(root)}: no folder {source} with a {FILE} is in it")


def counted(spec: Spec) -> list[int]:
    """Records of every class's file.

    Raises:
        UserError: a file is missing, damaged or of no class, or has another number of records than it should.
    """
    files = [spec.file(number) for number in range(len(spec.names))]
    if missing := [file.name for file in files if not file.exists()]:
        raise UserError(f"{shown(spec.path.parent)}: records are missing: {some(missing)}")
    known = {file.name for file in files}
    if others := sorted(file.name for file in spec.path.parent.glob("*.tfrecords") if file.name not in known):
        raise UserError(
            f"{shown(spec.path.parent)}: {some(others)}: of no class: {FILE} has classes 0 to {len(files) - 1:,}"
        )
    counts = []
    for number, file in enumerate(files):
        count = sum(1 for _ in records(file, ()))
        expected = spec.images[number]
        if expected is not None and count != expected:
            raise UserError(
                f"{shown(file)}: ends at byte {file.stat().st_size:,} after {count:,} records, {expected:,} are "
                f"expected by {FILE}"
            )
        counts.append(count)
    return counts


def compared(source: str, spec: Spec, counts: Sequence[int]) -> str:
    """How what was found stands to what was published."""
    published = SOURCES.get(source)
    if published is None:
        return "which is none of the benchmark's ten"
    classes = tuple(len(spec.splits[split]) for split in SPLITS)
    if (classes, sum(counts)) == (published.classes, published.images):
        return "as published"
    words = "/".join(map(str, published.classes))
    return f"NOT as published: {words} classes, {published.images:,} images"


def resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image [H, W, C] as a square: bilinear, corners on corners, without antialiasing."""
    if pixels.shape[:2] == (side, side):
        return pixels
    x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float()
    found = F.interpolate(x, (side, side), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
    return found.round().to(torch.uint8).numpy()


def _within_splits(spec: Spec) -> dict[str, list[list[int]]]:
    """The groups of every split, as places of classes in it."""
    places = {number: place for own in spec.splits.values() for place, number in enumerate(own)}
    return {split: [[places[one] for one in group] for group in groups] for split, groups in spec.groups.items()}
