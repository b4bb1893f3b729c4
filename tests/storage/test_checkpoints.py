"""Checkpoints: whole or not at all, and nothing in one is executed."""

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raymeta.errors import StorageError, UserError
from raymeta.storage import checkpoints
from raymeta.storage.places import RemotePath

CPU = torch.device("cpu")
STATE = {"step": 3, "rounds": [{"loss": 0.5}], "weights": {"a": torch.arange(6.0).reshape(2, 3)}}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "one.pt", STATE)
    found = checkpoints.read(tmp_path / "one.pt", CPU)
    assert torch.equal(found["weights"].pop("a"), STATE["weights"]["a"])  # type: ignore[index]
    assert found == {**STATE, "weights": {}}


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_anywhere_is_one_sentence_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "one.pt"
    checkpoints.write(path, STATE)
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    data[at] ^= 1 << bit
    path.write_bytes(data[:at] if cut else data)
    found, problem = None, ""
    try:
        found = checkpoints.read(path, CPU)
    except UserError as error:
        problem = str(error)
    if found is None:
        assert problem == f"{path}: not a checkpoint, or a damaged one"
    else:  # zip's padding and time stamps carry nothing
        assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])  # type: ignore[index]


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    for file, save in (
        ("bare.pt", lambda p: p.write_bytes(pickle.dumps(Evil()))),
        ("zip.pt", lambda p: torch.save(Evil(), p)),
    ):
        save(tmp_path / file)
        with pytest.raises(UserError, match="not a checkpoint"):
            checkpoints.read(tmp_path / file, CPU)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read: No such file or directory$"):
        checkpoints.read(tmp_path / "none.pt", CPU)


# On a store


def kept(path: RemotePath) -> list[int]:
    """The steps of the state and of the one before, both whole."""
    return [checkpoints.read(file, CPU)["step"] for file in (path, checkpoints.previous(path)) if file.exists()]


@pytest.mark.parametrize("operation", ["copy_to", "write_bytes"])
@pytest.mark.parametrize("done", [False, True])
def test_killed_while_one_is_written_to_a_store(
    bucket: RemotePath, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, operation: str, done: bool
) -> None:
    path = bucket / request.node.name / "checkpoint.pt"
    for step in (1, 2):
        checkpoints.write_keeping(path, {"step": step})
    assert kept(path) == [2, 1]
    method = getattr(RemotePath, operation)

    def dying(self: RemotePath, *arguments: object) -> None:
        if done:
            method(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, operation, dying)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.write_keeping(path, {"step": 3})
    after_copy = operation == "write_bytes" or done
    assert kept(path) == [3 if operation == "write_bytes" and done else 2, 2 if after_copy else 1]
    checkpoints.write_keeping(path, {"step": 4})
    assert kept(path)[0] == 4


def test_a_store_that_is_away_says_nothing_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: RemotePath) -> bytes:
        raise StorageError(5, "away", str(self))

    monkeypatch.setattr(RemotePath, "read_bytes", away)
    with pytest.raises(StorageError):  # and not the sentence for which a file is put aside
        checkpoints.read(RemotePath("s3://b", "checkpoint.pt"), CPU)
