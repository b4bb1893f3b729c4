"""`uv run pytest -m slow tests/faults --seed 1 --kills 100`: the same faults again, or others."""

import pytest
from study.conftest import studies  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="of the moments and victims of tests/faults")
    parser.addoption("--kills", type=int, default=100, help="how often test_kills.py kills")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seed", 0))  # type: ignore[arg-type]


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills", 100))  # type: ignore[arg-type]
