"""The pictures of a report. Each is small enough to be read on a phone; pages put them side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from raymeta.report.page.effects import Effect, Interaction
from raymeta.report.page.findings import Findings
from raymeta.report.style import BEST, EQUAL, GUIDE, INK, REST, panels
from raymeta.study.plan.param import Value
from raymeta.study.record.record import TrialRecord

MOST_DOTS = 400  # of a panel, drawn from all
WIDTH, HEIGHT = 4.6, 3.2  # inches
LINES = [BEST, "C0", "C2", "C1", "C4"]  # of trials, the best first
VERDICTS = {"matters": BEST, "hardly matters": REST}


def curves(found: Findings) -> Any:
    """Every trial at the rungs that it reached, in grey, and a few over all rounds, in colour."""
    from matplotlib.collections import LineCollection

    figure, axis = _panel(WIDTH, HEIGHT + 0.4)
    scale, lines = found.metric.scale, dict[int, list[tuple[float, float]]]()
    for budget in found.budgets:
        for trial, score in zip(budget.trials, budget.table.scores, strict=True):
            lines.setdefault(trial.number, []).append((budget.steps, scale * score))
    kept = _some(list(lines.values()))
    axis.add_collection(LineCollection(kept, colors=REST, linewidths=0.7, alpha=0.6))
    axis.scatter(*zip(*(point for line in kept for point in line), strict=True), s=5, c=REST, linewidths=0)
    for colour, trial in zip(LINES, found.coloured, strict=False):
        rounds = [(entry["outer_steps"], scale * entry[found.key]) for entry in trial.rounds if found.key in entry]
        axis.plot(*zip(*rounds, strict=True), color=colour, lw=1.4, marker=".", ms=4, label=f"trial {trial.number}")
    for rung in found.plan.rungs[:-1]:
        axis.axvline(rung, **GUIDE | {"color": INK, "alpha": 0.3})
    axis.set(xlabel="outer steps (dashed: rungs)", ylabel=found.label)
    first = found.budgets[0].table
    if first.far_out:  # the others would be a flat line
        best = max if first.mode == "max" else min
        ends = [scale * first.fence, scale * best(best(budget.table.scores) for budget in found.budgets)]
        margin = 0.05 * abs(ends[1] - ends[0])
        axis.set_ylim(min(ends) - margin, max(ends) + margin)
    if found.coloured:
        axis.legend(frameon=False, fontsize=8)
    return figure


def adaptation(found: Findings, trials: Sequence[TrialRecord]) -> Any:
    """Scores before and after adaptation over the outer steps, a colour a trial."""
    figure, axis = _panel(WIDTH, HEIGHT + 0.4)
    scale, before = found.metric.scale, f"{found.key}_before"
    for colour, trial in zip(LINES, trials, strict=False):
        rounds = [entry for entry in trial.rounds if before in entry]
        steps = [entry["outer_steps"] for entry in rounds]
        old, new, width = (
            scale * np.array([entry[key] for entry in rounds]) for key in (before, found.key, "val_ci95")
        )
        axis.plot(steps, old, "--", color=colour, lw=1)
        axis.plot(steps, new, color=colour, lw=1.4, marker=".", ms=4, label=f"trial {trial.number}")
        axis.fill_between(steps, new - width, new + width, color=colour, alpha=0.15, lw=0)
    axis.set(xlabel="outer steps (dashed: before adaptation)", ylabel=found.label)
    axis.legend(frameon=False, fontsize=8)
    return figure


def finalists(found: Findings) -> Any:
    """Scores on fresh episodes with their intervals, a line a finalist."""
    assert found.standing is not None
    ones, scale = [one for one in found.standing.finalists if one.values][::-1], found.metric.scale
    figure, axis = _panel(WIDTH, 1.0 + 0.3 * len(ones))
    for place, one in enumerate(ones):
        colour = BEST if one is found.standing.best else EQUAL if one.equal else REST
        axis.errorbar(scale * one.mean, place, xerr=scale * one.ci95, fmt="o", color=colour, capsize=3)
    axis.set_yticks(range(len(ones)), [f"trial {one.trial.number}" for one in ones])
    axis.set(xlabel=f"{found.label} on {found.standing.tasks} fresh episodes", ylim=(-0.6, len(ones) - 0.4))
    return figure


def importance(found: Findings) -> Any:
    """Shares alone, the largest on top."""
    shares = found.shares[::-1]
    figure, axis = _panel(WIDTH, 1.0 + 0.28 * len(shares))
    values = np.array([share.alone for share in shares])
    away = np.array([[share.alone - share.low, share.high - share.alone] for share in shares]).T
    colours = [VERDICTS.get(share.verdict, EQUAL) for share in shares]
    axis.barh(range(len(shares)), values, color=colours, alpha=0.8)
    axis.errorbar(values, range(len(shares)), xerr=np.maximum(away, 0), fmt="none", color=INK, capsize=2, lw=1)
    axis.set_yticks(range(len(shares)), [short_key(share.key) for share in shares])
    axis.set(xlabel="share alone (red: matters; grey: hardly)", xlim=(0, None))
    return figure


def slice_(found: Findings, one: Effect) -> Any:
    """A dot a trial, and the means of groups with their intervals."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axis = _panel()
    param, scale = found.plan.space.params[one.key], found.metric.scale
    places: dict[Value, float] = {}
    if param.choice is not None:
        places = {value: float(place) for place, value in enumerate(param.choice)}
        axis.set_xticks(range(len(param.choice)), [_cut(value) for value in param.choice])
        axis.set_xlim(-0.5, len(param.choice) - 0.5)
    elif param.log:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    dots = _some(list(zip(one.values, one.scores, strict=True)))
    chance = np.random.default_rng(0)
    wide = 0.15 if places else 0.0
    x = [_place(value, places) + wide * chance.uniform(-1, 1) for value, _ in dots]
    axis.scatter(x, [scale * score for _, score in dots], s=9, c=REST, alpha=0.7, linewidths=0)
    middles = [_middle(_place(g.low, places), _place(g.high, places), param.log) for g in one.groups]
    means = [scale * group.mean for group in one.groups]
    spread = [scale * (group.ci95 or 0.0) for group in one.groups]
    axis.errorbar(middles, means, spread, color=BEST, fmt="o" if places else "o-", ms=4, lw=1.2, capsize=3)
    axis.set(xlabel=short_key(one.key), ylabel=found.label)
    return figure


