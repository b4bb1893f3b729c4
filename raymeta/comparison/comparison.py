"""Configs compared pair by pair on the same tasks: differences, tests corrected for their number, and a sentence."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from raymeta.comparison.entries import Entry, other_budget, other_tasks
from raymeta.comparison.statistics import differences, holm, pooled, spread
from raymeta.comparison.written import Written, equal_p, latex, latex_score, number, p_value, unit
from raymeta.errors import UserError
from raymeta.metric import Metric

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Pair:
    """A difference, `b` minus `a`.

    Attributes:
        low: lower end of its 95 % interval.
        high: upper end.
        p: of no difference.
        corrected: the same, by Holm for all pairs of the comparison.
        of_seeds: the share of its variance that is of the seeds.
        practically: probabilities that `a` is better by more than the rope, that neither is, and that `b` is.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    corrected: float
    of_seeds: float
    practically: tuple[float, float, float] | None = None

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def significant(self) -> bool:
        """At 5 %, among all pairs."""
        return self.corrected < 0.05


@dataclass(frozen=True, repr=False)
class Comparison(Written):
    """Configs compared; `compare` makes it.

    Attributes:
        entries: the best first; if paired, with the scores of the tasks that all of them have.
        pairs: all of them, in the order of the entries.
        paired: task by task.
        tasks: how many tasks each difference is of; None: they have different ones.
        rope: half-width of the region of practical equivalence, as the metric is printed.
        remarks: what the reader should know beside.
    """

    entries: list[Entry]
    pairs: list[Pair]
    paired: bool
    tasks: int | None
    rope: float | None
    remarks: list[str]

    @property
    def metric(self) -> Metric:
        """What all are scored by."""
        return self.entries[0].metric

    @property
    def best(self) -> Entry | None:
        """The one that is significantly better than every other; None: there is none."""
        first = self.entries[0]
        return first if all(pair.significant for pair in self.pairs if first.name in (pair.a, pair.b)) else None

    @property
    def sentence(self) -> str:
        """What came of it."""
        first, parts = self.entries[0], [_tell(self)]
        if self.rope is not None:
            for pair in self.pairs[: len(self.entries) - 1]:
                worse, same, better = pair.practically or (0.0, 0.0, 0.0)
                parts.append(
                    f"{first.name} is better than {pair.a} by more than {self.rope:g}{unit(self.metric)} with "
                    f"{100 * better:.0f} %, as good with {100 * same:.0f} %, and worse with {100 * worse:.0f} %"
                )
        return "; ".join([*parts, _seeds(self)])

    def frame(self) -> "pandas.DataFrame":
        """A row a pair, in the metric's own units; index: `a` and `b`."""
        import pandas

        return pandas.DataFrame([_row(pair) for pair in self.pairs]).set_index(["a", "b"])

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [
            {"name": one.name, "method": one.method, "mean": one.mean, "ci95": one.ci95, "seeds": one.seeds,
             "sd_seeds": one.sd_seeds, "outer_steps": one.outer_steps, "tasks": one.tasks}
            for one in self.entries
        ]  # fmt: skip
        return {
            "metric": self.metric.name, "paired": self.paired, "tasks": self.tasks, "rope": self.rope, "entries": rows,
            "pairs": [_row(pair) for pair in self.pairs], "sentence": self.sentence, "remarks": self.remarks,
        }  # fmt: skip

    def head(self) -> list[str]:
        """Of a row a config."""
        return ["config", self.metric.name, "seeds", "sd of seeds", "to the best", "p (Holm)"]

    def cells(self) -> list[list[str]]:
        """A row a config: its mean, and how far it is from the best."""
        metric, rows = self.metric, []
        for place, entry in enumerate(self.entries):
            pair = self.pairs[place - 1] if place else None
            gap = f"{metric.scale * -pair.difference:+.{metric.digits}f}" if pair else ""
            rows.append(
                [
                    entry.name,
                    metric.text(entry.mean, entry.ci95),
                    str(entry.seeds),
                    number(entry.sd_seeds, metric) if entry.sd_seeds is not None else "-",
                    f"{gap} ± {number(pair.half, metric)}" if pair else "-",
                    p_value(pair.corrected) if pair else "-",
                ]
            )
        return rows

    def latex(self) -> str:
        """The best is bold if it is significantly better than every other."""
        metric = self.metric
        unit_ = f" ({metric.unit})" if metric.unit else ""
        rows = [
            [entry.name, latex_score(entry.mean, entry.ci95, metric, bold=entry is self.best)] for entry in self.entries
        ]
        return latex(["Method", f"{metric.name.capitalize()}{unit_}"], rows, [self.sentence, *self.remarks])


