"""Class folders and split folders: what is read, what is refused, and what is said of it."""

import pytest
from paths import KINDS, PARTS, by_split, found, pictures, refused

from raymeta.problem import SPLITS
from raymeta.problems.images.layouts.recognise import summary
from raymeta.problems.images.reading.files import BELOW, NO_CLASS, NO_SPLIT, UNUSED

READ = "; read are CLASS/PICTURE, SPLIT/CLASS/PICTURE (train, val, test)"


@pytest.mark.parametrize("words", [
    ("train", "val", "test"), ("Train", "Val", "Test"), ("TRAIN", "VALID", "TEST"),
    ("training", "validation", "testing"),
    ("base", "val", "novel"), ("meta-train", "meta-val", "meta-test"), ("metatrain", "metaval", "metatest"),
    ("train_set", "ValSet", "test set"), ("train", "dev", "test"), ("train", "eval", "test"), ("trn", "val", "tst"),
    ("train", "val", "evaluation"), ("images_train", "images_val", "images_test"),
    ("train_data", "val_data", "test_data"),
    ("birds_train_v2", "birds_val_v2", "birds_test_v2"), ("train2017", "val2017", "test2017"),
    ("Base", "Validation", "Novel"),
])  # fmt: skip
@pytest.mark.parametrize("around", ["", "archive/", "my data/images/"])
def test_split_folders_in_any_words_and_any_wrapper(words: tuple[str, str, str], around: str) -> None:
    made = found(around + path for path in by_split(*words))
    assert made.classes == PARTS
    assert summary(made.layout) == f"5 / 3 / 2 classes, 2 images each, split by the folders {', '.join(words)}"
    assert not made.layout.left


@pytest.mark.parametrize("below", ["images/", "a/b/"])
def test_splits_may_have_a_folder_around_their_classes(below: str) -> None:
    assert found(by_split("train", "val", "test", below=below)).classes == PARTS


def test_splits_may_have_folders_within_their_classes() -> None:
    paths = [
        path.replace("/", "/x/images/", 1).replace("x/images/", "", 1) for path in by_split("train", "val", "test")
    ]
    inner = [f"{path.rpartition('/')[0]}/images/{path.rpartition('/')[2]}" for path in paths]
    made = found(inner)
    assert made.classes == PARTS
    assert "the pictures of a class in images/" in made.layout.words


@pytest.mark.parametrize(("around", "said"), [
    ("", ""), ("photos/", ""), ("a/b/c/", ""), ("GTSRB/Final_Training/Images/", ""),
])  # fmt: skip
def test_class_folders_are_split_once_and_for_all(around: str, said: str) -> None:
    made = found(pictures(*(f"{around}{name}" for name in KINDS)))
    assert sorted(name for names in made.classes.values() for name in names) == KINDS
    assert [len(made.classes[split]) for split in SPLITS] == [6, 2, 2]
    assert made.classes["test"] == ["kind b", "kind c"]  # a split of yesterday is one of tomorrow
    assert made.layout.words == "split at random, 64 / 16 / 20 % of the classes"


@pytest.mark.parametrize("count", range(3, 30))
def test_a_random_split_has_every_class_once_and_no_empty_part(count: int) -> None:
    made = found(pictures(*(f"c{number}" for number in range(count))))
    sizes = [len(made.classes[split]) for split in SPLITS]
    assert sum(sizes) == count
    assert min(sizes) >= 1
    assert sizes[0] == max(sizes)


def test_numbers_and_words_of_splits_may_be_classes() -> None:
    vehicles = ["bus", "car", "tram", "train", "truck"]
    for kinds in (vehicles, [str(number) for number in range(10)]):
        assert set().union(*found(pictures(*kinds)).classes.values()) == set(kinds)


def test_what_lies_beside_is_left_out_and_listed() -> None:
    paths = [
        *(f"photos/{path}" for path in pictures(*KINDS)),
        "cover.png",
        "photos/back.png",
        "photos/kind a/old/1.png",
    ]
    left = found(paths, {"notes.txt": "hello"}).layout.left
    assert left == {
        NO_CLASS: ["cover.png", "photos/back.png"],
        BELOW: ["photos/kind a/old/1.png"],
        UNUSED: ["notes.txt"],
    }
    split = [*by_split("train", "val", "test"), "train/loose.png", "extra/cat/1.png"]
    assert found(split).layout.left == {NO_CLASS: ["train/loose.png"], NO_SPLIT: ["extra/cat/1.png"]}


@pytest.mark.parametrize(("paths", "classes", "said"), [
    ([f"{kind}/images/{n}.png" for kind in KINDS for n in range(2)], KINDS, "the pictures of a class in images/"),
    ([f"{kind}/{part}/{n}.png" for kind in KINDS for part in ("train", "test") for n in range(2)], KINDS,
     "the folders test and train of each class put together"),
    ([f"{kind}/{part}/{n}.png" for kind in KINDS for part in ("Train", "Val") for n in range(2)], KINDS,
     "the folders Train and Val of each class put together"),
])  # fmt: skip
def test_two_levels_of_folders(paths: list[str], classes: list[str], said: str) -> None:
    made = found(paths)
    assert sorted(name for names in made.classes.values() for name in names) == classes
    assert said in summary(made.layout)
    assert not made.layout.left


