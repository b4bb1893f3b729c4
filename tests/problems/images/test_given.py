"""Pictures that a user brings: whatever they come as, models see them as they see the packed ones."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from photos import class_tree, dataset, photo
from PIL import Image

from raymeta.errors import UserError
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.pictures import centred

GREY = dataset("glyphs")
COLOUR = dataset("cub")


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def standardised(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """By hand, with ImageNet's numbers."""
    mean, std = (
        np.array(values, np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (packed.astype(np.float32) / 255 - mean) / std


def test_packed_pixels_are_what_the_bank_gives(glyphs: ImageDataset) -> None:
    packed = np.asarray(glyphs.store.images[:5])
    expected = torch.from_numpy(glyphs.store.scaled(packed))
    assert torch.equal(glyphs.inputs(packed), expected)
    assert torch.equal(glyphs.inputs(packed[:, 0]), expected)
    assert torch.equal(glyphs.inputs(torch.from_numpy(packed)), expected)
    assert torch.equal(glyphs.inputs(list(packed[:, 0])), expected)
    assert torch.equal(glyphs.inputs(packed.astype(np.float64) / 255), expected)


def test_layouts_and_kinds_of_colour_images_are_the_same() -> None:
    first = pixels(4, 3, 84, 84)
    expected = COLOUR.inputs(first)
    assert np.array_equal(expected.numpy(), standardised(first))
    last = first.transpose(0, 2, 3, 1)
    for given in (last, torch.from_numpy(last), torch.from_numpy(first).float() / 255, list(last)):
        assert torch.equal(COLOUR.inputs(given), expected)


def test_files_pass_through_what_packed_files_passed_through(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "few"
    class_tree(source, ["cat", "dog", "eel", "fox"], 2)
    Image.fromarray(pixels(50, 120, 3)).save(source / "cat" / "1.png")  # of another size and shape
    found = dataset("folder", source=str(source))
    found.prepare(source)
    names = found.store.class_names
    files = [source / name / f"{number}.png" for name in names for number in (1, 2)]
    expected = torch.from_numpy(found.store.scaled(np.asarray(found.store.images)))
    assert torch.equal(found.inputs(files), expected)
    assert torch.equal(found.inputs([str(file) for file in files]), expected)
    assert torch.equal(found.inputs([Image.open(file) for file in files]), expected)
    assert torch.equal(found.inputs([np.asarray(Image.open(file)) for file in files]), expected)


@pytest.mark.parametrize("how", [{}, {"size": 20, "grey": True, "background": "#405060"}])
def test_pictures_of_every_kind_are_seen_as_they_were_packed(tmp_path: Path, cache: Path, how: dict[str, Any]) -> None:
    rng, source, turned = np.random.default_rng(0), tmp_path / "odd", Image.Exif()
    turned[0x0112] = 6
    for name in ("cat", "dog", "eel"):
        (source / name).mkdir(parents=True)
        colours = Image.fromarray(rng.integers(0, 256, (30, 40, 4), np.uint8))
        colours.save(source / name / "alpha.png")
        colours.convert("RGB").save(source / name / "turned.jpg", exif=turned)
        colours.convert("CMYK").save(source / name / "cmyk.tif")
        colours.convert("P").save(source / name / "clear.gif", transparency=3)
        Image.fromarray(rng.integers(0, 2**16, (30, 40), np.uint16)).save(source / name / "deep.png")
        Image.fromarray(rng.random((30, 40), np.float32)).save(source / name / "floats.tif")
    found = dataset("folder", source=str(source), **how)
    found.prepare(source)
    files = [path for name in found.store.class_names for path in sorted((source / name).iterdir())]
    expected = torch.from_numpy(found.store.scaled(np.asarray(found.store.images)))
    assert torch.equal(found.inputs(files), expected)
    assert torch.equal(found.inputs([Image.open(file) for file in files]), expected)


def test_a_data_set_s_own_way_from_a_file_to_its_size() -> None:
    picture = photo(200, 100)
    as_cub = np.asarray(centred(84)(picture)).transpose(2, 0, 1)
    assert np.array_equal(COLOUR.inputs([picture]).numpy()[0], standardised(as_cub))
    drawn = Image.new("1", (105, 105), 1)
    drawn.paste(0, (40, 20, 60, 80))
    (seen,) = dataset("omniglot").inputs([drawn]).numpy()
    assert seen.shape == (1, 28, 28)
    assert seen[0, 14, 13] > 0.9  # ink is high
    assert seen[0, 0, 0] < 0.01
    assert np.array_equal(seen, GREY.inputs([drawn.convert("RGB")]).numpy()[0])


def test_nothing_of_the_data_is_read(cache: Path) -> None:
    assert not COLOUR.ready
    assert COLOUR.inputs(pixels(2, 10, 12, 3)).shape == (2, 3, 84, 84)
    assert not cache.exists()


WRONG: dict[str, tuple[Any, str]] = {
    "one grey image": (pixels(28, 28), r"shape \[28, 28\]: expected \[n, H, W\]"),
    "one colour image": (pixels(84, 84, 3), "one image\\?"),
    "four channels": (pixels(2, 84, 84, 4), r"an image of shape \[84, 84, 4\]"),
    "standardised": (np.array([[[-0.4, 2.6]]]), "floats from -0.4 to 2.6: expected 0..1; they are standardised here"),
    "not finite": (np.array([[[0.4, np.nan]]]), "expected 0..1"),
    "whole numbers": (np.array([[[4, 5]]]), "numbers of type int64: expected uint8"),
    "nothing": ([], "images: found none"),
    "a number": (7, "found int: expected an array or a sequence of images"),
    "numbers": ([7, 8], "found int: expected images of Pillow, paths or arrays"),
    "no file": (["nowhere.png"], "nowhere.png: no such file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_picture_is_a_sentence(case: str) -> None:
    given, sentence = WRONG[case]
    with pytest.raises(UserError, match=sentence):
        COLOUR.inputs(given)


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: a FIFO, not an image$"):
        GREY.inputs([tmp_path / "pipe.png"])
    with pytest.raises(UserError, match=r"^images: found one that has floats that are not in 0..1"):
        GREY.inputs([Image.fromarray(np.full((3, 3), 2, np.float32))])
    deep = np.array([[[0, 1000], [65535, 128]]], np.uint16)
    assert torch.equal(COLOUR.inputs(deep), COLOUR.inputs(np.array([[[0, 4], [255, 0]]], np.uint8)))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.png is not an image that can be read"):
        GREY.inputs([tmp_path / "text.png"])
