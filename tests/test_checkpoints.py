"""Checkpoints: whole or not at all, and nothing in one is executed."""

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raymeta import checkpoints
from raymeta.errors import UserError

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
