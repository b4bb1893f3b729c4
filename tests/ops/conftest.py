import pytest

from raymeta.ops.library import unusable


@pytest.fixture(autouse=True)
def kernels(session_cache: object, request: pytest.FixtureRequest) -> None:
    """Tests of the kernels need a compiler; those of machines without one do without."""
    if "nothing_known" not in request.fixturenames and (why := unusable()):
        pytest.skip(why)
