"""The fleets of a search: how many, how wide, and which trial goes to which."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from raymeta.config import TrialConfig
from raymeta.study.machines.failures import MAX_FAILURES
from raymeta.study.machines.resources import Slots
from raymeta.training.lanes import lane_structure

FLEET = "raymeta.study.machines.fleet.worker"
WAITING = 0.4  # of a slot's core, in Ray's books only, for all trials of a fleet


@dataclass(eq=False)
class _Fleet:
    """One of them.

    Attributes:
        actor: Ray's handle.
        node: a reference to the name of the machine that it is on.
        here: it takes trials; one that replaces another or that failed does once it answers.
    """

    actor: Any
    node: Any
    here: bool = True


@dataclass(frozen=True)
class _Place:
    """Where a trial is.

    Attributes:
        fleet: that computes it.
        structure: of its program.
        heard: outer steps up to which its rounds are known.
    """

    fleet: _Fleet
    structure: Any
    heard: int


@dataclass
class Fleets:
    """One for each slot of a session.

    Attributes:
        slots: of the session.
        most: lanes of each, and trials that it is given at a time.
    """

    slots: Slots
    most: int
    _fleets: list[_Fleet] = field(default_factory=list)
    _places: dict[int, _Place] = field(default_factory=dict)  # by trial

    def start(self) -> None:
        """Let Ray start them; they are there again by themselves when they die."""
        self._fleets = [self._started(here=True) for _ in range(self.slots.count)]

    def _started(self, *, here: bool) -> _Fleet:
        import ray

        from raymeta.study.machines.fleet.worker import Fleet

        slots = self.slots
        amounts = {"num_cpus": slots.cpu * (1 - WAITING), "num_gpus": slots.gpu}
        if slots.memory:
            amounts["memory"] = slots.memory
        lives = {"max_restarts": -1, "max_task_retries": MAX_FAILURES, "max_concurrency": 4 * self.most}
        actor = ray.remote(**amounts)(Fleet).options(**lives).remote(self.most, slots.gpu, slots.gpu_context)
        return _Fleet(actor, actor.node.remote(), here)

    @property
    def count(self) -> int:
        """Trials at a time."""
        return self.slots.count * self.most

    @property
    def per_trial(self) -> dict[str, float]:
        """What Ray is to count for a trial that waits."""
        return {"cpu": self.slots.cpu * WAITING / self.most}

    def place(self, trial: int, config: TrialConfig, heard: int) -> None:
        """Give a trial to a fleet: to one that has its structure, unless another has much less to do.

        Args:
            trial: its number.
            config: of it.
            heard: outer steps up to which its rounds are known.
        """
        structure = lane_structure(config)
        load = Counter(place.fleet for place in self._places.values())
        there = [fleet for fleet in self._fleets if fleet.here] or self._fleets
        least = min(there, key=lambda fleet: load[fleet])
        same = Counter(place.fleet for place in self._places.values() if place.structure == structure)
        most = min(self.most, load[least] + self.most // 2)
        room = [fleet for fleet in same if fleet in there and load[fleet] < most]
        self._places[trial] = _Place(max(room, key=lambda fleet: same[fleet], default=least), structure, heard)

    def heard(self, trial: int, outer_steps: int) -> None:
        """A trial's rounds up to here are in the record."""
        place = self._places[trial]
        self._places[trial] = _Place(place.fleet, place.structure, outer_steps)

    def round(self, trial: int, config: dict[str, Any], folder: str) -> Any:
        """A reference to a trial's first round after those that were heard of."""
        place = self._places[trial]
        return place.fleet.actor.round.remote(trial, config, folder, place.heard)

    def release(self, trial: int) -> None:
        """A trial is with no fleet any more."""
        if place := self._places.pop(trial, None):
            place.fleet.actor.release.remote(trial)

    def failed(self, trial: int) -> None:
        """A trial failed: its fleet, which may be gone, gets no more until it answers."""
        if place := self._places.get(trial):
            self.release(trial)
            if place.fleet.here:
                place.fleet.here, place.fleet.node = False, place.fleet.actor.node.remote()

    def kill(self, trial: int) -> None:
        """End the fleet that a trial is with; Ray starts it again, and what was asked of it is asked again."""
        import ray

        if trial in self._places:
            ray.kill(self._places[trial].fleet.actor, no_restart=False)

    def look(self) -> None:
        """Give up fleets whose machine is gone: their trials fail, and are handed out again to others."""
        import ray

        machines = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for fleet in list(self._fleets):
            ready, _ = ray.wait([fleet.node], timeout=0)
            if not ready:
                continue
            try:
                fleet.here = ray.get(fleet.node) in machines
            except ray.exceptions.RayActorError:
                fleet.here = False
            if not fleet.here:
                ray.kill(fleet.actor)
                self._fleets.remove(fleet)
                self._fleets.append(self._started(here=False))

    def wait(self) -> None:
        """Until all of them have started."""
        import ray

        ray.get([fleet.node for fleet in self._fleets])

    def stop(self) -> None:
        """End them all."""
        import ray

        for fleet in self._fleets:
            ray.kill(fleet.actor)
