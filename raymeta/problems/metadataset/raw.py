"""A class of pictures as their authors publish them, and its images as a record keeps them."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from PIL import Image

from raymeta.errors import UserError, shown
from raymeta.problems.images.reading.sources import UNREADABLE
from raymeta.problems.images.reading.trees import Tree

Box = tuple[int, int, int, int]  # left, top, right, bottom, as Pillow crops
OfClass = Callable[[str], "Raw"]


class Raw(NamedTuple):
    """A class: its name, how many images it has, and how they are read, encoded; or files of a tree."""

    name: str
    images: int
    read: Callable[[], Iterator[bytes]] | None
    tree: Tree | None = None
    paths: Sequence[str] = ()


def files(tree: Tree, name: str, paths: Sequence[str]) -> Raw:
    """A class whose images are files as they are."""
    return Raw(name, len(paths), None, tree, paths)


def kept(content: bytes) -> bytes:
    """A JPEG or PNG file as it is, any other as PNG."""
    with Image.open(io.BytesIO(content)) as image:
        if image.format in ("JPEG", "PNG"):
            return content
        return png(image.convert("RGB"))


def png(image: Image.Image) -> bytes:
    """An image, encoded."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def cut(tree: Tree, boxes: Iterable[tuple[str, Callable[[int, int], Box]]]) -> Iterator[bytes]:
    """Parts of pictures, as PNG. A picture is opened once for parts that follow each other.

    Args:
        tree: of the pictures.
        boxes: paths, each with what makes a box of the picture's width and height.

    Raises:
        UserError: a picture can't be read, or nothing of it is in a box.
    """
    wanted = list(boxes)
    pictures, path, image = tree.read_in_order(path for path, _ in wanted), "", Image.new("RGB", (1, 1))
    for wants, box in wanted:
        if wants != path:
            path, content = next(pictures)
            image = _opened(tree, path, content)
        left, top, right, bottom = box(*image.size)
        if right <= left or bottom <= top:
            raise UserError(
                f"{shown(tree.source)}: {shown(path)}: nothing of it is in the box {left, top, right, bottom}"
            )
        yield png(image.crop((left, top, right, bottom)))


def _opened(tree: Tree, path: str, content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except (*UNREADABLE, ValueError) as error:
        raise UserError(f"{shown(tree.source)}: {shown(path)} is not an image that can be read") from error
