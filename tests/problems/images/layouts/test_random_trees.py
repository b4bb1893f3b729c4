"""Random trees: what is found is what was meant, or it is refused in one sentence; never other classes."""

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paths import Made, found

from raymeta.errors import UserError
from raymeta.problem import SPLITS
from raymeta.problems.images.layouts.recognise import summary

ODD = [
    "train",
    "test",
    "val",
    "images",
    "data",
    "1",
    "001",
    "base",
    "dev",
    "a b",
    "Über",
    "x.y",
    "cat\n",
    "\udce9",
    "é",
]
NAME = st.one_of(st.sampled_from(ODD), st.text("abcdeXYZ0123_- ", min_size=1, max_size=6).filter(str.strip))
CLASS = st.text("abcdefgXYZ", min_size=1, max_size=5).map(lambda name: f"k{name}")
WORDS = [
    ("train", "val", "test"), ("Train", "Valid", "Test"), ("training", "validation", "testing"),
    ("base", "val", "novel"),
    ("meta_train", "meta_val", "meta_test"), ("TRAIN", "DEV", "EVAL"), ("train_images", "val_images", "test_images"),
]  # fmt: skip
WRAPPER = st.sampled_from(["", "photos/", "a/b/", "my set/images/", "GTSRB/Final_Training/Images/", "data/"])
FILES = ["notes.txt", "README.md", "labels.csv", "model.json", "Thumbs.db", "list.lst"]
SUFFIX = st.sampled_from([".png", ".jpg", ".JPEG", ".ppm", ""])


def put(folder: str, count: int, suffix: str) -> list[str]:
    return [f"{folder}/{number}{suffix}" for number in range(count)]


def written(draw: random.Random, meant: dict[str, set[str]]) -> dict[str, str]:
    """Lists that say the split of some classes, in one form or another."""
    words = dict(zip(SPLITS, draw.choice(WORDS[:6]), strict=True))
    between, head = draw.choice([",", ";", "\t", ", "]), draw.choice([["class", "split"], ["Label", "Set"], []])
    if draw.random() < 0.5:
        place, end = draw.choice(["", "splits/"]), draw.choice([".txt", ".csv"])
        return {f"{place}{words[s]}{end}": "\n".join(sorted(meant[s])) for s in SPLITS}
    rows = [*([between.join(head)] if head else []), *(between.join((n, words[s])) for s in SPLITS for n in meant[s])]
    return {draw.choice(["splits.csv", "Splits.csv", "class_split.txt"]): "\n".join(rows)}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(CLASS, min_size=3, max_size=12, unique_by=str.lower), WRAPPER, st.integers(0, 4), st.sampled_from(WORDS),
    st.lists(st.sampled_from(FILES), unique=True), st.integers(0, 2), SUFFIX, st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_plain_tree_is_found_as_it_is_meant(
    names: list[str], around: str, way: int, words: tuple[str, str, str], files: list[str], loose: int, suffix: str,
    draw: random.Random,
) -> None:  # fmt: skip
    """Class folders, in split folders or beside lists or alone, in a wrapper or not, with stray files and pictures."""
    cut = sorted(draw.sample(range(1, len(names)), 2))
    parts = dict(zip(SPLITS, (set(names[: cut[0]]), set(names[cut[0] : cut[1]]), set(names[cut[1] :])), strict=True))
    homes = dict(zip(SPLITS, words, strict=True))
    lists = {f"{around}{name}": "some words\nof no list" for name in files}
    tail = ["", "", "", "/images", ""][way]
    if way == 0:
        paths = [p for s in SPLITS for n in parts[s] for p in put(f"{around}{homes[s]}/{n}", 3, suffix)]
    else:
        paths = [path for name in names for path in put(f"{around}{name}{tail}", 3, suffix)]
    if way in (1, 3):
        beside = draw.choice(["", around])
        lists |= {f"{beside}{name}": text for name, text in written(draw, parts).items()}
    strays = [f"{around}loose{number}.png" for number in range(loose)]
    made = found(paths + strays, lists)
    if way in (0, 1, 3):
        assert {split: set(classes) for split, classes in made.classes.items()} == parts
        assert "split by " in made.layout.words
    else:
        assert sorted(name for classes in made.classes.values() for name in classes) == sorted(names)
        assert made.layout.words.startswith("split at random")
    packed = {path for classes in made.layout.classes.values() for some in classes.values() for path in some}
    left = {path for some in made.layout.left.values() for path in some}
    assert packed == set(paths)
    assert set(strays) <= left
    for classes in made.layout.classes.values():
        for label, some in classes.items():
            assert all(path.removesuffix(path[path.rindex("/") :]).removesuffix(tail).endswith(label) for path in some)


