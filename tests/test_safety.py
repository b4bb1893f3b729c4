"""Files and names from strangers: each kind that is read, with an attack in it, runs nothing and is a sentence."""

import io
import json
import os
import pickle
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study.conftest import studies  # noqa: F401
from study.driving import tiny_record

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problem import open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading import archives, caches
from raymeta.problems.images.reading.pictures import decode, squeezed
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.images.store import Store
from raymeta.storage import checkpoints
from raymeta.storage.files import read_yaml
from raymeta.study.record import finalists
from raymeta.study.record.folder import check_name
from raymeta.study.record.home import all_studies, open_study
from raymeta.study.record.record import StudyRecord
from raymeta.training.pretraining import _path, pretrained

CPU = torch.device("cpu")
MARK = "it ran"  # the folder that an attack makes, if it runs


class Attack:
    """Unpickled, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARK,)


PICKLE = pickle.dumps(Attack())
YAML = f"!!python/object/apply:os.mkdir [{MARK!r}]\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, studies: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """An empty folder to be in, where the mark would be."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_attack_works() -> None:
    pickle.loads(PICKLE)
    assert Path(MARK).is_dir()


# A file of each kind: written with the attack in it, and read as raymeta reads it.


def bare_pickle(path: Path) -> None:
    path.write_bytes(PICKLE)


def torch_zip(path: Path) -> None:
    torch.save({"version": 2, "config": Attack()}, path)


def torch_legacy(path: Path) -> None:
    torch.save(Attack(), path, _use_new_zipfile_serialization=False)


def packed_bomb(path: Path) -> None:
    """A checkpoint whose zeros are squeezed, which torch never does."""
    torch.save({"weights": torch.zeros(2**20)}, plain := path.with_suffix(".plain"))
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


def yaml(path: Path) -> None:
    path.write_text(YAML)


def object_npy(path: Path) -> None:
    np.save(path, np.array([Attack()], dtype=object), allow_pickle=True)


def object_npz(path: Path) -> None:
    np.savez(path, images=np.array([Attack()], dtype=object))


def old_pickle(path: Path) -> None:
    path.write_bytes(f"cos\nmkdir\n(S'{MARK}'\ntR.".encode())


def nested_pickle(path: Path) -> None:
    """What a data set's pickle looks like, but for one value."""
    path.write_bytes(pickle.dumps({"labels": [0], "data": Attack()}))


def huge_image(path: Path) -> None:
    """A PNG of a few bytes that claims to be 60,000 x 60,000."""
    header = (60_000).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    chunk = b"IHDR" + header
    body = len(header).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


