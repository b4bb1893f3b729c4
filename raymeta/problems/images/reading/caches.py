"""Data sets that are passed on as arrays: pickles, of which nothing is executed, and npz archives, read in blocks.

mini-imagenet-cache-train.pkl                          {image_data: [n, 84, 84, 3], class_dict: name -> places}
miniImageNet_category_split_train_phase_train.pickle   {data: [n, 84, 84, 3], labels: [n], catname2label: name -> label}
train_images_png.pkl, train_labels.pkl                 PNG files; {label_specific: [n], label_specific_str: names}
train_images.npz, train_labels.pkl                     {images: [n, 84, 84, 3]}; the same
"""

import collections
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymeta.errors import UserError
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.layouts.branches import Layout
from raymeta.problems.images.layouts.plan import Plan
from raymeta.problems.images.reading.packing import BLOCK, Packed, Progress, Stream
from raymeta.problems.images.reading.pictures import Fit, decode
from raymeta.problems.images.reading.sources import reading, reason
from raymeta.problems.images.reading.trees import in_order
from raymeta.problems.images.reading.walking import special

Pixels = NDArray[np.uint8]


class Cache(NamedTuple):
    """A file of images.

    Attributes:
        path: of the file.
        classes: name -> places of its images in the file.
        images: reads them one after the other, uint8 [3, side, side].
    """

    path: Path
    classes: Mapping[str, NDArray[np.int64]]
    images: Callable[[], Iterator[Pixels]]


def pack_caches(caches: Mapping[Split, Cache], side: int, progress: Progress) -> Packed:
    """Pack the images of three files, which are read one after the other."""
    counts = {split: {name: len(places) for name, places in caches[split].classes.items()} for split in SPLITS}
    names, sizes, splits = in_order(counts)

    def parts() -> Iterator[tuple[int, Pixels]]:
        first = 0
        for split in SPLITS:
            path, classes, images = caches[split]
            places = np.concatenate([classes[name] for name in sorted(classes)])
            rows = np.empty(len(places), np.int64)
            rows[places] = np.arange(first, first + len(places))
            number = -1
            for number, image in enumerate(images()):
                if number < len(rows):
                    yield int(rows[number]), image[None]
                    progress(first + number + 1, sum(sizes))
            if number + 1 != len(rows):
                raise UserError(f"{path}: {number + 1} images, but labels of {len(rows)}")
            first += len(places)

    return Packed(Stream((sum(sizes), 3, side, side), parts()), names, sizes, splits)


def mini_cache(path: Path, side: int) -> Cache:
    """A pickle of images and their classes, either kind; it is read for the classes now and for the images later."""
    content = _mapping(path)
    if "class_dict" in content:
        key, classes = "image_data", {str(name): _whole(path, p) for name, p in dict(content["class_dict"]).items()}
    elif "labels" in content:
        key, names = "data", {int(label): str(name) for name, label in content.get("catname2label", {}).items()}
        classes = _grouped(path, _whole(path, content["labels"]), names)
    else:
        raise UserError(
            f"{path}: no 'class_dict' and no 'labels' in it, but {', '.join(map(str, content)) or 'nothing'}"
        )
    if key not in content:
        raise UserError(f"{path}: no '{key}' in it")
    array = content[key]
    _check_images(path, getattr(array, "shape", ()), getattr(array, "dtype", None), side)
    places = np.sort(np.concatenate([np.empty(0, np.int64), *classes.values()]))
    if not np.array_equal(places, np.arange(len(array))):
        raise UserError(f"{path}: its {len(classes)} classes don't have each of its {len(array)} images once")
    del content, array

    def images() -> Iterator[Pixels]:
        return (image.transpose(2, 0, 1) for image in _mapping(path)[key])

    return Cache(path, classes, images)


def tiered_cache(images: Path, labels: Path, side: int, fit: Fit) -> Cache:
    """A pickle of PNG files or an npz of pixels, and the pickle with its labels."""
    content = _mapping(labels)
    key = "label_specific" if "label_specific" in content else "labels"
    if key not in content:
        raise UserError(f"{labels}: no 'label_specific' and no 'labels' in it")
    names = dict(enumerate(map(str, content.get("label_specific_str", ()))))
    classes = _grouped(labels, _whole(labels, content[key]), names)
    return Cache(images, classes, lambda: _npz(images, side) if images.suffix == ".npz" else _pngs(images, fit))


