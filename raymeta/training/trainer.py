"""The outer loop. It knows nothing of Ray: same config and seed, same numbers, whole or interrupted anywhere.

There is no generator to save: the episodes and the noise of outer step t are functions of (seed, t), so a checkpoint is
the weights, the optimizer and t.
"""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymeta.config import TrialConfig, parse_trial
from raymeta.config.migration import VERSION, of_another_version
from raymeta.engine.noise import Noise, task_keys
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import Method, Regularizer, build_method, task_loss
from raymeta.problems.images.episodes import Episodes, Task
from raymeta.problems.images.store import Dataset, ImageDataset, open_dataset
from raymeta.storage import checkpoints
from raymeta.storage.places import AnyPath, rename
from raymeta.training.evaluation import Score, evaluate, metric_of
from raymeta.training.pretraining import load_pretrained

CHECKPOINT_VERSION = 2
CONTEXT_BYTES = 600 * 2**20  # a guess, where it is not measured, of what CUDA itself takes of a GPU for each process
IMAGES_SHARE = 0.05  # of a GPU's free memory, for a copy of the store: each trial that shares the GPU has its own


class Trainer:
    """Trains one config round by round.

    Attributes:
        outer_step: outer steps done.
        diverged: a loss was not finite, in training or validation; the trial is over.
        rounds: the metrics of every round so far.
        top: the weights of the best validations so far, the best first, each with its score, interval and outer step.
    """

    def __init__(self, config: TrialConfig) -> None:
        self.config = config
        self.device = device_of(config)
        self.dataset = open_dataset(config.task)
        self.metric = metric_of(self.dataset)
        self.method = build_method(config, self.dataset).to(self.device)
        if config.pretraining.epochs:
            load_pretrained(self.method.model, config, self.dataset, self.device)
        self.vectorized = _vectorized(config, self.device, self.method)
        self._learned = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        groups = _by_lr_factor(self.method)
        self._lr_factors = list(groups)
        self.optimizer = torch.optim.Adam([{"params": group} for group in groups.values()], lr=config.outer.lr)
        if _keeps_on_device(config, self.dataset, self.device, self.method):
            self.dataset.keep_on(self.device)  # type: ignore[attr-defined]
        self._training = self.dataset.bank("train", config.seed)
        self._validation = self.dataset.bank("validation", config.task.bank_seed)
        self.outer_step = 0
        self.diverged = False
        self.rounds: list[dict[str, Any]] = []
        self.top: list[dict[str, Any]] = []

    @property
    def best(self) -> dict[str, Any] | None:
        """The first of `top`."""
        return self.top[0] if self.top else None

    @property
    def done(self) -> bool:
        """The budget is used up, or the trial diverged."""
        return self.diverged or self.outer_step >= self.config.budget.outer_steps

    def round(self) -> dict[str, Any]:
        """`validate_every` outer steps and a validation.

        Returns:
            outer_steps, train_loss, diverged, seconds; unless it diverged also val_<metric>, val_ci95 and val_loss.
        """
        start = time.perf_counter()
        losses = []
        for _ in range(self.config.budget.validate_every):
            losses.append(self.outer_update())
            if self.diverged:
                break
        metrics: dict[str, Any] = {"outer_steps": self.outer_step, "train_loss": sum(losses) / len(losses)}
        if not self.diverged:
            validation = self.validate()
            self.diverged = not all(map(math.isfinite, validation.values()))
            metrics |= {} if self.diverged else validation
        self.rounds.append({**metrics, "diverged": self.diverged, "seconds": time.perf_counter() - start})
        return self.rounds[-1]

    def outer_update(self) -> float:
        """One outer step; returns the loss it followed, averaged over its tasks."""
        outer = self.config.outer
        for group, factor in zip(self.optimizer.param_groups, self._lr_factors, strict=True):
            group["lr"] = self._learning_rate() * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss = float(self.outer_gradient())
        if not math.isfinite(loss):
            self.diverged = True
            return loss
        if outer.clip is not None:
            torch.nn.utils.clip_grad_value_(self._learned, outer.clip)
        self.optimizer.step()
        self.outer_step += 1
        return loss

    def outer_gradient(self) -> Tensor:
        """Fill in the gradients of outer step `outer_step`; returns the mean loss of its tasks, a scalar."""
        count = self.config.outer.tasks_per_step
        size = count if self.method.one_shape else 1
        generator, own = self._generator(count), self._generator(count + 1)
        losses = []
        for first in range(0, count, size):
            episodes = self._training.batch(self.outer_step * count + first, size)
            for regularizer in self.method.regularizers:
                episodes = regularizer.on_tasks(episodes, self._progress, generator)  # type: ignore[operator]
            losses.append(self.accumulate(episodes.to(self.device), first, own))
        return torch.stack(losses).mean()

    @property
    def _progress(self) -> float:
        """Outer steps done over the full budget, 0 to 1: what schedules of noise are keyed to."""
        return self.outer_step / max(self.config.budget.outer_steps - 1, 1)

    def accumulate(self, episodes: Episodes, first: int = 0, generator: torch.Generator | None = None) -> Tensor:
        """Add the gradients of these episodes, as outer step `outer_step` weighs them.

        Args:
            episodes: all of the step, or one of several of different shapes.
            first: of which task of the step the noise is that of the first one here.
            generator: of the step, on the CPU; None: a new one.

        Returns:
            Their mean loss, a scalar on the trainer's device: nothing here waits for it.
        """
        count = episodes.tasks
        whole = count if self.method.one_shape else self.config.outer.tasks_per_step
        weight = 1 / whole if self.config.outer.reduction == "mean" else 1.0
        context = Context(True, self._progress, self.vectorized, ways=self.method.ways_of(episodes))
        own = generator or self._generator(whole + 1)
        regularizers: list[Regularizer] = list(self.method.regularizers)  # type: ignore[arg-type]
        acting = tuple(regularizer.on_step(self.method, episodes, context, own) for regularizer in regularizers)

        numbers = torch.arange(first, first + count, dtype=torch.int32, device=self.device)
        keys = task_keys(self.config.seed, self.outer_step, numbers)

        def loss_of(number: int | Tensor, key: Tensor, *task: Tensor) -> Tensor:
            there = replace(context, task=number, noise=Noise(key), regularizers=acting)
            return task_loss(self.method, Task(*task), there)

        if self.vectorized:
            losses = torch.vmap(loss_of)(torch.arange(count, device=self.device), keys, *episodes)
            torch.autograd.backward(losses.sum() * weight)
            return losses.detach().mean().double()
        found = []
        for number in range(count):
            loss = loss_of(number, keys[number], *episodes.task(number))
            torch.autograd.backward(loss * weight)  # task by task: the graph of one task at a time
            found.append(loss.detach())
        return torch.stack(found).double().mean()

    def _generator(self, place: int) -> torch.Generator:
        """Of what is drawn on the CPU, before an outer step, for all of its tasks."""
        words = np.random.SeedSequence((self.config.seed, self.outer_step, place)).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))

    def _learning_rate(self) -> float:
        outer = self.config.outer
        if outer.schedule == "constant":
            return outer.lr
        share = self.outer_step / self.config.budget.outer_steps
        return outer.min_lr + (outer.lr - outer.min_lr) * (1 + math.cos(math.pi * share)) / 2

    def validate(self) -> dict[str, float]:
        """Score the present weights on the validation bank, and keep them if they are among the best so far."""
        score = self._evaluate(self._validation, self.config.budget.validation_tasks)
        if math.isfinite(score.loss) and math.isfinite(score.mean):
            place = sum(not self.metric.better(score.mean, entry["score"]) for entry in self.top)
            weights = {name: tensor.detach().clone() for name, tensor in self.method.state_dict().items()}
            entry = {"score": score.mean, "ci95": score.ci95, "outer_step": self.outer_step, "weights": weights}
            self.top = [*self.top[:place], entry, *self.top[place:]][: self.config.budget.ensemble]
        return {f"val_{self.metric.name}": score.mean, "val_ci95": score.ci95, "val_loss": score.loss}

    def test(self) -> tuple[Score, Score]:
        """The best validated weights on the test split, and the ensemble of `top`. For final runs, at their end."""
        if self.best is None:
            raise RuntimeError("nothing was validated yet, so there are no weights to test")
        members = [entry["weights"] for entry in self.top]
        bank = self.dataset.bank("test", self.config.task.bank_seed, final=True)
        single = self._evaluate(bank, self.config.budget.test_tasks, members[:1])
        return single, self._evaluate(bank, self.config.budget.test_tasks, members) if len(members) > 1 else single

    def _evaluate(self, bank: Any, tasks: int, members: list[dict[str, Tensor]] | None = None) -> Score:
        return evaluate(self.method, bank, tasks, device=self.device, vectorized=self.vectorized, members=members)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; plain data and tensors."""
        return {
            "version": CHECKPOINT_VERSION,
            "raymeta": VERSION,
            "config": self.config.as_dict(),
            "outer_step": self.outer_step,
            "diverged": self.diverged,
            "rounds": self.rounds,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "top": self.top,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            UserError: the state is another version's or another config's.
        """
        other = of_another_version(state.get("raymeta"))
        if state.get("version") != CHECKPOINT_VERSION:
            raise UserError(
                f"the checkpoint has version {state.get('version')}, this raymeta reads {CHECKPOINT_VERSION}{other}"
            )
        if not self._same(state["config"]):
            raise UserError(f"the checkpoint belongs to another config{other}")
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError, RuntimeError) as error:
            if not other:
                raise
            raise UserError(f"its weights are not those of {self.config.spec}{other}") from error
        self.outer_step, self.diverged = state["outer_step"], state["diverged"]
        self.rounds, self.top = list(state["rounds"]), list(state["top"])

    def _same(self, config: Any) -> bool:
        """A config is this trainer's, whichever version wrote it; a key that was not there yet has its default."""
        try:
            return parse_trial(config).as_dict() == self.config.as_dict()
        except UserError:
            return False

    def save(self, path: AnyPath) -> None:
        """Write a checkpoint whole or not at all. One that was there stays beside it, until the next."""
        checkpoints.write_keeping(path, self.state_dict())

    def load(self, path: AnyPath) -> None:
        """Go on from a checkpoint. Nothing in the file is executed.

        Raises:
            UserError: the file is not a checkpoint of this config, or is damaged.
        """
        state = checkpoints.read(path, self.device)
        try:
            self.load_state_dict(state)
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