def subtrees() -> st.SearchStrategy[list[str]]:
    """Paths of pictures in folders of folders with any names."""
    folder = st.lists(NAME, max_size=4).map("/".join)
    return st.lists(st.tuples(folder, st.integers(1, 3)), min_size=1, max_size=14).map(
        lambda folders: sorted({path.lstrip("/") for name, count in folders for path in put(name, count, ".png")})
    )


WORD = st.sampled_from(["class", "split", "filename", "label", "train", "val", "test", "0.png", "a/0.png"])
CELL = st.one_of(NAME, WORD)


def texts() -> st.SearchStrategy[str]:
    rows = st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=6)
    return st.tuples(rows, st.sampled_from(",;\t |")).map(lambda of: "\n".join(of[1].join(row) for row in of[0]))


def jsons() -> st.SearchStrategy[str]:
    def within(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
        return st.lists(inner, max_size=3) | st.dictionaries(CELL, inner, max_size=3)

    return st.recursive(CELL | st.integers() | st.none(), within, max_leaves=8).map(json.dumps)


PLACES = ["train.csv", "val.csv", "test.csv", "splits.csv", "split/train.txt", "a.json", "splits.json", "x.tsv"]
LISTS = st.dictionaries(st.sampled_from(PLACES), st.one_of(texts(), jsons(), st.binary(max_size=40)), max_size=4)


@settings(max_examples=300, deadline=None)
@given(subtrees(), LISTS, st.sampled_from([None, 0.2, 0.9]))
@example(["train/train/0.png", "train/val/0.png"], {}, None)
def test_any_tree_is_read_whole_or_refused_in_a_sentence(
    paths: list[str], lists: dict[str, str | bytes], share: float | None
) -> None:
    """What is packed has folders for classes, each class in one split, each picture once; the rest is listed."""
    safe = {name: text.encode(errors="replace") if isinstance(text, str) else text for name, text in lists.items()}
    made = attempt(paths, safe, share)
    if isinstance(made, str):
        assert made.isprintable()
        assert made.startswith("tree: ")
        return
    layout = made.layout
    packed = list(_packed(layout.classes))
    left = [path for kind, some in layout.left.items() for path in some if not kind.startswith("list")]
    assert sorted([*packed, *left]) == sorted(paths)
    names = [name for classes in layout.classes.values() for name in classes]
    assert len(set(names)) == len(names)
    assert all(layout.classes[split] for split in SPLITS)
    assert "\n" not in summary(layout) or "\n" in "".join(paths)
    if not safe:
        for classes in layout.classes.values():
            for label, some in classes.items():
                assert all(label in path.split("/")[:-1] for path in some)


def attempt(paths: list[str], lists: dict[str, bytes], share: float | None) -> Made | str:
    """What is found, or the sentence of the refusal."""
    try:
        return found(paths, lists, share)
    except UserError as error:
        return str(error)


def _packed(classes: object) -> Iterator[str]:
    assert isinstance(classes, dict)
    for by_class in classes.values():
        for some in by_class.values():
            yield from some


@pytest.mark.parametrize("level", range(1, 4))
def test_depth_makes_no_difference(level: int) -> None:
    around = "/".join(f"level{number}" for number in range(level))
    assert found(f"{around}/{name}/1.png" for name in "abcdef").classes == found(f"{n}/1.png" for n in "abcdef").classes
