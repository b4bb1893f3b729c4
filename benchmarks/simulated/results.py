"""What simulated searches found, judged: tables with intervals over seeds, and the rule that chooses a default."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raymeta.metric import Metric
from simulated.search import BUDGETS, STOPPING
from simulated.settings import OTHERS, RANDOM, SETTINGS
from simulated.table import Judge

SHOWN = (8, 16, 32)
"""Budgets of the tables."""
RULED = [BUDGETS.index(budget) for budget in (8, 16)]
"""Places of the budgets of the rule: those that all searches are simulated to."""


@dataclass(frozen=True)
class Results:
    """Judged searches of a problem.

    Attributes:
        metric: the problem's.
        scores: by setting and seed, test scores [budgets]; NaN at those that a search was not simulated to.
        best, middle: the best of the table's judged scores and their median.
        about: by setting, of the longest searches mean numbers of trials and of whole trainings, and their compute.
    """

    metric: Metric
    scores: Mapping[str, Mapping[int, np.ndarray]]
    best: float
    middle: float
    about: Mapping[str, tuple[float, float, float]]

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]], judge: Judge, metric: Metric) -> "Results":
        """Judge what searches found.

        A config that is worse than the table's median, diverged or was not found at all counts as the median: means
        would be those of the worst alone.
        """
        sign = 1 if metric.mode == "max" else -1
        finite = judge.mean[np.isfinite(judge.mean)]
        best, middle = float(sign * (sign * finite).max()), float(np.median(finite))
        judged = np.where(np.isfinite(judge.mean), judge.mean, middle)
        judged = np.append(sign * np.maximum(sign * judged, sign * middle), middle)  # the last is for row -1
        scores: dict[str, dict[int, np.ndarray]] = {}
        counts: dict[str, list[tuple[int, int, int]]] = {}
        for line in lines:
            own, seed, reached = scores.setdefault(line["setting"], {}), line["seed"], len(line["rows"])
            if seed in own and np.isfinite(own[seed]).sum() > reached:
                continue  # a longer one is there
            own[seed] = np.append(judged[line["rows"]], np.full(len(BUDGETS) - reached, np.nan))
            counts.setdefault(line["setting"], []).append((BUDGETS[reached - 1], line["trials"], line["whole"]))
        about = {}
        for name, found in counts.items():
            most = max(found)[0]
            trials, whole = np.mean([one[1:] for one in found if one[0] == most], 0)
            about[name] = float(trials), float(whole), float(most)
        return cls(metric, scores, best, middle, about)

    def regret(self, setting: str) -> dict[int, np.ndarray]:
        """By seed the share of the way from the best to the median that is left, [budgets]."""
        scale = self.middle - self.best
        return {seed: (found - self.best) / scale for seed, found in self.scores[setting].items()}

    def mean_regret(self, setting: str) -> float:
        """Over seeds and the budgets of the rule."""
        return float(np.mean([found[RULED].mean() for found in self.regret(setting).values()]))

    def paired(self, setting: str, other: str) -> tuple[float, float]:
        """Mean difference of regrets over the budgets of the rule and the seeds that both have, with its 95 %
        half-width.
        """
        own, base = self.regret(setting), self.regret(other)
        seeds = sorted(set(own) & set(base))
        apart = np.array([(own[seed] - base[seed])[RULED].mean() for seed in seeds])
        return mean_ci(apart)

    def curve(self, setting: str) -> np.ndarray:
        """Mean regret over seeds at each budget that any search was simulated to."""
        found = np.array(list(self.regret(setting).values()))
        reached = int(np.isfinite(found).any(0).sum())
        curve: np.ndarray = np.nanmean(found[:, :reached], 0)
        return curve

    def reaches(self, setting: str, other: str = str(RANDOM)) -> float:
        """The least compute at which the mean regret is that of another at its end, by lines between `BUDGETS`;
        infinite: not as far as it was simulated.
        """
        aim, curve = self.curve(other)[-1], self.curve(setting)
        below = np.flatnonzero(curve <= aim)
        if not len(below):
            return float("inf")
        place = int(below[0])
        if place == 0:
            return float(BUDGETS[0])
        share = (curve[place - 1] - aim) / (curve[place - 1] - curve[place])
        return float(BUDGETS[place - 1] + share * (BUDGETS[place] - BUDGETS[place - 1]))


def mean_ci(values: np.ndarray) -> tuple[float, float]:
    """Mean and half-width of its normal 95 % interval; of one value the width is infinite."""
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    return float(values.mean()), half


def chosen(found: Mapping[str, Results], but: str | None = None) -> str:
    """The setting with the least mean regret over problems and budgets of the rule, of those that all problems have.

    Args:
        found: results by problem.
        but: a problem that is left out.
    """
    problems = [name for name in found if name != but]
    shared = set.intersection(*(set(found[name].scores) for name in problems))
    return min(sorted(shared), key=lambda setting: np.mean([found[name].mean_regret(setting) for name in problems]))


def verdict(found: Mapping[str, Results], default: str = str(STOPPING)) -> list[str]:
    """Leave one problem out: what the others choose, against the default, on the one left out; and the conclusion."""
    lines, wins = [], True
    picks = []
    for name in found:
        if len(found) < 2:
            return ["One problem is no ground for a default: nothing can be left out."]
        pick = chosen(found, but=name)
        apart, half = found[name].paired(pick, default)
        better = apart + half < 0
        picks.append(pick)
        wins &= better
        word = "better" if better else "worse" if apart - half > 0 else "not told apart"
        regret = f"its regret less the default's is {apart:+.3f} ± {half:.3f}, {word}"
        lines.append(f"- without {name} chosen: {pick}; on {name} {regret}")
    same = len(set(picks)) == 1
    if wins and same:
        lines.append(f"By the rule the default becomes: {picks[0]}.")
    else:
        lines.append("By the rule the default stays: no one setting wins by more than its interval on every problem.")
    return lines


def offered(found: Mapping[str, Results], default: str = str(STOPPING)) -> list[str]:
    """The second rule: over all problems together better than the default by more than the interval, on none worse by
    more than its interval. Systems of others are no settings.
    """
    if len(found) < 2:
        return ["The second rule: one problem is no ground for a default."]
    own = {str(setting) for setting in SETTINGS if setting not in OTHERS} - {default}
    shared = own.intersection(*(set(results.scores) for results in found.values()))
    lines, winners = [], {}
    for name in sorted(shared):
        apart = np.array([results.paired(name, default) for results in found.values()])
        mean, half = apart[:, 0].mean(), (apart[:, 1] ** 2).sum() ** 0.5 / len(apart)
        worse = [problem for problem, (one, width) in zip(found, apart, strict=True) if one - width > 0]
        if mean + half >= 0:
            continue
        but = f", but worse on {', '.join(worse)}" if worse else ""
        lines.append(f"- over all problems better: {name}, {mean:+.3f} ± {half:.3f}{but}")
        if not worse:
            winners[name] = mean
    best = min(winners, key=winners.__getitem__) if winners else None
    return [*lines, f"By the second rule the default {f'becomes: {best}' if best else 'stays'}."]


def table(results: Results, default: str = str(STOPPING)) -> list[str]:
    """Rows of a problem's table in Markdown, the best first."""
    heads = ["search", "seeds", "trials", "whole", *(f"at {budget}" for budget in SHOWN)]
    heads += ["regret", "less the default's", "reaches random's end at"]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' --: |' * (len(heads) - 1)}"]
    order = sorted(results.scores, key=results.mean_regret)
    for name in order:
        scores = np.array(list(results.scores[name].values()))
        columns = [scores[:, BUDGETS.index(budget)] for budget in SHOWN]
        columns = [column[np.isfinite(column)] for column in columns]
        cells = [results.metric.text(*mean_ci(column)) if len(column) > 1 else "" for column in columns]
        apart, half = results.paired(name, default) if default in results.scores else (np.nan, np.nan)
        trials, whole, most = results.about[name]
        at = results.reaches(name) if str(RANDOM) in results.scores else float("nan")
        row = (
            name, str(len(scores)), f"{trials:.0f}", f"{whole:.1f}", *cells, f"{results.mean_regret(name):.3f}",
            "" if name == default else f"{apart:+.3f} ± {half:.3f}",
            f"{at:.1f}" if np.isfinite(at) else f"> {most:g}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    return lines


def load(path: Path) -> list[dict[str, Any]]:
    """Lines of a file of results; a last one that a killed run left unfinished is none."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
