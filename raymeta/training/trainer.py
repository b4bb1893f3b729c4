"""The outer loop. It knows nothing of Ray: same config and seed, same numbers, whole or interrupted anywhere.

There is no generator to save: the episodes and the noise of outer step t are functions of (seed, t), so a checkpoint is
the weights, the optimizer and t.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.config.migration import VERSION, of_another_version
from raymeta.engine.lanes import own
from raymeta.engine.noise import Noise, task_keys
from raymeta.engine.tasks import for_each
from raymeta.errors import UserError
from raymeta.hooks import Hooks
from raymeta.inner import Context, Player
from raymeta.learner import build_learner, task_loss
from raymeta.metric import Score
from raymeta.models.precision import set_products
from raymeta.problem import Bank, Examples, Task, Tasks, open_problem
from raymeta.storage import checkpoints
from raymeta.storage.places import AnyPath, rename
from raymeta.training.captured import CapturedGradients
from raymeta.training.device import device_of, keeps_on_device, vectorized
from raymeta.training.outer import OuterStep, Surface
from raymeta.training.pretraining import load_pretrained

CHECKPOINT_VERSION = 2


class Trainer:
    """Trains one config round by round.

    Attributes:
        captured: its outer gradients as a CUDA graph.
        outer_step: outer steps done.
        diverged: a loss was not finite, in training or validation; the trial is over.
        rounds: the metrics of every round so far.
        top: the weights of the best validations so far, the best first, each with its score, interval and outer step.
    """

    def __init__(self, config: TrialConfig) -> None:
        self.config = config
        self.device = device_of(config)
        self.problem = open_problem(config.task)
        self.metric = self.problem.metric
        self.learner = build_learner(config, self.problem).to(self.device)
        if config.pretraining.epochs:
            load_pretrained(self.learner.model, config, self.problem, self.device)
        self.vectorized = vectorized(config, self.device, self.learner)
        self.update: OuterStep = registry.find("outer", config.outer.optimizer)(config, self.learner)
        self.captured = CapturedGradients(config, self.learner, self.update, self.device, vectorized=self.vectorized)
        if keeps_on_device(config, self.device, self.learner):
            self.problem.keep_on(self.device)
        self._training = self.problem.training_bank(config.seed, config.outer.tasks_per_step)
        self._validation = self.problem.bank("validation", config.task.bank_seed)
        self.outer_step = 0
        self.diverged = False
        self.rounds: list[dict[str, Any]] = []
        self.top: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []  # of the round that has begun

    @property
    def best(self) -> dict[str, Any] | None:
        """The first of `top`."""
        return self.top[0] if self.top else None

    @property
    def done(self) -> bool:
        """The budget is used up, or the trial diverged."""
        return self.diverged or self.outer_step >= self.config.budget.outer_steps

    def round(self, after_step: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """`validate_every` outer steps and a validation; what was saved in the middle of a round ends that one.

        Args:
            after_step: called after every outer step, as a moment to save.

        Returns:
            outer_steps, train_loss, diverged, seconds; unless it diverged also val_<metric>, val_ci95 and val_loss.
        """
        start = time.perf_counter()
        while not self.round_full:
            self.step()
            after_step()
        return self.end_round(start)

    @property
    def round_full(self) -> bool:
        """All its outer steps are done, or on a CPU, which is not waited for, a loss was not finite."""
        stops = self.device.type == "cpu" and bool(self._losses) and not self._losses[-1].isfinite()
        return stops or len(self._losses) >= self.config.budget.validate_every

    def step(self) -> None:
        """An outer step of a round."""
        self._losses.append(self.outer_update())

    def took(self, loss: Tensor) -> None:
        """An outer step was done elsewhere, on this trainer's tensors; its loss, []."""
        self.outer_step += 1
        self._losses.append(loss)

    def end_round(self, start: float) -> dict[str, Any]:
        """Validate, and close a round whose outer steps are done and that began at `start`, by `time.perf_counter`."""
        losses = self._read()
        metrics: dict[str, Any] = {"outer_steps": self.outer_step, "train_loss": sum(losses) / len(losses)}
        if not self.diverged:
            validation = self.validate()
            self.diverged = not all(map(math.isfinite, validation.values()))
            metrics |= {} if self.diverged else validation
        self.rounds.append({**metrics, "diverged": self.diverged, "seconds": time.perf_counter() - start})
        return self.rounds[-1]

    def _read(self) -> list[float]:
        """The losses of a round up to the first that is not finite, after which nothing counts."""
        values: list[float] = torch.stack(self._losses).tolist()
        first, self._losses = self.outer_step - len(values), []
        for done, value in enumerate(values):
            if not math.isfinite(value):
                self.diverged, self.outer_step = True, first + done
                return values[: done + 1]
        return values

    def outer_update(self) -> Tensor:
        """One outer step; returns the loss it followed, averaged over its tasks, []."""
        set_products(self.config)
        self.update.begin(self.outer_step)
        loss = self.update.follow(self)
        self.outer_step += 1
        return loss

    def outer_gradient(self) -> Tensor:
        """Fill in the gradients of outer step `outer_step`; returns the mean loss of its tasks, a scalar."""
        count = self.config.outer.tasks_per_step
        size = count if self.problem.one_shape else 1
        generator, own = self._generator(count), self.generator_of_step()
        losses = [
            self.accumulate(self.tasks_of_step(first, size, generator).to(self.device), first, own)
            for first in range(0, count, size)
        ]
        return torch.stack(losses).mean()

    def surface(self, clip: float | None = None) -> Surface:
        """The tasks of outer step `outer_step`, drawn once, for what asks for their losses again and again."""
        tasks = self.tasks_of_step().to(self.device)
        keys, surround = self._surrounded(tasks, 0)
        learner, problem = self.learner, self.problem

        def of_task(number: int | Tensor, key: Tensor, support: Examples, query: Examples) -> Tensor:
            outputs = learner.predict(learner.adapt(Examples(*support), surround(number, key)), query[0])
            loss = problem.outer_loss(outputs, query[1], learner.loss, clip)
            return torch.stack([loss, problem.distance(outputs, query[1])])

        def measured() -> tuple[Tensor, Tensor]:
            found = for_each(of_task, keys, tasks.support, tasks.query, vectorized=self.vectorized)
            loss, distance = (found if isinstance(found, Tensor) else torch.stack(found)).mean(0)
            return loss, distance

        return measured

    def tasks_of_step(
        self, first: int = 0, count: int | None = None, generator: torch.Generator | None = None
    ) -> Tasks:
        """Tasks of the next outer step, on the CPU, with what regularizers change of them.

        Args:
            first: number of the first one in the step.
            count: how many; None: all, if they are of one shape.
            generator: of the step; None: a new one.
        """
        whole = self.config.outer.tasks_per_step
        generator = generator or self._generator(whole)
        count = count or whole
        tasks = self._training.draw(self.outer_step * whole + first, count, self._player(first, count))
        for regularizer in self.learner.regularizers:
            tasks = regularizer.on_tasks(tasks, self.progress, generator)  # type: ignore[operator]
        return tasks

    def asked(self) -> tuple[Tasks, Tensor, list[Any]]:
        """What the next outer step of a lane is computed from: tasks, progress and what regularizers draw."""
        tasks = self.tasks_of_step().to(self.device)
        drawn = self.learner.drawn(tasks, self.context, self.generator_of_step())
        return tasks, torch.full((), self.progress, dtype=torch.float64, device=self.device), drawn

    @property
    def context(self) -> Context:
        """What surrounds the tasks of the next outer step; schedules are keyed to the share of it that is done."""
        return Context(True, self.progress, self.vectorized)

    @property
    def progress(self) -> float:
        """The share of the full budget that is done before the next outer step, 0 to 1 at the last one."""
        return self.outer_step / max(self.config.budget.outer_steps - 1, 1)

    def generator_of_step(self) -> torch.Generator:
        """What regularizers draw from on the CPU for all tasks of the next outer step."""
        return self._generator(self.config.outer.tasks_per_step + 1)

    def accumulate(self, tasks: Tasks, first: int = 0, generator: torch.Generator | None = None) -> Tensor:
        """Add the gradients of these tasks, as outer step `outer_step` weighs them.

        Args:
            tasks: all of the step, or one of several of different shapes.
            first: of which task of the step the noise is that of the first one here.
            generator: of the step, on the CPU; None: a new one.

        Returns:
            Their mean loss, a scalar on the trainer's device: nothing here waits for it.
        """
        count = tasks.size
        whole = count if self.problem.one_shape else self.config.outer.tasks_per_step
        weight = 1 / whole if self.config.outer.reduction == "mean" else 1.0
        if self.vectorized and self.captured.active:
            drawn = self.learner.drawn(tasks, self.context, generator or self.generator_of_step())
            return self.captured.add(self.outer_step, tasks, self.progress, drawn)
        keys, surround = self._surrounded(tasks, first, generator)

        def loss_of(number: int | Tensor, key: Tensor, support: Examples, query: Examples) -> Tensor:
            task = Task(Examples(*support), Examples(*query))
            return task_loss(self.learner, task, surround(number, key))

        def followed(*arguments: Any) -> Tensor:
            loss = loss_of(*arguments)
            self.update.backward(loss, weight)  # task by task: the graph of one task at a time
            return loss.detach()

        arguments = (keys, tasks.support, tasks.query)
        if self.vectorized:
            return self.update.batched(self.learner, loss_of, arguments, weight).double().mean()
        losses = for_each(followed, *arguments, vectorized=False)
        return torch.stack(losses).double().mean()  # type: ignore[arg-type]

    def _surrounded(
        self, tasks: Tasks, first: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Callable[[int | Tensor, Tensor], Context]]:
        """Keys of the noise of tasks of this outer step, and what surrounds one of a number and a key."""
        plain = replace(self.context, outputs=self.problem.outputs_of(tasks))
        hooks = self.learner.hooks(tasks, plain, generator or self.generator_of_step())
        return self._keys(first, tasks.size), lambda number, key: plain.of_task(number, Noise(key), hooks)

    def _keys(self, first: int, count: int) -> Tensor:
        numbers = torch.arange(first, first + count, dtype=torch.int32, device=self.device)
        return task_keys(self.config.seed, self.outer_step, numbers)

    def _player(self, first: int, count: int) -> Player:
        """For a bank that makes these tasks of the outer step with the learner of now."""

        def hooks(tasks: Tasks) -> tuple[Hooks, ...]:
            return self.learner.hooks(tasks, self.context, self.generator_of_step())

        return Player(self.learner, self.context, self._keys(first, count), hooks)

    def _generator(self, place: int) -> torch.Generator:
        """Of what is drawn on the CPU, before an outer step, for all of its tasks."""
        words = np.random.SeedSequence((self.config.seed, self.outer_step, place)).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))

    def validate(self) -> dict[str, float]:
        """Score the present weights on the validation bank, and keep them if they are among the best so far."""
        score = self.evaluate(self._validation, self.config.budget.validation_tasks)
        if math.isfinite(score.loss) and math.isfinite(score.mean):
            place = sum(not self.metric.better(score.mean, entry["score"]) for entry in self.top)
            weights = own(self.learner.state_dict())
            entry = {"score": score.mean, "ci95": score.ci95, "outer_step": self.outer_step, "weights": weights}
            self.top = [*self.top[:place], entry, *self.top[place:]][: self.config.budget.ensemble]
        return score.noted(self.metric.name)

    def test(self) -> tuple[Score, Score]:
        """The best validated weights on the test split, and the ensemble of `top`. For final runs, at their end."""
        if self.best is None:
            raise RuntimeError("nothing was validated yet, so there are no weights to test")
        members = [entry["weights"] for entry in self.top]
        bank = self.problem.bank("test", self.config.task.bank_seed, final=True)
        single = self.evaluate(bank, self.config.budget.test_tasks, members[:1])
        return single, self.evaluate(bank, self.config.budget.test_tasks, members) if len(members) > 1 else single

    def evaluate(
        self, bank: Bank, tasks: int, members: Sequence[dict[str, Tensor]] = (), steps: int | None = None
    ) -> Score:
        """Score tasks of a bank where this trains; see `Problem.evaluate`."""
        set_products(self.config)
        return self.problem.evaluate(
            self.learner, bank, tasks, device=self.device, vectorized=self.vectorized, members=members, steps=steps
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; plain data and tensors of its own."""
        return {
            "version": CHECKPOINT_VERSION,
            "raymeta": VERSION,
            "config": self.config.as_dict(),
            "outer_step": self.outer_step,
            "diverged": self.diverged,
            "rounds": self.rounds,
            "losses": [float(loss) for loss in self._losses],
            "method": own(self.learner.state_dict()),
            "optimizer": own(self.update.state_dict()),
            "top": self.top,
        }

    def load_state_dict(self, state: dict[str, Any], *, of_any_numbers: bool = False) -> None:
        """Go on from `state_dict`.

        Args:
            state: as `state_dict` gives it.
            of_any_numbers: it may be of a config with other numbers; those of this one hold from now on.

        Raises:
            UserError: the state is another version's or another config's.
        """
        other = of_another_version(state.get("raymeta"))
        if state.get("version") != CHECKPOINT_VERSION:
            raise UserError(
                f"the checkpoint has version {state.get('version')}, this raymeta reads {CHECKPOINT_VERSION}{other}"
            )
        if of_any_numbers:
            self._refuse_other_structure(state["config"])
        elif not self._same(state["config"]):
            raise UserError(f"the checkpoint belongs to another config{other}")
        try:
            self.learner.load_state_dict(state["method"])
            self.update.load_state_dict(state["optimizer"])
        except (KeyError, ValueError, RuntimeError) as error:
            if not other:
                raise
            raise UserError(f"its weights are not those of {self.config.spec}{other}") from error
        self.outer_step, self.diverged = state["outer_step"], state["diverged"]
        self.rounds, self.top = list(state["rounds"]), list(state["top"])
        losses = state.get("losses", [])  # there are none in a checkpoint of 0.1.0
        self._losses = [torch.tensor(loss, dtype=torch.float64, device=self.device) for loss in losses]

    def _same(self, config: Any) -> bool:
        """A config is this trainer's, whichever version wrote it; a key that was not there yet has its default."""
        try:
            return parse_trial(config).as_dict() == self.config.as_dict()
        except UserError:
            return False

    def _refuse_other_structure(self, config: Any) -> None:
        """A config may differ from this trainer's in numbers only."""
        other = parse_trial(config)
        if differing := set(other.structure()) ^ set(self.config.structure()):
            key = min(key for key, _ in differing)
            found, expected = ((one.flat() | {"spec": one.spec}).get(key) for one in (other, self.config))
            raise UserError(
                f"the checkpoint belongs to a config with {key}: {found}, and here it is {expected}; only numbers may "
                "change under way"
            )

    def save(self, path: AnyPath) -> None:
        """Write a checkpoint whole or not at all. One that was there stays beside it, until the next."""
        checkpoints.write_keeping(path, self.state_dict())

    def load(self, path: AnyPath, *, of_any_numbers: bool = False) -> None:
        """Go on from a checkpoint. Nothing in the file is executed.

        Args:
            path: of the file.
            of_any_numbers: as for `load_state_dict`.

        Raises:
            UserError: the file is not a checkpoint of this config, or is damaged.
        """
        state = checkpoints.read(path, self.device)
        try:
            self.load_state_dict(state, of_any_numbers=of_any_numbers)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except Exception as error:  # a file of tensors, but of something else
            raise UserError(f"{path}: not a checkpoint, or a damaged one") from error


def resumed(config: TrialConfig, path: AnyPath) -> tuple[Trainer, str]:
    """A trainer that goes on from the checkpoint at a path, if there is one.

    From one that is damaged or another config's nothing is taken: the one before it is used, or the run starts over,
    to the same numbers.

    Returns:
        The trainer; a sentence on what could not be used, or "".
    """
    trainer, note = Trainer(config), ""
    for file in (path, checkpoints.previous(path)):
        if file.exists():
            try:
                trainer.load(file)
                break
            except UserError as error:
                rename(file, file.with_suffix(".damaged").name)
                trainer, note = Trainer(config), str(error)
    return trainer, f"{note}; it goes on from outer step {trainer.outer_step}" if note else ""
