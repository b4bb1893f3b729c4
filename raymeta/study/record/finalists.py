"""The finalists of a study: its top trials on fresh validation episodes, before one of them is called best.

    <studies>/<name>/trials/0007/finalist.json            scores of the trial's best validated weights
    <studies>/<name>/trials/0007/seed1/finalist.json      scores of its config trained again (study.finalist_seeds)

The best of many scores on the same episodes is in part the luckiest. So the first of the search's ranking are scored on
episodes that chose nothing: the validation split under another bank seed, the same episodes for all finalists, so that
differences are paired. Finalists are trials of the highest rung: weights that ASHA cut earlier had less training. Only
where configs are trained again, all to the full budget, do the best of the lower rungs fill them up. The un-regularized
start is scored too, wherever it was cut, but is called best only if what is scored had as much training.

`raymeta/study/run/reevaluate.py` makes the files; here they are read and compared.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean
from typing import TYPE_CHECKING, Any

from raymeta.installed import remark
from raymeta.metric import Metric, half_width
from raymeta.storage.places import AnyPath
from raymeta.study.plan.space import BASELINE
from raymeta.study.record.damage import is_scored

if TYPE_CHECKING:
    from raymeta.study.record.record import StudyRecord, TrialRecord

FILE = "finalist.json"
FRESH_BANK = 2**32  # added to task.bank_seed: never the bank that the search validated on
FRESH_SEED = 2**31  # added to a trial's seed, modulo 2**32: neither the search's nor those of `raymeta final`


@dataclass(frozen=True)
class Weights:
    """What is to be scored on the fresh episodes, and how to come by it.

    Attributes:
        folder: where its checkpoint lies and its scores go.
        trained_at: outer steps of a trial's best validation, at which its weights are taken; None: train the config to
            its full budget and take its best.
    """

    trial: int
    folder: AnyPath
    config: dict[str, Any]
    trained_at: int | None
    bank_seed: int
    tasks: int

    def __str__(self) -> str:
        return f"trial {self.trial}" + (f", seed {self.config['seed']}" if self.trained_at is None else "")

    @property
    def identity(self) -> dict[str, Any]:
        """What scores are of; others in the file are not theirs."""
        return {
            "bank_seed": self.bank_seed,
            "tasks": self.tasks,
            "seed": self.config["seed"],
            "trained_at": self.trained_at,
        }

    def read(self) -> dict[str, Any] | None:
        """The scores in the folder; None if there are none of these weights on these episodes, or damaged ones."""
        try:
            found = json.loads((self.folder / FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError):
            self.damaged()
            return None
        if not is_scored(found):
            self.damaged()
            return None
        return dict(found) if found["of"] == self.identity else None

    def damaged(self) -> None:
        """Say it."""
        remark(f"{self.folder / FILE}: is damaged, and left out: `raymeta resume` scores {self} again")


@dataclass(frozen=True)
class Difference:
    """A mean difference over the same episodes, with the half-width of its 95 % interval."""

    mean: float
    ci95: float

    @property
    def significant(self) -> bool:
        """Zero is outside the interval."""
        return abs(self.mean) > self.ci95


def paired(scores: Sequence[float], others: Sequence[float]) -> Difference:
    """The mean of `scores` minus `others`, episode by episode."""
    differences = [one - other for one, other in zip(scores, others, strict=True)]
    return Difference(fmean(differences), half_width(differences))


@dataclass(frozen=True)
class Finalist:
    """A trial with its scores on the fresh episodes.

    Attributes:
        equal: it had as much training as the best, so it may be called best itself.
        own: the scores of its own weights, [tasks]; empty if there are none.
        retrained: the scores of its config with each fresh seed, [seeds][tasks].
        reason: why there are no scores to judge it by; "": there are.
    """

    trial: "TrialRecord"
    equal: bool
    own: list[float]
    retrained: list[list[float]]
    reason: str
    at: float

    @property
    def values(self) -> list[float]:
        """What it is judged by: a score per episode, averaged over the fresh seeds if there are any."""
        if self.reason:
            return []
        return [fmean(scores) for scores in zip(*self.retrained, strict=True)] if self.retrained else self.own

    @property
    def mean(self) -> float:
        """Mean of `values`; not a number if there are none."""
        return fmean(values) if (values := self.values) else nan

    @property
    def ci95(self) -> float:
        """Half-width of its 95 % interval over episodes."""
        return half_width(values) if (values := self.values) else nan


@dataclass(frozen=True)
class Standings:
    """All finalists scored.

    Attributes:
        finalists: the best first; those that can't be called best stand at the end.
    """

    metric: Metric
    tasks: int
    bank_seed: int
    finalists: list[Finalist]

    @property
    def best(self) -> Finalist | None:
        """The best mean score; of equal ones the better in the search."""
        first = self.finalists[0]
        return first if first.equal and first.values else None

    def of(self, number: int) -> Finalist | None:
        """A trial's scores, if it is among the finalists."""
        return next((one for one in self.finalists if one.trial.number == number), None)

    def to_best(self, one: Finalist) -> Difference | None:
        """A finalist's scores minus the best's; None for the best itself and for one without scores."""
        if self.best is None or one is self.best or not one.values:
            return None
        return paired(one.values, self.best.values)

    @property
    def rivals(self) -> list[int]:
        """Trials than which the best is not significantly better."""
        pairs = [(one, self.to_best(one)) for one in self.finalists if one.equal]
        return sorted(one.trial.number for one, gap in pairs if gap and not gap.significant)

    @property
    def verdict(self) -> str:
        """One sentence: is the best better than the others?"""
        if self.best is None:
            return "no finalist has a score on fresh episodes, so the best is the search's"
        who = f"trial {self.best.trial.number}"
        others = sum(one.equal and bool(one.values) for one in self.finalists) - 1
        if not others:
            return f"{who} has no rival on fresh episodes: the other trials were cut earlier or have no score"
        if self.rivals:
            trials = f"trial{'s'[: len(self.rivals) > 1]} {', '.join(map(str, self.rivals))}"
            within = "differences within their 95 % intervals" if len(self.rivals) > 1 else "within its 95 % interval"
            return f"{who} is not significantly better than {trials} ({within})"
        return f"{who} is significantly better than the other finalist{'s'[: others > 1]}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what `--json` prints and MLflow keeps."""
        return {
            "fresh_tasks": self.tasks,
            "bank_seed": self.bank_seed,
            "best": self.best.trial.number if self.best else None,
            "not_significantly_better_than": self.rivals,
            "verdict": self.verdict,
            "finalists": [self._row(one) for one in self.finalists],
        }

    def _row(self, one: Finalist) -> dict[str, Any]:
        key, entry, gap = f"val_{self.metric.name}", one.trial.best(self.metric) or {}, self.to_best(one)
        return {
            "trial": one.trial.number,
            "outer_steps": one.trial.outer_steps,
            key: entry[key],
            "val_ci95": entry["val_ci95"],
            f"reevaluated_{key}": one.mean if one.values else None,
            "reevaluated_val_ci95": one.ci95 if one.values else None,
            "own_weights": fmean(one.own) if one.own else None,
            "retrained": [fmean(scores) for scores in one.retrained],
            "to_best": gap.mean if gap else None,
            "to_best_ci95": gap.ci95 if gap else None,
            "equal_training": one.equal,
            "reason": one.reason,
            "point": one.trial.point,
        }


