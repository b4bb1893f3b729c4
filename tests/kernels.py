"""Which machines the tests of the native kernels are for."""

import pytest

from raymeta.ops import library


def need_kernels() -> None:
    """Skip where there is no C++ compiler. Where there is one, kernels that can't be built are a failure."""
    if library._compiler() is None:
        pytest.skip("no C++ compiler is on this machine")
    assert not (why := library.unusable()), why
