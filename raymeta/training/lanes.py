"""Lanes: trials of one structure as one program of a fixed width.

A lane is a `Trainer` whose tensors lie beside those of others. It joins and leaves between any two outer steps, and has
its own outer step, budget, seed, schedules, validation, best weights and checkpoint; what it computes does not depend
on what runs beside it. An empty lane computes a copy that nothing is done with. A loss that is not finite ends its own
lane alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.engine.graphs import Captured
from raymeta.engine.lanes import Stack, beside, rows_of
from raymeta.engine.noise import as_words, keys_of
from raymeta.engine.prepared import Prepared
from raymeta.engine.traced import Traced
from raymeta.engine.transfer import sent
from raymeta.learner import Learner, build_learner
from raymeta.learner.program import Program, phase_of, with_gradients
from raymeta.models.precision import set_products
from raymeta.problem import open_problem
from raymeta.training.device import graphs_of, one_by_one
from raymeta.training.outer import OuterUpdate
from raymeta.training.stacked import StackedUpdate
from raymeta.training.trainer import Trainer

OWN = ("budget.", "outer.schedule", "outer.milestones", "outer.factors", "outer.every", "outer.decay", "outer.added.m",
       "outer.added.f", "outer.restart_every", "outer.min_lr")  # fmt: skip
"""Beginnings of keys that a lane has by itself although they are structure: no program depends on them."""

LANES = 16  # of a program on a CPU, at most; see docs/lanes.md
VECTOR = 32  # float32 numbers that torch takes at a time on a CPU, two registers of AVX-512


def lane_structure(config: TrialConfig) -> tuple[tuple[str, Any], ...]:
    """What trials must have in common to be lanes of one program, hashable."""
    return tuple(
        pair for pair in config.structure(mixed=False) if not pair[0].startswith(OWN) or pair[0] == "outer.decay_of"
    )


def alone(config: TrialConfig, learner: Learner) -> str:
    """Why trials of this structure can't be lanes of one program and each runs alone, or ""."""
    if reason := one_by_one(config, learner):
        return reason
    if "policy" in learner.problem.offers:
        return f"the examples of {learner.problem.name} are made by each trial's policy"
    if config.outer.optimizer not in ("adam", "sgd"):
        return f"outer.optimizer {config.outer.optimizer} has no update of many lanes"
    return ""


