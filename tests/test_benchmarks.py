"""The benchmarks of the search engine run, in small; and what one of them makes of a search's rounds is right."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def run(name: str, *options: object) -> list[list[str]]:
    """The rows of the table that a benchmark prints."""
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    rows = [re.split(r" *\| *", line)[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {len(rows[0])}
    return rows[2:]


@pytest.mark.slow
@pytest.mark.ray
def test_many_trials() -> None:
    rows = run("many_trials", "--trials", 20, "--every", 10)
    assert rows[-1][0] == "20"
    assert all(float(row[-1]) > 50 for row in rows)


@pytest.mark.slow
def test_episodes() -> None:
    tiny = ("--episodes", 8, "--rounds", 1, "--photos", 22, "--width", 4, "--processes", 2)
    ours, *peers = run("episodes", "speed", *tiny)[:4]
    assert (ours[1], ours[3]) == ("raymeta", "1.0x")
    assert all(float(row[3].rstrip("x")) > 1 for row in peers)
    assert all(0 < float(row[4].rstrip("%")) < 50 for row in run("episodes", "share", *tiny))
    rows = run("episodes", "memory", *tiny)
    mapped, copied = (
        [float(row[5]) for row in rows if row[:2] == [what, "all"]] for what in ("memory-mapped", "a copy each")
    )
    assert copied[0] - mapped[0] > 0.8 * 2 * 22 * 100 * 84 * 84 * 3 / 2**20  # that much is not private to the two


@pytest.mark.slow
@pytest.mark.ray
def test_trials_of_a_real_data_set_share_one_store() -> None:
    tiny = ("--dataset", "glyphs", "--processes", 2, "--steps", 1, "--width", 4)
    alone, _, one, two, both, more = run("episodes", "trials", *tiny)
    assert [row[1] for row in (alone, one, two, both, more)] == ["1", "1", "2", "all", "each more"]
    resident, proportional, private = (float(value) for value in both[4:])
    assert resident == pytest.approx(2 * float(alone[4]), rel=0.01)  # all of it in each
    assert proportional == pytest.approx(float(alone[5]), rel=0.05)  # and one copy in all
    assert private < 0.05 * resident
    assert float(more[3]) < 400


@pytest.mark.slow
@pytest.mark.ray
def test_stock_ray() -> None:
    stock, ours = run("stock_ray", "--size", "tiny", "--slots", 1)
    assert (stock[0], ours[0]) == ("plain Ray Tune", "raymeta")
    for row in (stock, ours):
        assert 0 < float(row[2]) < 1
        assert 0.1 < float(row[5]) <= 1


@pytest.mark.slow
@pytest.mark.ray
def test_search_quality(tmp_path: Path) -> None:
    small = ("--folder", tmp_path, "--picture", tmp_path / "p.png", "--steps", 60, "--trainings", 1.5, "--fresh", 1)
    wanted = (*small, "--seeds", 2, "--methods", "stock Ray", "multivariate TPE+ASHA", "--slots", 1)
    rows = run("search_quality", *wanted)
    assert [row[:2] for row in rows] == [["stock Ray", "2"], ["multivariate TPE+ASHA", "2"]]
    assert (tmp_path / "p.png").stat().st_size > 1000
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    for path in tmp_path.glob("search-*.json"):
        last: dict[object, int] = {}
        for entry in json.loads(path.read_text())["rounds"]:
            last[entry["trial"]] = entry["steps"]
        assert sum(last.values()) >= 90
    assert run("search_quality", *wanted) == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == made


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("search_quality", FOLDER / "search_quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_found_with_so_much_compute(quality: ModuleType) -> None:
    told = [(0, 20, 3.0), (1, 20, 2.0), (2, 20, None), (0, 40, 2.5), (0, 60, 2.2), (1, 40, 1.0), (1, 60, 2.1)]
    rounds = [{"trial": trial, "steps": steps, "value": value, "point": trial} for trial, steps, value in told]
    for limit, count in ((19, 0), (20, 1), (39, 1), (40, 2), (60, 3), (80, 4), (99, 4), (100, 5), (140, 7), (900, 7)):
        assert len(quality.until(rounds, limit)) == count
    ours = [quality.incumbent("TPE+ASHA", rounds[:count], [20, 60]) for count in range(8)]
    assert ours == [None, 0, 1, 1, 1, 0, 0, 1]  # the highest rung first, there the best round
    stock = [quality.incumbent("stock Ray", rounds[:count], [20, 60]) for count in range(8)]
    assert stock == [None, 0, 1, 1, 1, 1, 1, 1]  # the best last score, however short the training
    assert quality.count({"rounds": rounds}, 60) == (3, 1, 2)


def test_the_searches_differ_in_proposals_and_rungs_only(quality: ModuleType) -> None:
    plans = {method: quality.plan_of(method, 3, 540) for method in quality.METHODS}
    for method, plan in plans.items():
        assert plan.rungs == ([540] if method == "random" else [20, 60, 180, 540])
        assert (plan.study.startup_trials == 1000) == method.startswith("random")
        assert (plan.study.seed, plan.study.trials, plan.space.start_from) == (3, 1000, [])
        assert (plan.base, plan.space.hash) == (plans["random"].base, plans["random"].space.hash)


@pytest.mark.slow
def test_initial_values_are_their_sources() -> None:
    rows = run("initial_values", "--seeds", 10)
    assert len(rows) > 200
    assert max(float(row[-1] or 0) for row in rows) < 5  # standard errors
