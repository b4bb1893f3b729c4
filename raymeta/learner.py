"""What a method and a regularizer are. A new one is a subclass in a file of its own; see `docs/extending.md`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.models import Backbone, Weights
from raymeta.models.norm import Pass
from raymeta.problems.images.episodes import Episodes, Task
from raymeta.problems.images.store import Dataset
from raymeta.schema import Section


@dataclass(frozen=True)
class Adapted:
    """A task's state after adaptation: the weights, and what the query pass must know."""

    weights: Weights
    query: Pass


class Regularizer(nn.Module):
    """Hooks into training; every one is optional. Parameters, if any, are meta-learned.

    Args:
        config: the regularizer's section.
        model: the backbone, for its layer groups.
        dataset: what the images are.

    Attributes:
        neutral: settings at which it changes nothing: the baseline of every search.
        kinds: of data that it has a meaning for.
        in_evaluation: it acts in evaluation too.
        inner_loop: it has a meaning for learners with an inner loop only.
        batches: tasks can be batched by vmap; if not they are computed one by one.
        least_tasks: of an outer step, for it to have a meaning; with more than one, tasks must be of one shape.
        lr_factor: outer step size of its parameters, relative to `outer.lr`.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Section]]
    neutral: ClassVar[dict[str, Any]]
    kinds: ClassVar[tuple[str, ...]] = ("classification", "regression")
    in_evaluation: bool = False
    inner_loop: ClassVar[bool] = False
    batches: ClassVar[bool] = True
    least_tasks: int = 1
    lr_factor: float = 1.0

    def __init__(self, config: Any, model: Backbone, dataset: Dataset) -> None:
        super().__init__()
        self.settings = config

    def freezes(self, name: str) -> bool:
        """Whether the inner loop must leave the weight of this name as it is."""
        return False

    def on_tasks(self, episodes: Episodes, progress: float, generator: torch.Generator) -> Episodes:
        """Change the episodes of an outer step.

        Args:
            episodes: T of them; not to be changed in place. Tasks of different shapes come one by one, T = 1.
            progress: outer steps done over the full budget, 0 to 1.
            generator: on the CPU, of this outer step.
        """
        return episodes

    def on_step(
        self, method: "Method", episodes: Episodes, context: Context, generator: torch.Generator
    ) -> "Regularizer":
        """What acts in the tasks of an outer step: itself, or an object that has drawn something for each of them.

        Args:
            method: the learner at this outer step.
            episodes: its tasks, T of them; tasks of different shapes come one by one, T = 1.
            context: that of the tasks, but for what differs between them (task, noise).
            generator: on the CPU, of this outer step.
        """
        return self

    def on_task(self, task: Task, loss: Callable[[Task], Tensor], context: Context) -> Tensor:
        """The outer loss of a task, given the function that computes it for any task."""
        return loss(task)

    def on_query(self, adapted: Any, task: Task, method: "Method", context: Context) -> tuple[Any, Task]:
        """Change what a task's query loss is computed of, after adaptation: the learner's state, images and labels."""
        return adapted, task

    def on_query_loss(self, loss: Tensor, adapted: Any, task: Task, method: "Method", context: Context) -> Tensor:
        """Change a task's outer loss, a scalar; add to it what depends on the adapted learner."""
        return loss

    def on_weights(self, weights: Weights, now: Pass) -> Weights:
        """Change the weights below the head that a pass uses, and no other pass."""
        return weights

    def on_inner_gradients(self, gradients: Weights, context: Context) -> Weights:
        """Change the gradients of an inner step, by parameter name, before the method's update uses them."""
        return gradients

    def covers(self, name: str) -> bool:
        """Whether it has something to do where the inner loop moves a tensor of this name."""
        return True

    def on_convolution(
        self, h: Tensor, again: Callable[[Tensor, Tensor | None], Tensor], layer: str, now: Pass
    ) -> Tensor:
        """Change a block's convolution before its norm, [n, C, H, W]; Conv-4 only.

        Args:
            h: the convolution of the block's input with its own weights.
            again: the same input convolved with another weight and bias.
            layer: the block.
            now: the pass.
        """
        return h

    def on_block(self, h: Tensor, layer: str, now: Pass) -> Tensor:
        """Change a block's output: [n, C, h, w], or [n, units] of an MLP's layer."""
        return h

    def on_outputs(self, outputs: Tensor, features: Tensor, now: Pass) -> Tensor:
        """Change the head's outputs [n, outputs], made from features [n, F]."""
        return outputs

    def samples(self, training: bool) -> int:
        """Noisy passes whose mean is the support loss of an inner step."""
        return 1

    def has(self, hook: str) -> bool:
        """It has a hook of its own of this name, and use for it under its settings."""
        return getattr(type(self), hook) is not getattr(Regularizer, hook)


