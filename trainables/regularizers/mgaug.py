"""MGAug: sub-networks, pruned anew for every task, add their meta-gradients to the whole network's.

Wang, Zhou, Zhu, Pan, Xu: Improving Generalization in Meta-Learning via Meta-Gradient Augmentation (2023).

    outer loss of a task = Lq(whole) + weight * sum over u of Lq(sub-network u)

Every sub-network starts from theta with some of its weights at zero, adapts to the task by itself, and has no gradient
for those weights. The u-th keeps a share r_u of a layer: the first `keep`, the others uniform in [keep, 1]. `pruning`:

    catfish     of every convolution weights with the largest scores go, so that what is learned is not just memorised
    snip        the opposite: of every convolution int(r n) weights with the largest scores stay, the others go
    parameter   of every convolution weights drawn at random go
    width       of every convolution all filters but the first r_u of them, with their biases and norms

No r is above `cap`. Of a layer's n weights (1 - r) n go, rounded down; `count: authors` takes one less (but none of
none), as their code. A layer whose scores are all 0 stays whole. A weight's score is |theta G|, by `scores`:

    authors     G is what is accumulated in theta's gradient over the outer step so far: that of the whole network and
                the sub-networks of all earlier tasks, and that of the whole network of this one, in second order
                through all its inner steps; of a learner without an inner loop, and of tasks that come one by one
                because their shapes differ, this task's alone
    task        G is the gradient of this task's loss of the whole network for theta, as the paper has it
    adapted     as `task`, for the weights that the query of the whole network was predicted with

With `resize` the sub-network sees support and query in a size drawn for it, bilinear, and its maps have another size:
with `head: authors` the head takes the first columns of its weight for them, whatever place and channel these are of in
the whole network, and a ResNet the mean over the places that there are; with `averaged` they are averaged to the usual
size, as they always are for MatchingNet and RelationNet, whose own networks need it. Evaluation is the whole network's.
An outer step costs about 1 + `networks` times as much.

Scores are of the outer loss so far: terms that regularizers before it in the composition add count too. Width and
parameter pruning are not in the authors' code, and are done here as the paper says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
    """Defaults: the authors' code, with the README's rate for first-order MAML."""

    pruning: Literal["catfish", "snip", "parameter", "width"] = "catfish"
    networks: int = Field(3, ge=0, description="U, sub-networks of a task.")
    keep: Number = Field(
        0.98, gt=0, le=1, description="Smallest share of a layer's weights that is kept; ProtoNet: 0.97."
    )
    cap: Number = Field(0.999, gt=0, le=1, description="Largest share that is kept; ProtoNet: 0.99.")
    weight: Number = Field(1.0, ge=0, description="Of a sub-network's loss.")
    scores: Literal["authors", "task", "adapted"] = Field(
        "authors", description="By which gradient weights are scored."
    )
    resize: bool = Field(True, description="Sub-networks see the task in another resolution.")
    sizes: tuple[float, ...] = Field(
        (1.0, 64 / 84, 48 / 84),
        min_length=1,
        description="Shares of the image's side; ResNets: 1, 192, 160, 140 of 224.",
    )
    head: Literal["authors", "averaged"] = Field("authors", description="What the head sees of maps in another size.")
    count: Literal["exact", "authors"] = "authors"


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
        if config.resize and config.head == "authors" and model.head is not None and max(config.sizes) > 1:
            raise UserError(
                f"regularizers.mgaug.sizes: found {max(config.sizes)}, but with head authors there are no columns for "
                "larger maps; allowed: up to 1"
            )
        self.convolutions = [name for name, weight in model.weights().items() if weight.ndim == 4]
        self.scored = config.pruning in ("catfish", "snip")

    def draw(self, tasks: Tasks, context: Context, generator: torch.Generator) -> list[list[float]]:
        """Of the image's side for each sub-network of each task; in Python, since shapes depend on it."""
        sizes, shape = self.settings.sizes, (tasks.size, self.settings.networks)
        return [[sizes[at] for at in row] for row in torch.randint(len(sizes), shape, generator=generator)]

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        settings = self.settings
        if not settings.networks:
            return Hooks()
        learned = all(learner.model.weights()[name].requires_grad for name in self.convolutions)
        if self.scored and settings.scores != "adapted" and not learned:
            raise UserError(
                f"regularizers.mgaug.scores: found '{settings.scores}', but {learner.name} does not learn here what it "
                "would score; allowed: adapted"
            )
        accumulates = self.scored and settings.scores == "authors" and learner.inner_loop
        step = Step(learner, drawn, accumulates)
        return Hooks(query_loss=partial(self.on_query_loss, step=step))

    def on_query_loss(self, loss: Tensor, adapted: Any, task: Task, context: Context, step: "Step") -> Tensor:
        """Add the losses of the sub-networks."""
        settings, noise, learner = self.settings, context.noise, step.learner
        assert noise is not None
        theta = learner.model.weights()
        learned = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        scores, total = dict[str, Tensor](), dict[str, Tensor]()
        if self.scored:
            scores, total = self.scores(loss, adapted, context, step)
        between = noise.uniform(loss.new_empty(settings.networks)).double()
        least = self.numbers.keep
        keep = least + (1 - least) * between * (torch.arange(len(between), device=loss.device) > 0)
        for number, share in enumerate(torch.minimum(keep, self.numbers.cap)):
            if settings.pruning == "parameter":
                scores = {name: noise.uniform(theta[name]) for name in self.convolutions}
            masks = self.width(theta, share) if settings.pruning == "width" else self.pruned(scores, share)
            own = Hooks(weights=partial(masked, masks), cuts_head=settings.head == "authors")
            there = replace(context, hooks=(*context.hooks, own))
            seen = resized(task, step.shares[context.task][number]) if settings.resize else task
            alone = self.numbers.weight * learner.query_loss(learner.adapt(seen.support, there), seen.query)
            # Its gradient is computed now, so that scores can be of it, and only one sub-network's graph is kept.
            found = torch.autograd.grad(alone, list(learned.values()), allow_unused=True)
            loss = loss + Known.apply(alone.detach(), found, *learned.values())
            gradients = dict(zip(learned, found, strict=True))
            total = {name: g + gradients[f"model.{name}"] for name, g in total.items()}
        step.earlier[int(context.task)] = total
        return loss

    def scores(self, loss: Tensor, adapted: Any, context: Context, step: "Step") -> tuple[Weights, Weights]:
        """How much the outer loss depends on each weight of a convolution; the gradient of this task's part of it."""
        theta = step.learner.model.weights()
        seen = getattr(adapted, "weights", theta) if self.settings.scores == "adapted" else theta
        values = torch.autograd.grad(loss, [seen[name] for name in self.convolutions], retain_graph=True)
        own = dict(zip(self.convolutions, values, strict=True))
        gradients = [own]
        if step.accumulates:
            gradients += [g for task, g in step.earlier.items() if task < context.task]
        scores = {n: (theta[n].detach() * sum(g[n] for g in gradients)).abs() for n in self.convolutions}
        return scores, own if step.accumulates else {}

    def pruned(self, scores: Weights, keep: Tensor) -> Weights:
        """Masks: 0 for what of each tensor goes if a share `keep`, [], stays."""
        masks = {}
        for name, score in scores.items():
            score = score.detach()
            ranked, order = score.flatten().sort(descending=True, stable=True)
            place = torch.arange(len(ranked), device=ranked.device)
            if self.settings.pruning == "snip":
                bound = ranked.gather(0, ((keep * len(ranked)).floor().long() - 1).clamp(min=0).view(1))
                mask = score >= bound
            elif self.settings.count == "authors":
                count = ((1 - keep) * len(ranked)).floor().long()
                bound = ranked.gather(0, (count - 1).clamp(min=0).view(1))
                mask = (score <= bound) | (count == 0)
            else:
                count = (len(ranked) * (1 - keep) + 1e-6).floor()  # 0.02 * 50 is a little less than 1
                mask = torch.empty_like(place).scatter(0, order, (place >= count).long()).view_as(score) > 0
            masks[name] = (mask | (ranked[:1] == 0)).to(score.dtype)
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


