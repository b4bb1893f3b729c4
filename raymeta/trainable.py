"""`MetaTrainable`: a trial as Ray Tune sees it. The only Ray Trainable there is; methods know nothing of Ray.

In a study the trial keeps its own checkpoint in the study's folder and goes on from it whenever it is set up, so that a
worker, a driver or a node may die at any moment. With plain Ray Tune it saves and loads through Tune's own checkpoints;
importing this module makes every method known to Tune:

    import raymeta.trainable
    from ray import tune
    tune.Tuner("raymeta/maml", param_space={"maml": {"inner_lr": tune.loguniform(1e-3, 0.5)}}).fit()

Schedulers that copy one trial's checkpoint to another and change its config, as population based training does
(Jaderberg et al. 2017), may change numbers: rates, strengths. Where anything else differs it is another training, and
refused. What a learner has meta-learned of a number, it keeps.
"""

import math
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from ray import tune

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.schema import Section, check, merge
from raymeta.storage.places import any_path
from raymeta.training.device import cap_memory
from raymeta.training.saving import Saving
from raymeta.training.trainer import Trainer, resumed


class StudyTrial(Section):
    """The reserved key `study` of a trial's config: which trial of which study it is."""

    trial: int
    folder: str = Field(description="Where its checkpoint lies, a path or a store's URI.")
    known: int = Field(0, ge=0, description="Outer steps up to which its driver has heard of it.")
    gpu_share: float = Field(0.0, ge=0, le=1, description="Of its GPU's memory what it may take; 0: all, or no GPU.")
    gpu_context: int = Field(0, ge=0, description="Bytes of it that CUDA itself takes; 0: not measured.")


class MetaTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains a config of the one schema; an iteration is a round.

    Every result has `outer_steps`, `train_loss`, `val_<metric>` with `val_ci95`, `diverged` and `seconds`.
    """

    defaults: dict[str, Any] = {}  # noqa: RUF012  (a subclass sets it, as `register_all` does)

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(1)  # a second thread gives a Conv-4 trial 12 %, a second trial 100 %
        config = dict(config)
        study = config.pop("study", None)
        trial = parse_trial(merge(self.defaults, config), "the trial's config")
        self._saving: Saving | None = None
        self._unheard: list[dict[str, Any]] = []
        self._note, self._said = "", False
        if study is None:
            self.trainer = Trainer(trial)
        else:
            where = check(StudyTrial, study, "study")
            cap_memory(where.gpu_share, where.gpu_context)
            self._go_on(trial, where)

    def _go_on(self, trial: TrialConfig, where: StudyTrial) -> None:
        """From the trial's own checkpoint, if it has one; rounds that a dead driver never heard of are told first."""
        checkpoint = any_path(where.folder) / "checkpoint.pt"
        self.trainer, self._note = resumed(trial, checkpoint)
        self._saving = Saving(self.trainer, checkpoint)
        self._unheard = [entry for entry in self.trainer.rounds if entry["outer_steps"] > where.known]
        if self.trainer.done and not self._unheard:
            self._unheard = self.trainer.rounds[-1:]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._unheard:
            metrics = self._unheard.pop(0)
        else:
            metrics = (self._saving or self.trainer).round()
        note, self._note = self._note or self._slower(), ""
        missing = {f"val_{self.trainer.metric.name}": math.nan}  # of a diverged round; Tune insists on the metric
        return {**missing, **metrics, "note": note, "done": self.trainer.done and not self._unheard}

    def _slower(self) -> str:
        """What is to be known of the trial's speed, said once; or ""."""
        problem = self.trainer.captured.problem
        said, self._said = self._said, self._said or bool(problem)
        return f"its outer steps are not captured as a CUDA graph: {problem}" if problem and not said else ""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.trainer.save(Path(checkpoint_dir) / "checkpoint.pt")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.trainer.load(Path(checkpoint_dir) / "checkpoint.pt", of_any_numbers=True)


def register_all() -> None:
    """Make every method known to Ray Tune as `raymeta/<method>`, without importing any of them yet."""
    for name in registry.names("method"):
        named = type("MetaTrainable", (MetaTrainable,), {"defaults": {"method": name}})
        tune.register_trainable(f"raymeta/{name}", named)


register_all()
