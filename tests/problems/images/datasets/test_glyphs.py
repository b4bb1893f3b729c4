import numpy as np

from raymeta.problem import SPLITS, open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.task import ImagesTask

SCRIPTS = {
    "validation": ("CYRILLIC", "HEBREW", "TIFINAGH"),
    "test": ("ARMENIAN", "GEORGIAN", "ARABIC", "NKO"),
}


def names(dataset: ImageDataset, split: str) -> list[str]:
    return [dataset.store.class_names[i] for i in dataset.store.classes(split)]  # type: ignore[arg-type]


def test_counts(glyphs: ImageDataset) -> None:
    about = glyphs.describe()
    assert about["classes"]["train"] >= 1900
    assert about["classes"]["validation"] >= 100
    assert about["classes"]["test"] >= 150
    assert about["images"] == 20 * sum(about["classes"].values())
    assert glyphs.store.images.shape[1:] == glyphs.input_shape == (1, 28, 28)
    assert (glyphs.store.sizes == 20).all()


def test_splits_share_neither_class_nor_script(glyphs: ImageDataset) -> None:
    classes = np.concatenate([glyphs.store.classes(split) for split in SPLITS])
    assert sorted(classes) == list(range(len(glyphs.store.class_names)))
    assert len(set(glyphs.store.class_names)) == len(classes)
    for split in SPLITS:
        for name in names(glyphs, split):
            words = set(name.replace("-", " ").split())
            assert {key for key, scripts in SCRIPTS.items() if words & set(scripts)} == {split} - {"train"}, name


def test_look_alikes_are_in_the_training_split_only(glyphs: ImageDataset) -> None:
    train, validation = names(glyphs, "train"), names(glyphs, "validation")
    assert "U+0041 LATIN CAPITAL LETTER A" in train
    assert "U+0391 GREEK CAPITAL LETTER ALPHA" not in train
    assert "U+0410 CYRILLIC CAPITAL LETTER A" not in validation
    assert "U+0442 CYRILLIC SMALL LETTER TE" not in validation  # m in italics
    assert "U+0414 CYRILLIC CAPITAL LETTER DE" in validation


def test_no_class_of_one_split_looks_like_one_of_another(glyphs: ImageDataset) -> None:
    """Measured on the examples themselves: correlation of the classes' mean images."""
    mean = glyphs.store.images.reshape(-1, 20, 28 * 28).mean(1)
    mean -= mean.mean(1, keepdims=True)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    train, validation, test = (mean[glyphs.store.classes(split)] for split in SPLITS)
    assert (validation @ train.T).max() < 0.97
    assert (test @ train.T).max() < 0.97
    assert (test @ validation.T).max() < 0.97
    latin_a = names(glyphs, "train").index("U+0041 LATIN CAPITAL LETTER A")
    assert (train[latin_a] @ mean.T > 0.97).sum() == 1  # the bound is not vacuous: only A is like A


def test_examples_differ_and_have_ink_inside_the_frame(glyphs: ImageDataset) -> None:
    images = np.asarray(glyphs.store.images).reshape(-1, 20, 28 * 28)
    assert (images.max(2) > 100).all()
    for one in images:
        assert len({example.tobytes() for example in one}) >= 19
    frame = np.asarray(glyphs.store.images)[:, 0].astype(np.int64)
    border = frame[:, [0, -1], :].sum() + frame[:, :, [0, -1]].sum()
    assert border < 0.001 * frame.sum()


def test_a_second_build_is_the_same(glyphs: ImageDataset) -> None:
    from raymeta.problems.images.reading.packing import fingerprint

    steps: list[tuple[int, int]] = []
    again = open_problem(ImagesTask())
    assert isinstance(again, ImageDataset)
    packed = again.build(None, lambda done, total: steps.append((done, total)))
    assert fingerprint(packed) == glyphs.fingerprint
    total = len(packed.class_names)
    assert steps == [(i + 1, total) for i in range(total)]
