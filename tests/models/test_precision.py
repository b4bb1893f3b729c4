"""What is rounded when `engine.precision` says so, and that nothing is by default."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raymeta.api.searching import _with_kernels
from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.models.conv4 import Block, Conv4Config
from raymeta.models.precision import set_products
from raymeta.problem import open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.schema import merge
from raymeta.testing import small_trial
from raymeta.training.lanes import Lanes
from raymeta.training.trainer import Trainer


def trial(model: dict[str, Any], **engine: Any) -> TrialConfig:
    """MAML on a Conv-4; on a ResNet, whose tiny form magnifies rounding from step to step, ProtoNet."""
    data = small_trial(
        "maml" if model["name"] == "conv4" else "protonet", "images", {"engine": {"tasks": "loop", **engine}}
    ).as_dict()
    data["model"] = model
    return parse_trial(data)


def gradient(config: TrialConfig) -> Tensor:
    """Of an outer step, from noise in place of images: their ties would go either way."""
    trainer = Trainer(config)
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor

    trainer.accumulate(trainer.problem.bank("train", 0).draw(0, 2).map(noise))
    return torch.cat([p.grad.flatten() for p in trainer.learner.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "model",
    [
        {"name": "conv4", "width": 8},
        {"name": "conv4", "width": 8, "norm": "support", "stride": 2, "pools": 0},
        {"name": "resnet10", "channels": [4, 4, 4, 4]},
    ],
)
def test_gradients_of_bf16_are_near_those_of_float32(model: dict[str, Any], glyphs: ImageDataset) -> None:
    exact = gradient(trial(model, kernels="torch"))
    for tasks in ("loop", "vmap"):
        found = gradient(trial(model, precision="bf16", tasks=tasks))
        assert found.dtype == torch.float32
        assert 1e-3 < float((found - exact).norm() / exact.norm()) < 0.7
    assert gradient(trial(model, kernels="torch", precision="float32")).equal(exact)


def test_a_convolution_is_that_of_what_was_rounded() -> None:
    """Its sums are float32's, then rounded once."""
    generator = torch.Generator().manual_seed(0)
    part = Block(3, Conv4Config(width=8, conv_bias=True), 1)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 6, 6), (8, 3, 3, 3), (8,)))
    part.bf16 = True
    expected = F.conv2d(x.bfloat16().float(), weight.bfloat16().float(), padding=1)
    found = part.convolve(x, weight, bias) - bias[:, None, None]
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=1e-5)
    assert not torch.allclose(found, F.conv2d(x, weight, padding=1), rtol=1e-4)


def test_tf32_is_allowed_where_it_is_asked_for_and_nowhere_else(glyphs: ImageDataset) -> None:
    def allowed() -> set[bool]:
        return {torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32}

    model = {"name": "conv4", "width": 4}
    trainer, tf32 = Trainer(trial(model)), trial(model, precision="tf32")
    lanes = Lanes(trainer, 2)
    lanes.join(Trainer(trial(model)))
    for computed in (trainer.outer_update, trainer.validate, lambda: lanes.step([0])):
        set_products(tf32)
        assert allowed() == {True}
        computed()
        assert allowed() == {False}


@pytest.mark.parametrize(
    ("model", "engine", "sentence"),
    [
        ({"name": "conv4"}, {"precision": "tf32"}, "'tf32', but the trial computes on a CPU; allowed: float32, bf16"),
        (
            {"name": "conv4"},
            {"precision": "bf16", "kernels": "native"},
            "'bf16', but engine.kernels native is float32; allowed: float32",
        ),
    ],
)
def test_what_cannot_be_rounded_is_refused(model: dict[str, Any], engine: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        Trainer(trial(model, **engine))
    assert str(refused.value) == f"engine.precision: found {sentence}"


def test_a_network_without_convolutions_has_nothing_to_round() -> None:
    config = parse_trial(merge(small_trial("maml", "sinusoid").as_dict(), {"engine": {"precision": "bf16"}}))
    with pytest.raises(UserError, match=r"^engine.precision: found 'bf16', but model.name mlp has no convolutions to"):
        build_learner(config, open_problem(config.task))


@dataclass(frozen=True)
class Planned:
    """What of a plan settles what trials run on."""

    base: TrialConfig


def test_a_search_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    for precision, words in (("float32", ""), ("bf16", "engine.precision bf16: convolutions are rounded to bfloat16")):
        _with_kernels(Planned(trial({"name": "conv4"}, precision=precision, kernels="torch")), quiet=False)  # type: ignore[arg-type]
        said = capsys.readouterr().err
        assert said.startswith(words) if words else not said