FLAT = [f"all/{n}.png" for n in range(9)]
SAME = pictures(*(f"{split}/{kind}" for split in ("train", "val", "test") for kind in KINDS))


@pytest.mark.parametrize(("paths", "message"), [
    ([], "nothing is in it; read are CLASS/PICTURE"),
    (pictures("cat"), "all its pictures lie in cat/ (2): there are no class folders, of which three at least are"),
    (FLAT, "all its pictures lie in all/ (9): there are no class folders"),
    ([f"{n}.png" for n in range(9)], "its top has 9 pictures, but no class folders"),
    (pictures("cat", "dog"), "it has 2 classes, cat and dog, and three at least are needed"),
    (pictures("images/a", "images/b", "images/c", "masks/a", "masks/b", "masks/c"),
     "pictures lie in images/ (6), masks/ (6), and images and masks are no class by name: name the folder"),
    (pictures("x/images/a", "x/images/b", "x/masks/a_mask", "x/masks/b_mask"), "images and masks are no class by name"),
    (pictures("images", "masks", "edges"), "images and masks are no class by name"),
    (pictures("images/train/a", "images/val/b", "masks/train/a", "masks/val/b"), "images and masks are no class by"),
    (pictures("x/s1", "x/s2", "y/s1", "y/s2", "z/s1"),
     "folders of pictures are in folders: 5, as x/s1/, x/s2/, y/s1/ and 2 more, in 3, as x/, y/, z/, and either may"),
    (pictures("animals/cat", "animals/dog", "plants/fir", "plants/ivy"), "either may be the classes: say which by a"),
    (pictures("x/2001", "x/2002", "y/2003", "z/2004"), "either may be the classes"),
    (pictures("a", "b", "c", "backup/a", "backup/b"), "folders of pictures are at two levels: a/ (2), b/ (2), c/ (2)"),
    (pictures(*(f"train/{kind}" for kind in KINDS)), "train is the only folder with pictures and says one split: name"),
    (pictures("train/a", "train/b", "test/c"),
     "it is split by train, test, and no folder with pictures says validation: say which classes are for validation, "
     "or hold some of those for training out by `raymeta data prepare folder --validation-share 0.2"),
    (pictures("train/a", "train/b", "val/c"), "it is split by train, val, and no folder with pictures says test: say"),
    (pictures("val/a", "val/b", "test/c"), "it is split by val, test, and no folder with pictures says train: put"),
    (pictures("train/a", "training/b", "val/c", "test/d"), "the folders train and training both say the train split"),
    ([*pictures("train/a", "train/b"), *(f"test/{n}.png" for n in range(4))],
     "test/ (4) has pictures, but no class folders, and no folder with pictures says validation"),
    ([*pictures("train/a/images", "train/b/images"), "val/images/1.png", "test/images/1.png"],
     "val/ (1) and test/ (1) have pictures, but no class folders"),
    ([*pictures("train/a", "train/b"), "val/images/1.png", "test/unknown/1.png"],
     "val/ (1) and test/ (1) have pictures, but no class folders"),
    (pictures("train", "val", "test"), "test/ (2), train/ (2) and val/ (2) have pictures, but no class folders"),
    (pictures("train_images", "test_images", "meta"), "have pictures, but no class folders"),
    (SAME, "all 10 classes are in each of train/, val/ and test/: a split for few-shot learning is one of classes"),
    (pictures("train/a", "train/b", "val/a", "test/c"), "class 'a' is in train/ and val/: a split for few-shot"),
    (pictures("birds_train/a", "birds_val/b", "birds_extra/c", "birds_test/d", "birds_test/e")[:-4],
     "no folder with pictures says test"),
])  # fmt: skip
def test_what_is_not_clear_is_refused(paths: list[str], message: str) -> None:
    text = refused(paths)
    assert message in text
    assert READ in text


def test_validation_classes_are_held_out_where_there_are_none() -> None:
    paths = pictures(*(f"train/{kind}" for kind in KINDS[:8]), "test/x", "test/y")
    made = found(paths, share=0.25)
    assert [len(made.classes[split]) for split in SPLITS] == [6, 2, 2]
    assert made.classes["test"] == ["x", "y"]
    assert sorted(made.classes["train"] + made.classes["validation"]) == KINDS[:8]
    assert made.layout.held_out
    held = ", ".join(made.classes["validation"])
    assert f"2 of the 8 training classes held out for validation ({held})" in made.layout.words
    assert (
        found(paths, share=0.01).classes["validation"] == made.classes["validation"][:1]
        or len(found(paths, share=0.01).classes["validation"]) == 1
    )
    assert not found(by_split("train", "val", "test"), share=0.5).layout.held_out
    assert "--validation-share 1.5: a share of the training classes is between 0 and 1" in refused(paths, share=1.5)
    assert "leaves none to train on" in refused(paths, share=0.99)
    assert "neither folders nor lists say which classes" in refused(pictures(*KINDS), drawn=False)


def test_names_with_line_breaks_stay_on_one_line() -> None:
    assert r"$'a\nb/' (2)" in refused(pictures("a\nb", "images"))
    assert r"$'\xe9/' (2)" in refused(pictures("\udce9", "images"))
