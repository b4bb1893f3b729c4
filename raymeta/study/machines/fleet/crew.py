"""Continuous batching of trials: rounds are asked for at any time, and computed together by structure.

A trial that was asked for joins the lanes of its structure before the next outer step, waits in its lane between its
rounds, and leaves when it is released or its lane is needed. Lanes grow and shrink with what is asked, by widths at
which a lane's numbers are the same bits (`whole_width`). Structures that can't be lanes take an outer step in turn.
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from raymeta.config import TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.storage.places import any_path
from raymeta.study.machines.failures import failure_of, last_line
from raymeta.training.lanes import Lanes, alone, lane_structure, whole_width
from raymeta.training.saving import Saving
from raymeta.training.trainer import Trainer, resumed


class Answer(NamedTuple):
    """Of a trial that was asked for: the metrics of a round, or why there are none."""

    trial: int
    metrics: dict[str, Any] | None
    error: Exception | None = None


@dataclass(eq=False)
class _Resident:
    """A trial that is here.

    Attributes:
        structure: what it shares a program by; None: it runs alone.
        asked: its next round is wanted.
        began: of that round, by `time.perf_counter`.
        spent: seconds of it, shared fairly with those that were computed at the same time.
        note: what the user is to know; said with its next round.
    """

    number: int
    config: TrialConfig
    trainer: Trainer
    saving: Saving
    structure: Any
    note: str
    asked: bool = False
    began: float = 0.0
    spent: float = 0.0


class Crew:
    """The trials of a fleet.

    Args:
        most: lanes of a program; rounded up to a whole width.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._residents: dict[int, _Resident] = {}
        self._programs: dict[Any, Lanes] = {}
        self._unfit: dict[Any, str] = {}  # structures whose program failed, with the reason
        self._untraced: set[Any] = set()  # structures of which it was said that their program is slow

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
        together: dict[Any, list[_Resident]] = {}
        for resident in self._residents.values():
            if resident.asked and not resident.trainer.round_full:
                shares = resident.structure is not None and resident.structure not in self._unfit
                together.setdefault(resident.structure if shares else resident, []).append(resident)
        failed: list[Answer] = []
        for structure, residents in together.items():
            start = time.perf_counter()
            done = self._step(structure, residents, failed)
            for resident in done:
                resident.spent += (time.perf_counter() - start) / len(done)
        return [*failed, *self._ended()]

    def _step(self, structure: Any, residents: list[_Resident], failed: list[Answer]) -> list[_Resident]:
        """An outer step of trials of one structure, as many as its program has lanes for; returns those."""
        if isinstance(structure, _Resident):
            trainer = structure.trainer
            try:
                trainer.step()
                structure.saving.look()
            except Exception as error:
                failed.append(self._lost(structure, error))
                return []
            return [structure]
        try:
            lanes = self._lanes(structure, residents)
            inside = [one for one in residents if one.trainer in lanes.trainers]
            lanes.step([lanes.trainers.index(one.trainer) for one in inside])
            if lanes.untraced and structure not in self._untraced:
                self._untraced.add(structure)
                inside[0].note = f"its program is slower, as it can't be traced: {last_line(lanes.untraced)}"
        except Exception as error:
            self._less(structure, error)
            return []
        for resident in inside:
            try:
                resident.saving.look()
            except OSError as error:
                failed.append(self._lost(resident, error))
        return inside

    def _lanes(self, structure: Any, residents: list[_Resident]) -> Lanes:
        """The program of a structure, with as many of these in its lanes as it may have."""
        trainers = [one.trainer for one in residents]
        tasks = residents[0].config.outer.tasks_per_step
        width = whole_width(min(len(trainers), self.most), tasks)
        lanes = self._programs.get(structure)
        if lanes is None or lanes.width < width or lanes.width > 2 * width:
            kept = [] if lanes is None else [one for one in lanes.trainers if one is not None]
            for trainer in kept:
                assert lanes is not None
                lanes.leave(lanes.trainers.index(trainer))
            lanes = self._programs[structure] = Lanes(trainers[0], width)
            trainers = [*(one for one in kept if one in trainers), *(one for one in trainers if one not in kept)]
        for trainer in trainers[: lanes.width]:
            if trainer in lanes.trainers:
                continue
            if not lanes.free:
                waiting = [n for n, one in enumerate(lanes.trainers) if one not in trainers]
                if not waiting:
                    break
                lanes.leave(waiting[0])
            lanes.join(trainer)
        return lanes

    def _less(self, structure: Any, error: Exception) -> None:
        """A program failed: for want of memory it gets half as many lanes; else each of its trials runs alone."""
        residents = [one for one in self._residents.values() if one.structure == structure]
        lanes = self._programs.get(structure)
        width = lanes.width if lanes is not None else 2
        for one in residents:
            self._out(one)
        self._programs.pop(structure, None)
        memory = failure_of(error).kind == "memory"
        if memory and width > whole_width(2, residents[0].config.outer.tasks_per_step):
            self.most = width // 2
            note = f"{width} lanes do not fit into memory; it goes on in {self.most}"
        else:
            note = self._unfit[structure] = f"it runs alone, as its program failed: {last_line(error)}"
        residents[0].note = note

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

    def _told(self, resident: _Resident, metrics: dict[str, Any], *, last: bool) -> Answer:
        trainer, note = resident.trainer, resident.note
        resident.note = ""
        missing = {f"val_{trainer.metric.name}": float("nan")}  # of a diverged round; Tune insists on the metric
        done = trainer.done and last
        if done:
            self._out(resident)
        return Answer(resident.number, {**missing, **metrics, "note": note, "done": done})

    def _lost(self, resident: _Resident, error: Exception) -> Answer:
        """A trial that failed; it goes on from its checkpoint if it is asked for again."""
        self.release(resident.number)
        return Answer(resident.number, None, plain(error))

    def _resident(self, number: int, data: dict[str, Any], folder: str) -> _Resident:
        config = parse_trial(data, "the trial's config")
        if (there := self._residents.get(number)) is not None and there.config == config:
            return there
        self.release(number)
        checkpoint = any_path(folder) / "checkpoint.pt"
        trainer, note = resumed(config, checkpoint)
        reason = alone(config, trainer.learner)
        structure = None if reason else lane_structure(config)
        made = _Resident(number, config, trainer, Saving(trainer, checkpoint), structure, note)
        self._residents[number] = made
        return made

    def _out(self, resident: _Resident) -> None:
        lanes = self._programs.get(resident.structure)
        if lanes is not None and resident.trainer in lanes.trainers:
            lanes.leave(lanes.trainers.index(resident.trainer))


def plain(error: Exception) -> Exception:
    """An error that a process without torch can read, of the same kind to those who answer it."""
    if isinstance(error, OSError | UserError):
        return error
    if failure_of(error).kind == "memory":
        return MemoryError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")
