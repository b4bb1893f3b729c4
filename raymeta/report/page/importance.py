"""Which keys made the scores differ: Optuna's fANOVA and PED-ANOVA on trials of one budget, with their uncertainty.

Of the squared differences between scores, fANOVA (Hutter et al., ICML 2014) gives each key the share that goes with it
alone, on average over all others; PED-ANOVA (Watanabe et al., IJCAI 2023) says how much the values of the best quarter
differ from all. Both are Optuna's; here is what they are asked:

- Values are given on the scale on which they are drawn (logarithms where the range is log), and every whole number and
  every choice takes up the same room, since fANOVA integrates over the range as it finds it. Choices stand in the order
  of their mean scores, so that a tree can part them with few cuts.
- A key that is searched under a condition is judged among the trials in which it was searched, beside the keys that
  were searched in all of them. Its share there is scaled by the part of all differences that lies within these trials.
- Every tree of the forest has drawn its trials with replacement: the spread over trees is that of a bootstrap over
  trials, and a cautious one, as a tree varies more than the forest.
- Beside its keys every forest is given their values in random order (the shadows of Boruta: Kursa and Rudnicki, 2010).
  No share is below zero, so luck alone gives some: what a key's own shadow gets is taken off its interval's lower end,
  and a key matters if its share is above that of the luckiest shadow.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from raymeta.report.page.scored import Array, Scored, ends
from raymeta.study.plan.param import Param

if TYPE_CHECKING:  # optuna.importance imports scikit-learn, which changes the environment of its process
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

optuna.logging.set_verbosity(optuna.logging.WARNING)

FEWEST = 16  # trials that anything is said of
MOST = 150  # trials that a tree is given, drawn from all: more would take fANOVA longer than a reader waits
SHADOWS, TREES = 12, 4  # orders of the shadows, trees for each
DEPTH = 8
AGAIN = 20  # draws for the interval of PED-ANOVA
TOP = 0.25  # PED-ANOVA's quantile
MATTERS = 0.05  # a share that is worth a word
HARDLY = 0.1  # what a key may be worth at most that hardly matters


@dataclass(frozen=True)
class Share:
    """How much of the differences between scores goes with a key; shares are between 0 and 1.

    Attributes:
        trials: in which it was searched.
        alone: fANOVA's share, with its 95 % interval `low` to `high`.
        top: PED-ANOVA's, of all keys that were searched in the same trials, with its 95 % interval.
        verdict: `matters`, `hardly matters`, or `too few trials to tell`.
    """

    key: str
    trials: int
    alone: float
    low: float
    high: float
    top: float
    top_low: float
    top_high: float
    verdict: str


def importance(table: Scored, seed: int = 0) -> list[Share]:
    """The share of every key that had more than one value, the largest first; of too few trials nothing.

    A pure function: equal tables and seeds give equal shares.
    """
    found = []
    for rows, own in table.groups():
        if len(rows) < FEWEST or table.weight(rows) == 0:
            continue
        keys = table.beside(rows)
        chance = np.random.default_rng([seed, len(rows)])
        trees, shadows = _fanova(table, rows, keys, chance)
        tops = _ped_anova(table, rows, keys, chance)
        weight = table.weight(rows)
        bar = weight * np.quantile(shadows.max(axis=1), 0.95)
        for key in own:
            place = keys.index(key)
            shares, luck = weight * trees[:, place], weight * np.quantile(shadows[:, place], 0.95)
            low, high = np.quantile(shares, [0.025, 0.975])
            spread, top = 1.96 * tops[1:, place].std(ddof=1), tops[0, place]
            found.append(
                Share(
                    key, len(rows), float(shares.mean()), float(max(0.0, low - luck)), float(high),
                    float(top), float(max(0.0, top - spread)), float(min(1.0, top + spread)),
                    _verdict(bool(shares.mean() > bar), float(high)),
                )
            )  # fmt: skip
    return sorted(found, key=lambda share: (-share.alone, share.key))


def unsaid(table: Scored) -> list[str]:
    """Keys of which nothing can be said: one value only, or searched in too few trials."""
    return [key for key in table.space if len(table.varied.get(key, ())) < FEWEST]


def _verdict(beyond: bool, high: float) -> str:
    if beyond and high >= MATTERS:
        return "matters"
    return "hardly matters" if high < HARDLY else "too few trials to tell"


def _fanova(
    table: Scored, rows: Sequence[int], keys: Sequence[str], chance: np.random.Generator
) -> tuple[Array, Array]:
    """Shares by tree [trees, keys], and those of the shadows by order [orders, keys]."""
    place, y = np.asarray(rows), table.y[list(rows)]
    from optuna.importance import FanovaImportanceEvaluator

    columns = {key: table.coded(key, rows) for key in keys}
    trees, shadows = [], []
    for order in range(SHADOWS):
        some = np.sort(chance.permutation(len(place))[:MOST])
        points, space = [dict[str, float]() for _ in some], dict[str, BaseDistribution]()
        for key, column in columns.items():
            for name, values in ((key, column[some]), (f"~{key}", chance.permutation(column[some]))):
                laid, space[name] = _laid(table.space[key], values, y[some])
                for point, value in zip(points, laid, strict=True):
                    point[name] = float(value)
        study = _study(points, y[some], space, table.mode)
        of = []
        for tree in range(TREES):
            evaluator = FanovaImportanceEvaluator(n_trees=1, max_depth=DEPTH, seed=order * TREES + tree)
            of.append(_asked(evaluator, study, [*keys, *(f"~{key}" for key in keys)]))
        trees += [found[: len(keys)] for found in of]
        shadows.append(np.mean([found[len(keys) :] for found in of], axis=0))
    return np.array(trees), np.array(shadows)


def _laid(param: Param, values: Array, y: Array) -> tuple[Array, FloatDistribution]:
    """Values and their range as fANOVA is to see them: whole numbers and choices in the middle of a unit."""
    low, high = ends(param)
    if param.choice is not None:
        means = {place: y[values == place].mean() for place in np.unique(values)}
        order = sorted(range(len(param.choice)), key=lambda place: means.get(place, y.mean()))
        values = np.argsort(order)[values.astype(int)].astype(float)
    if param.float_ is not None:
        return values, FloatDistribution(low, high)
    if param.log:  # a whole number's room is from half a unit below it to half a unit above
        return values, FloatDistribution(float(np.log(np.exp(low) - 0.5)), float(np.log(np.exp(high) + 0.5)))
    half = param.step / 2
    return values, FloatDistribution(low - half, high + half)


def _ped_anova(table: Scored, rows: Sequence[int], keys: Sequence[str], chance: np.random.Generator) -> Array:
    """Shares of the keys' sum, [1 + draws, keys]: of the trials as they are, then of draws with replacement."""
    from optuna.importance import PedAnovaImportanceEvaluator

    space = {key: _range(table.space[key]) for key in keys}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=TOP)
    found = []
    for again in range(1 + AGAIN):
        some = chance.permutation(len(rows))[:MOST]
        some = chance.choice(some, len(some)) if again else some
        taken = [rows[one] for one in some]
        points = [{key: table.points[row][key] for key in keys} for row in taken]
        shares = _asked(evaluator, _study(points, table.y[taken], space, table.mode), keys)
        found.append(shares / shares.sum() if shares.sum() > 0 else np.full(len(keys), 1 / len(keys)))
    return np.array(found)


def _range(param: Param) -> BaseDistribution:
    if param.choice is not None:
        return CategoricalDistribution(param.choice)
    if param.int_ is not None:
        return IntDistribution(*param.int_, log=param.log, step=param.step)
    assert param.float_ is not None
    return FloatDistribution(*param.float_, log=param.log)


def _study(
    points: Sequence[Mapping[str, object]], y: Array, space: Mapping[str, BaseDistribution], mode: str
) -> optuna.Study:
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    study.add_trials(
        [
            create_trial(params=dict(point), distributions=dict(space), value=float(score))
            for point, score in zip(points, y, strict=True)
        ]
    )
    return study


def _asked(
    evaluator: Union["FanovaImportanceEvaluator", "PedAnovaImportanceEvaluator"],
    study: optuna.Study,
    keys: Sequence[str],
) -> Array:
    """What an evaluator says of the keys, in their order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            found = evaluator.evaluate(study)
    except RuntimeError:  # fANOVA's, of a tree whose trials have equal scores
        return np.zeros(len(keys))
    return np.array([float(found[key]) for key in keys])