def pair(found: Findings, one: Interaction, names: tuple[Sequence[str], Sequence[str]]) -> Any:
    """Means by the groups of the one key, a line a group of the other."""
    figure, axis = _panel()
    for place, name in enumerate(names[1]):
        means = [found.metric.scale * line[place][0] for line in one.cells]
        axis.plot(range(len(means)), means, marker="o", ms=4, color=LINES[place % len(LINES)], label=_cut(name))
    axis.set_xticks(range(len(names[0])), [_cut(name) for name in names[0]])
    axis.set(xlabel=short_key(one.keys[0]), ylabel=found.label, xlim=(-0.3, len(names[0]) - 0.7))
    axis.legend(frameon=False, fontsize=8, title=short_key(one.keys[1]), title_fontsize=8)
    return figure


def short_key(key: str) -> str:
    """The last two parts of a key, which fit beside a picture."""
    return ".".join(key.rsplit(".", 2)[-2:])


def _panel(width: float = WIDTH, height: float = HEIGHT) -> tuple[Any, Any]:
    figure, ((axis,),) = panels(1, 1, width, height)
    return figure, axis


def _some(items: list[Any]) -> list[Any]:
    """At most `MOST_DOTS` of them, in order, the same ones at every call."""
    if len(items) <= MOST_DOTS:
        return items
    return [items[place] for place in sorted(np.random.default_rng(0).permutation(len(items))[:MOST_DOTS])]


def _place(value: Value, places: dict[Value, float]) -> float:
    if places:
        return places[value]
    assert isinstance(value, int | float)
    return float(value)


def _middle(low: float, high: float, log: bool) -> float:
    return float(np.sqrt(low * high)) if log else (low + high) / 2


def _cut(value: Value) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 16 else text[:15] + "…"
