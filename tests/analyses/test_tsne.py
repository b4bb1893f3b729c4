"""One embedding for both states, the same every time, and the nearest centroid beside it."""

from typing import Any

import pytest
import torch
from analyses.conftest import subject

from raymeta.analyses.tsne import TSNE, TSNEConfig, features_of, nearest_centroid
from raymeta.analysis import OUTPUTS, activations
from raymeta.errors import UserError


def test_support_and_query_before_and_after_lie_in_one_plane() -> None:
    looked = subject("maml", "images", maml={"inner_lr": 0.4})
    rows = TSNE(TSNEConfig()).measure(looked)
    (case,) = looked.cases(1)
    assert [row["class"] for row in rows] == 2 * [*case.task.support.y.tolist(), *case.task.query.y.tolist()]
    assert [row["state"] for row in rows] == ["before"] * 15 + ["after"] * 15
    assert len({(row["x"], row["y"]) for row in rows}) > 20
    assert rows == TSNE(TSNEConfig()).measure(looked)


def test_a_learner_without_an_inner_loop_has_one_state() -> None:
    rows = TSNE(TSNEConfig()).measure(subject("protonet", "images"))
    assert {row["state"] for row in rows} == {"after"}
    # On its own features, a pass of all together apart, ProtoNet is the nearest centroid.
    looked = subject("protonet", "images", protonet={"passes": "separate"})
    (case,) = looked.cases(1)
    adapted = case.adapted()
    known, new = (features_of(case, None, x) for x in (case.task.support.x, case.task.query.x))
    with torch.no_grad():
        logits = case.learner.predict(adapted, case.task.query.x)
    expected = float((logits.argmax(1) == case.task.query.y).double().mean())
    assert nearest_centroid(case, known, new) == expected


@pytest.mark.parametrize(
    ("settings", "task", "sentence"),
    [
        ({}, {"shots": 1, "queries": 1, "ways": 2}, "tsne: found 8 points, but fewer than 10 say nothing"),
        ({"perplexity": 30}, {}, "tsne.perplexity: found 30, but there are 30 points: less"),
    ],
)
def test_what_says_nothing_is_refused(settings: dict[str, Any], task: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        TSNE(TSNEConfig(**settings)).measure(subject("maml", "images", task=task))
    assert str(refused.value) == sentence


def test_blocks_that_see_pairs_are_no_features_of_inputs() -> None:
    """RelationNet's relation module has a row for each query and class."""
    looked = subject("relationnet", "images")
    (case,) = looked.cases(1)
    found = activations(case.learner, case.adapted(), case.task.query.x)
    assert list(found) == ["block1", "block2", "block3", "block4", OUTPUTS]
    assert {len(h) for h in found.values()} == {len(case.task.query.x)}
    assert {row["set"] for row in TSNE(TSNEConfig()).measure(looked)} == {"support", "query"}
