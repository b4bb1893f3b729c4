"""Meta-Dropout: learned multiplicative noise in the inner loop.

Lee, Nam, Yang, Hwang: Meta Dropout: Learning to Perturb Latent Features for Generalization (ICLR 2020).

Every convolution theta_l has a second one of the same shape, phi_l, for its noise. With x the input of block l:

    m = conv(x; theta_l);  a = conv(x; phi_l);  z ~ N(a, 1);  the block goes on with m * softplus(z), before its norm
    logits ~ N(mu, s^2) with mu the head's output and s = softplus(features w + b), one s for all classes of an image

phi is meta-learned with theta, in second order through the sampled inner gradients too, and never moves in the inner
loop. The query is predicted without noise, at z = a and logits = mu: it is multiplied by softplus(a), which is not the
mean of softplus(z). In evaluation the inner loop draws too: the mean loss of `eval_samples` passes per step.

`noise` replaces z by a simpler one, as the paper's ablations do (their text is not at hand: this is how their names are
read here; the code of a published reproduction does other things under these names):

    fixed        z ~ N(0, 1), nothing is learned, no noise on the logits
    weight       z ~ N(0, c_l^2), one c_l per layer is learned
    independent  z ~ N(mu_l, 1), one mu_l per channel is learned
    none         no noise and no softplus: the learner by itself

with z at its mean for the query, and s = softplus(b) independent of the image for the middle two.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raymeta.hooks import Convolve, Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models import Backbone
from raymeta.models.init import fill
from raymeta.models.passes import Pass
from raymeta.problem import Problem, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section


class MetaDropoutConfig(Section):
    """Defaults: the authors' code."""

    noise: Literal["learned", "fixed", "weight", "independent", "none"] = "learned"
    head: bool = Field(True, description="Noise on the logits too.")
    init_std: Number = Field(0.02, gt=0, description="Of phi's initial weights, as of the authors' theta.")
    init_head: Literal["normal", "truncated_normal"] = Field(
        "normal", description="Law of phi's initial weights for the logits; those of convolutions are truncated normal."
    )
    lr_factor: float = Field(1.0, gt=0, description="Outer step size of phi, relative to theta's.")
    eval_samples: int = Field(30, ge=1, description="Passes per inner step in evaluation.")


@regularizer("metadropout")
class MetaDropout(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MetaDropoutConfig
    acts_on: ClassVar[str] = "convolutions, logits"
    neutral: ClassVar[dict[str, Any]] = {"noise": "none"}
    needs: ClassVar[frozenset[str]] = frozenset({"convolutions", "inner loop", "labels"})
    in_evaluation: bool = True

    def __init__(self, config: MetaDropoutConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        self.lr_factor = config.lr_factor
        if config.noise in ("fixed", "none"):
            return
        learned = config.noise == "learned"
        self.weights, self.shifts = nn.ParameterDict(), nn.ParameterDict()  # phi, or c (weights) or mu (shifts)
        for layer in model.blocks():
            shape = model.weights()[f"{layer}.weight"].shape
            if learned:
                self.weights[layer] = nn.Parameter(self._drawn("truncated_normal", *shape))
            elif config.noise == "weight":
                self.weights[layer] = nn.Parameter(torch.ones(1))
            if config.noise != "weight":
                self.shifts[layer] = nn.Parameter(torch.zeros(shape[0]))
        if config.head and model.head is not None:
            if learned:
                self.weights["head"] = nn.Parameter(self._drawn(config.init_head, 1, model.feature_size))
            self.shifts["head"] = nn.Parameter(torch.zeros(1))

    def _drawn(self, law: str, *shape: int) -> Tensor:
        return fill(torch.empty(shape), f"{law}({self.settings.init_std})")

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        if self.settings.noise == "none":
            return Hooks()
        samples = 1 if context.training else self.settings.eval_samples
        return Hooks(convolution=self.on_convolution, outputs=self.on_outputs, samples=samples)

    def on_convolution(self, h: Tensor, again: Convolve, layer: str, now: Pass) -> Tensor:
        kind = self.settings.noise
        if kind == "learned":
            mean = again(self.weights[layer], self.shifts[layer])
        elif kind == "independent":
            mean = self.shifts[layer][:, None, None]
        else:
            mean = h.new_zeros(())
        if now.query:
            return h * F.softplus(mean)
        noise = now.noise.normal(h)
        return h * F.softplus(mean + (self.weights[layer] * noise if kind == "weight" else noise))

    def on_outputs(self, outputs: Tensor, features: Tensor, now: Pass) -> Tensor:
        if now.query or self.settings.noise == "fixed" or "head" not in self.shifts:
            return outputs
        raw = self.shifts["head"]
        if "head" in self.weights:
            raw = F.linear(features, self.weights["head"][:, : features.shape[1]], raw)
        noise: Tensor = now.noise.normal(outputs)
        return outputs + F.softplus(raw) * noise
