"""Methods ranked over many tasks (data sets, mostly): mean ranks, Friedman's test and critical differences.

The procedure is Demšar's (JMLR 7, 2006): methods are ranked in each task, ties share ranks. If Friedman's test, in
the form of Iman and Davenport (1980), finds that not all are alike, two of them differ significantly where their mean
ranks are apart by Nemenyi's critical difference, q sqrt(k (k + 1) / 6 N) for k methods in N tasks; q is the 5 % point
of the studentized range with infinite freedom, over sqrt(2). scipy has both distributions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from raymeta.comparison.comparison import Comparison, compared
from raymeta.comparison.entries import Entry
from raymeta.comparison.statistics import Array
from raymeta.comparison.written import Written, equal_p, latex, latex_score
from raymeta.errors import UserError, some

if TYPE_CHECKING:
    import pandas

LEVEL = 0.05


@dataclass(frozen=True, repr=False)
class Ranking(Written):
    """Methods ranked over tasks; `rank` makes it.

    Attributes:
        methods: the best mean rank first.
        comparisons: one a task, task by task's name; a method is an entry's name in each.
        ranks: [methods, tasks].
        p: that all methods are alike.
        critical: how far mean ranks must be apart to differ at 5 %.
        remarks: those of each task.
    """

    methods: list[str]
    comparisons: dict[str, Comparison]
    ranks: Array
    p: float
    critical: float
    remarks: list[str]

    @property
    def mean_ranks(self) -> dict[str, float]:
        """The mean rank of each method; 1 is the best there could be."""
        return dict(zip(self.methods, self.ranks.mean(1).tolist(), strict=True))

    @property
    def differing(self) -> list[tuple[str, str]]:
        """Pairs that differ significantly, the better first; none unless Friedman's test finds any difference."""
        if self.p >= LEVEL:
            return []
        means = self.ranks.mean(1)
        return [
            (one, two)
            for place, one in enumerate(self.methods)
            for other, two in enumerate(self.methods)
            if means[other] - means[place] >= self.critical
        ]

    @property
    def sentence(self) -> str:
        """What came of it."""
        first, most = self.methods[0], len(self.methods) - 1
        found = f"{first} has the best mean rank over {len(self.comparisons)} tasks, {self.mean_ranks[first]:.2f}"
        if self.p >= LEVEL:
            return f"{found}, but no differences between methods are significant (Friedman, {equal_p(self.p)})"
        need = f"a critical difference of {self.critical:.2f}, {equal_p(self.p)} for any difference"
        if self.critical > most:
            return f"{found}; with so few tasks no pair can differ significantly: {need}, of {most} at most"
        beaten = [two for one, two in self.differing if one == first]
        rivals = [method for method in self.methods[1:] if method not in beaten]
        parts = [f"significantly better than {', '.join(beaten)}" if beaten else "",
                 f"not significantly better than {', '.join(rivals)}" if rivals else ""]  # fmt: skip
        return f"{found}, {', '.join(filter(None, parts))} ({need})"

    def frame(self) -> "pandas.DataFrame":
        """A row a method: its mean rank, and its mean score in each task; index: the method."""
        import pandas

        rows = [
            {"method": method, "mean_rank": rank, **{task: self._entry(task, method).mean for task in self.comparisons}}
            for method, rank in self.mean_ranks.items()
        ]
        return pandas.DataFrame(rows).set_index("method")

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "mean_ranks": self.mean_ranks, "p": self.p, "critical_difference": self.critical,
            "differing": self.differing, "sentence": self.sentence, "remarks": self.remarks,
            "tasks": {task: one.as_dict() for task, one in self.comparisons.items()},
        }  # fmt: skip

    def head(self) -> list[str]:
        """Of a row a method."""
        return ["method", "mean rank", *self.comparisons]

    def cells(self) -> list[list[str]]:
        """A row a method: its mean rank, and its score in each task."""
        return [[method, f"{rank:.2f}", *self._scores(method)] for method, rank in self.mean_ranks.items()]

    def latex(self) -> str:
        """A method is bold in a task if it is significantly better there than every other."""
        rows = [[method, *self._latex_scores(method), f"{rank:.2f}"] for method, rank in self.mean_ranks.items()]
        return latex(["Method", *self.comparisons, "Mean rank"], rows, [self.sentence, *self.remarks])

    def _entry(self, task: str, method: str) -> Entry:
        return next(one for one in self.comparisons[task].entries if one.name == method)

    def _scores(self, method: str) -> list[str]:
        found = [(one.metric, self._entry(task, method)) for task, one in self.comparisons.items()]
        return [metric.text(entry.mean, entry.ci95) for metric, entry in found]

    def _latex_scores(self, method: str) -> list[str]:
        found = [(one, self._entry(task, method)) for task, one in self.comparisons.items()]
        return [latex_score(entry.mean, entry.ci95, one.metric, bold=entry is one.best) for one, entry in found]


