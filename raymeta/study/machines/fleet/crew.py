"""Continuous batching of trials: rounds are asked for at any time, and computed together by structure.

A trial that was asked for joins the lanes of its structure before the next outer step, waits in its lane between its
rounds, and leaves when it is released or its lane is needed. Lanes grow and shrink with what is asked and what pays
(`width.py`). Structures that can't be lanes take an outer step in turn.
"""

import time
from typing import Any, NamedTuple

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.storage.places import any_path
from raymeta.study.machines.failures import failure_of
from raymeta.study.machines.fleet.group import Group, Resident
from raymeta.training.lanes import alone, lane_structure
from raymeta.training.saving import Saving
from raymeta.training.trainer import resumed


class Answer(NamedTuple):
    """Of a trial that was asked for: the metrics of a round, or why there are none."""

    trial: int
    metrics: dict[str, Any] | None
    error: Exception | None = None


class Crew:
    """The trials of a fleet.

    Args:
        most: lanes of a program, at most; rounded up to a whole width.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._residents: dict[int, Resident] = {}
        self._groups: dict[Any, Group] = {}  # by structure

    @property
    def busy(self) -> bool:
        """A round is asked for."""
        return any(one.asked for one in self._residents.values())

    def ask(self, trial: int, data: dict[str, Any], folder: str, heard: int) -> Answer | None:
        """Ask for the first round of a trial after those that were heard of.

        Args:
            trial: its number.
            data: its config, as plain data.
            folder: where its checkpoint lies.
            heard: outer steps up to which its rounds are known.

        Returns:
            What was done before; None: `work` will give it.
        """
        try:
            resident = self._resident(trial, data, folder)
        except Exception as error:
            return Answer(trial, None, plain(error))
        trainer = resident.trainer
        unheard = [entry for entry in trainer.rounds if entry["outer_steps"] > heard]
        if not unheard and not trainer.done:
            if not resident.asked:
                resident.asked, resident.began, resident.spent = True, time.perf_counter(), 0.0
            return None
        return self._told(resident, (unheard or trainer.rounds[-1:])[0], last=len(unheard) <= 1)

    def release(self, trial: int) -> None:
        """Forget a trial; its checkpoint is on disk."""
        if resident := self._residents.pop(trial, None):
            self._out(resident)

    def work(self) -> list[Answer]:
        """An outer step of all whose rounds are asked for; returns those whose rounds have ended, saved."""
        together: dict[Group | Resident, list[Resident]] = {}
        for resident in self._residents.values():
            if resident.asked and not resident.trainer.round_full:
                group = self._groups.get(resident.structure)
                together.setdefault(resident if group is None or group.unfit else group, []).append(resident)
        failed: list[Answer] = []
        for one, residents in together.items():
            start = time.perf_counter()
            done = self._alone(one, failed) if isinstance(one, Resident) else self._beside(one, residents, failed)
            for resident in done:
                resident.spent += (time.perf_counter() - start) / len(done)
        return [*failed, *self._ended()]

    def _alone(self, resident: Resident, failed: list[Answer]) -> list[Resident]:
        """An outer step of a trial by itself."""
        try:
            resident.trainer.step()
            resident.saving.look()
        except Exception as error:
            failed.append(self._lost(resident, error))
            return []
        return [resident]

    def _beside(self, group: Group, residents: list[Resident], failed: list[Answer]) -> list[Resident]:
        """An outer step of trials of one structure, as many as its program has lanes for; returns those."""
        try:
            inside = group.step(residents)
        except Exception as error:
            residents[0].note = group.failed(error)
            return []
        for resident in inside:
            try:
                resident.saving.look()
            except OSError as error:
                failed.append(self._lost(resident, error))
        return inside

    def _ended(self) -> list[Answer]:
        found = []
        for resident in list(self._residents.values()):
            if resident.asked and resident.trainer.round_full:
                wall = time.perf_counter() - resident.began
                try:
                    metrics = resident.trainer.end_round(time.perf_counter() - resident.spent)
                    resident.saving.save()
                except Exception as error:
                    found.append(self._lost(resident, error))
                    continue
                resident.asked = False
                found.append(self._told(resident, metrics | {"wall": wall}, last=True))
        return found

    def _told(self, resident: Resident, metrics: dict[str, Any], *, last: bool) -> Answer:
        trainer, note = resident.trainer, resident.note
        resident.note = ""
        missing = {f"val_{trainer.metric.name}": float("nan")}  # of a diverged round; Tune insists on the metric
        done = trainer.done and last
        if done:
            self._out(resident)
        return Answer(resident.number, {**missing, **metrics, "note": note, "done": done})

    def _lost(self, resident: Resident, error: Exception) -> Answer:
        """A trial that failed; it goes on from its checkpoint if it is asked for again."""
        self.release(resident.number)
        return Answer(resident.number, None, plain(error))

    def _resident(self, number: int, data: dict[str, Any], folder: str) -> Resident:
        config = parse_trial(data, "the trial's config")
        if (there := self._residents.get(number)) is not None and there.config == config:
            return there
        self.release(number)
        checkpoint = any_path(folder) / "checkpoint.pt"
        trainer, note = resumed(config, checkpoint)
        reason = alone(config, trainer.learner)
        structure = None if reason else lane_structure(config)
        if structure is not None and structure not in self._groups:
            self._groups[structure] = Group(self.most, config.outer.tasks_per_step)
        made = Resident(number, config, trainer, Saving(trainer, checkpoint), structure, note)
        self._residents[number] = made
        return made

    def _out(self, resident: Resident) -> None:
        if group := self._groups.get(resident.structure):
            group.leave(resident.trainer)


def plain(error: Exception) -> Exception:
    """An error that a process without torch can read, of the same kind to those who answer it."""
    if isinstance(error, OSError | UserError):
        return error
    if failure_of(error).kind == "memory":
        return MemoryError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")
