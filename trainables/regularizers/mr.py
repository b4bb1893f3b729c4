"""MR-MAML: what the inner loop leaves alone may hold little information, so that tasks can't be memorised.

Yin, Tucker, Zhou, Levine, Finn: Meta-Learning without Memorization (ICLR 2020).

The first `blocks` blocks are an encoder, which the inner loop never moves. With `noise: weights` its kernels w are
random,

    w = mu + sigma * eps in every pass, eps ~ N(0, 1), mu and sigma = softplus(rho) + 1.2e-7 meta-learned
    outer loss = Lq + beta * sum over w of KL(N(mu, sigma^2) || N(0, 1))

in evaluation too, as in the authors' code. With `noise: activations` its output h is, in support and query,

    z = h + sigma * eps, sigma = softplus(a linear map of h's channels), in evaluation z = h
    outer loss = Lq + beta * mean over the query's z of KL(N(h, sigma^2) || N(0, 1))

KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1 - log s^2) / 2. Inner losses have no such term. Biases and norms are not
random. The constant in sigma bounds the divergence: at the authors' initial rho sigma is nothing else. For
classification there is no code of the authors': which blocks are the encoder is a choice of ours, and beta belongs to a
number of weights. Their mean of z is a linear map of its own.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.errors import UserError
from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models import Backbone, Weights
from raymeta.models.init import BiasLaw, WeightLaw, fill
from raymeta.models.passes import Pass
from raymeta.problem import Problem, Task, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section

EPSILON = 2**-23  # of float32, 1.2e-7


class MRConfig(Section):
    """Defaults: the authors' sinusoid, but for rho, theirs for poses, and the encoder, theirs for none of ours."""

    noise: Literal["weights", "activations"] = "weights"
    blocks: int | None = Field(None, ge=0, description="Of the encoder, from the input on; null: all; 0: it is off.")
    beta: Number = Field(5e-5, ge=0, description="On weights; theirs for poses: 1e-3. On activations theirs is 5.")
    init: Number = Field(
        -20.0, ge=-80, description="rho at the start, deviation 0.1; on weights. Theirs for curves: -50, which stays."
    )
    mu: WeightLaw | None = Field(
        None, description="Law of mu at the start, on weights; theirs: normal(0.1); null: as `model.init` says."
    )
    bias: BiasLaw | None = Field(None, description="Likewise of the encoder's biases; theirs: normal(0.1).")
    sigma_floor: Number = Field(EPSILON, ge=0, description="Added to softplus(rho); theirs: float32's epsilon.")


@regularizer("mr")
class MR(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MRConfig
    acts_on: ClassVar[str] = "the outer loss, weights of a pass, blocks' outputs"
    neutral: ClassVar[dict[str, Any]] = {"blocks": 0}
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop"})
    in_evaluation: bool = True

    def __init__(self, config: MRConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        blocks = model.blocks()
        if config.blocks is not None and config.blocks > len(blocks):
            raise UserError(f"regularizers.mr.blocks: found {config.blocks}, but the model has {len(blocks)} blocks")
        self.encoder = blocks[: config.blocks]
        self.in_evaluation = bool(self.encoder)  # if only by what it keeps out of the inner loop
        self.rho = nn.ParameterDict()  # by kernel, its dots as dashes; on activations by `weight` and `bias`
        if not self.encoder:
            return
        if config.noise == "weights":
            self.kernels = [n for n, w in model.weights().items() if self.freezes(n) and _is_kernel(n, w)]
            for name in self.kernels:
                shape = model.weights()[name].shape
                self.rho[_key(name)] = nn.Parameter(config.init + 0.1 * torch.randn(shape))
            self._draw_encoder(model)
            return
        ends = [end for end in model.ends() if end.split(".")[0] == self.encoder[-1]]
        if not ends:
            raise UserError("regularizers.mr.blocks: the stem alone has no activations for it; take 2 or more")
        self.end = ends[-1]
        channels = _channels(model, self.encoder[-1])
        self.rho["weight"], self.rho["bias"] = (
            nn.Parameter(torch.zeros(channels, channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def _draw_encoder(self, model: Backbone) -> None:
        weights = model.weights()
        for name in self.kernels:
            if self.settings.mu is not None:
                fill(weights[name], self.settings.mu)
            if self.settings.bias is not None and (bias := name.replace("weight", "bias")) in weights:
                fill(weights[bias], self.settings.bias, weights[name])

    def sigma(self, name: str) -> Tensor:
        """Of a kernel's noise, in the kernel's shape."""
        return F.softplus(self.rho[_key(name)]) + self.numbers.sigma_floor

    def freezes(self, name: str) -> bool:
        return name.split(".")[0] in self.encoder

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        if not self.encoder:
            return Hooks()
        loss = partial(self.on_query_loss, learner=learner) if context.training else None
        if self.settings.noise == "weights":
            return Hooks(weights=self.on_weights, query_loss=loss)
        return Hooks(block=self.on_block, query_loss=loss)

    def on_weights(self, weights: Weights, now: Pass) -> Weights:
        return weights | {
            name: weights[name] + self.sigma(name) * now.noise.normal(weights[name]) for name in self.kernels
        }

    def on_block(self, h: Tensor, layer: str, now: Pass) -> Tensor:
        if layer != self.end or not now.training:
            return h
        sigma: Tensor = F.softplus(F.linear(h.movedim(1, -1), self.rho["weight"], self.rho["bias"])).movedim(-1, 1)
        if now.query:
            now.penalties.append(divergence(h, sigma).mean())
        noise: Tensor = now.noise.normal(h)
        return h + sigma * noise

    def on_query_loss(self, loss: Tensor, adapted: Any, task: Task, context: Context, learner: Learner) -> Tensor:
        """Add the divergence."""
        if self.settings.noise == "activations":
            penalty = adapted.query.penalties[-1]  # of the last pass: the query's
        else:
            means = learner.model.weights()
            terms = [divergence(means[name], self.sigma(name)).sum() for name in self.kernels]
            penalty = torch.stack(terms).sum()
        return loss + self.numbers.beta * penalty  # type: ignore[no-any-return]


def divergence(mean: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)), element by element."""
    return (mean.square() + sigma.square() - 1) / 2 - sigma.log()


def _is_kernel(name: str, weight: Tensor) -> bool:
    return weight.ndim > 1 and ".norm" not in name


def _key(name: str) -> str:
    return name.replace(".", "-")


def _channels(model: Backbone, block: str) -> int:
    """Of a block's output: those of its last kernel."""
    return [w.shape[0] for name, w in model.weights().items() if _is_kernel(name, w) and name.startswith(f"{block}.")][
        -1
    ]
