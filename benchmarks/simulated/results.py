"""What simulated searches found, judged: tables with intervals over seeds, and the rule that chooses a default."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raymeta.metric import Metric
from simulated.search import BUDGETS, DEFAULT
from simulated.settings import RANDOM
from simulated.table import Judge

SHOWN = (8, 16, 32)
"""Budgets of the tables and of the rule."""


@dataclass(frozen=True)
class Results:
    """Judged searches of a problem.

    Attributes:
        metric: the problem's.
        scores: by setting and seed, test scores [budgets].
        best, middle: the best of the table's judged scores and their median.
        shown: places of `SHOWN` among the budgets that there are.
        about: by setting, mean numbers of trials and of whole trainings.
    """

    metric: Metric
    scores: Mapping[str, Mapping[int, np.ndarray]]
    best: float
    middle: float
    shown: Sequence[int]
    about: Mapping[str, tuple[float, float]]

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
        counts: dict[str, list[tuple[int, int]]] = {}
        for line in lines:
            scores.setdefault(line["setting"], {})[line["seed"]] = judged[line["rows"]]
            counts.setdefault(line["setting"], []).append((line["trials"], line["whole"]))
        about = {name: tuple(np.mean(found, 0)) for name, found in counts.items()}
        there = min(len(line["rows"]) for line in lines)
        shown = [BUDGETS.index(budget) for budget in SHOWN if BUDGETS.index(budget) < there]
        return cls(metric, scores, best, middle, shown, about)

    def regret(self, setting: str) -> dict[int, np.ndarray]:
        """By seed the share of the way from the best to the median that is left, [budgets]."""
        scale = self.middle - self.best
        return {seed: (found - self.best) / scale for seed, found in self.scores[setting].items()}

    def mean_regret(self, setting: str) -> float:
        """Over seeds and `SHOWN`."""
        return float(np.mean([found[self.shown].mean() for found in self.regret(setting).values()]))

    def paired(self, setting: str, other: str) -> tuple[float, float]:
        """Mean difference of regrets over `SHOWN` and over the seeds that both have, with its 95 % half-width."""
        own, base = self.regret(setting), self.regret(other)
        seeds = sorted(set(own) & set(base))
        apart = np.array([(own[seed] - base[seed])[self.shown].mean() for seed in seeds])
        return mean_ci(apart)

    def reaches(self, setting: str, other: str = str(RANDOM)) -> float:
        """The least compute at which the mean regret is that of another at its end, by lines between `BUDGETS`;
        infinite: never.
        """
        aim = np.mean(list(self.regret(other).values()), 0)[-1]
        curve = np.mean(list(self.regret(setting).values()), 0)
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
    """The setting with the least mean regret over problems and `SHOWN`, of those that all problems have.

    Args:
        found: results by problem.
        but: a problem that is left out.
    """
    problems = [name for name in found if name != but]
    shared = set.intersection(*(set(found[name].scores) for name in problems))
    return min(sorted(shared), key=lambda setting: np.mean([found[name].mean_regret(setting) for name in problems]))


def verdict(found: Mapping[str, Results]) -> list[str]:
    """Leave one problem out: what the others choose, against the default, on the one left out; and the conclusion."""
    lines, wins = [], True
    picks = []
    for name in found:
        if len(found) < 2:
            return ["One problem is no ground for a default: nothing can be left out."]
        pick = chosen(found, but=name)
        apart, half = found[name].paired(pick, str(DEFAULT))
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


def table(results: Results) -> list[str]:
    """Rows of a problem's table in Markdown, the best first."""
    heads = ["search", "seeds", "trials", "whole", *(f"at {BUDGETS[place]}" for place in results.shown)]
    heads += ["regret less the default's", "reaches random's end at"]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' --: |' * (len(heads) - 1)}"]
    order = sorted(results.scores, key=results.mean_regret)
    for name in order:
        scores = np.array(list(results.scores[name].values()))
        cells = [results.metric.text(*mean_ci(scores[:, place])) for place in results.shown]
        apart, half = results.paired(name, str(DEFAULT)) if str(DEFAULT) in results.scores else (np.nan, np.nan)
        trials, whole = results.about[name]
        at = results.reaches(name) if str(RANDOM) in results.scores else float("nan")
        row = (
            name, str(len(scores)), f"{trials:.0f}", f"{whole:.1f}", *cells,
            "" if name == str(DEFAULT) else f"{apart:+.3f} ± {half:.3f}", f"{at:.1f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    return lines


def load(path: Path) -> list[dict[str, Any]]:
    """Lines of a file of results; a last one that a killed run left unfinished is none."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