def refuse_unfit(config: TrialConfig) -> None:
    """Build a trial's method, to no end but that what does not fit together is said before anything starts.

    Raises:
        UserError: the trainer would refuse the config, on whatever device.
    """
    dataset, cpu = open_dataset(config.task), torch.device("cpu")
    method = build_method(config, dataset)
    _vectorized(config, cpu, method)
    _keeps_on_device(config, dataset, cpu, method)


def cap_memory(share: float, context: int = 0) -> None:
    """Let this process take no more of its GPU than its share, so that its neighbours live. Without a GPU: nothing.

    Args:
        share: of the GPU's memory, CUDA's own part of it included; 0: all of it.
        context: bytes of that part; 0: they were not measured.
    """
    if share and torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(max(share - (context or CONTEXT_BYTES) / total, 0.01))


def device_of(config: TrialConfig) -> torch.device:
    """Where a trial computes.

    Raises:
        UserError: it asks for a GPU and there is none.
    """
    wanted = config.engine.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device: found 'cuda', but torch sees no GPU here; allowed: auto, cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _by_lr_factor(method: Method) -> dict[float, list[torch.nn.Parameter]]:
    """The meta-learned parameters by how much faster than the rest they learn: 1, but for some regularizers'."""
    factors = {id(p): one.lr_factor for one in method.regularizers for p in one.parameters()}
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for parameter in method.parameters():
        if parameter.requires_grad:
            groups.setdefault(float(factors.get(id(parameter), 1.0)), []).append(parameter)  # type: ignore[arg-type]
    return groups


