"""L2F: the initialisation is attenuated for each task before the inner loop.

Baik, Hong, Lee: Learning to Forget for Meta-Learning (CVPR 2020).

    g_p = mean of dLs/dtheta_p at theta;  Gamma = sigmoid(MLP(g)), a number per tensor p;  theta_p <- Gamma_p * theta_p

then MAML. The MLP has one hidden layer and PyTorch's initialisation, so that training starts with all weights halved.
In the authors' code g is a constant to the outer gradient (`embed_graph` differentiates it, as ALFA's copy does), and
task losses are summed. Their convolutions have no bias (`model.conv_bias: false`, the default here), so that of Conv-4
six tensors are attenuated; ALFA's copy has biases and ten.
"""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.inner import Step, gradients
from raymeta.learner import GradientLearner, InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.problem import Problem
from raymeta.registry import method
from raymeta.schema import MIXED, Section
from trainables.maml import MAML


class L2FConfig(InnerLoopConfig):
    """Defaults: the authors' code on miniImageNet."""

    first_order_share: Annotated[float, MIXED] = Field(
        11 / 60, ge=0, le=1, description="The authors' epochs 0 to 10 of 60 in first order."
    )
    hidden_factor: int = Field(1, ge=1, description="Hidden units of the MLP over adapted tensors.")
    embed_graph: bool = Field(False, description="Differentiate the gradients that the MLP sees.")


class Attenuator(nn.Module):
    """Scales a task's initial tensors by what their mean gradients say; P tensors, P numbers in, P out."""

    def __init__(self, tensors: int, hidden_factor: int = 1) -> None:
        super().__init__()
        hidden = tensors * hidden_factor
        self.generator = nn.Sequential(nn.Linear(tensors, hidden), nn.ReLU(), nn.Linear(hidden, tensors), nn.Sigmoid())

    def forward(self, gradients: Weights) -> Weights:
        """Gamma by tensor."""
        gamma = self.generator(torch.stack([gradient.mean() for gradient in gradients.values()]))
        return dict(zip(gradients, gamma, strict=True))


@method("l2f")
class L2F(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = L2FConfig
    adapts: ClassVar[str] = "as MAML, from an attenuated start"
    learns: ClassVar[str] = "theta, the attenuating MLP"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 1.1
    exact: ClassVar[dict[str, Any]] = {"embed_graph": True}  # else the gradients that the MLP sees are constants
    defaults: ClassVar[dict[str, Any]] = {
        "outer": {"reduction": "sum", "clip_scope": "model"},
        "model": {"conv_bias": False},
    }

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        self.attenuator = Attenuator(len(self.adapted), self.settings.hidden_factor)

    def initial(self, support: Support) -> Weights:
        return attenuated(self, self.attenuator, support, graph=self.settings.embed_graph)

    def generated(self, support: Support, step: Step) -> dict[str, Weights]:
        return {} if step.number else {"attenuation": attenuation(self, self.attenuator, support, graph=False)}


def attenuated(learner: GradientLearner, attenuator: Attenuator, support: Support, *, graph: bool) -> Weights:
    """A learner's theta, attenuated for a task; see `attenuation`."""
    theta = learner.model.weights()
    gamma = attenuation(learner, attenuator, support, graph=graph)
    return {**theta, **{name: scale * theta[name] for name, scale in gamma.items()}}


def attenuation(learner: GradientLearner, attenuator: Attenuator, support: Support, *, graph: bool) -> Weights:
    """Gamma of a task by tensor.

    Args:
        learner: whose support loss and adapted tensors are used.
        attenuator: its parameters are meta-learned.
        support: the task's.
        graph: differentiate the gradients that the attenuator sees.
    """
    theta, loss = learner.model.weights(), learner.step_loss(support)
    moving = {name: theta[name] for name in learner.adapted}

    def at(weights: Weights) -> Tensor:
        return loss({**theta, **weights}, 0)

    context = support.context
    found = gradients(at, moving, second_order=graph and context.training, vectorized=context.vectorized)
    if not graph:
        found = {name: gradient.detach() for name, gradient in found.items()}
    return attenuator(found)  # type: ignore[no-any-return]
