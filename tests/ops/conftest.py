import pytest
from kernels import need_kernels


@pytest.fixture(autouse=True)
def kernels(session_cache: object, request: pytest.FixtureRequest) -> None:
    """Tests of the kernels need a compiler; those of machines without one do without."""
    if "nothing_known" not in request.fixturenames:
        need_kernels()
