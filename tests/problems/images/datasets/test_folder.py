"""Folders of class folders: three ways to split them, where the store is, and what changes it."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from photos import class_tree, dataset, write_photo
from PIL import Image
from pydantic import ValidationError

from raymeta import cli
from raymeta.api.data import prepare, preview, with_source
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problem import SPLITS, open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading import trees
from raymeta.study.plan.plan import make_config

PETS = [f"pet{i:02d}" for i in range(25)]


@pytest.fixture
def pets(tmp_path: Path, cache: Path) -> Path:
    """25 classes of two images."""
    class_tree(tmp_path / "pets", PETS, 2)
    return tmp_path / "pets"


@pytest.fixture
def few(tmp_path: Path, cache: Path) -> Path:
    class_tree(tmp_path / "few", ["cat", "dog", "eel", "fox"], 2)
    return tmp_path / "few"


def prepared(source: Path, **task: object) -> ImageDataset:
    found = dataset("folder", source=str(source), **task)
    found.prepare(source)
    return found


def members(found: ImageDataset) -> dict[str, list[str]]:
    return {split: [found.store.class_names[c] for c in found.store.classes(split)] for split in SPLITS}


def test_without_a_list_classes_are_shuffled_once(pets: Path) -> None:
    parts = members(prepared(pets))
    assert [len(parts[split]) for split in SPLITS] == [16, 4, 5]
    assert sorted(name for part in parts.values() for name in part) == PETS
    assert parts["train"] != PETS[:16]
    assert parts["validation"] == ["pet12", "pet14", "pet15", "pet19"]  # a split of yesterday is one of tomorrow


def test_folders_and_lists_say_the_split(few: Path, tmp_path: Path) -> None:
    expected = {"train": ["cat", "eel"], "validation": ["fox"], "test": ["dog"]}
    (few / "splits.csv").write_text("class,split\ncat,train\ndog,test\neel,train\nfox,valid\n")
    (few / "cat" / "notes.txt").write_text("no image")
    (few / ".cache").mkdir()
    listed = prepared(few)
    assert members(listed) == expected
    for name, split in {"cat": "train", "eel": "train", "fox": "validation", "dog": "test"}.items():
        shutil.copytree(few / name, tmp_path / "by" / split / name)
    assert members(prepared(tmp_path / "by")) == expected
    assert prepared(tmp_path / "by").fingerprint == listed.fingerprint
    shutil.make_archive(str(tmp_path / "few"), "zip", tmp_path, "few")
    shutil.make_archive(str(tmp_path / "by"), "gztar", tmp_path / "by")
    for archive in ("few.zip", "by.tar.gz"):
        assert prepared(tmp_path / archive).fingerprint == listed.fingerprint


def test_every_folder_has_a_store_of_its_own(few: Path, pets: Path) -> None:
    one, other = prepared(few), prepared(pets)
    assert one.folder != other.folder
    assert (len(one.store.images), len(other.store.images)) == (8, 50)
    assert one.ready
    assert other.ready


def test_a_changed_source_is_packed_again_and_an_unchanged_or_lost_one_is_not(few: Path) -> None:
    found = prepared(few)
    made, before = found.folder.stat().st_ino, found.fingerprint
    assert prepared(few).folder.stat().st_ino == made
    write_photo(few / "cat" / "1.png", 90, 50)
    os.utime(few / "cat" / "1.png", ns=(0, 10**18))
    assert not dataset("folder", source=str(few)).ready
    again = prepared(few)
    assert again.fingerprint != before
    (few / "cat" / "2.png").rename(few / "cat" / "3.png")
    assert not again.ready
    again.prepare()
    shutil.rmtree(few)
    again.prepare()
    assert again.ready
    with pytest.raises(UserError, match=r"few: no such folder$"):
        again.prepare(rebuild=True)


HALF = """
import sys, time
from pathlib import Path
from raymeta.problems.images.task import ImagesTask
from raymeta.problems.images.reading import packing
from raymeta.problems.images.reading import trees
from raymeta.problem import open_problem
packing.SETTLE_S, decode, read = -1.0, trees.decode, []
def slow(*given):
    read.append(given)
    if len(read) > 30:
        print(read[0][1], flush=True)
        time.sleep(60)
    return decode(*given)
