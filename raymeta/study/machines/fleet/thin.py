"""A fleet's trial as Ray Tune sees it: it asks a fleet for its rounds, and imports no torch."""

import time
from contextlib import suppress
from typing import Any

import ray
from ray import tune

from raymeta.study.machines.failures import MAX_FAILURES

POLL_S, BACK_WITHIN_S = 0.3, 60.0  # how long a fleet that died may take to be there again


class FleetTrial(tune.Trainable):  # type: ignore[misc]
    """One iteration is a round, as of `MetaTrainable`, with the same results.

    What it asks for is the first round after those that were heard of: whatever dies on the way, a round is reported
    once.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._config = dict(config)
        self._study = self._config.pop("study")
        self._heard = int(self._study["known"])
        self._fleet = ray.get_actor(self._study["fleet"])

    def step(self) -> dict[str, Any]:
        metrics: dict[str, Any] = self._round()
        self._heard = max(self._heard, metrics["outer_steps"])
        return metrics

    def _round(self) -> Any:
        """The next round, from a fleet that may die and come back in between."""
        deaths, gone_since = 0, 0.0
        while True:
            request = (self._study["trial"], self._config, self._study["folder"], self._heard)
            try:
                return ray.get(self._fleet.round.remote(*request))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as if this actor had computed it
            except ray.exceptions.RayActorError:
                now = time.monotonic()
                if now - gone_since > BACK_WITHIN_S:
                    deaths, gone_since = deaths + 1, now
                if deaths > MAX_FAILURES:
                    raise
                time.sleep(POLL_S)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        with suppress(Exception):  # it may be dead, and then there is nothing to give back
            self._fleet.release.remote(self._study["trial"])
