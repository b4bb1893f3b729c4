"""A study of which the true effects are known: two keys matter, one does beside one of them, five do not."""

from dataclasses import replace

import numpy as np

from raymeta.report.page.scored import Scored
from raymeta.study.plan.param import Param, Point


def param(**said: object) -> Param:
    return Param.model_validate(said)


SPACE = {
    "lr": param(float=[1e-3, 1.0], log=True),
    "kind": param(choice=["a", "b", "c"]),
    "steps": param(int=[1, 8]),
    "x": param(float=[0.0, 1.0]),
    "y": param(float=[0.0, 1.0]),
    "log": param(float=[1e-4, 1e-2], log=True),
    "pair": param(choice=["u", "v"]),
    "whole": param(int=[1, 5]),
}
LEVELS = {"a": -1.0, "b": 1.0, "c": 0.0}
# Variances of the parts: of 3u with u uniform in [0, 1], of the three levels, of 4 (u - 1/2)(s - 1/2) with s eight
# equal steps from 0 to 1, whose variance is (8² - 1) / 12 / 7².
PARTS = {"lr": 9 / 12, "kind": 2 / 3, "together": 16 / 12 * 63 / 12 / 49}


def truth(noise: float) -> dict[str, float]:
    """The share of every key alone, and of the pair."""
    whole = sum(PARTS.values()) + noise**2
    return {key: PARTS.get(key, 0.0) / whole for key in [*SPACE, "together"]}


def drawn(seed: int, trials: int, noise: float) -> Scored:
    chance = np.random.default_rng(seed)
    points, scores = list[Point](), []
    for _ in range(trials):
        u, steps, kind = chance.uniform(), int(chance.integers(1, 9)), "abc"[chance.integers(3)]
        others = {key: float(chance.uniform()) for key in "xy"}
        log, pair, whole = float(10 ** chance.uniform(-4, -2)), "uv"[chance.integers(2)], int(chance.integers(1, 6))
        points.append(
            {"lr": 10 ** (3 * u - 3), "kind": kind, "steps": steps, **others, "log": log, "pair": pair, "whole": whole}
        )
        scores.append(3 * u + LEVELS[kind] + 4 * (u - 0.5) * ((steps - 1) / 7 - 0.5) + noise * float(chance.normal()))
    return Scored(SPACE, points, scores, "max")


def conditional(seed: int, trials: int) -> Scored:
    """`rate` is searched where `kind` is "b" alone, and moves the score there by 2 over its range."""
    plain, chance = drawn(seed, trials, 0.2), np.random.default_rng(seed + 1)
    points, scores = list[Point](), []
    for point, score in zip(plain.points, plain.scores, strict=True):
        rate = float(chance.uniform())
        more = point["kind"] == "b"
        points.append({**point, "rate": rate} if more else dict(point))
        scores.append(score + 4 * rate * more)
    return replace(plain, space=SPACE | {"rate": param(float=[0.0, 1.0])}, points=points, scores=scores)
