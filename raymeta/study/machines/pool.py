"""Jobs on the slots of a session: how they are started, watched, tried again, shown and left.

A job is a finalist to be scored or a final run; Ray Tune schedules the trials of a search itself, for the sake of ASHA,
and shares with this pool the slots, the way failures are answered (`failures`) and Ctrl-C (`session`).

A job works in rounds and saves each one before it tells of it, so a worker or the driver may die at any moment. Workers
are actors that take one job after the other: what they import, they import once.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol

import ray
import torch

from raymeta.metric import Metric
from raymeta.storage.places import AnyPath
from raymeta.study.machines.failures import Failure, Retries, Watch, failure_of
from raymeta.study.machines.resources import Slots
from raymeta.study.machines.session import Session
from raymeta.training.device import cap_memory
from raymeta.training.saving import Saving, ask_to_save
from raymeta.training.trainer import Trainer

LISTEN_S = 0.1  # how long Ctrl-C may wait to be heard

State = Literal["waiting", "running", "done", "diverged", "failed"]


@dataclass(frozen=True)
class Report:
    """What a job has done so far.

    Attributes:
        steps: outer steps trained.
        seconds: that this round took.
        score: the best validation so far, or the result.
        state: "running" of all reports but the last, which says what has become of the job.
        note: what the user should know.
        problem: why the job came to nothing; "": it did not.
    """

    steps: int = 0
    seconds: float = 0.0
    score: float | None = None
    ci95: float | None = None
    state: State = "running"
    note: str = ""
    problem: str = ""


class Job(Protocol):
    """What a slot does; it travels to its worker pickled. Its text is what users call it."""

    @property
    def metric(self) -> Metric:
        """Of its scores."""

    @property
    def folder(self) -> AnyPath:
        """Where its checkpoint lies."""

    @property
    def steps(self) -> int:
        """Outer steps that it trains in all; 0: it only scores."""

    def work(self) -> Iterator[Report]:
        """In a worker: go on from what is on disk, with a report as it begins and one after each round is saved.

        What does not train (a test) is the last round, and takes as long as it takes.
        """


@dataclass(eq=False)
class Entry:
    """A job with what is known of it."""

    job: Job
    state: State = "waiting"
    report: Report = Report()
    found: float | None = None  # the share of it that was done before; None: it has not begun
    worked_s: float = 0.0  # that slots have computed for it in this session
    alone: bool = False  # nothing may run beside it

    @property
    def done(self) -> float:
        """How much of it is done, 0 to 1."""
        if self.state not in ("waiting", "running"):
            return 1.0
        return min(self.report.steps / self.job.steps, 1.0) if self.job.steps else 0.0


class Display(Protocol):
    """Where a pool tells of what happens."""

    def say(self, message: str) -> None:
        """A line to the user."""

    def ended(self, entry: Entry) -> None:
        """A job has ended."""


@dataclass(eq=False)
class _Slot:
    worker: Any
    entry: Entry


class Pool:
    """Runs jobs, as many at a time as the session has slots, in their order.

    Args:
        session: Ray is running on its slots; what came to nothing is put into its `problems`.
        hung_after_s: seconds without a round after which a worker is taken for hung; None: see `Watch`.

    Attributes:
        entries: all jobs, in their order, with how far they are.
    """

    def __init__(self, jobs: Sequence[Job], session: Session, hung_after_s: float | None = None) -> None:
        self.entries = [Entry(job) for job in jobs]
        self._session = session
        self._waiting = deque(self.entries)
        self._slots: dict[Any, _Slot] = {}  # by what is asked of their workers
        self._idle: list[Any] = []  # workers
        self._retries, self._watch = Retries(), Watch(hung_after_s)
        self._killed: dict[_Slot, str] = {}  # workers taken for hung, with the reason

    def run(self, display: Display) -> None:
        """Until every job has ended, or the session is stopping and every round has ended, or it is leaving."""
        session = self._session
        try:
            while not session.leaving:
                if session.stopping:
                    self._empty()
                else:
                    self._fill()
                if session.saving:
                    session.saving = False
                    for slot in self._slots.values():
                        if slot.entry.job.steps:  # what only scores has nothing to save
                            ask_to_save(slot.entry.job.folder)
                if not self._slots:
                    break
                session.look()
                answered, _ = ray.wait(list(self._slots), num_returns=1, timeout=LISTEN_S)
                for reference in answered:
                    self._answer(reference, display)
                for slot, reason in self._watch.hung(lambda slot: slot.entry.job.folder):
                    self._killed[slot] = reason
                    ray.kill(slot.worker)
        finally:
            for worker in [*self._idle, *(slot.worker for slot in self._slots.values())]:
                ray.kill(worker)

    @property
    def unfinished(self) -> list[Entry]:
        """Jobs that are to be gone on with."""
        return [entry for entry in self.entries if entry.state in ("waiting", "running")]

    def _fill(self) -> None:
        """Give every free slot a job."""
        slots = self._session.slots
        assert slots is not None
        while self._waiting and len(self._slots) < slots.count:
            entry = self._waiting[0]
            if self._slots and (entry.alone or any(slot.entry.alone for slot in self._slots.values())):
                return
            self._waiting.popleft()
            while entry.alone and self._idle:  # they hold memory, too
                ray.kill(self._idle.pop())
            worker = self._idle.pop() if self._idle else _start_worker(slots)
            self._slots[worker.begin.remote(entry.job)] = _Slot(worker, entry)

    def _empty(self) -> None:
        """Take the jobs that have not begun back: they have no round to end."""
        for reference, slot in list(self._slots.items()):
            if slot.entry.state == "waiting":
                del self._slots[reference]
                self._put_back(slot.entry)
                ray.kill(slot.worker)

    def _put_back(self, entry: Entry) -> None:
        entry.state = "waiting"
        self._waiting.appendleft(entry)

    def _answer(self, reference: Any, display: Display) -> None:
        """A worker has begun a job, ended a round of it, or failed."""
        slot, session = self._slots.pop(reference), self._session
        entry = slot.entry
        self._watch.forget(slot)
        try:
            report: Report = ray.get(reference)
        except ray.exceptions.RayError as error:
            self._failed(slot, failure_of(error), display)
            return
        if report.note:
            display.say(f"{entry.job}: {report.note}")
        if entry.state == "running":
            session.worked(report.seconds)
            entry.worked_s += report.seconds
        entry.state, entry.report = report.state, report
        entry.found = entry.done if entry.found is None else entry.found
        if report.state == "running" and not session.stopping:
            if report.steps < entry.job.steps:
                self._watch.reported(slot, report.seconds)
            self._slots[slot.worker.round.remote()] = slot
            return
        self._idle.append(slot.worker)
        if report.state == "running":
            self._put_back(entry)
        else:
            self._end(entry, report.problem, display)

    def _failed(self, slot: _Slot, failure: Failure, display: Display) -> None:
        entry = slot.entry
        if reason := self._killed.pop(slot, None):
            failure = failure._replace(reason=reason)
        ray.kill(slot.worker)  # it may live, with who knows what in its memory
        if failure.kind == "disk":
            self._session.break_off(failure.reason)
        elif self._session.closing:  # its worker may have heard the same signal
            self._put_back(entry)
        elif again := self._retries.again(entry, failure):
            entry.alone = entry.alone or again.alone
            self._put_back(entry)
            display.say(f"{entry.job}: {again.text}")
        else:
            entry.state = "failed"
            self._end(entry, f"failed: {failure.reason}", display)

    def _end(self, entry: Entry, problem: str, display: Display) -> None:
        if problem:
            self._session.problems.append(f"{entry.job} {problem}")
        display.ended(entry)


class _Worker:
    """Takes one job after the other."""

    def __init__(self, gpu_share: float, gpu_context: int) -> None:
        torch.set_num_threads(1)  # see docs/performance.md
        cap_memory(gpu_share, gpu_context)

    def begin(self, job: Job) -> Report:
        self._work = job.work()
        return self.round()

    def round(self) -> Report:
        report = next(self._work)
        if report.state != "running":
            del self._work  # and with it what the job held
        return report


def _start_worker(slots: Slots) -> Any:
    amounts = {"num_cpus": slots.cpu, "num_gpus": slots.gpu, **({"memory": slots.memory} if slots.memory else {})}
    return ray.remote(**amounts)(_Worker).remote(slots.gpu, slots.gpu_context)


def warm_up(count: int, module: str) -> None:
    """Let Ray start workers on this machine that have imported the module of a job; returns at once.

    That takes them three seconds, which a slot has to spare while the last trials end.
    """
    for _ in range(count):
        ray.remote(num_cpus=0)(_import).remote(module)


def _import(module: str) -> None:
    """In a worker: now it is there."""
    import_module(module)


def rounds(trainer: Trainer, checkpoint: AnyPath, note: str = "") -> Iterator[Report]:
    """In a worker: a report of what a trainer has done, then one of each round more, saved, until it is done."""
    yield _report(trainer, 0.0, note)
    saving = Saving(trainer, checkpoint)
    while not trainer.done:
        yield _report(trainer, saving.round()["seconds"])


def _report(trainer: Trainer, seconds: float, note: str = "") -> Report:
    best = trainer.best or {}
    return Report(trainer.outer_step, seconds, best.get("score"), best.get("ci95"), note=note)
