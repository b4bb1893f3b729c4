"""Tables and a picture of what the searches found."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy.stats import t
from simulated.problems import TableProblem

from quality.arms import ARMS, STOPPING
from quality.found import Search
from raymeta.metric import Metric

LATE = 0.5
AGAINST = (STOPPING, "stock Ray")
RANDOM_END = "random's end at"


def mean_ci(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval over searches (Student's t)."""
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


def apart(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Difference of two means and half-width of its 95 % interval (Welch)."""
    parts = [statistics.variance(each) / len(each) for each in (values, others)]
    if not sum(parts):
        return statistics.fmean(values) - statistics.fmean(others), 0.0
    free = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, (values, others), strict=True))
    return statistics.fmean(values) - statistics.fmean(others), float(t.ppf(0.975, free)) * sum(parts) ** 0.5


def by_method(found: Sequence[Search]) -> dict[str, list[Search]]:
    """Searches of each kind of which there are two or more, in the order of `ARMS`."""
    searches = {method: [one for one in found if one.method == method] for method in ARMS}
    return {method: mine for method, mine in searches.items() if len(mine) > 1}


def late(search: Search, shares: Sequence[float]) -> float:
    """What counts of a search: the mean of what it had found from half of its compute on."""
    return statistics.fmean(score for share, score in zip(shares, search.scores, strict=True) if share >= LATE)


def reached(mine: Sequence[Search], aim: float, metric: Metric, shares: Sequence[float]) -> str:
    """The first share of the compute at which searches are by their mean as good as `aim`."""
    sign = 1 if metric.mode == "max" else -1
    for share, at in zip(shares, zip(*(one.scores for one in mine), strict=True), strict=True):
        if sign * statistics.fmean(at) >= sign * aim:
            return f"{share:g}"
    return "never"


def table(problem: TableProblem, metric: Metric, found: Sequence[Search], shares: Sequence[float]) -> list[str]:
    """Rows in Markdown: a kind of search each.

    "Late" is the mean of a search's scores at half of its compute and later; "random's end" the share of the compute at
    which it is as good as random search at the end.
    """
    heads = ["search", "searches", "trials", "diverged", "whole", "processor s"]
    heads += [*(f"at {share:g} of the compute" for share in shares), *(f"late, less {other}" for other in AGAINST)]
    lines = [f"| {' | '.join([*heads, RANDOM_END])} |", f"| --- |{' --: |' * len(heads)}"]
    kinds = by_method(found)
    for method, mine in kinds.items():
        counts = [(one.trials, one.diverged, one.whole(problem.points[-1])) for one in mine]
        means = [f"{statistics.fmean(counted):.1f}" for counted in zip(*counts, strict=True)]
        scores = [metric.text(*mean_ci(at)) for at in zip(*(one.scores for one in mine), strict=True)]
        less = []
        for other in AGAINST:
            if other in kinds and method != other:
                values = [[late(one, shares) for one in kind] for kind in (mine, kinds[other])]
                mean, half = apart(*values)
                less.append(f"{'+' if mean >= 0 else ''}{metric.text(mean, half)}")
            else:
                less.append("")
        ends = [one.scores[-1] for one in kinds.get("random", [])]
        as_good = reached(mine, statistics.fmean(ends), metric, shares) if ends else ""
        spent = f"{statistics.fmean(one.seconds for one in mine):.0f}"
        lines.append(f"| {' | '.join((method, str(len(mine)), *means, spent, *scores, *less, as_good))} |")
    return lines


def draw(results: Mapping[str, tuple[Metric, Sequence[Search]]], shares: Sequence[float], path: Path) -> None:
    """A row a problem: a dot for every search, a bar for the mean of its kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (3.6 * len(shares), 2.6 * len(results))
    figure, grid = plt.subplots(
        len(results), len(shares), figsize=size, layout="constrained", sharex="row", sharey="row", squeeze=False
    )
    for axes, (name, (metric, found)) in zip(grid, results.items(), strict=True):
        kinds = by_method(found)
        for place, (axis, share) in enumerate(zip(axes, shares, strict=True)):
            for row, mine in enumerate(kinds.values()):
                scores = [metric.scale * one.scores[place] for one in mine]
                axis.plot(scores, [row] * len(scores), "o", color=f"C{row}", alpha=0.6)
                axis.plot(statistics.fmean(scores), row, "|", color="black", ms=18, mew=2)
            axis.set(title=f"{name}, {share:g} of the compute", xlabel=f"validation {metric.name}, trained anew")
            axis.set_yticks(range(len(kinds)), list(kinds))
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)
