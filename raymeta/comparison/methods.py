"""A study of methods: every method searched alike on every task, and held against its authors' setting and the others.

A method has up to two configs on a task: the one that its search chose (tuned), and its authors' setting at the same
budget (untuned). Both were trained with the same seeds and tested on the same tasks, so all differences are paired
(`statistics.py`). Differences of one kind on a task are corrected for their number by Holm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from raymeta.comparison.comparison import Comparison, compared
from raymeta.comparison.entries import Entry
from raymeta.comparison.ranking import Ranking, rank
from raymeta.comparison.statistics import differences, holm, pooled, spread
from raymeta.config import split_settings, split_spec
from raymeta.metric import Metric
from raymeta.study.plan.param import Point

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Searched:
    """A method's search on a task.

    Attributes:
        study: its name.
        trials: that it was planned for.
        keys: of its space.
        outer_steps: of all its trials.
        seconds: that its trials and finalists computed.
        chosen: the proposal of its best trial; None: no trial was validated.
        off: what it chose switches the regularizers off.
    """

    study: str
    trials: int
    keys: int
    outer_steps: int
    seconds: float
    chosen: Point | None
    off: bool


@dataclass(frozen=True)
class Result:
    """A method on a task.

    Attributes:
        method: as the user wrote it.
        task: the task's title.
        untuned: its authors' setting, tested; None: not all of its seeds could be.
        tuned: the config that its search chose; the same entry if that is the authors' setting.
        searched: the search.
    """

    method: str
    task: str
    metric: Metric
    untuned: Entry | None
    tuned: Entry | None
    searched: Searched

    @property
    def same(self) -> bool:
        """The search chose the authors' setting itself."""
        return self.tuned is not None and self.tuned is self.untuned


@dataclass(frozen=True)
class Gap:
    """A mean difference on a task, `of` minus `than`, with its 95 % interval.

    Attributes:
        p: of no difference, corrected by Holm for all differences of its kind on the task.
    """

    of: str
    than: str
    mean: float
    low: float
    high: float
    p: float

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def significant(self) -> bool:
        """At 5 %, among all differences of its kind on the task."""
        return self.p < 0.05


@dataclass(frozen=True)
class MethodsOfTask:
    """All methods on one task.

    Attributes:
        title: the task's.
        results: a method each.
    """

    title: str
    results: Sequence[Result]

    @property
    def metric(self) -> Metric:
        """What all are scored by."""
        return self.results[0].metric

    def of(self, method: str) -> Result:
        """A method's."""
        return next(one for one in self.results if one.method == method)

    @cached_property
    def between(self) -> Comparison | None:
        """The tuned configs, each with each; None: fewer than two were tested."""
        entries = self.entries("tuned")
        return compared(entries) if len(entries) > 1 else None

    @cached_property
    def gains(self) -> dict[str, Gap]:
        """What the search gained on the authors' setting, by method; none where it chose that."""
        pairs = [
            (replace(one.tuned, name=one.method), replace(one.untuned, name="authors' setting"))
            for one in self.results
            if one.tuned is not None and one.untuned is not None and not one.same
        ]
        return {gap.of: gap for gap in gaps(pairs)}

    def effects(self, side: str) -> dict[str, Gap]:
        """What the regularizers of each method add to the same one with fewer of them, by method.

        Args:
            side: `tuned` or `untuned`.
        """
        return self._effects[side]

    @cached_property
    def _effects(self) -> dict[str, dict[str, Gap]]:
        names, found = [one.method for one in self.results], {}
        for side in ("tuned", "untuned"):
            entries = {entry.name: entry for entry in self.entries(side)}
            bases = {method: plainer(method, names) for method in entries}
            pairs = [(entries[method], entries[base]) for method, base in bases.items() if base in entries]
            found[side] = {gap.of: gap for gap in gaps(pairs)}
        return found

    def entries(self, side: str) -> list[Entry]:
        """What was tested of one side, under the methods' names."""
        found = [(one.method, getattr(one, side)) for one in self.results]
        return [replace(entry, name=method, method=method) for method, entry in found if entry is not None]


