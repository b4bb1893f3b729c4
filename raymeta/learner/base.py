"""What every learner is, however it adapts, and how one is built from a config."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.config.fitting import refuse_unfit, refuse_unmet
from raymeta.engine.numbers import Numbers
from raymeta.errors import UserError
from raymeta.hooks import Hooks, Loss, Regularizer
from raymeta.inner import Context
from raymeta.models import Backbone
from raymeta.models.chunks import use_chunks
from raymeta.models.kernels import use_kernels
from raymeta.models.precision import use_precision
from raymeta.problem import Examples, Problem, Task, Tasks
from raymeta.schema import Section


class Learner(nn.Module, ABC):
    """Its parameters that require a gradient are exactly the meta-learned tensors; it knows no optimizer.

    x are [n, C, H, W] or [n, D], y labels [n] or values [n, ...]. Where tasks differ in how many outputs they use, a
    head has outputs for the most, of which a task uses its first `context.outputs`.

    Attributes:
        settings: the learner's own section; numbers: those of it that are numbers, as tensors.
        problem: what is learned.
        model: the backbone.
        regularizers: in the order of the composition.
        adapts: what changes from task to task, in a phrase.
        learns: what is meta-learned.
        cost: of an outer step, MAML's in second order being 1, by benchmarks/learners.py; not inherited.
        needs: what it has no meaning without: `labels` or `images` of the problem.
        inner_loop: it adapts by gradient steps, on which regularizers can act.
        defaults: what it changes of the defaults of a trial's other sections, as its authors do.
        networks: by backbone, what it changes besides of the section `model`: initial values above all.
        of_policies, of_windows: it has a meaning where the examples are made by its own policy, where they are windows
            around a target, whose size the network depends on; not inherited.
        exact: settings under which its outer gradient leaves nothing out; {}: all in second order.
        presets_of: learners whose settings in presets it takes over, as far as it has them, below its own.
        own_settings: what it does not take over.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Section]]
    adapts: ClassVar[str] = ""
    learns: ClassVar[str] = ""
    cost: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset()
    inner_loop: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]] = {}
    networks: ClassVar[dict[str, dict[str, Any]]] = {}
    presets_of: ClassVar[tuple[str, ...]] = ()
    own_settings: ClassVar[frozenset[str]] = frozenset()
    exact: ClassVar[dict[str, Any]] = {}
    of_policies: ClassVar[bool] = False
    of_windows: ClassVar[bool] = False

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__()
        self.settings, self.problem = config.settings, problem
        self.numbers = Numbers(self.settings)
        chosen = {name: registry.find("regularizer", name) for name in type(config.regularizers).model_fields}
        needs = {self.name: self.needs} | {f"{config.spec}: {name}": cls.needs for name, cls in chosen.items()}
        refuse_unmet(needs, ("inner loop",) if self.inner_loop else (), self.name, of=("inner loop",))
        refuse_unmet(needs, problem.offers, problem.name, of=("images", "labels"))
        for offer, what in (("policy", "policies"), ("windows", "windows")):
            if offer in problem.offers:
                refuse_unfit("method", [config.method], what, problem.name)
                refuse_unfit("regularizer", chosen, what, problem.name)
        self.model = self.build_model(config, problem)
        needs, network = {**needs, problem.name: problem.needs}, f"model.name {config.model.name}"
        refuse_unmet(needs, self.model.offers, network, of=("convolutions", "policy", "filter"))
        refuse_unmet({network: self.model.needs}, problem.offers, problem.name, of=("windows",))
        self.regularizers = nn.ModuleList(
            cls(getattr(config.regularizers, name), self.model, problem) for name, cls in chosen.items()
        )
        for one in self.regularizers:
            _refuse_few_tasks(config, problem, one)  # type: ignore[arg-type]

    @property
    def idle(self) -> Mapping[str, str]:
        """Keys of its section that do nothing on this model, each with what the model lacks: they are not searched."""
        return {}

    def build_model(self, config: TrialConfig, problem: Problem) -> Backbone:
        """The backbone with the head that the learner needs."""
        return backbone(config, problem.input_shape, problem.outputs)

    @abstractmethod
    def adapt(self, support: Examples, context: Context) -> Any:
        """The state adapted to a task, from its support set."""

    @abstractmethod
    def predict(self, adapted: Any, x: Tensor) -> Tensor:
        """Outputs [n, outputs] for inputs x [n, ...]: logits, or values."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What is descended, inner and outer, []: the problem's loss."""
        return self.problem.loss(outputs, y)

    def query_loss(self, adapted: Any, query: Examples) -> Tensor:
        """The task's outer loss, a scalar: by default the mean loss of the predictions."""
        return self.problem.outer_loss(self.predict(adapted, query.x), query.y, self.loss)

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of every example, [n], whose mean is `loss`."""
        return torch.vmap(lambda one, expected: self.loss(one[None], expected[None]))(outputs, y)

    def query_losses(self, adapted: Any, query: Examples) -> Tensor:
        """The outer loss of every query example, [n], whose mean is `query_loss`."""
        return self.losses(self.predict(adapted, query.x), query.y)

    def with_hook(self, adapted: Any, on_block: Callable[..., Tensor]) -> Any:
        """An adapted state whose query passes call one more hook on the blocks' outputs."""
        return replace(adapted, query=adapted.query.hooked(on_block))

    def hooks(
        self,
        tasks: Tasks,
        context: Context,
        generator: torch.Generator | None = None,
        drawn: Sequence[Any] | None = None,
    ) -> tuple[Hooks, ...]:
        """What the regularizers do in the tasks of an outer step, or of an evaluation.

        Args:
            tasks: T of them.
            context: that of the tasks, but for what differs between them.
            generator: on the CPU, of the outer step; None in evaluation, where nothing is drawn there.
            drawn: what `drawn` has drawn before, in place of a generator.
        """
        own = self.drawn(tasks, context, generator) if drawn is None else drawn
        return tuple(
            one.on_step(self, tasks, context, what) for one, what in zip(self._acting(context), own, strict=True)
        )

    def drawn(self, tasks: Tasks, context: Context, generator: torch.Generator | None) -> list[Any]:
        """What the regularizers that act draw on the CPU, one after the other; the arguments are those of `hooks`."""
        acting = self._acting(context)
        return [one.draw(tasks, context, generator) if generator is not None else None for one in acting]

    def _acting(self, context: Context) -> list[Regularizer]:
        return [one for one in self.regularizers if context.training or one.in_evaluation]  # type: ignore[misc]


