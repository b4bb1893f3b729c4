"""Every learner with every regularizer: an outer step of each cell, in both orders, or the reason why there is none."""

import math
from pathlib import Path

import pytest

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.problems.images.dataset import ImageDataset
from raymeta.report.handbook import DATA, matrix, refusal
from raymeta.schema import merge
from raymeta.testing import BUDGET
from raymeta.training.trainer import Trainer

SMALL = {"images": {"task": {"shots": 1, "queries": 2}}, "curves": {"task": {"shots": 3, "queries": 3}}}
CELLS = [
    (learner, regularizer, data)
    for data in DATA
    for learner in registry.names("method")
    for regularizer in registry.names("regularizer")
]


@pytest.mark.parametrize(("learner", "regularizer", "data"), CELLS)
def test_an_outer_step_in_every_order_or_a_reason(
    learner: str, regularizer: str, data: str, glyphs: ImageDataset
) -> None:
    composition = {"method": learner, "regularizers": {regularizer: {}}}
    config = merge(BUDGET, DATA[data], SMALL[data], composition)
    if reason := refusal(learner, regularizer, data):
        with pytest.raises(UserError) as caught:
            Trainer(parse_trial(config))
        assert str(caught.value) == reason
        return
    orders = ("first", "second") if "order" in registry.find("method", learner).Config.model_fields else (None,)
    for order in orders:
        own = {learner: {"order": order}} if order else {}
        trainer = Trainer(parse_trial(merge(config, own)))
        before = [parameter.detach().clone() for parameter in trainer.learner.parameters()]
        assert math.isfinite(trainer.outer_update())
        assert any((old != new).any() for old, new in zip(before, trainer.learner.parameters(), strict=True))


def test_the_page_is_the_code_s() -> None:
    """Else run `uv run python -m raymeta.report.handbook docs`."""
    page = Path(__file__).parent.parent / "docs" / "matrix.md"
    assert page.read_text(encoding="utf-8") == matrix()
