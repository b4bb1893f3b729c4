"""A backbone from outside, found by its name: in configs, in the outer gradient, in sentences."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import found, install
from reference import Random, Task, Weights, learner
from torch import Tensor
from unrolled import ALPHA, MAML, assert_gradient, everything, unrolled_loss

from raymeta import registry
from raymeta.config import parse_trial, trial_schema
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.schema import flatten

PLAIN = '''
"""One hidden layer of sines."""
from typing import Literal

import torch
from torch import Tensor, nn
from raymeta.models import Backbone
from raymeta.registry import backbone
from raymeta.schema import Section

class SinesConfig(Section):
    name: Literal["sines"] = "sines"
    units: int = 6

@backbone("sines")
class Sines(Backbone):
    Config = SinesConfig
    batches_tasks_on_cpu = True

    def __init__(self, config, input_shape, outputs, steps):
        super().__init__(config, input_shape, outputs, steps)
        self.layer = nn.Linear(input_shape[0], config.units)
        self.feature_size = config.units
        self.add_head(outputs)

    def run(self, prepared, weights, now):
        h = torch.sin(nn.functional.linear(prepared, weights["layer.weight"], weights["layer.bias"]))
        for change in now.on_block:
            h = change(h, "layer", now)
        return h

    def blocks(self):
        return ("layer",)
'''
NAMELESS = """
from raymeta.models import Backbone
from raymeta.registry import backbone
from raymeta.schema import Section

@backbone("nameless")
class Nameless(Backbone):
    class Config(Section):
        units: int = 6
"""


@pytest.fixture
def sines(tmp_path: Path) -> Iterator[None]:
    points = {"backbones": {"nets": "nets"}}
    files = {"nets/__init__.py": "", "nets/sines.py": PLAIN, "nets/nameless.py": NAMELESS}
    with found(install(tmp_path, "nets", points, files)):
        yield


def test_a_config_may_name_it(sines: None) -> None:
    config = parse_trial({"method": "maml", "model": {"name": "sines", "units": 4}})
    assert config.flat()["model.units"] == 4
    assert parse_trial(config.as_dict()) == config
    assert type(config) is trial_schema("maml", model="sines")
    model = build_learner(config, Random((3,))).model
    assert type(model) is registry.find("backbone", "sines")
    assert model.layer.weight.shape == (4, 3)


def test_methods_learn_on_it(sines: None) -> None:
    data = Random((3,), "regression")
    method = learner(data, model={"name": "sines"}, maml={"inner_steps": 2, "inner_lr": ALPHA, "order": "second"})

    def network(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
        h = torch.sin(x @ weights["layer.weight"].T + weights["layer.bias"])
        return h @ weights["head.weight"].T + weights["head.bias"]

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        return unrolled_loss(network, theta, task, MAML, steps=2, adapted=everything)

    assert_gradient(method, data.tasks(2), loss)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"name": "sins"}, "f.yaml: model.name: found 'sins': not a value of this key, did you mean 'sines'? "
            "(allowed: conv4, crest, mlp, nameless, policy, resnet10, resnet12, resnet18, sdnet, sines)"),
        ({"name": "sines", "width": 3}, "f.yaml: unknown key 'model.width', allowed: name, units"),
        ({"name": "sines", "units": "x"}, "f.yaml: model.units: found 'x': input should be a valid integer, "
            "unable to parse string as an integer"),
        ({"name": "nameless"}, "backbone 'nameless': its Config lacks `name: Literal['nameless'] = 'nameless'`"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_sentence(model: dict[str, Any], sentence: str, sines: None) -> None:
    with pytest.raises(UserError) as caught:
        parse_trial({"method": "maml", "model": model}, "f.yaml")
    assert str(caught.value) == sentence


def test_defaults_of_a_method_that_it_does_not_have_are_left_out(sines: None) -> None:
    assert registry.find("method", "cxgrad").defaults["model"] == {"conv_bias": False, "activation": "leaky_relu"}
    assert flatten(parse_trial({"method": "cxgrad", "model": {"name": "sines"}}).as_dict())["model.units"] == 6
    assert parse_trial({"method": "cxgrad"}).model.conv_bias is False
    assert parse_trial({"method": "cxgrad", "model": {"width": 8}}).model.activation == "leaky_relu"
