"""Stores of the data tests; the embedded data set is in tests/conftest.py."""

from pathlib import Path

import pytest
from traced import Traced

from raymeta.problems.images.task import ImagesTask


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def traced(session_cache: Path) -> type[Traced]:
    """`traced(task)` is a prepared data set."""
    Traced(ImagesTask()).prepare()
    return Traced
