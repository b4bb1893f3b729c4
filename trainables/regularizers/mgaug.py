"""MGAug: sub-networks, pruned anew for every task, add their meta-gradients to the whole network's.

Wang, Zhou, Zhu, Pan, Xu: Improving Generalization in Meta-Learning via Meta-Gradient Augmentation (2023).

    outer loss of a task = Lq(whole) + weight * sum over u of Lq(sub-network u)

Every sub-network starts from theta with some of its weights at zero, adapts to the task by itself, and has no gradient
for those weights. The u-th keeps a share r_u of a layer: the first `keep`, the others uniform in [keep, 1]. `pruning`:

    catfish     of every convolution the k weights with the largest |theta dLq/dw| go, w being those that the query of
                the whole network was predicted with: what learns this task best, so that it is harder to memorise
    parameter   of every convolution k weights drawn at random
    width       of every convolution all filters but the first r_u of them, with their biases and norms

k = (1 - r) n of a layer's n weights, rounded down; `count: authors` takes one less (but none of none), as their code.
With `resize` the sub-network sees support and query in a size drawn for it, bilinear; maps of another size are averaged
to the usual one (the authors cut the head instead). Evaluation is the whole network's. An outer step costs about
1 + `networks` times as much.

Catfish pruning scores by the outer loss so far: terms that regularizers before it in the composition add count too.
Width and parameter pruning are not in the authors' code, and are done here as the paper says. That code scores with
gradients accumulated over the tasks so far, where the paper and this file take the task's own.
"""

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raymeta.errors import UserError
from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models import Backbone, Weights
from raymeta.models.passes import Pass
from raymeta.problem import Examples, Problem, Task, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section

SMALLEST = 16  # pixels: what Conv-4 can halve four times


class MGAugConfig(Section):
    """Defaults: the authors' code with the README's rate for first-order MAML (ProtoNet: 0.97)."""

    pruning: Literal["catfish", "parameter", "width"] = "catfish"
    networks: int = Field(3, ge=0, description="U, sub-networks of a task.")
    keep: Number = Field(0.98, gt=0, le=1, description="Smallest share of a layer's weights that is kept.")
    weight: Number = Field(1.0, ge=0, description="Of a sub-network's loss.")
    resize: bool = Field(True, description="Sub-networks see the task in another resolution.")
    sizes: tuple[float, ...] = Field(
        (1.0, 64 / 84, 48 / 84),
        min_length=1,
        description="Shares of the image's side; ResNets: 1, 192, 160, 140 of 224.",
    )
    count: Literal["exact", "authors"] = "exact"


@regularizer("mgaug")
class MGAug(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = MGAugConfig
    acts_on: ClassVar[str] = "the outer loss"
    neutral: ClassVar[dict[str, Any]] = {"networks": 0}
    needs: ClassVar[frozenset[str]] = frozenset({"images", "labels"})
    batches: ClassVar[bool] = False  # sizes differ from task to task

    def __init__(self, config: MGAugConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        if model.norm_mode == "running":
            raise UserError(
                "model.norm: found 'running', but mgaug's sub-networks would change the running averages too"
            )
        self.convolutions = [name for name, weight in model.weights().items() if weight.ndim == 4]

    def draw(self, tasks: Tasks, context: Context, generator: torch.Generator) -> list[list[float]]:
        """Of the image's side for each sub-network of each task; in Python, since shapes depend on it."""
        sizes, shape = self.settings.sizes, (tasks.size, self.settings.networks)
        return [[sizes[at] for at in row] for row in torch.randint(len(sizes), shape, generator=generator)]

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        if not self.settings.networks:
            return Hooks()
        return Hooks(query_loss=partial(self.on_query_loss, learner=learner, shares=drawn))

    def on_query_loss(
        self, loss: Tensor, adapted: Any, task: Task, context: Context, learner: Learner, shares: list[list[float]]
    ) -> Tensor:
        """Add the losses of the sub-networks."""
        settings, noise = self.settings, context.noise
        assert noise is not None
        theta = learner.model.weights()
        scores = self.scores(loss, adapted, theta) if settings.pruning == "catfish" else {}
        between = noise.uniform(loss.new_empty(settings.networks)).double()
        least = self.numbers.keep
        keep = least + (1 - least) * between * (torch.arange(len(between), device=loss.device) > 0)
        for number, share in enumerate(keep):
            if settings.pruning == "parameter":
                scores = {name: noise.uniform(theta[name]) for name in self.convolutions}
            masks = self.width(theta, share) if settings.pruning == "width" else self.largest(scores, share)
            there = replace(context, hooks=(*context.hooks, Hooks(weights=partial(masked, masks))))
            seen = resized(task, shares[context.task][number]) if settings.resize else task
            loss = loss + self.numbers.weight * learner.query_loss(learner.adapt(seen.support, there), seen.query)
        return loss

    def scores(self, loss: Tensor, adapted: Any, theta: Weights) -> Weights:
        """Of catfish pruning: how much a task's loss depends on each weight of a convolution."""
        seen = getattr(adapted, "weights", theta)
        gradients = torch.autograd.grad(loss, [seen[name] for name in self.convolutions], retain_graph=True)
        pairs = zip(self.convolutions, gradients, strict=True)
        return {name: (theta[name] * gradient).detach().abs() for name, gradient in pairs}

    def largest(self, scores: Weights, keep: Tensor) -> Weights:
        """Masks: 0 for the largest scores of each tensor, of which a share `keep`, [], is kept."""
        masks = {}
        for name, score in scores.items():
            count = (score.numel() * (1 - keep) + 1e-6).floor()  # 0.02 * 50 is a little less than 1
            if self.settings.count == "authors":
                count = (count - 1).clamp(min=0)
            order = score.flatten().argsort(descending=True, stable=True)
            kept = (torch.arange(score.numel(), device=score.device) >= count).to(score.dtype)
            masks[name] = torch.empty_like(kept).scatter(0, order, kept).view_as(score)
        return masks

    def width(self, theta: Weights, keep: Tensor) -> Weights:
        """Masks: 0 for all filters but the first `keep`, [], of them, one at least, and for what belongs to them."""
        masks = {}
        for convolution in self.convolutions:
            block = convolution.removesuffix("weight")
            filters = theta[convolution].shape[0]
            count = (keep * filters + 1e-6).floor().clamp(min=1)
            mask = (torch.arange(filters, device=count.device) < count).to(theta[convolution].dtype)
            for name in (convolution, f"{block}bias", f"{block}norm.weight", f"{block}norm.bias"):
                if name in theta:
                    masks[name] = mask.view(-1, 1, 1, 1) if name == convolution else mask
        return masks


def masked(masks: Weights, weights: Weights, now: Pass) -> Weights:
    """What passes of a sub-network use: some weights as zero."""
    return weights | {name: weights[name] * mask for name, mask in masks.items()}


def resized(task: Task, share: float) -> Task:
    """A task with its images' sides multiplied by `share`."""

    def images(x: Tensor) -> Tensor:
        size = [max(round(share * side), min(SMALLEST, side)) for side in x.shape[-2:]]
        return x if size == list(x.shape[-2:]) else F.interpolate(x, size=size, mode="bilinear", align_corners=True)

    return Task(*(Examples(images(x), y) for x, y in task))