def task_loss(learner: Learner, task: Task, context: Context) -> Tensor:
    """A task's outer loss, a scalar, after all hooks had their say."""

    def loss(task: Task) -> Tensor:
        adapted = queried = learner.adapt(task.support, context)
        asked = task
        for hooks in context.hooks:
            if hooks.query is not None:
                queried, asked = hooks.query(queried, asked, context)
        found = _queried(learner, queried, asked, context)
        for hooks in context.hooks:
            if hooks.query_loss is not None:
                found = hooks.query_loss(found, adapted, task, context)
        return found

    def within(hook: Callable[[Task, Loss, Context], Tensor], loss: Loss) -> Loss:
        return lambda task: hook(task, loss, context)

    whole: Loss = loss
    for hooks in reversed(context.hooks):
        if hooks.task is not None:
            whole = within(hooks.task, whole)
    return whole(task)


def _queried(learner: Learner, adapted: Any, task: Task, context: Context) -> Tensor:
    """The learner's own outer loss of a task, []."""
    changes = [hooks.query_losses for hooks in context.hooks if hooks.query_losses is not None]
    if not changes:
        return learner.query_loss(adapted, task.query)
    losses = learner.query_losses(adapted, task.query)
    for change in changes:
        losses = change(losses, context)
    return losses.mean()


def probabilities(y: Tensor, labels: int, dtype: torch.dtype) -> Tensor:
    """Labels [n] as probabilities [n, N]; soft labels stay as they are."""
    return y if y.is_floating_point() else (y[..., None] == torch.arange(labels, device=y.device)).to(dtype)


def backbone(config: TrialConfig, input_shape: tuple[int, ...], outputs: int | None) -> Backbone:
    """The backbone that `model` names, freshly initialised; see `Backbone` for the arguments."""
    steps = getattr(config.settings, "inner_steps", 1)
    built: Backbone = registry.find("backbone", config.model.name)(config.model, input_shape, outputs, steps)
    return built


def build_learner(config: TrialConfig, problem: Problem) -> Learner:
    """The learner of a config with its regularizers, initialised from the config's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner: Learner = registry.find("method", config.method)(config, problem)
    use_kernels(learner, config)
    use_chunks(learner, config)
    use_precision(learner, config)
    return learner


def _refuse_few_tasks(config: TrialConfig, problem: Problem, one: Regularizer) -> None:
    tasks, least = config.outer.tasks_per_step, one.least_tasks
    compares = f"but {one.name} compares the tasks of an outer step"
    if least > 1 and not problem.one_shape:
        raise UserError(
            f"task.sampler: found '{getattr(problem.task, 'sampler', problem.name)}', {compares}, which must then "
            "be of one shape; allowed: fixed"
        )
    if tasks < least:
        raise UserError(f"outer.tasks_per_step: found {tasks}, {compares}: at least {least} are needed")