trees.decode = slow
open_problem(ImagesTask(dataset="folder", source=sys.argv[1])).prepare(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_packing_that_was_killed_is_gone_on_with(
    pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    source = Path(shutil.make_archive(str(pets), "tar", pets)) if packed else pets
    killed = subprocess.Popen([sys.executable, "-c", HALF, str(source)], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    first = killed.stdout.readline().strip().removeprefix(f"{source}: ")
    killed.kill()
    killed.communicate()
    found = dataset("folder", source=str(source))
    assert not found.ready
    if not packed:
        write_photo(pets / first)  # one that had been read is another one now
    decoded, told = [], []
    decode = trees.decode
    monkeypatch.setattr(trees, "decode", lambda *given: decoded.append(given[1]) or decode(*given))
    found.prepare(source, lambda done, total: told.append((done, total)))
    assert len(decoded) == (20 if packed else 21)
    assert told[-1] == (50, 50)
    assert len(told) == len(decoded)
    resumed = found.fingerprint
    found.prepare(source, rebuild=True)
    assert len(decoded) == (70 if packed else 71)
    assert found.fingerprint == resumed
    assert not list(cache.glob(".*"))


def test_a_full_disk_keeps_nothing_of_it(pets: Path, cache: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))  # the system writes no more than that into a file
    try:
        with pytest.raises(UserError, match=r"cannot be written: File too large \(RAYMETA_CACHE moves it\)$"):
            prepared(pets)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_worker_finds_it_with_the_config_alone(pets: Path) -> None:
    words = ["task.ways=2", "task.shots=1", "task.queries=1"]
    config = with_source(make_config("maml", "folder", words=words), pets)
    open_problem(config.task).prepare(pets)
    code = f"""
import json
from raymeta.config import parse_trial
from raymeta.problem import open_problem
config = parse_trial(json.loads({json.dumps(config.as_dict())!r}))
print(open_problem(config.task).bank("train", 0).draw(0, 1).support.x.shape)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout == "torch.Size([1, 2, 3, 84, 84])\n", done.stderr
    assert parse_trial(config.as_dict()) == config


def test_the_command_line_puts_the_path_into_the_config(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pets.parent)
    words = ["search", "maml", "--task", "folder-2w1s", "--preset", "smoke", "--data-root", "pets", "--dry-run"]
    small = ["task.queries=1", "model.name=conv4", "model.width=2", "maml.inner_steps=1", "budget.validation_tasks=2"]
    monkeypatch.setattr(sys, "argv", ["raymeta", *words, *small])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None), capsys.readouterr().err
    assert dataset("folder", source=str(pets)).ready


def _no_images(few: Path) -> None:
    for path in few.rglob("*.png"):
        path.rename(path.with_suffix(".txt"))


def _no_validation(few: Path) -> None:
    (few / "cat").rename(few / "x")
    (few / "train").mkdir()
    (few / "x").rename(few / "train" / "cat")


def _list(text: str) -> Callable[[Path], None]:
    def damage(few: Path) -> None:
        (few / "splits.csv").write_text(text)

    return damage


def _in_two(few: Path) -> None:
    for split in ("train", "val", "test"):
        class_tree(few / split, ["cat"], 1)


def _unreadable(few: Path) -> None:
    (few / "eel" / "1.png").write_bytes((few / "eel" / "1.png").read_bytes()[:99])


@pytest.mark.parametrize(("damage", "message"), [
    (_no_images, ": no pictures are in it, but 8 .txt; read are CLASS/PICTURE"),
    (_no_validation, ": it is split by train, and no folder with pictures says validation or test: put"),
    (_in_two, ": all 1 classes are in each of train/, val/ and test/: a split for few-shot"),
    (_unreadable, ": eel/1.png is not an image that can be read"),
    (_list("class,split\ncat,train\n"), ": splits.csv names no validation and no test class: put folders"),
    (_list("class,split\ncow,train\n"), ": splits.csv: line 2: there is no folder of the class 'cow'"),
    (_list("class,split\ncat,tarin\n"), ": splits.csv: line 2: unknown split 'tarin': did you mean 'train'? "),
    (_list("class,split\ncat,train\ncat,test\n"), ": splits.csv: line 3: the class 'cat' is named a second time"),
    (_list("cat\ndog\n"), ": splits.csv says splits by its name, but it has no column of splits"),
    (shutil.rmtree, ": no such folder"),
])  # fmt: skip
def test_damage_is_one_sentence(few: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(few)
    with pytest.raises(UserError) as caught:
        prepared(few)
    assert str(caught.value).startswith(f"{few}{message}")
    assert "\n" not in str(caught.value)
    assert not dataset("folder", source=str(few)).ready


def test_broken_pictures_are_named_at_once_or_left_out_with_a_list(pets: Path) -> None:
    for number, name in enumerate(PETS[:4]):
        (pets / name / "1.png").write_bytes(b"" if number else b"<html>")
    (pets / "notes.HTM").write_text("no picture")
    with pytest.raises(UserError) as caught:
        prepared(pets)
    assert str(caught.value).startswith(
        f"{pets}: 4 pictures are not images that can be read: pet00/1.png, pet01/1.png, pet02/1.png and 1 more; "
        "--skip-broken"
    )
    found = prepared(pets, skip_broken=True)
    assert len(found.store.images) == 46
    assert dict(zip(found.store.class_names, found.store.sizes, strict=True))["pet03"] == 1
    listed = (found.folder / "left_out.txt").read_text().splitlines()
    assert sorted(listed) == [".htm\tnotes.HTM", *(f"broken picture\t{name}/1.png" for name in PETS[:4])]
    assert found.describe()["left_out"].startswith(
        "1 .htm, 4 broken pictures (pet00/1.png, pet01/1.png, pet02/1.png and"
    )
    for name in PETS[:4]:
        (pets / name / "1.png").unlink()
    assert prepared(pets).fingerprint == found.fingerprint  # as if they had never been there
    (pets / PETS[0] / "2.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"pets: no picture of the class 'pet00' can be read$"):
        prepared(pets, skip_broken=True)


def test_what_was_noted_before_a_broken_picture_is_said_when_packing_goes_on(pets: Path) -> None:
    Image.fromarray(np.zeros((3, 3), np.uint16)).save(pets / "pet00" / "1.png")
    Image.new("RGBA", (3, 3)).save(pets / "pet01" / "1.png")
    (pets / "pet02" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"pet02/1\.png is not an image that can be read"):
        prepared(pets)
    Image.new("LA", (3, 3)).save(pets / "pet02" / "1.png")
    said = prepared(pets).describe()
    assert said["16 bits, scaled by their range"] == "1 (pet00/1.png)"
    assert said["with transparency, over the background"] == "2 (pet01/1.png, pet02/1.png)"


def test_size_and_colour_are_the_user_s(few: Path) -> None:
    plain, small = prepared(few), prepared(few, size=28, grey=True)
    assert (small.input_shape, small.store.images.shape) == ((1, 28, 28), (8, 1, 28, 28))
    assert small.folder != plain.folder
    assert prepared(few, size=84, background="#FFFFFF").folder == plain.folder
    assert prepared(few, background="black").fingerprint == plain.fingerprint  # nothing is transparent
    with Image.open(few / "cat" / "1.png") as image:
        expected = np.asarray(image.convert("L").resize((28, 28), Image.Resampling.LANCZOS))
    row = small.store.starts[small.store.class_names.index("cat")]
    assert np.array_equal(small.store.images[row, 0], expected)
    assert small.inputs([few / "cat" / "1.png"]).numpy().tolist() == [[(expected / np.float32(255)).tolist()]]
    assert small.describe()["in_a_search"] == f"--task folder-5w1s --data-root {few} task.size=28 task.grey=true"
    task = small.task.model_copy(update={"ways": 2, "queries": 1})
    assert open_problem(task).bank("train", 0).draw(0, 1).support.x.shape == (1, 2, 1, 28, 28)
    with pytest.raises(UserError, match=r"prepare folder --data-root \S+ --size 28 --grey --background '#ff0000'`$"):
        dataset("folder", source=str(few), size=28, grey=True, background="red").bank("train", 0)
    with pytest.raises(UserError, match=r"^task.size: found '28', but omniglot is packed as published$"):
        dataset("omniglot", size=28)
    with pytest.raises(ValidationError, match="found 'whiet': expected a colour"):
        dataset("folder", source=str(few), background="whiet")


def test_a_name_of_any_bytes_is_packed(few: Path) -> None:
    odd = os.fsdecode(os.fsencode(few) + b"/caf\xe9\n")
    (few / "cat").rename(odd)
    names = prepared(few).store.class_names
    assert sorted(names) == [r"$'caf\xe9\n'", "dog", "eel", "fox"]
    (Path(odd) / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"few: \$'caf\\xe9\\n/1\.png' is not an image that can be read"):
        prepared(few)


def test_a_source_is_listed_once(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    prepare("folder", pets)
    assert len([path for path in listed if str(path).startswith(str(pets))]) == 26
    listed.clear()
    prepare("folder", pets)  # which looks whether something is another than before
    assert len([path for path in listed if str(path).startswith(str(pets))]) == 26


def test_a_store_of_version_0_1_0_is_read(few: Path) -> None:
    found = prepared(few)
    meta = json.loads((found.folder / "meta.json").read_text())
    old = ("format", "name", "version", "listing", "fingerprint", "shape", "class_names", "sizes", "splits")
    (found.folder / "meta.json").write_text(json.dumps({key: meta[key] for key in old}, ensure_ascii=False))
    made = found.folder.stat().st_ino
    assert found.folder.name == f"folder-{sha256(os.fsencode(few)).hexdigest()[:12]}-1"
    assert prepared(few).describe()["images"] == 8
    assert found.folder.stat().st_ino == made
    digest = sha256()
    for path in sorted(few.rglob("*.png")):
        about = path.stat()
        digest.update(json.dumps([str(path), about.st_size, about.st_mtime_ns]).encode())
    assert meta["listing"] == digest.hexdigest()


def test_what_needs_a_source_and_what_has_none(few: Path, pets: Path) -> None:
    without = dataset("folder")
    assert not without.ready
    assert json.loads(json.dumps(without.describe()))["ready"] is False
    for use in (without.prepare, lambda: without.bank("train", 0)):
        with pytest.raises(UserError, match=r"^folder: name the folder of class folders by --data-root$"):
            use()
    with pytest.raises(UserError, match=f"run `raymeta data prepare folder --data-root {few}`$"):
        dataset("folder", source=str(few)).bank("train", 0)
    with pytest.raises(UserError, match="the task's source is another one"):
        dataset("folder", source=str(few)).prepare(pets)
    with pytest.raises(UserError, match=r"^task.source: found '/x', but omniglot has none; --data-root says where"):
        dataset("omniglot", source="/x")
    with pytest.raises(UserError, match=r"^task.ways: found 5, but the validation split of folder .* has 1 classes"):
        prepared(few, ways=5).bank("validation", 0)


def test_a_damaged_store_is_one_sentence(few: Path) -> None:
    found = prepared(few)
    (found.folder / "meta.json").write_text("{}")
    with pytest.raises(UserError, match=f"run `raymeta data prepare folder --data-root {few} --rebuild`$"):
        prepared(few)


@pytest.fixture
def two_splits(tmp_path: Path, cache: Path) -> Path:
    """Folders for training and testing alone."""
    for split, kinds in {"train": "abcdef", "test": "xyz"}.items():
        class_tree(tmp_path / "two" / split, [f"kind {kind}" for kind in kinds], 1)
    return tmp_path / "two"


def test_a_share_of_the_training_classes_is_kept_with_the_store(two_splits: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"two: it is split by train, test, and no .* --validation-share 0\.2 --data-root ...`; read are ",
    ):
        prepared(two_splits)
    said = prepare("folder", two_splits, validation_share=0.3, quiet=True)
    assert said["classes"] == {"train": 4, "validation": 2, "test": 3}
    assert (
        "split by the folders train, test, and 2 of the 6 training classes held out for validation (" in said["layout"]
    )
    first = prepared(two_splits)
    assert first.fingerprint == said["fingerprint"]
    write_photo(two_splits / "train" / "kind a" / "2.png")
    again = prepared(two_splits)  # packed again, with the same share
    assert again.fingerprint != said["fingerprint"]
    assert members(again) == members(first)
    other = prepare("folder", two_splits, validation_share=0.5, quiet=True)
    assert other["classes"] == {"train": 3, "validation": 3, "test": 3}
    class_tree(two_splits / "val", ["kind v"], 1)
    assert members(prepared(two_splits))["validation"] == ["kind v"]
    with pytest.raises(UserError, match=r"two: --validation-share 0.5 would be ignored: it has classes for validation"):
        prepare("folder", two_splits, validation_share=0.5, quiet=True)
    with pytest.raises(UserError, match=r"^--validation-share: glyphs has a class split of its own"):
        prepare("glyphs", validation_share=0.5)


def test_a_preview_says_all_and_packs_nothing(pets: Path, cache: Path) -> None:
    write_photo(pets / "cover.png", 30, 20)
    (pets / "pet01" / "notes.pdf").write_bytes(b"%PDF")
    said = preview("folder", pets)
    assert said["layout"] == "16 / 4 / 5 classes, 2 images each, split at random, 64 / 16 / 20 % of the classes"
    assert said["validation"] == "4 classes, 8 images (pet12, pet14, pet15 and 1 more)"
    assert len(said["examples"]) == 5
    assert all(one.endswith("84x84 RGB)") for one in said["examples"])
    assert said["packed_as"] == [3, 84, 84]
    assert said["left_out"] == "1 .pdf, 1 picture of no class (cover.png)"
    assert preview("folder", pets, size=28, grey=True)["packed_as"] == [1, 28, 28]
    assert not list(cache.glob("*"))
    assert preview("glyphs")["source"] == "drawn or downloaded: nothing is read from files"
    with pytest.raises(UserError, match=r"what is behind a URL is not looked at"):
        preview("omniglot", "https://example.org/x.zip")


def test_a_preview_of_published_data_says_if_they_are_incomplete(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("Train", "Val", "Test"):
        class_tree(tmp_path / "x" / split, [f"{split} kind"], 1)
    monkeypatch.setattr(
        sys, "argv", ["raymeta", "data", "prepare", "miniimagenet", "--dry-run", "--data-root", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    said = capsys.readouterr().out
    assert "layout: 1 / 1 / 1 classes, 1 image each, split by the folders Train, Val, Test" in said
    assert f"refused: {tmp_path}: the train split has 1 classes, 64 are expected" in said
    assert not list(cache.glob("*"))