def plan_of(source: Path, caches: Mapping[Split, Cache]) -> Plan:
    """What would be packed of three files."""
    classes = {
        split: {name: [f"{path.name} {place}" for place in places] for name, places in classes.items()}
        for split, (path, classes, _) in caches.items()
    }
    files = ", ".join(caches[split].path.name for split in SPLITS)
    return Plan(source, Layout(classes, f"split by {files}", {}), None)


def load(path: Path) -> Any:
    """Read a pickle from a stranger: it can hold arrays, containers, numbers and text, and nothing of it is executed.

    Raises:
        UserError: it is damaged, or it names anything else, which is not imported.
    """
    try:
        if kind := special(path.stat().st_mode):
            raise UserError(f"a {kind}, not a pickle")
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()  # Python 2 wrote most of them
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle can do all sorts of things wrong
        raise UserError(f"{path}: not a pickle, or one that is cut off or damaged ({reason(error)})") from error


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode(encoding)


_NUMPY = {  # whose modules have other names in NumPy 1
    ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("multiarray", "scalar"): np.int64(0).__reduce__()[0],
    ("numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0],
}
_PLAIN = (list, dict, tuple, set, frozenset, bytearray, int, float, str, bool)
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.{m}", name): found for core in ("core", "_core") for (m, name), found in _NUMPY.items()},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in _PLAIN},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UserError(f"it names {module}.{name}; a pickle may hold arrays and plain containers only")
        return _ALLOWED[module, name]


def _mapping(path: Path) -> Mapping[str, Any]:
    content = load(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}


def _whole(path: Path, values: Any) -> NDArray[np.int64]:
    try:
        found = np.asarray(values)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise ValueError
    except ValueError:
        raise UserError(f"{path}: its labels are no list of whole numbers") from None
    return found.astype(np.int64)


def _grouped(path: Path, labels: NDArray[np.int64], names: Mapping[int, str]) -> dict[str, NDArray[np.int64]]:
    """Places of each label; a label without a name is called after its split's file and its number."""
    order = labels.argsort(kind="stable")
    numbers, starts = np.unique(labels[order], return_index=True)
    stem = path.stem.removesuffix("_labels")
    called = [names.get(int(number), f"{stem} {number}") for number in numbers]
    if len(set(called)) < len(called):
        raise UserError(f"{path}: two labels have one name")
    return dict(zip(called, np.split(order, starts[1:]), strict=True))


def _check_images(path: Path, shape: tuple[int, ...], dtype: Any, side: int) -> None:
    if len(shape) != 4 or shape[1:] != (side, side, 3) or dtype != np.uint8:
        raise UserError(f"{path}: its images are {dtype} {list(shape)}, uint8 [n, {side}, {side}, 3] is expected")


def _pngs(path: Path, fit: Fit) -> Iterator[Pixels]:
    content = load(path)
    if not isinstance(content, list | np.ndarray):
        raise UserError(f"{path}: expected a list of PNG files, found {type(content).__name__}")
    for number, png in enumerate(content):
        file = png.tobytes() if isinstance(png, np.ndarray) else bytes(png)
        yield decode(file, f"{path}: image {number}", fit)


def _npz(path: Path, side: int) -> Iterator[Pixels]:
    """The images of an npz, without having all in memory as `np.load` would."""
    with reading(path), zipfile.ZipFile(path) as archive:
        if "images.npy" not in archive.namelist():
            raise UserError(f"{path}: no array 'images' in it")
        with archive.open("images.npy") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            _check_images(path, shape, dtype, side)
            if fortran:
                raise UserError(f"{path}: its images are stored column by column, row by row is expected")
            for first in range(0, shape[0], BLOCK):
                count = min(BLOCK, shape[0] - first)
                data = file.read(count * side * side * 3)
                if len(data) < count * side * side * 3:
                    raise UserError(f"{path}: cut off within image {first + len(data) // (side * side * 3)}")
                yield from np.frombuffer(data, np.uint8).reshape(count, side, side, 3).transpose(0, 3, 1, 2)