@dataclass(frozen=True)
class Methods:
    """A study of methods, with all that was tested.

    Attributes:
        name: of the study of methods.
        seeds: of each final run.
        results: task by task, in each the methods in the same order.
        problems: a sentence for whatever came to nothing.
    """

    name: str
    seeds: int
    results: Sequence[Result]
    problems: Sequence[str] = ()

    @property
    def methods(self) -> list[str]:
        """In the order in which they were given."""
        return list(dict.fromkeys(one.method for one in self.results))

    @cached_property
    def tasks(self) -> list[MethodsOfTask]:
        """In the order in which they were given."""
        titles = dict.fromkeys(one.task for one in self.results)
        return [MethodsOfTask(title, [one for one in self.results if one.task == title]) for title in titles]

    def ranking(self, side: str) -> Ranking | None:
        """Methods that were tested on all tasks ranked over them; None: fewer than three, or a single task.

        Args:
            side: `tuned` or `untuned`.
        """
        return self._rankings[side]

    @cached_property
    def _rankings(self) -> dict[str, Ranking | None]:
        found: dict[str, Ranking | None] = {}
        for side in ("tuned", "untuned"):
            lists = [{entry.name: entry for entry in task.entries(side)} for task in self.tasks]
            everywhere = [name for name in self.methods if all(name in each for each in lists)]
            enough = len(everywhere) > 2 and len(lists) > 1
            found[side] = rank([each[name] for each in lists for name in everywhere]) if enough else None
        return found

    def frame(self) -> "pandas.DataFrame":
        """A row a method and task, in the metric's own units; index: task and method."""
        import pandas

        return pandas.DataFrame(self.rows()).set_index(["task", "method"])

    def rows(self) -> list[dict[str, Any]]:
        """The same as plain data."""
        rows = []
        for task in self.tasks:
            tuned, untuned = (task.effects(side) for side in ("tuned", "untuned"))
            for one in task.results:
                searched = one.searched
                rows.append(
                    {
                        "task": task.title, "method": one.method, "metric": one.metric.name,
                        **_scores("untuned", one.untuned), **_scores("tuned", one.tuned),
                        **_gap("gain", task.gains.get(one.method)),
                        **_gap("effect_untuned", untuned.get(one.method)),
                        **_gap("effect_tuned", tuned.get(one.method)),
                        "study": searched.study, "trials": searched.trials, "keys": searched.keys,
                        "outer_steps": searched.outer_steps, "seconds": searched.seconds,
                        "switched_off": searched.off, "chose_authors_setting": one.same,
                        "chosen": dict(searched.chosen) if searched.chosen is not None else None,
                    }
                )  # fmt: skip
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        ranks = {side: found.as_dict() if (found := self.ranking(side)) else None for side in ("tuned", "untuned")}
        between = {task.title: task.between.as_dict() if task.between else None for task in self.tasks}
        return {
            "name": self.name, "seeds": self.seeds, "rows": self.rows(), "between": between, "ranks": ranks,
            "problems": [*self.problems],
        }  # fmt: skip


def plainer(method: str, others: Sequence[str]) -> str | None:
    """The method with the most of the same regularizers that lacks some of them; None: it is not among the others."""
    name, regularizers = _parts(method)
    found = [(other, _parts(other)) for other in others]
    less = [(len(theirs), other) for other, (of, theirs) in found if of == name and theirs < regularizers]
    return max(less)[1] if less else None


def gaps(pairs: Sequence[tuple[Entry, Entry]]) -> list[Gap]:
    """Paired differences, first minus second, their p corrected for all of them.

    Args:
        pairs: entries that were scored on the same tasks.
    """
    if not pairs:
        return []
    scores = [(than.scores[None], of.scores[None]) for of, than in pairs]
    shared = pooled([spread(each) for pair in scores for each in pair])
    found = [differences(*pair, shared=shared, comparisons=len(pairs)) for pair in scores]
    corrected = holm(np.array([one.p.item() for one in found]))
    return [
        Gap(of.name, than.name, one.mean.item(), one.low.item(), one.high.item(), float(p))
        for (of, than), one, p in zip(pairs, found, corrected, strict=True)
    ]


def _parts(spec: str) -> tuple[str, set[str]]:
    method, regularizers = split_spec(split_settings(spec)[0])
    return method, set(regularizers)


def _scores(side: str, entry: Entry | None) -> dict[str, Any]:
    return {f"{side}_mean": entry.mean if entry else None, f"{side}_ci95": entry.ci95 if entry else None}


def _gap(name: str, gap: Gap | None) -> dict[str, Any]:
    parts = {key: getattr(gap, key) if gap else None for key in ("mean", "low", "high", "p")}
    return {name if key == "mean" else f"{name}_{key}": value for key, value in parts.items()}