READ_CHECKPOINT = ("not a checkpoint, or a damaged one", lambda path: checkpoints.read(path, CPU))
READ_PICKLE = ("it names posix.mkdir; a pickle may hold arrays and plain containers only", caches.load)
READ_IMAGE = (" is not an image that can be read", lambda path: decode(path.read_bytes(), str(path), squeezed(28)))
FILES: dict[str, tuple[Callable[[Path], None], tuple[str, Callable[[Path], Any]]]] = {
    "checkpoint, bare pickle": (bare_pickle, READ_CHECKPOINT),
    "checkpoint, zip": (torch_zip, READ_CHECKPOINT),
    "checkpoint, legacy": (torch_legacy, READ_CHECKPOINT),
    "checkpoint, bomb": (packed_bomb, READ_CHECKPOINT),
    "config": (yaml, ("not valid YAML", read_yaml)),
    "data, pickle": (bare_pickle, READ_PICKLE),
    "data, nested pickle": (nested_pickle, READ_PICKLE),
    "data, old pickle": (old_pickle, ("it names os.mkdir; a pickle may hold", caches.load)),
    "data, npz": (object_npz, ("its images are object", lambda path: list(caches._npz(path, 84)))),
    "image, pickle": (bare_pickle, READ_IMAGE),
    "image, bomb": (huge_image, READ_IMAGE),
    "archive, pickle for a zip": (bare_pickle, ("not a zip file", lambda path: Tree(path.rename(f"{path}.zip")).paths)),
    "archive, pickle for a tar": (bare_pickle, ("not a tar file", lambda path: Tree(path.rename(f"{path}.tar")).paths)),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_runs_nothing_and_is_refused_in_a_sentence(kind: str, here: Path) -> None:
    write, (sentence, read) = FILES[kind]
    suffix = {"data, npz": ".npz"}.get(kind, "")
    path = here / f"file{suffix}"
    write(path)
    with pytest.raises(UserError) as caught:
        read(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(MARK).exists()


def test_packed_images_are_no_pickle(here: Path, glyphs: ImageDataset) -> None:
    folder = here / "glyphs-1"
    folder.mkdir()
    (folder / "meta.json").write_bytes((glyphs.folder / "meta.json").read_bytes())
    object_npy(folder / "images.npy")
    with pytest.raises(UserError, match="damaged or not a store of 'glyphs'"):
        Store(folder, "glyphs", 1, "standard", "glyphs", "raymeta data prepare glyphs")
    assert not Path(MARK).exists()


def test_a_pretrained_backbone_in_the_cache_is_no_pickle(glyphs: ImageDataset) -> None:
    data = {"method": "maml", "task": {"dataset": "glyphs"}, "pretraining": {"epochs": 1, "seed": 77}}
    config = parse_trial(data)
    path = _path(config, glyphs, glyphs.labelled())
    torch_zip(path)
    with pytest.raises(UserError, match="not a checkpoint, or a damaged one"):
        pretrained(config, glyphs, CPU)
    assert not Path(MARK).exists()
    path.unlink()


# The files of a study, each replaced by attacks.

CONTENTS = {"pickle": PICKLE, "yaml": YAML.encode(), "line": b'{"op_code": 0, "worker_id": "x"}\n', "list": b"[1]\n"}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", ["study.yaml", "journal.log"])
def test_a_study_from_a_stranger_runs_nothing(name: str, content: bytes) -> None:
    record = tiny_record()
    record.ask()
    (record.folder / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_study("tiny").trials()
    assert str(record.folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(MARK).exists()


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_scores_from_a_stranger_are_none(content: bytes) -> None:
    record = tiny_record()
    trial = record.ask()
    record.add_round(trial.number, {"outer_steps": 2, "val_mse": 1.0, "val_ci95": 0.1, "at": 1.0})
    one = finalists.weights(record, record.trial(trial.number))[0]
    one.folder.mkdir(parents=True, exist_ok=True)
    (one.folder / finalists.FILE).write_bytes(content)
    assert one.read() is None
    assert not Path(MARK).exists()


# Archives and names that point elsewhere.


def members(path: Path, names: dict[str, bytes], links: dict[str, str]) -> None:
    """A zip or tar archive of files, and of links in a tar."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in names.items():
                archive.writestr(name, content)
        return
    with tarfile.open(path, "w:gz") as tape:
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tape.addfile(link)
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_an_archive_writes_nowhere(suffix: str, here: Path) -> None:
    (outside := here / "secret").write_text("mine")
    (inside := here / "inside").mkdir()
    path = inside / f"data{suffix}"
    names = {"../../evil.png": b"x", str(here / "evil.png"): b"x", "train/a/1.png": b"image"}
    members(path, names, {"train/a/link.png": str(outside)})
    tree = Tree(path)
    assert "train/a/link.png" not in tree.paths
    found = dict(tree.read(tree.paths))
    assert found["train/a/1.png"] == b"image"
    assert b"mine" not in found.values()
    assert sorted(file.name for file in here.rglob("*") if file.is_file()) == sorted([path.name, "secret"])


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_an_archive_is_no_bomb(suffix: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 10_000)
    members(path := here / f"data{suffix}", {"train/a/1.png": bytes(1_000_000)}, {})
    assert path.stat().st_size < 10_000
    tree = Tree(path)
    with pytest.raises(UserError, match=r"data.*: train/a/1\.png is 1,000,000 bytes unpacked, at most 10,000 are read"):
        list(tree.read(tree.paths))


NAMES = ["", ".", "..", "../x", "a/b", "/tmp/x", "~", "a\\b", "x\n", "x\0y", "C:x", "-x/../..", "é" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_path(name: str, here: Path, studies: Path) -> None:  # noqa: F811
    with pytest.raises(UserError, match="cannot name a study"):
        check_name(name)
    before = sorted(here.rglob("*"))
    with pytest.raises(UserError):
        open_study(name)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "data",
    [
        {"method": "os"},
        {"method": "../maml"},
        {"method": "trainables.maml"},
        {"regularizers": ["os.path"]},
        {"model": {"name": "../../x"}},
        {"task": {"dataset": "../glyphs"}},
        {"task": {"dataset": "raymeta.problems.images.datasets.glyphs"}},
    ],
    ids=json.dumps,
)
def test_a_config_names_nothing_but_what_is_registered(data: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        open_problem(parse_trial({"method": "maml"} | data).task)
    assert "\n" not in str(caught.value)


def test_a_link_among_the_studies_is_followed_nowhere_else(here: Path, studies: Path) -> None:  # noqa: F811
    assert all_studies() == []
    record = tiny_record()
    with pytest.raises(UserError, match="not a study's name"):
        open_study(f"../{record.folder.parent.name}/tiny")
    assert isinstance(open_study("tiny"), StudyRecord)


def test_mlflow_is_opened_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from raymeta.study.tracking import server

    asked: list[list[str]] = []

    def start(command: list[str], **options: Any) -> Any:
        asked.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setenv("MLFLOW_HOST", "0.0.0.0")
    with pytest.raises(KeyboardInterrupt):
        server.serve("sqlite:///nowhere", 5000, lambda: None)
    (command,) = asked
    assert command[command.index("--host") + 1] == "127.0.0.1"