def _keeps_on_device(config: TrialConfig, dataset: Dataset, device: torch.device, method: Method) -> bool:
    """Whether batches are gathered on the device."""
    wanted = config.engine.images
    if wanted == "host":
        return False
    reasons = [f"{one.name} changes tasks on the CPU" for one in method.regularizers if one.has("on_tasks")]  # type: ignore[operator]
    if not isinstance(dataset, ImageDataset):
        reasons.append(f"{dataset.name} has no images")
    if wanted == "device" and reasons:
        raise UserError(f"engine.images: found 'device', but {reasons[0]}; allowed: auto, host")
    if wanted == "device" or reasons or device.type != "cuda":
        return wanted == "device"
    size = dataset.store.images.nbytes  # type: ignore[attr-defined]
    return bool(size < IMAGES_SHARE * torch.cuda.mem_get_info(device)[0])


def _vectorized(config: TrialConfig, device: torch.device, method: Method) -> bool:
    wanted, model = config.engine.tasks, method.model
    if not method.one_shape:
        if wanted == "vmap":
            raise UserError(
                f"engine.tasks: found 'vmap', but task.sampler {config.task.sampler} makes tasks of different shapes; "
                "allowed: auto, loop"
            )
        return False
    one_by_one = [f"{one.name} computes" for one in method.regularizers if not one.batches]
    if model.norm_mode == "running":  # they are written to in place
        one_by_one.append("model.norm running updates its averages")
    if one_by_one:
        if wanted == "vmap":
            raise UserError(f"engine.tasks: found 'vmap', but {one_by_one[0]} task by task; allowed: auto, loop")
        return False
    if wanted == "auto":
        return device.type == "cuda" or model.batches_tasks_on_cpu
    return wanted == "vmap"
