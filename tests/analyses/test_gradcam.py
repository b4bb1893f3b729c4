"""Grad-CAM against CAM, which is a closed form where the head is linear on averaged places."""

from typing import Any

import pytest
import torch
from analyses.conftest import subject

from raymeta.analyses.gradcam import GradCAM, GradCAMConfig, chosen, heat
from raymeta.analysis import activations
from raymeta.errors import UserError

AVERAGED: dict[str, Any] = {"model": {"name": "conv4", "width": 4, "pools": 2, "spatial_mean": True}}


@pytest.mark.parametrize("steps", [0, None])
def test_with_an_averaging_head_it_is_cam_over_the_number_of_places(steps: int | None) -> None:
    looked = subject("maml", "images", **AVERAGED)
    (case,) = looked.cases(1)
    adapted = case.adapted(steps)
    features, query = activations(case.learner, adapted, case.task.query.x)["block4"], case.task.query
    logits, maps = heat(case, "block4", steps, [0, 7])
    for image, found in zip([0, 7], maps, strict=True):
        rows = adapted.weights["head.weight"][query.y[image]]
        cam = (rows[:, None, None] * features[image]).sum(0).relu()
        torch.testing.assert_close(found, cam / cam.numel(), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(logits, case.learner.predict(adapted, query.x).detach())


def test_it_is_of_the_query_images_where_the_support_set_is_in_the_same_pass() -> None:
    """ProtoNet: logits are distances of features, whose gradient for an image's own is 2 (c_y - f)."""
    model = {"name": "conv4", "width": 4, "pools": 2}
    looked = subject("protonet", "images", model=model)
    (case,) = looked.cases(1)
    adapted, query = case.adapted(), case.task.query
    _, (found,) = heat(case, "block4", None, [4])
    both = looked.learner.features(torch.cat([case.task.support.x, query.x]), adapted.query).detach()  # type: ignore[operator]
    shape = activations(case.learner, adapted, query.x)["block4"].shape[1:]
    count, label = len(case.task.support.x), query.y[4]
    centre = both[:count][case.task.support.y == label].mean(0)
    own = both[count + 4]
    gradient = (2 * (centre - own)).reshape(shape)
    expected = (gradient.mean((-2, -1))[:, None, None] * own.reshape(shape)).sum(0).relu()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_layer_is_the_last_one_with_maps_worth_looking_at() -> None:
    rows = GradCAM(GradCAMConfig(images=2)).measure(subject("maml", "images"))  # 28x28: 14, 7, 3, 1
    assert {row["layer"] for row in rows} == {"block2"}
    assert len(rows) == 2 * 2 * 7 * 7
    assert [row["state"] for row in rows[::98]] == ["before", "after"]
    with pytest.raises(UserError, match=r"^gradcam.layer: no block 'block5' has maps: did you mean 'block"):
        GradCAM(GradCAMConfig(layer="block5")).measure(subject("maml", "images"))


def test_images_are_spread_over_the_query_set() -> None:
    assert chosen(50, 5) == [5, 15, 25, 35, 45]
    assert chosen(3, 5) == [0, 1, 2]
