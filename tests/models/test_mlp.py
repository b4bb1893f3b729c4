"""The multilayer perceptron against its formula."""

import pytest
import torch
from reference import Random, mlp
from torch import nn

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import build_learner
from raymeta.models.mlp import MLP, MLPConfig, MLPInit
from raymeta.models.passes import Pass


def network(*hidden: int, inputs: int = 3, outputs: int = 2) -> MLP:
    torch.manual_seed(0)
    return MLP(MLPConfig(hidden=hidden), (inputs,), outputs, steps=1).double()


@pytest.mark.parametrize("hidden", [(4,), (40, 40), (5, 6, 7)])
def test_outputs_are_those_of_linear_layers_and_relus(hidden: tuple[int, ...]) -> None:
    model, x = network(*hidden), torch.randn(9, 3, generator=torch.Generator().manual_seed(1)).double()
    weights = {name: weight + 0.1 for name, weight in model.weights().items()}
    found = model(model.prepare(x), weights, Pass())
    torch.testing.assert_close(found, mlp(x, weights))
    sizes, layers = [3, *hidden, 2], list[nn.Module]()
    for i in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[i], sizes[i + 1]).double(), nn.ReLU()]
    torchs = nn.Sequential(*layers[:-1])
    torchs.load_state_dict(dict(zip(torchs.state_dict(), weights.values(), strict=True)))
    torch.testing.assert_close(found, torchs(x))


def test_groups_hold_every_parameter_once() -> None:
    model = network(4, 5)
    assert list(model.groups()) == ["layer1", "layer2", "head"]
    assert [name for group in model.groups().values() for name in group] == list(model.weights())
    assert model.scope("last") == {"layer2.weight", "layer2.bias", "head.weight", "head.bias"}
    assert model.norm_names() == set()


def test_parameters_are_as_many_as_the_formula_says() -> None:
    assert sum(p.numel() for p in network(40, 40, inputs=1, outputs=1).parameters()) == 80 + 40 * 41 + 41


def test_truncated_normal_weights() -> None:
    torch.manual_seed(0)
    model = MLP(MLPConfig(hidden=(200, 200), init=MLPInit(hidden="truncated_normal(0.01)")), (1,), 1, steps=1)
    weight = model.weights()["layer2.weight"].detach()
    assert float(weight.abs().max()) <= 0.02
    assert float(weight.std()) == pytest.approx(0.01 * 0.88, rel=0.02)  # a normal cut off at two deviations
    assert not model.weights()["layer2.bias"].any()


def test_images_are_refused() -> None:
    config = parse_trial({"method": "maml", "model": {"name": "mlp"}})
    with pytest.raises(UserError) as caught:
        build_learner(config, Random((1, 28, 28)))
    assert str(caught.value) == (
        "model.name: mlp takes vectors, not inputs of shape (1, 28, 28); allowed: conv4, resnet10, resnet18, resnet12"
    )
