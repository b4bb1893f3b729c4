"""A fleet's trial as Ray Tune sees it: what Tune takes for the trial's actor asks a fleet for its rounds.

There is no process behind it, so that a trial that waits costs neither a start nor memory. Ray itself asks again when a
fleet has died and is back: what is asked for is the first round after those that were heard of, so that a round is
reported once, whatever dies on the way.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.actor import ActorClass

from raymeta.study.machines.fleet.fleets import Fleets
from raymeta.study.machines.ray_patches import Patch

MAGIC = "__"  # begins the keys that Tune adds to a config for an actor of its own


class FleetTrial(tune.Trainable):  # type: ignore[misc]
    """The name under which Tune knows fleet trials; a `Seat` answers in its place."""


def seated(fleets: Fleets) -> list[Patch]:
    """Tune with seats in place of actors, while a study's trials are computed by fleets."""
    return [
        Patch(
            "ray.tune.execution.class_cache:_ActorClassCache.get",
            "starts a process for every trial, which would only wait for its fleet",
            lambda get: lambda self, trainable_cls: Seats(fleets),
            "(self, trainable_cls)",
        ),
        Patch(
            "ray.tune.execution.tune_controller:TuneController._cleanup_trials",
            "kills what it takes for actors at the end",
            lambda cleanup: _given_back,
            "(self)",
        ),
    ]


def _given_back(self: Any) -> None:
    """Seats are no processes: only what Tune counts for them is given back."""
    manager = self._actor_manager
    while manager._live_actors_to_ray_actors_resources:
        _, (_, resources) = manager._live_actors_to_ray_actors_resources.popitem()
        manager._resource_manager.free_resources(resources)
    manager.cleanup()


class _Method(NamedTuple):
    """As that of an actor's handle."""

    call: Callable[..., ray.ObjectRef]

    def remote(self, *arguments: Any, **named: Any) -> ray.ObjectRef:
        return self.call(*arguments, **named)


class Seats(ActorClass):  # type: ignore[misc]
    """What Tune takes for the class of its actors."""

    def __init__(self, fleets: Fleets) -> None:
        self._fleets = fleets

    def options(self, **resources: Any) -> _Method:
        """Tune counts what a trial takes; nothing is started that it could be kept to."""
        return _Method(lambda config, storage: Seat(self._fleets, config))


class Seat:
    """What Tune takes for an actor: one iteration is a round, as of `MetaTrainable`, with the same results."""

    def __init__(self, fleets: Fleets, config: dict[str, Any]) -> None:
        self._fleets = fleets
        self._sit(config)
        self.train = _Method(self._round)
        self.reset = _Method(self._reset)
        self.get_auto_filled_metrics = _Method(lambda **named: ray.put({}))
        self.stop = self.__ray_terminate__ = _Method(lambda: ray.put(None))
        self.__ray_ready__ = _Method(lambda: ray.put(True))

    def _sit(self, config: dict[str, Any]) -> None:
        self._config = {key: value for key, value in config.items() if not key.startswith(MAGIC)}
        self._study = self._config.pop("study")

    def _round(self) -> ray.ObjectRef:
        return self._fleets.round(self._study["trial"], self._config, self._study["folder"])

    def _reset(self, config: dict[str, Any], storage: Any) -> ray.ObjectRef:
        self._sit(config)
        return ray.put(True)
