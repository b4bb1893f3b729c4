"""What a regularizer is, and the hooks by which it acts. A new one is a subclass in a file of its own; see
`docs/extending.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from raymeta.engine.numbers import Numbers
from raymeta.inner import Context, Step
from raymeta.models import Backbone, Pass, Weights
from raymeta.problem import Problem, Task, Tasks
from raymeta.schema import Section

if TYPE_CHECKING:
    from raymeta.learner import Learner

Loss = Callable[[Task], Tensor]
Convolve = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Hooks:
    """What a regularizer does in the tasks of an outer step, as plain data; None: nothing.

    Attributes:
        task: (task, loss, context) to the outer loss of a task, given the function that computes it for any task.
        query: (adapted, task, context) to the learner's state and the task that the query loss is computed of.
        query_losses: (losses, context) to the losses of a task's query examples, [n], of which the learner's outer loss
            is the mean.
        query_loss: (loss, adapted, task, context) to a task's outer loss, []: adds what depends on the adapted learner.
        weights: (weights, pass) to the weights below the head that a pass uses, and no other pass.
        inner_step: (step, context) sees an inner step before `inner_gradients` does, and changes nothing.
        inner_gradients: (gradients, context) to the gradients of an inner step, by parameter name, before the
            learner's update uses them.
        convolution: (h, again, layer, pass) to a block's convolution before its norm, [n, C, H, W]. `again` convolves
            the same input with another weight and bias.
        block: (h, layer, pass) to a block's output: [n, C, h, w], or [n, units] of an MLP's layer.
        outputs: (outputs, features, pass) to the head's outputs [n, outputs], made from features [n, F].
        samples: noisy passes whose mean is the support loss of an inner step.
        cuts_head: maps of another size than the model's stay as they are, and the head takes the first columns of its
            weight for them; without it they are averaged to the model's size.
    """

    task: Callable[[Task, Loss, Context], Tensor] | None = None
    query: Callable[[Any, Task, Context], tuple[Any, Task]] | None = None
    query_losses: Callable[[Tensor, Context], Tensor] | None = None
    query_loss: Callable[[Tensor, Any, Task, Context], Tensor] | None = None
    weights: Callable[[Weights, Pass], Weights] | None = None
    inner_step: Callable[[Step, Context], None] | None = None
    inner_gradients: Callable[[Weights, Context], Weights] | None = None
    convolution: Callable[[Tensor, Convolve, str, Pass], Tensor] | None = None
    block: Callable[[Tensor, str, Pass], Tensor] | None = None
    outputs: Callable[[Tensor, Tensor, Pass], Tensor] | None = None
    samples: int = 1
    cuts_head: bool = False


class Regularizer(nn.Module):
    """Says which hooks act in the tasks of an outer step. Parameters, if any, are meta-learned.

    Args:
        config: the regularizer's section.
        model: the backbone, for its layer groups.
        problem: what is learned.

    Attributes:
        settings: the section; numbers: those of it that are numbers, as tensors.
        acts_on: what it changes, in a phrase.
        neutral: settings at which it changes nothing: the baseline of every search.
        needs: what it has no meaning without: `inner loop` of the learner, `labels` or `images` of the problem,
            `convolutions` of the model.
        in_evaluation: it acts in evaluation too.
        changes_tasks: it has an `on_tasks` of its own.
        batches: tasks can be batched by vmap; if not they are computed one by one.
        least_tasks: of an outer step, for it to have a meaning; with more than one, tasks must be of one shape.
        of_policies, of_windows: it has a meaning where the examples are made by the learner's own policy, where they
            are windows around a target; not inherited.
        lr_factor: outer step size of its parameters, relative to `outer.lr`.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Section]]
    acts_on: ClassVar[str] = ""
    neutral: ClassVar[dict[str, Any]]
    needs: ClassVar[frozenset[str]] = frozenset()
    in_evaluation: bool = False
    changes_tasks: ClassVar[bool] = False
    batches: ClassVar[bool] = True
    of_policies: ClassVar[bool] = False
    of_windows: ClassVar[bool] = False
    least_tasks: int = 1
    lr_factor: float = 1.0

    def __init__(self, config: Any, model: Backbone, problem: Problem) -> None:
        super().__init__()
        self.settings = config
        self.numbers = Numbers(config)

    def freezes(self, name: str) -> bool:
        """Whether the inner loop must leave the weight of this name as it is."""
        return False

    def covers(self, name: str) -> bool:
        """Whether it has something to do where the inner loop moves a tensor of this name."""
        return True

    def on_tasks(self, tasks: Tasks, progress: float, generator: torch.Generator) -> Tasks:
        """Change the tasks of an outer step, on the CPU.

        Args:
            tasks: T of them; not to be changed in place. Tasks of different shapes come one by one, T = 1.
            progress: outer steps done over the full budget, 0 to 1.
            generator: on the CPU, of this outer step.
        """
        return tasks

    def draw(self, tasks: Tasks, context: Context, generator: torch.Generator) -> Any:
        """What is drawn on the CPU for all tasks of an outer step before they are computed: tensors where they are.

        Args:
            tasks: T of them; of different shapes they come one by one, T = 1.
            context: that of the tasks, but for what differs between them (task, noise).
            generator: on the CPU, of this outer step.
        """
        return None

    def on_step(self, learner: "Learner", tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        """What acts in the tasks of an outer step, or of an evaluation if it acts there.

        Args:
            learner: at this outer step.
            tasks: its tasks, T of them.
            context: that of the tasks, but for what differs between them (task, noise).
            drawn: by `draw`.
        """
        return Hooks()
