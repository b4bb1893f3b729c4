"""Studies go to a folder of their own."""

from pathlib import Path

import pytest


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for studies, with MLflow's embedded database in it."""
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "studies"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "studies"
