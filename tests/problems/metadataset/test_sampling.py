"""The published law of episodes: classes, ways, shots, imbalance and queries, by chi-square at 0.001."""

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from raymeta.errors import UserError
from raymeta.problems.images.task import ImagesTask, MetaDatasetConfig
from raymeta.problems.images.variable import VariableEpisodes
from raymeta.problems.metadataset.sampling import GroupEpisodes

LEVEL = 0.001
EPISODES = 1_500


def store(counts: Any, kept: int = 600) -> Any:
    """What a bank asks of a store, without images."""
    sizes = np.minimum(np.array(counts), kept)
    return SimpleNamespace(
        images=np.zeros((1, 3, 2, 2), np.uint8), scaled=None, name="metadataset:a", split="standard", sizes=sizes,
        starts=sizes.cumsum() - sizes, class_names=[f"class{n}" for n in range(len(sizes))],
        classes=lambda split: np.arange(len(sizes)),
    )  # fmt: skip


def bank(counts: Any, groups: Any = None, whole: bool = False, **bounds: Any) -> VariableEpisodes:
    task = ImagesTask(sampler="metadataset", metadataset=MetaDatasetConfig(**bounds))
    given, counts = (store(counts), task, "train", 0), np.array(counts)
    if groups is None:
        return VariableEpisodes(*given, counts=counts)
    return GroupEpisodes(*given, counts=counts, groups=groups, whole=whole)


def evenly(found: Any, expected: Any) -> float:
    """The p value of counts of values that are equally likely, each of which must be there."""
    counted = Counter(found)
    assert set(counted) <= set(expected)
    return float(chisquare([counted[one] for one in expected]).pvalue)


def drawn(episodes: VariableEpisodes, count: int) -> list[tuple[Any, Any, int]]:
    """Classes, support counts and queries."""
    return [episodes._chosen(number)[:3] for number in range(count)]


def check_even(count: int) -> dict[str, float]:
    """80 classes: ways, classes, and the places of the first one."""
    found = drawn(bank([30] * 80), count)
    ways = [len(chosen) for chosen, _, _ in found]
    return {
        "ways": evenly(ways, range(5, 51)),
        "classes": evenly((int(chosen[0]) for chosen, _, _ in found), range(80)),
        "last class": evenly((int(chosen[-1]) for chosen, _, _ in found), range(80)),
    }


def check_alphabets(count: int) -> dict[str, float]:
    sizes = [14, 20, 55]
    ends = np.cumsum(sizes)
    groups = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    found = drawn(bank([20] * sum(sizes), groups), count)
    home = [int(np.searchsorted(ends, chosen[0], side="right")) for chosen, _, _ in found]
    for (chosen, _, _), own in zip(found, home, strict=True):
        assert set(chosen.tolist()) <= set(groups[own])
        assert len(set(chosen.tolist())) == len(chosen)
    p = {"alphabets": evenly(home, range(3))}
    for own, size in enumerate(sizes):
        mine = [chosen for (chosen, _, _), at in zip(found, home, strict=True) if at == own]
        p[f"ways of {size}"] = evenly(map(len, mine), range(5, min(50, size) + 1))
        p[f"characters of {size}"] = evenly((int(chosen[0]) for chosen in mine), groups[own])
    return p


def check_nodes(count: int) -> dict[str, float]:
    """Nodes of 4 (too few), 6, 7, 60 and 400 (too many) leaves; 6 and 7 overlap."""
    groups = [list(range(4)), list(range(6)), list(range(3, 10)), list(range(20, 80)), list(range(400))]
    found = drawn(bank([900] * 400, groups, whole=True), count)
    sizes = [len(chosen) for chosen, _, _ in found]
    assert all(set(chosen.tolist()) in (set(groups[1]), set(groups[2])) for chosen, _, _ in found if len(chosen) < 50)
    large = [int(one) for chosen, _, _ in found if len(chosen) == 50 for one in chosen[:1]]
    return {"nodes": evenly(sizes, [6, 7, 50]), "of more than 50": evenly(large, groups[3])}


def check_shots(count: int) -> dict[str, float]:
    """With two classes and no bound that binds, beta and alpha are seen in the counts."""
    sizes = np.array([400, 400])
    found = drawn(bank(sizes, min_ways=2, max_ways=2, max_support=500), count)
    assert {queries for _, _, queries in found} == {10}
    # |S| = 2 ceil(100 beta): uniform over 2, 4, ..., 200; of S - 2 the two get floors of their shares.
    whole = [2 * round((sum(support.tolist()) + 0.1) / 2 + 0.4) for _, support, _ in found]
    steps = [min(9, (one - 1) // 20) for one in whole]
    # The log of the ratio of the weights is a difference of two uniforms on [ln 1/2, ln 2): triangular.
    ratios = [np.log((s[0] - 0.5) / (s[1] - 0.5)) for _, s, _ in found if s.sum() > 100]
    edges = 2 * np.log(2) * np.array([-1, -0.5, -0.25, 0, 0.25, 0.5, 1])
    triangle = np.array([0.125, 0.15625, 0.21875, 0.21875, 0.15625, 0.125])
    seen = np.histogram(np.clip(ratios, edges[0] + 1e-9, edges[-1] - 1e-9), edges)[0]
    return {
        "support size": evenly(steps, range(10)),
        "imbalance": float(chisquare(seen, triangle * seen.sum()).pvalue),
    }


CHECKS = [check_even, check_alphabets, check_nodes, check_shots]


@pytest.mark.parametrize("check", CHECKS)
def test_episodes_follow_the_published_law(check: Any) -> None:
    found = check(EPISODES)
    assert min(found.values()) > LEVEL, found


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_20_000_episodes_follow_the_published_law(check: Any) -> None:
    found = check(20_000)
    print(json.dumps({check.__name__: found}))
    assert min(found.values()) > LEVEL, found


def test_the_smallest_class_says_how_many_queries() -> None:
    for smallest, queries in ((6, 3), (20, 10), (21, 10), (7, 3)):
        found = drawn(bank([smallest, 400, 300, 200, 500], min_ways=5), 20)
        assert {own for _, _, own in found} == {queries}


def test_the_law_is_of_all_images_and_those_that_are_stored_are_taken() -> None:
    """A class of 100,000 has the weight of 100,000, though 600 of it are there."""
    found = drawn(bank([100_000, 600], min_ways=2, max_ways=2), 200)
    for chosen, support, queries in found:
        by_class = dict(zip(chosen.tolist(), support.tolist(), strict=True))
        assert by_class[0] >= by_class[1]
        assert by_class[0] + queries <= 510
    episodes = bank([100_000, 600], min_ways=2, max_ways=2)
    for number in range(20):
        chosen, _, _, keys, _ = episodes._chosen(number)
        assert keys.shape == (2, 600)
        assert np.isfinite(keys).all()


def test_what_has_no_group_of_enough_classes_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"found 5, but the train split of metadataset:a .* an alphabet of 4 characters"
    ):
        bank([20] * 10, [[0, 1, 2, 3], [4, 5, 6, 7, 8]])
    with pytest.raises(UserError, match=r"found 5, but the train split of .* no node with so many classes below it"):
        bank([20] * 10, [[0, 1, 2, 3]], whole=True)
