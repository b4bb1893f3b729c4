"""What a learner is. A new one is a subclass in a file of its own; see `docs/extending.md`.

`GradientLearner` owns the inner loop and every promise that it makes to regularizers; a learner of this kind says what
moves, from where and by which rule.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.config.fitting import refuse_unfit, refuse_unmet
from raymeta.config.inner_loop import InnerLoopConfig as InnerLoopConfig
from raymeta.config.inner_loop import StepsConfig as StepsConfig
from raymeta.engine.numbers import Numbers
from raymeta.errors import UserError
from raymeta.hooks import Hooks, Loss, Regularizer
from raymeta.inner import Context, Phase, Step, descend
from raymeta.models import Backbone, Pass, Weights
from raymeta.models.chunks import use_chunks
from raymeta.models.kernels import use_kernels
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
        of_policies: it has a meaning where the examples are made by its own policy; not inherited.
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

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__()
        self.settings, self.problem = config.settings, problem
        self.numbers = Numbers(self.settings)
        chosen = {name: registry.find("regularizer", name) for name in type(config.regularizers).model_fields}
        needs = {self.name: self.needs} | {f"{config.spec}: {name}": cls.needs for name, cls in chosen.items()}
        refuse_unmet(needs, ("inner loop",) if self.inner_loop else (), self.name, of=("inner loop",))
        refuse_unmet(needs, problem.offers, problem.name, of=("images", "labels"))
        if "policy" in problem.offers:
            refuse_unfit("method", [config.method], "policies", problem.name)
            refuse_unfit("regularizer", chosen, "policies", problem.name)
        self.model = self.build_model(config, problem)
        needs = {**needs, problem.name: problem.needs}
        refuse_unmet(needs, self.model.offers, f"model.name {config.model.name}", of=("convolutions", "policy"))
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


@dataclass(frozen=True)
class Adapted:
    """A task's state after adaptation: the weights, and what the query pass must know."""

    weights: Weights
    query: Pass


@dataclass(frozen=True)
class Support:
    """A task's support set, as the steps of its inner loop see it: inputs prepared, labels or values, the context."""

    x: Any
    y: Tensor
    context: Context


