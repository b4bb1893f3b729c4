"""The record of a study on disk: the one truth that resume, tables, MLflow and export are made from.

    <studies>/<name>/study.yaml          the plan, the command, versions; only `extend` and `--also` change it
    <studies>/<name>/journal.log         Optuna's journal: every proposal, round and end, appended and synced
    <studies>/<name>/trials/0007/        the trial's checkpoint, and a finalist's scores (finalists.py)

The journal is append-only, so a kill at any moment loses at most the line being written. What Ray Tune keeps itself is
not needed: ASHA's rungs, the searcher's history and the place of every trial follow from the journal (Ray's own restore
forgets the rungs, and what happened since its last snapshot).
"""

import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from math import inf
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.config.migration import VERSION, of_another_version
from raymeta.errors import StorageError, UserError, suggest
from raymeta.installed import remark
from raymeta.metric import Metric
from raymeta.storage.files import dump_yaml, read_yaml, write_atomically
from raymeta.storage.places import AnyPath
from raymeta.study.plan.layers import StudyConfig
from raymeta.study.plan.param import Point
from raymeta.study.plan.plan import Plan
from raymeta.study.record.damage import check_about, check_plan, is_round
from raymeta.study.record.finalists import standings
from raymeta.study.record.folder import check_name, driving, is_driven, journal_in, made_whole, names_in
from raymeta.study.record.proposals import propose, sampler_of
from raymeta.study.record.pulse import Pulse

