"""`MetaTrainable`: a trial as Ray Tune sees it. The only Ray Trainable there is; methods know nothing of Ray.

In a study the trial keeps its own checkpoint in the study's folder and goes on from it whenever it is set up, so that a
worker, a driver or a node may die at any moment. With plain Ray Tune it saves and loads through Tune's own checkpoints:

    import raymeta
    from ray import tune
    tune.Tuner("raymeta/maml", param_space={"maml": {"inner_lr": tune.loguniform(1e-3, 0.5)}}).fit()
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from ray import tune

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.schema import Section, check, merge
from raymeta.trainer import Trainer


class Place(Section):
    """The reserved key `study` of a trial's config: which trial of which study it is."""

    trial: int
    folder: str = Field(description="Where its checkpoint lies.")
    save_every: int = Field(1, ge=1, description="Rounds between checkpoints.")


class MetaTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains a config of the one schema; an iteration is a round.

    Every result has `outer_steps`, `train_loss`, `val_accuracy` or `val_mse` with `val_ci95`, `diverged` and `seconds`.
    """

    defaults: dict[str, Any] = {}  # noqa: RUF012  (a subclass sets it, as `register_all` does)

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(1)  # a second thread gives a Conv-4 trial 12 %, a second trial 100 %
        config = dict(config)
        place = config.pop("study", None)
        self._place = check(Place, place, "study") if place is not None else None
        self.trainer = Trainer(parse_trial(merge(self.defaults, config), "the trial's config"))
        if self._place is not None and (checkpoint := self._own_checkpoint()).exists():
            self.trainer.load(checkpoint)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self.trainer.done:  # set up again after its end was saved but not heard
            return {"outer_steps": self.trainer.outer_step, "diverged": self.trainer.diverged, "done": True, "again": True}
        metrics = self.trainer.round()
        if self._place is not None:
            self.trainer.save(self._own_checkpoint())
        return {**metrics, "done": self.trainer.done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.trainer.save(Path(checkpoint_dir) / "checkpoint.pt")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.trainer.load(Path(checkpoint_dir) / "checkpoint.pt")

    def _own_checkpoint(self) -> Path:
        assert self._place is not None
        return Path(self._place.folder) / "checkpoint.pt"


def register_all() -> None:
    """Make every method known to Ray Tune as `raymeta/<method>`, without importing any of them yet."""
    for name in registry.names("method"):
        named = type("MetaTrainable", (MetaTrainable,), {"defaults": {"method": name}})
        tune.register_trainable(f"raymeta/{name}", named)


register_all()