def compared(entries: Sequence[Entry], *, rope: float | None = None, unpaired: bool = False) -> Comparison:
    """Compare each with each.

    Args:
        entries: two or more.
        rope: differences up to this are of no practical meaning, in the units in which the metric is printed.
        unpaired: compare means of other tasks or budgets, too.

    Raises:
        UserError: they can't be compared; the sentence says why.
    """
    names = [one.name for one in entries]
    if len(entries) < 2:
        raise UserError(f"compare: found {', '.join(names) or 'nothing'} alone: expected two or more")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"compare: found {twice} twice")
    if rope is not None and not rope > 0:
        raise UserError(f"rope: found {rope:g}: expected a number above 0")
    for other in entries[1:]:
        if other.metric != entries[0].metric:
            raise UserError(f"compare: {other_tasks(entries[0], other)}: these can't be compared")
        why = other_tasks(entries[0], other) or other_budget(entries[0], other)
        if why and not unpaired:
            raise UserError(
                f"compare: {why}; --unpaired (in Python unpaired=True) compares their means nevertheless"
            )  # fmt: skip
    metric, remarks = entries[0].metric, []
    counts = {one.tasks for one in entries}
    common = min(counts)
    if not unpaired and len(counts) > 1:
        remarks.append(f"the first {common} tasks are compared, which all of them have")
        entries = [replace(one, scores=one.scores[:, :common]) for one in entries]
    sign = -1 if metric.mode == "max" else 1
    ordered = sorted(entries, key=lambda one: sign * one.mean)
    scores = {one.name: one.scores[None] for one in ordered}
    shared = pooled([spread(each) for each in scores.values()])
    both = list(combinations(ordered, 2))  # the better of each stands first
    options: dict[str, Any] = {"shared": shared, "paired": not unpaired, "comparisons": len(both)}
    found = [differences(scores[worse.name], scores[better.name], **options) for better, worse in both]
    corrected = holm(np.array([one.p.item() for one in found]))
    pairs = [
        Pair(
            a=worse.name,
            b=better.name,
            difference=one.mean.item(),
            low=one.low.item(),
            high=one.high.item(),
            p=one.p.item(),
            corrected=float(p),
            of_seeds=one.of_seeds.item() / (one.variance.item() or 1.0),
            practically=None
            if rope is None
            else _practically(one.mean.item(), one.variance.item(), one.freedom.item(), rope / metric.scale, metric),
        )
        for (better, worse), one, p in zip(both, found, corrected, strict=True)
    ]
    if unpaired:
        remarks.append("unpaired: other tasks or budgets may be what the difference comes of")
    tasks = common if not unpaired or len(counts) == 1 else None
    return Comparison(ordered, pairs, not unpaired, tasks, rope, remarks)


def _practically(
    mean: float, variance: float, freedom: float, rope: float, metric: Metric
) -> tuple[float, float, float]:
    """What the posterior of a mean difference (Benavoli et al. 2017) gives to worse, as good, and better."""
    try:
        from baycomp.single import Posterior
    except ModuleNotFoundError as error:
        raise UserError("--rope needs baycomp, which is not installed: pip install 'raymeta[statistics]'") from error
    low, same, high = map(float, Posterior(mean, variance, freedom, rope).probs())
    return (low, same, high) if metric.mode == "max" else (high, same, low)


def _tell(one: Comparison) -> str:
    first, second = one.entries[:2]
    kind = f"{first.kind} tasks"
    where = f"on the same {one.tasks} {kind}" if one.paired else "unpaired"
    if len(one.entries) > 2:
        beaten = [pair.a for pair in one.pairs[: len(one.entries) - 1] if pair.significant]
        rivals = [pair.a for pair in one.pairs[: len(one.entries) - 1] if not pair.significant]
        found = [
            f"significantly better than {', '.join(beaten)}" if beaten else "",
            f"not significantly better than {', '.join(rivals)}" if rivals else "",
        ]
        which = ", ".join(part for part in found if part)
        return f"{first.name} has the best mean, {which} {where} (Holm, {len(one.pairs)} comparisons)"
    pair, metric = one.pairs[0], one.metric
    gap = f"{number(abs(pair.difference), metric)} ± {number(pair.half, metric)}{unit(metric)}"
    side = "above" if metric.mode == "max" else "below"
    less = "" if metric.mode == "max" else f" in {metric.name}, where less is better,"
    verdict = "" if pair.significant else ", which is not significant"
    return f"{first.name} is {gap} {side} {second.name}{less} {where} ({equal_p(pair.p)}){verdict}"


def _seeds(one: Comparison) -> str:
    if all(entry.seeds == 1 for entry in one.entries):
        return "each has one seed, so the intervals leave out the luck of a training"
    few = [entry for entry in one.entries if entry.seeds < 3]
    names = ", ".join(f"{entry.name} ({entry.seeds})" for entry in few)
    said = [f"too few seeds to tell their spread, which is taken to be that of all configs: {names}"] if few else []
    if any(entry.seeds == 1 for entry in few):
        return said[0]
    counts = sorted({entry.seeds for entry in one.entries})
    pooled = sqrt(float(np.mean([(entry.sd_seeds or 0.0) ** 2 for entry in one.entries])))
    most = one.pairs[0].of_seeds > 0.5
    so = "the luck of a training: more seeds" if most else "the choice of tasks: more test tasks"
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    spread = f"{number(pooled, one.metric)}{unit(one.metric)}"
    said.append(f"with {seeds} seeds the spread between seeds is {spread}, so most of the ± is {so} would narrow it")
    return "; ".join(said)


def _row(pair: Pair) -> dict[str, Any]:
    row = asdict(pair) | {"significant": pair.significant}
    practically = row.pop("practically")
    names = ("p_a_better", "p_as_good", "p_b_better")
    return row | (dict(zip(names, practically, strict=True)) if practically else {})