State = Literal["running", "waiting", "completed", "pruned", "diverged", "failed"]

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the journal knows it.

    Attributes:
        state: waiting: at a rung, until it is promoted or the search is over.
        rounds: the metrics of each round, in order of `outer_steps`.
        label: the starting point's name, or "" for a proposal of the sampler.
        reason: why it failed, in one line.
    """

    number: int
    state: State
    point: Point
    rounds: list[dict[str, Any]]
    label: str
    reason: str

    @property
    def ended(self) -> bool:
        """It never goes on."""
        return self.state not in ("running", "waiting")

    @property
    def outer_steps(self) -> int:
        """Outer steps done."""
        return int(self.rounds[-1]["outer_steps"]) if self.rounds else 0

    @property
    def hosts(self) -> list[str]:
        """The machines that it ran on, in order, each once."""
        return list(dict.fromkeys(entry["hostname"] for entry in self.rounds if "hostname" in entry))

    def best(self, metric: Metric, until: float = inf) -> dict[str, Any] | None:
        """The round with the best validation, of those up to `until` outer steps."""
        chosen: dict[str, Any] | None = None
        key = f"val_{metric.name}"
        for entry in self.rounds:
            so_far = chosen[key] if chosen else None
            if entry["outer_steps"] <= until and key in entry and metric.better(entry[key], so_far):
                chosen = entry
        return chosen


class StudyRecord:
    """One study's folder. Open it with `create` or `load`; write to it under `locked`."""

    def __init__(self, folder: AnyPath, plan: Plan, about: dict[str, Any], metric: Metric) -> None:
        self.folder, self.plan, self.about, self.metric = folder, plan, about, metric
        self.name = folder.name
        self._journal = journal_in(folder)
        storage = JournalStorage(self._journal)
        (noted,) = storage.get_all_studies()  # under the name that it was made with: its folder may have another by now
        self._study = optuna.load_study(study_name=noted.study_name, storage=storage)
        self._read_as: dict[int, tuple[Any, TrialRecord]] = {}  # trials, with what tells that they have changed

    @classmethod
    def create(
        cls, folder: AnyPath, plan: Plan, metric: Metric, fingerprint: str, command: str | None = None
    ) -> "StudyRecord":
        """Make the folder whole or not at all, with the starting points queued.

        Args:
            folder: the study's; its name is the study's.
            plan: what is to be done.
            metric: what trials are compared by.
            fingerprint: of the data.
            command: what asked for it, for readers; None: the command line of this process.

        Raises:
            UserError: the study exists, or its name cannot be a folder's.
        """
        check_name(folder.name)
        about = {
            "id": uuid.uuid4().hex,
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": command or " ".join(["raymeta", *sys.argv[1:]]),
            "metric": asdict(metric),
            "space_hash": plan.space.hash,
            "data": {"name": plan.base.task.data, "fingerprint": fingerprint},
            "versions": {name: version(name) for name in ("raymeta", "torch", "ray", "optuna", "mlflow", "numpy")},
        }
        with made_whole(folder) as place:
            journal = journal_in(place)
            with journal.together():
                study = optuna.create_study(
                    study_name=folder.name,
                    storage=JournalStorage(journal),
                    direction="maximize" if metric.mode == "max" else "minimize",
                )
                for point, label in zip(plan.space.start_from, plan.space.labels, strict=True):
                    study.enqueue_trial(point, user_attrs={"label": label})
            _write_plan(place, plan, about)
        return cls(folder, plan, about, metric)

    @classmethod
    def load(cls, folder: AnyPath) -> "StudyRecord":
        """Open a study that exists. Nothing is written.

        Raises:
            UserError: there is none of that name, or its files are not a study's.
        """
        if not (folder / "study.yaml").is_file():
            raise UserError(
                f"no study '{folder.name}' in {folder.parent}: {suggest(folder.name, names_in(folder.parent))}"
            )
        path, journal = folder / "study.yaml", folder / "journal.log"
        if isinstance(folder, Path) and not journal.is_file():
            raise UserError(f"{journal}: is not there: {_mend(folder)}")
        try:
            about = read_yaml(path)
        except UserError as error:
            raise UserError(f"{error}: {_mend(folder)}") from error
        made_with = about.get("versions")
        written_by = about.pop("written_by", made_with.get("raymeta") if isinstance(made_with, dict) else None)
        try:
            check_about({key: value for key, value in about.items() if key != "plan"}, str(path))
            plan = Plan.from_dict(about.pop("plan"), str(path))
            check_plan(plan)
            own = registry.find("problem", plan.base.task.problem).metric  # 0.1.0 noted the name and the mode alone
            metric = own if about["metric"]["name"] == own.name else Metric(**about["metric"])
        except UserError as error:
            raise UserError(f"{error}{of_another_version(written_by)}") from error
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path}: not a study's plan, or a damaged one: {_mend(folder)}") from error
        try:
            return cls(folder, plan, about, metric)
        except StorageError:
            raise
        except OSError as error:
            raise UserError(f"{journal}: cannot be read: {error.strerror or error}") from error
        except Exception as error:  # there is no end to what Optuna raises at damaged or foreign lines
            raise UserError(f"{journal}: not a study's journal, or a damaged one: {_mend(folder)}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return StudyRecord.load, (self.folder,)

    @property
    def driven(self) -> bool:
        """A process drives the study right now."""
        return is_driven(self.folder)

    @contextmanager
    def locked(self) -> Iterator[Pulse]:
        """Hold the study: one driver at a time. What it gives tells those who look what is shown.

        Raises:
            UserError: another process drives it.
        """
        with driving(self.folder, self._journal) as pulse:
            yield pulse

    # -- what happens ----------------------------------------------------------------------------------------------

    def ask(self) -> TrialRecord:
        """A new trial: a starting point while there are any, else the sampler's proposal."""
        with self._journal.together():
            number = self._study.ask().number
            self._propose(number)
        return self.trial(number)

    @staticmethod
    def sampler_of(study: StudyConfig, name: str) -> optuna.samplers.BaseSampler:
        """The sampler of a value; see `sampler_of` of proposals.py."""
        return sampler_of(study, name)

    def _propose(self, number: int) -> None:
        """Draw the values that a trial has not got yet; see `propose`."""
        waiting = [trial.number for trial in self.trials() if trial.state == "waiting"]
        propose(self.plan, self._study, number, self._open(number), type(self).sampler_of, waiting)

    def add_round(self, number: int, metrics: dict[str, Any]) -> bool:
        """Note a round; False if it was known, as after a crash between a round and its checkpoint."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        trial = optuna.Trial(self._study, frozen._trial_id)
        key, step = f"round {metrics['outer_steps']:09d}", metrics["outer_steps"]
        if key in frozen.user_attrs:
            return False
        value = metrics.get(f"val_{self.metric.name}")
        with self._journal.together():
            if value is not None and step not in frozen.intermediate_values:  # a driver may have died after it
                trial.report(value, step)
            trial.set_user_attr(key, metrics)
        return True

    def promote(self, number: int) -> TrialRecord:
        """Note that a trial that waits goes on."""
        self._open(number).set_user_attr(_promoted(self.trial(number).outer_steps), True)
        return self.trial(number)

    def finish(self, number: int, state: State | None = None, reason: str = "") -> None:
        """Note the end of a trial; None: in the state that its last round tells.

        Optuna is told COMPLETE, FAIL if the machine is to blame, else PRUNED: a config that diverged is a bad one, of
        which TPE learns (it ranks a pruned trial without a score last, and ignores a failed one).
        """
        record = self.trial(number)
        if record.ended:
            return
        if state is None:
            diverged = record.rounds and record.rounds[-1]["diverged"]
            whole = record.outer_steps >= self.plan.base.budget.outer_steps
            state = "diverged" if diverged else "completed" if whole else "pruned"
        trial = self._open(number)
        best = record.rounds[-1].get(f"val_{self.metric.name}") if record.rounds else None
        with self._journal.together():
            trial.set_user_attr("state", state)
            if reason:
                trial.set_user_attr("reason", reason)
            if state == "completed":
                self._study.tell(number, best)
            else:
                self._study.tell(number, state=TrialState.FAIL if state == "failed" else TrialState.PRUNED)

    def extend(self, trials: int) -> None:
        """Plan more trials. Needs `locked`."""
        self.plan = self.plan.with_trials(self.plan.study.trials + trials)
        _write_plan(self.folder, self.plan, self.about)

    def copied_to(self, names: Iterable[str]) -> None:
        """Keep copies of it for more trackers from now on. Needs `locked`."""
        also = tuple(dict.fromkeys([*self.plan.study.also, *names]))
        if also != self.plan.study.also:
            self.plan = self.plan.with_copies(also)
            _write_plan(self.folder, self.plan, self.about)

    def _open(self, number: int) -> optuna.Trial:
        frozen = self._study.get_trials(deepcopy=False)[number]
        return optuna.Trial(self._study, frozen._trial_id)

    # -- what is known ---------------------------------------------------------------------------------------------

    def trials(self) -> list[TrialRecord]:
        """All trials that were asked for, by number."""
        return [self._read(frozen) for frozen in self._study.get_trials(deepcopy=False, states=_ASKED)]

    def trial(self, number: int) -> TrialRecord:
        """One trial.

        Raises:
            UserError: there is no such trial.
        """
        everyone = self._study.get_trials(deepcopy=False)
        if not 0 <= number < len(everyone) or everyone[number].state not in _ASKED:
            asked = sum(frozen.state in _ASKED for frozen in everyone)
            raise UserError(f"the study '{self.name}' has no trial {number}: allowed are 0 to {asked - 1}")
        return self._read(everyone[number])

    def _read(self, frozen: FrozenTrial) -> TrialRecord:
        attrs, score = frozen.user_attrs, f"val_{self.metric.name}"
        of = (frozen.state, len(attrs), len(frozen.params))  # which only grow
        known, trial = self._read_as.get(frozen.number, (None, None))
        if trial is not None and known == of:
            return trial
        noted = {key: attrs[key] for key in sorted(attrs) if key.startswith("round ")}
        rounds = [entry for key, entry in noted.items() if is_round(key, entry, score)]
        ended = attrs.get("state", "failed")
        words = [attrs.get(key, "") for key in ("label", "reason")]
        point = {key: value for key, value in frozen.params.items() if key in self.plan.space.params}
        parts = len(rounds) == len(noted) and len(point) == len(frozen.params)
        if not parts or ended not in _ENDED or not all(isinstance(word, str) for word in words):
            remark(
                f"{self.folder}: the journal's lines on trial {frozen.number} are damaged in part, which is left out"
            )
        state: State = ended if ended in _ENDED else "failed"
        if frozen.state == TrialState.RUNNING:
            last = rounds[-1] if rounds else {}
            waits = last.get("waits") and _promoted(last["outer_steps"]) not in attrs
            state = "waiting" if waits else "running"
        trial = TrialRecord(frozen.number, state, point, rounds, *map(str, words))
        self._read_as[frozen.number] = of, trial
        return trial

    def config(self, trial: TrialRecord) -> TrialConfig:
        """The whole config of a trial.

        Raises:
            UserError: the journal has values of it that no search proposes.
        """
        try:
            return self.plan.config(trial.point)
        except UserError as error:
            raise UserError(f"{self.folder}: the journal's trial {trial.number} is damaged: {error}") from error

    def trial_folder(self, number: int) -> AnyPath:
        """Where a trial's checkpoint lies."""
        return self.folder / "trials" / f"{number:04d}"

    @property
    def over(self) -> bool:
        """As many trials as planned have ended."""
        trials = self.trials()
        return len(trials) >= self.plan.study.trials and all(trial.ended for trial in trials)

    def rung(self, trial: TrialRecord) -> int:
        """The highest rung that a trial reached, in outer steps; 0: none yet."""
        return max((rung for rung in self.plan.rungs if rung <= trial.outer_steps), default=0)

    def ranking(self) -> list[TrialRecord]:
        """Trials with a score: those of the highest rung first, within a rung the best validation first.

        A short training's score is not held against a long one's: they are scores of different budgets.
        """
        key, sign = f"val_{self.metric.name}", 1 if self.metric.mode == "max" else -1
        scored: list[tuple[int, float, TrialRecord]] = []
        for trial in self.trials():
            if trial.state not in ("diverged", "failed") and (entry := trial.best(self.metric)):
                scored.append((self.rung(trial), sign * entry[key], trial))
        return [trial for _, _, trial in sorted(scored, key=itemgetter(0, 1), reverse=True)]

    def best(self) -> TrialRecord | None:
        """The finalist that is best on fresh episodes once all are scored; before that, the first of `ranking`."""
        final = standings(self)
        return final.best.trial if final and final.best else next(iter(self.ranking()), None)

    def resume(self) -> list[TrialRecord]:
        """Trials cut by the end of their driver, to go on with. Needs `locked`."""
        for trial in self.trials():
            if trial.state == "running":
                self._propose(trial.number)  # its driver may have died between two of its values
                if trial.rounds and trial.rounds[-1].get("last"):  # or between its last round and its end
                    self.finish(trial.number)
        return [trial for trial in self.trials() if trial.state == "running"]


def _promoted(outer_steps: int) -> str:
    """The key that says that a trial which waited there goes on."""
    return f"promoted {outer_steps:09d}"


_ENDED = ("completed", "pruned", "diverged", "failed")
_ASKED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def _mend(folder: AnyPath) -> str:
    return f"restore it from a copy, or move {folder} away"


def _write_plan(folder: AnyPath, plan: Plan, about: dict[str, Any]) -> None:
    write_atomically(folder / "study.yaml", dump_yaml({**about, "written_by": VERSION, "plan": plan.as_dict()}))