@dataclass(frozen=True)
class Step:
    """What the tasks of an outer step share.

    Attributes:
        shares: the sizes of their sub-networks.
        accumulates: scores are of the gradients of earlier tasks too.
        earlier: by number of a task, the gradient of its whole outer loss for the weights of convolutions.
    """

    learner: Learner
    shares: list[list[float]]
    accumulates: bool
    earlier: dict[int, Weights] = field(default_factory=dict)


class Known(torch.autograd.Function):
    """A loss [] whose gradients are known: (loss, gradients, tensors) to the loss, as a function of the tensors."""

    @staticmethod
    def forward(context: Any, loss: Tensor, gradients: Sequence[Tensor | None], *tensors: Tensor) -> Tensor:
        context.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(g if g is None else upstream * g for g in context.gradients)


def masked(masks: Weights, weights: Weights, now: Pass) -> Weights:
    """What passes of a sub-network use: some weights as zero."""
    return weights | {name: weights[name] * mask for name, mask in masks.items()}


def resized(task: Task, share: float) -> Task:
    """A task with its images' sides multiplied by `share`."""

    def images(x: Tensor) -> Tensor:
        size = [max(round(share * side), min(SMALLEST, side)) for side in x.shape[-2:]]
        return x if size == list(x.shape[-2:]) else F.interpolate(x, size=size, mode="bilinear", align_corners=True)

    return Task(*(Examples(images(x), y) for x, y in task))
