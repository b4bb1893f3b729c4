"""What every method must do, in this repository or outside it, as tests to run on one's own.

# test_mine.py, in your own package
from raymeta.testing import conformance

test_mine = conformance("mine", "mine+dropgrad")
"""

from raymeta.testing.promises import CHECKS_OF_PROMISES
from raymeta.testing.suite import (
    BUDGET,
    CHECKS,
    CHECKS_OF_REGULARIZERS,
    checks,
    conformance,
    outer_gradient,
    small_trial,
)

__all__ = [
    "BUDGET",
    "CHECKS",
    "CHECKS_OF_PROMISES",
    "CHECKS_OF_REGULARIZERS",
    "checks",
    "conformance",
    "outer_gradient",
    "small_trial",
]