def baseline(record: "StudyRecord") -> "TrialRecord | None":
    """The trial that started with every regularizer at its neutral value."""
    return next((trial for trial in record.trials() if trial.label == BASELINE), None)


def chosen(record: "StudyRecord") -> "list[tuple[TrialRecord, bool]]":
    """The trials to score, the search's best first, each with whether it may be called best."""
    ranking, again = record.ranking(), record.plan.study.finalist_seeds > 0
    equal = [trial for trial in ranking if again or record.rung(trial) == record.rung(ranking[0])]
    trials = equal[: record.plan.study.finalists]
    start = baseline(record) if trials else None
    if start in ranking and start not in trials:
        trials.append(start)
    return [(trial, trial in equal) for trial in trials]


def weights(record: "StudyRecord", trial: "TrialRecord") -> list[Weights]:
    """What is scored of a finalist: its own weights, then those of its config with each fresh seed."""
    plan, config, folder = record.plan, record.config(trial).as_dict(), record.trial_folder(trial.number)
    episodes = (plan.base.task.bank_seed + FRESH_BANK, plan.finalist_tasks)
    own = Weights(trial.number, folder, config, (trial.best(record.metric) or {})["outer_steps"], *episodes)
    seeds = [(number, (config["seed"] + FRESH_SEED + number) % 2**32) for number in range(plan.study.finalist_seeds)]
    return [own] + [
        Weights(trial.number, folder / f"seed{number}", config | {"seed": seed}, None, *episodes)
        for number, seed in seeds
    ]


def settled(record: "StudyRecord") -> bool:
    """No finalist is left to be scored."""
    return standings(record) is not None or not chosen(record)


def all_weights(record: "StudyRecord") -> list[Weights]:
    """What is scored of all finalists."""
    return [one for trial, _ in chosen(record) for one in weights(record, trial)]


def missing(record: "StudyRecord") -> list[Weights]:
    """What is still to be scored: the own weights of all finalists first. What came to nothing is tried again."""
    read = _read(all_weights(record))
    left = [one for one, found in read if not (found and found["values"])]
    return sorted(left, key=lambda one: one.trained_at is None)


def _read(everything: Sequence[Weights]) -> list[tuple[Weights, dict[str, Any] | None]]:
    """All with their scores, of as many episodes each."""
    read = [(one, one.read()) for one in everything]
    if len({len(found["values"]) for _, found in read if found and found["values"]}) > 1:
        for place, (one, found) in enumerate(read):
            if found and found["values"] and len(found["values"]) != one.tasks:
                one.damaged()
                read[place] = (one, None)
    return read


def standings(record: "StudyRecord") -> Standings | None:
    """The finalists compared; None while one of them is not scored yet."""
    finalists, trials = [], chosen(record)
    read = _read([one for trial, _ in trials for one in weights(record, trial)])
    for trial, equal in trials:
        found = [scores for one, scores in read if one.trial == trial.number]
        whole = [scores for scores in found if scores is not None]
        if len(whole) < len(found):
            return None
        own, *again = whole
        judged = again or [own]
        reason = next((scores["reason"] for scores in judged if scores["reason"]), "")
        retrained = [scores["values"] for scores in again if scores["values"]]
        at = max(scores["at"] for scores in whole)
        finalists.append(Finalist(trial, equal, own["values"], retrained, reason, at))
    if not finalists:
        return None
    sign = -1 if record.metric.mode == "max" else 1
    finalists.sort(key=lambda one: (not (one.equal and one.values), sign * one.mean if one.values else 0.0))
    plan = record.plan
    return Standings(record.metric, plan.finalist_tasks, plan.base.task.bank_seed + FRESH_BANK, finalists)