class GradientLearner(Learner):
    """A learner that adapts by gradient steps. With nothing overridden it is MAML.

    It keeps every promise to regularizers: weights that they freeze stay as they are; a step's loss is the mean of as
    many noisy passes as they ask for; they change the gradients before the update does; passes are normalised with the
    statistics that `model.norm` says; and the same under vmap, in first and in second order.

    Attributes:
        adapted: names of what the inner loop moves, without what is frozen.
    """

    inner_loop: ClassVar[bool] = True

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        regularizers: list[Regularizer] = list(self.regularizers)  # type: ignore[arg-type]
        self.adapted = [name for name in self.moving() if not any(one.freezes(name) for one in regularizers)]
        if not self.adapted:
            raise UserError(f"{config.spec}: nothing is left for {self.name} to adapt")
        for regularizer in regularizers:
            if not any(regularizer.covers(name) for name in self.adapted):
                raise UserError(f"{config.spec}: {self.name} adapts nothing in the scope of {regularizer.name}")
        if self.model.norm_mode == "per_step":
            self._refuse_steps_without_norm()

    @property
    def idle(self) -> Mapping[str, str]:
        return {} if self.model.norm_names() else {"adapt_norm": "scales and shifts of a norm"}

    # What a learner may say of itself

    def moving(self) -> list[str]:
        """What the inner loop moves, by name: all weights, but for the norm's unless `adapt_norm`."""
        fixed = frozenset() if self.settings.adapt_norm else self.model.norm_names()
        return [name for name in self.model.weights() if name not in fixed]

    def initial(self, support: Support) -> Weights:
        """Where a task's inner loop starts: theta, and whatever else the loss depends on."""
        return self.model.weights()

    def step_loss(self, support: Support) -> Callable[[Weights, int], Tensor]:
        """The loss that the inner loop descends, a function of (weights, step)."""

        def loss(weights: Weights, step: int) -> Tensor:
            now, samples = support.context.at(step), support.context.samples
            x, y = self.problem.of_step(Examples(support.x, support.y), step)
            losses = [self.loss(self.outputs(x, weights, now), y) for _ in range(samples)]
            return losses[0] if samples == 1 else torch.stack(losses).mean()

        return loss

    def update(self, step: int, moving: Weights, gradients: Weights) -> Weights:
        """The moved tensors after a step, by the learner's rule."""
        return {name: weight - self.numbers.inner_lr * gradients[name] for name, weight in moving.items()}

    def generated(self, support: Support, step: Step) -> dict[str, Weights]:
        """What is learned or made for an inner step beside the weights, by kind and tensor, as the step used it: a
        number for a tensor or one for each element. {}: there is nothing.

        Args:
            support: the task's.
            step: with the gradients that `update` was given.
        """
        return {}

    def phase(self, progress: float) -> Phase:
        """Which program is run when a share of the budget is done, 0 to 1."""
        settings, share = self.settings, self.settings.first_order_share
        return Phase(bool(settings.order == "second" and share < 1 and progress >= share))

    def outputs(self, x: Any, weights: Weights, now: Pass) -> Tensor:
        """Logits or values of prepared inputs under the weights of a task."""
        return self.model(x, weights, now)  # type: ignore[no-any-return]

    # The inner loop

    def adapt(self, support: Examples, context: Context) -> Adapted:
        own = self.prepared(support, context)
        path = descend(
            self.step_loss(own),
            self.initial(own),
            self.adapted,
            self.update,
            steps=self.steps(context),
            second_order=self.second_order(context),
            context=context,
        )
        return self.adapted_state(own, path)

    def unadapted(self, support: Examples, context: Context) -> Adapted:
        """The state before the first inner step."""
        own = self.prepared(support, context)
        return self.adapted_state(own, [self.initial(own)])

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        return self.outputs(self.model.prepare(x), adapted.weights, adapted.query)

    def prepared(self, support: Examples, context: Context) -> Support:
        """A support set with what all steps share computed once."""
        return Support(self.model.prepare(support.x), support.y, context)

    def adapted_state(self, support: Support, path: list[Weights]) -> Adapted:
        """What the query is predicted with, from the weights before and after every step."""
        return Adapted(path[-1], self.query_pass(support, path[-1], max(len(path) - 2, 0)))

    def query_pass(self, support: Support, weights: Weights, step: int) -> Pass:
        """How the query is normalised after inner step `step`: in `support` mode with the support's statistics."""
        if self.model.norm_mode != "support":
            return support.context.at(step, query=True)
        self.outputs(support.x, weights, now := support.context.at(step))
        return support.context.at(step, now.recorded, query=True)

    def steps(self, context: Context) -> int:
        """Inner steps, in training or evaluation, unless the context says how many."""
        settings = self.settings
        if context.steps is not None:
            return context.steps
        if context.training or settings.eval_steps is None:
            return int(settings.inner_steps)
        return int(settings.eval_steps)

    def phase_of(self, context: Context) -> Phase:
        """The phase that a task is in. In lanes their progress is a tensor, and the phase is said beside it."""
        return context.phase or self.phase(context.progress)  # type: ignore[arg-type]

    def second_order(self, context: Context) -> bool:
        """Whether this outer step differentiates through the inner gradients; never in evaluation."""
        return context.training and self.phase_of(context).second_order

    def refuse_more_eval_steps(self) -> None:
        """Where something is learned for every inner step there is nothing for steps beyond them.

        Raises:
            UserError: evaluation takes more steps than training.
        """
        if (self.settings.eval_steps or 0) > self.settings.inner_steps:
            raise UserError(
                f"{self.name}.eval_steps: found {self.settings.eval_steps}, but {self.name} learns something for each "
                f"of its inner_steps ({self.settings.inner_steps}) and has nothing for more"
            )

    def _refuse_steps_without_norm(self) -> None:
        settings = self.settings
        if settings.inner_steps < 1:
            raise UserError(f"{self.name}.inner_steps: found 0, but model.norm per_step has a row for each of them")
        if self.model.norm_names() & set(self.adapted):
            raise UserError(
                f"{self.name} adapts the norm's scales and shifts here, but with model.norm per_step they are "
                "learned per step"
            )
        if (settings.eval_steps or 0) > settings.inner_steps:
            raise UserError(
                f"{self.name}.eval_steps: found {settings.eval_steps}, but model.norm per_step has only "
                f"inner_steps ({settings.inner_steps}) rows"
            )


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