def whole_width(width: int, tasks: int) -> int:
    """The least width, of as many lanes or more, at which a lane's float32 numbers are the same bits in every place.

    On a CPU torch computes the last elements of a tensor, those that fill no vector register, by other code, whose
    exponentials and logarithms round otherwise. So lanes times `computed_tasks` fill registers; of one lane, products
    of matrices take another way, too.

    Args:
        width: lanes wanted.
        tasks: of an outer step.
    """
    whole = VECTOR // math.gcd(VECTOR, computed_tasks(tasks))
    return -(-max(width, 2) // whole) * whole


def computed_tasks(tasks: int) -> int:
    """How many tasks a lane computes in an outer step: up to an eighth more than it has, if fewer lanes are whole then.

    What is beyond its own are copies of the first ones, of which nothing is used.
    """
    return max(range(tasks, tasks + max(tasks // 8, 1) + 1), key=lambda count: math.gcd(VECTOR, count))


def lanes_of(config: TrialConfig, *, gpu: bool) -> int:
    """How many trials of a search are lanes of one program, by its base config; 0: each has a process of its own.

    Args:
        config: what is searched may change it; a structure that can't be lanes runs alone in its fleet.
        gpu: trials compute on a GPU, where nothing is measured yet.
    """
    wanted = config.engine.lanes
    if wanted == "off":
        return 0
    if wanted != "auto":
        return int(wanted)
    if gpu or not registry.find("backbone", config.model.name).batches_tasks_on_cpu:
        return 0
    return 0 if alone(config, build_learner(config, open_problem(config.task))) else LANES


class Lanes:
    """Up to L trainers of one structure as one program.

    Args:
        like: a trainer of this structure, which is left as it is.
        width: L.

    Attributes:
        trainers: by lane; None: it is empty.
    """

    def __init__(self, like: Trainer, width: int) -> None:
        assert isinstance(like.update, OuterUpdate), "alone() says so"
        self.config, self.device, self.problem = like.config, like.device, like.problem
        self.structure = lane_structure(like.config)
        self.trainers: list[Trainer | None] = [None] * width
        dtype = next(like.learner.parameters()).dtype
        own = build_learner(like.config, like.problem).to(like.device, dtype)
        self._losses = Program(
            own, vectorized=like.vectorized, per_task=like.update.per_task, mixed=True, computed=computed_tasks
        )
        self._stack = Stack(own, width)
        learned = {name: self._stack.tensors[name] for name in like.update.learned}
        self._update, self._clipping = StackedUpdate(like.update, learned), like.update
        outer = like.config.outer
        self._traced = Traced(self._computed)
        graphs = graphs_of(like.config, like.device)
        self._program: Prepared = self._traced if graphs is None else Captured(self._traced, graphs)
        self._weight = 1 / outer.tasks_per_step if outer.reduction == "mean" else 1.0

    @property
    def untraced(self) -> Exception | None:
        """Why the program can't be captured or traced, which would make it faster."""
        return self._program.problem or self._traced.problem

    @property
    def width(self) -> int:
        """L."""
        return len(self.trainers)

    @property
    def free(self) -> list[int]:
        """Empty lanes."""
        return [lane for lane, trainer in enumerate(self.trainers) if trainer is None]

    def join(self, trainer: Trainer) -> int:
        """Put a trainer, wherever in its training it is, into an empty lane, whose number this returns."""
        if lane_structure(trainer.config) != self.structure:
            raise ValueError(f"{trainer.config.spec} is of another structure than these lanes")
        lane = self.free[0]
        self.trainers[lane] = trainer
        self._stack.take(lane, trainer.learner)
        self._update.take(lane, trainer.update)  # type: ignore[arg-type]
        return lane

    def leave(self, lane: int) -> Trainer:
        """Take a trainer out, with tensors of its own; it goes on alone, or in any lane."""
        trainer = self.trainers[lane]
        assert trainer is not None, f"lane {lane} is empty"
        self._stack.give(lane, trainer.learner)
        self._update.give(lane)
        self.trainers[lane] = None
        return trainer

    def step(self, lanes: Sequence[int] | None = None) -> int:
        """An outer step of these lanes, by default of all whose round is not full. Losses are not waited for.

        Returns:
            How many times the program was computed: once for each phase that they are in.
        """
        of_phase: dict[Any, list[int]] = {}
        for lane, trainer in enumerate(self.trainers):
            if trainer is not None and (lane in lanes if lanes is not None else not trainer.round_full):
                of_phase.setdefault(phase_of(trainer.learner, trainer.progress), []).append(lane)
        for phase, together in of_phase.items():
            self._step(phase, together)
        return len(of_phase)

    def round(self, lanes: Sequence[int], after_step: Callable[[], None] = lambda: None) -> None:
        """Outer steps of lanes until the round of each is full; their ends are the trainers' own."""
        own = [trainer for lane in lanes if (trainer := self.trainers[lane]) is not None]
        while open_lanes := [lane for lane, one in zip(lanes, own, strict=True) if not one.round_full]:
            self.step(open_lanes)
            after_step()

    def _step(self, phase: Any, lanes: list[int]) -> None:
        """An outer step of lanes that are in one phase of their learner."""
        set_products(self.config)
        trainers: dict[int, Trainer] = {lane: self.trainers[lane] for lane in lanes}  # type: ignore[misc]
        for lane, trainer in trainers.items():
            self._update.begin(lane, trainer.outer_step)
        asked = {lane: trainer.asked() for lane, trainer in trainers.items()}
        filled = [lane if lane in asked else lanes[0] for lane in range(self.width)]
        tasks, progress, drawn = beside([asked[lane] for lane in filled])
        words = zip(*((trainers[n].config.seed, trainers[n].outer_step) for n in filled), strict=True)
        keys = [sent(as_words(of_each)[:, None], self.device) for of_each in words]
        inputs = (keys, tasks.support, tasks.query, progress, drawn)
        state = (self._stack.tensors, self._update.state)
        losses, fresh = self._program(phase, state, inputs, self._bounds(), self._update.asked(lanes))
        self._update.follow(fresh, lanes)
        losses = losses.clone()  # a graph's are overwritten
        for lane, trainer in trainers.items():
            trainer.took(losses[lane])

    def _computed(self, phase: Any, state: tuple[Any, Any], inputs: Any, bounds: Any, asked: Any) -> tuple[Tensor, Any]:
        """An outer step: mean losses [L], and what it makes of parameters and moments.

        Args:
            phase: of the learner.
            state: parameters and buffers by name, and moments, [L, ...].
            inputs: of the program, each with the lanes before its own dimensions; in place of keys their words.
            bounds: of the clipping, [L].
            asked: of the update.
        """
        (seeds, steps), per_task, tasks = inputs[0], self._losses.per_task, inputs[1].x.shape[1]
        keys = keys_of(seeds, steps, torch.arange(tasks, dtype=torch.int32, device=seeds.device))

        def of_lane(own: dict[str, Tensor], rest: dict[str, Tensor], *inputs: Any) -> Tensor:
            named = {f"learner.{name}": tensor for name, tensor in (rest if per_task else rest | own).items()}
            found: Tensor = torch.func.functional_call(self._losses, named, (phase, own, *inputs))
            return found

        def losses_of(own: dict[str, Tensor], rest: dict[str, Tensor]) -> Tensor:
            given = (keys, *inputs[1:])
            return torch.vmap(of_lane, in_dims=(0, 0, *map(rows_of, given)))(own, rest, *given)

        def spread(tensor: Tensor) -> Tensor:
            return tensor[:, None].expand(len(tensor), tasks, *tensor.shape[1:])

        weight = 1.0 if per_task else self._weight  # which comes after the clipping
        losses, found = with_gradients(losses_of, state[0], self._update.learned, weight, spread if per_task else None)
        if per_task:
            found = {name: g.sum(1) * self._weight for name, g in self._clipped(found, bounds, over_tasks=True).items()}
        else:
            found = self._clipped(found, bounds)
        return losses.double().mean(1), self._update.fresh(*state, found, *asked)

    def _bounds(self) -> Tensor | None:
        """Each lane's `outer.clip` or `outer.clip_norm`, [L]; None: there is none."""
        outer = [trainer.config.outer if trainer else self._clipping.outer for trainer in self.trainers]
        most = [one.clip if one.clip is not None else one.clip_norm for one in outer]
        return None if most[0] is None else sent(torch.tensor(most, dtype=torch.float64), self.device)

    def _clipped(
        self, gradients: dict[str, Tensor], bounds: Tensor | None, *, over_tasks: bool = False
    ) -> dict[str, Tensor]:
        """Gradients within bounds."""
        if bounds is None:
            return gradients
        clipped = torch.vmap(self._clipping.clipped, in_dims=(0, None)) if over_tasks else self._clipping.clipped
        found: dict[str, Tensor] = torch.vmap(clipped)(gradients, bounds)
        return found
