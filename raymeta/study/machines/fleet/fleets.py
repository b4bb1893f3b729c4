"""The fleets of a search: how many, how wide, and which trial goes to which."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from raymeta.config import TrialConfig
from raymeta.study.machines.resources import Slots
from raymeta.training.lanes import lane_structure

THIN_TRIALS = "raymeta.study.machines.fleet.thin"
THIN = 0.4  # of a slot's core, in Ray's books only, for all trials that wait on its fleet


@dataclass
class Fleets:
    """One for each slot of a session.

    Attributes:
        slots: of the session.
        most: lanes of each, and trials that it is given at a time.
        names: by which Ray knows them.
    """

    slots: Slots
    most: int
    names: list[str] = field(default_factory=list)
    _actors: list[Any] = field(default_factory=list)
    _places: dict[int, tuple[int, Any]] = field(default_factory=dict)  # fleet and structure of each trial

    def start(self) -> None:
        """Let Ray start them; they are there again by themselves when they die."""
        import ray

        from raymeta.study.machines.fleet.worker import Fleet

        slots = self.slots
        amounts = {"num_cpus": slots.cpu * (1 - THIN), "num_gpus": slots.gpu}
        if slots.memory:
            amounts["memory"] = slots.memory
        for _ in range(slots.count):
            name = f"raymeta-fleet-{uuid4().hex}"
            made = ray.remote(**amounts)(Fleet).options(name=name, max_restarts=-1, max_concurrency=4 * self.most)
            self._actors.append(made.remote(self.most, slots.gpu, slots.gpu_context))
            self.names.append(name)

    @property
    def count(self) -> int:
        """Trials at a time."""
        return self.slots.count * self.most

    @property
    def per_trial(self) -> dict[str, float]:
        """What Ray is to count for a trial that waits."""
        return {"cpu": self.slots.cpu * THIN / self.most}

    def place(self, trial: int, config: TrialConfig) -> str:
        """The fleet that a trial is to go to: one that has its structure, unless another has much less to do."""
        self.ended(trial)
        structure = lane_structure(config)
        load = Counter(fleet for fleet, _ in self._places.values())
        least = min(range(len(self.names)), key=lambda fleet: load[fleet])
        same = Counter(fleet for fleet, own in self._places.values() if own == structure)
        room = [fleet for fleet in same if load[fleet] < min(self.most, load[least] + self.most // 2)]
        chosen = max(room, key=lambda fleet: same[fleet], default=least)
        self._places[trial] = chosen, structure
        return self.names[chosen]

    def ended(self, trial: int) -> None:
        """A trial is with no fleet any more."""
        self._places.pop(trial, None)

    def kill(self, trial: int) -> None:
        """End the fleet that a trial is with; Ray starts it again, and its other trials go on."""
        import ray

        if trial in self._places:
            ray.kill(self._actors[self._places[trial][0]], no_restart=False)

    def stop(self) -> None:
        """End them all."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