class Method(nn.Module, ABC):
    """A learner. Its parameters that require a gradient are exactly the meta-learned tensors; it knows no optimizer.

    A task is N ways, K shots, Q queries; x are [n, C, H, W] or [n, D], y labels [n] or values [n, 1]. Where tasks
    differ in shape, N is `context.ways`; a head has outputs for the most ways, of which a task uses its first N.

    Attributes:
        one_shape: all tasks have the same ways, shots and queries; if not they are computed one by one.
        ways: classes of the largest task.
        adapts: what changes from task to task, in a phrase.
        learns: what is meta-learned.
        cost: of an outer step, MAML's in second order being 1, by benchmarks/learners.py; not inherited.
        kinds: of data that it can learn from.
        inner_loop: it adapts by gradient steps, on which regularizers can act.
        defaults: what it changes of the defaults of a trial's other sections, as its authors do.
        exact: settings under which its outer gradient leaves nothing out; {}: all in second order.
        presets_of: methods whose settings in presets it takes over, as far as it has them, below its own.
        own_settings: what it does not take over.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Section]]
    adapts: ClassVar[str] = ""
    learns: ClassVar[str] = ""
    cost: ClassVar[float | None] = None
    kinds: ClassVar[tuple[str, ...]] = ("classification", "regression")
    inner_loop: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {}
    presets_of: ClassVar[tuple[str, ...]] = ()
    own_settings: ClassVar[frozenset[str]] = frozenset()
    exact: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: TrialConfig, dataset: Dataset) -> None:
        super().__init__()
        self.settings = config.settings
        self.one_shape = config.task.sampler == "fixed"
        self.ways = config.task.most_ways
        if dataset.kind not in self.kinds:
            raise UserError(f"{self.name} learns {' or '.join(self.kinds)}, and {dataset.name} is {dataset.kind}")
        chosen = {name: registry.find("regularizer", name) for name in type(config.regularizers).model_fields}
        for name, cls in chosen.items():
            if cls.inner_loop and not self.inner_loop:
                raise UserError(f"{config.spec}: {name} acts in the inner loop, and {self.name} has none")
            if dataset.kind not in cls.kinds:
                raise UserError(
                    f"{config.spec}: {name} is for {' or '.join(cls.kinds)}, and {dataset.name} is {dataset.kind}"
                )
        self.model = self.build_model(config, dataset)
        self.regularizers = nn.ModuleList(
            cls(getattr(config.regularizers, name), self.model, dataset) for name, cls in chosen.items()
        )
        for one in self.regularizers:
            tasks, least = config.outer.tasks_per_step, int(one.least_tasks)  # type: ignore[arg-type]
            if least > 1 and not self.one_shape:
                raise UserError(
                    f"task.sampler: found '{config.task.sampler}', but {one.name} compares the tasks of an outer step, "
                    "which must then be of one shape; allowed: fixed"
                )
            if tasks < least:
                raise UserError(
                    f"outer.tasks_per_step: found {tasks}, but {one.name} compares the tasks of an outer step: at "
                    f"least {least} are needed"
                )
        self.loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss if dataset.kind == "regression" else F.cross_entropy

    def ways_of(self, episodes: Episodes) -> int | None:
        """What a task's `Context.ways` is: counted where tasks differ in shape, and are therefore alone."""
        return None if self.one_shape else episodes.ways

    def build_model(self, config: TrialConfig, dataset: Dataset) -> Backbone:
        """The backbone with the head that the method needs."""
        return backbone(config, dataset.input_shape, dataset.outputs(config.task))

    @abstractmethod
    def adapt(self, support_x: Tensor, support_y: Tensor, context: Context) -> Any:
        """The state adapted to a task, from its support set x [N*K, ...], y [N*K]."""

    @abstractmethod
    def predict(self, adapted: Any, query_x: Tensor) -> Tensor:
        """Logits [N*Q, N], or values [Q, 1], of the query set x [N*Q, ...]."""

    def query_loss(self, adapted: Any, query_x: Tensor, query_y: Tensor) -> Tensor:
        """The task's outer loss, a scalar: by default the mean loss of the predictions."""
        return self.loss(self.predict(adapted, query_x), query_y)

    def with_hook(self, adapted: Any, on_block: Callable[..., Tensor]) -> Any:
        """An adapted state whose query passes call one more hook on the blocks' outputs."""
        return replace(adapted, query=hooked(adapted.query, on_block))


def hooked(now: Pass, on_block: Callable[..., Tensor]) -> Pass:
    """A pass with one more hook on the blocks' outputs."""
    return replace(now, on_block=(*now.on_block, on_block))


def task_loss(method: Method, task: Task, context: Context) -> Tensor:
    """A task's outer loss, a scalar, after all regularizers had their say."""

    def loss(task: Task) -> Tensor:
        adapted = queried = method.adapt(task.support_x, task.support_y, context)
        asked = task
        for regularizer in context.having("on_query"):
            queried, asked = regularizer.on_query(queried, asked, method, context)
        found = method.query_loss(queried, asked.query_x, asked.query_y)
        for regularizer in context.having("on_query_loss"):
            found = regularizer.on_query_loss(found, adapted, task, method, context)
        return found

    for regularizer in reversed(context.having("on_task")):
        loss = partial(regularizer.on_task, loss=loss, context=context)
    return loss(task)


def probabilities(y: Tensor, ways: int, dtype: torch.dtype) -> Tensor:
    """Labels [n] as probabilities [n, N]; soft labels stay as they are."""
    return y if y.is_floating_point() else F.one_hot(y, ways).to(dtype)


def backbone(config: TrialConfig, input_shape: tuple[int, ...], outputs: int | None) -> Backbone:
    """The backbone that `model` names, freshly initialised; see `Backbone` for the arguments."""
    steps = getattr(config.settings, "inner_steps", 1)
    built: Backbone = registry.find("backbone", config.model.name)(config.model, input_shape, outputs, steps)
    return built


def build_method(config: TrialConfig, dataset: Dataset) -> Method:
    """The method of a config with its regularizers, initialised from the config's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        method: Method = registry.find("method", config.method)(config, dataset)
    return method