def rank(entries: Sequence[Entry], *, unpaired: bool = False) -> Ranking:
    """Rank methods over tasks.

    Args:
        entries: each method once in each task.
        unpaired: methods may have other budgets, or other episodes of a task.

    Raises:
        UserError: there are fewer than three methods or two tasks, a method lacks a task or has it twice, or what is
            of a task can't be compared.
    """
    tasks = list(dict.fromkeys(one.task.title for one in entries))
    methods = list(dict.fromkeys(one.method for one in entries))
    if len(methods) < 3 or len(tasks) < 2:
        raise UserError(
            f"--ranks: found {len(methods)} methods ({some(methods)}) in {len(tasks)} tasks ({some(tasks)}): ranks "
            "take three or more in two or more; without --ranks configs are compared pair by pair"
        )
    for task in tasks:
        there = [one.method for one in entries if one.task.title == task]
        for method in methods:
            if (count := there.count(method)) != 1:
                raise UserError(
                    f"--ranks: found {method} {count} times in {task}: expected each method once in each task"
                )
    comparisons = {
        task: compared([replace(one, name=one.method) for one in entries if one.task.title == task], unpaired=unpaired)
        for task in tasks
    }
    ranks = _ranks(comparisons, methods)
    order = np.argsort(ranks.mean(1), kind="stable")
    return Ranking(
        methods=[methods[place] for place in order],
        comparisons=comparisons,
        ranks=ranks[order],
        p=friedman(ranks),
        critical=critical(*ranks.shape),
        remarks=[f"{task}: {remark}" for task, one in comparisons.items() for remark in one.remarks],
    )


def _ranks(comparisons: dict[str, Comparison], methods: Sequence[str]) -> Array:
    from scipy.stats import rankdata

    columns = []
    for one in comparisons.values():
        means = {entry.name: entry.mean for entry in one.entries}
        sign = -1 if one.metric.mode == "max" else 1
        columns.append(rankdata([sign * means[method] for method in methods]))
    return np.stack(columns, axis=1)


def friedman(ranks: Array) -> float:
    """P of no difference between methods, by Iman and Davenport's form of Friedman's test.

    Args:
        ranks: [methods, tasks].
    """
    from scipy.stats import f, friedmanchisquare

    methods, tasks = ranks.shape
    if not np.ptp(ranks, axis=0).any():
        return 1.0
    chi2 = float(friedmanchisquare(*ranks).statistic)
    left = tasks * (methods - 1) - chi2
    found = (tasks - 1) * chi2 / left if left > 1e-9 else inf  # 0 where all tasks rank alike
    return float(f.sf(found, methods - 1, (methods - 1) * (tasks - 1)))


@cache  # scipy takes a second for it
def critical(methods: int, tasks: int) -> float:
    """Nemenyi's critical difference of mean ranks at 5 %."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - LEVEL, methods, inf)) / sqrt(2)
    return q * sqrt(methods * (methods + 1) / (6 * tasks))
