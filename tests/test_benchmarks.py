"""The benchmarks of the search engine run, in small; and what one of them makes of a search's rounds is right."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_searches_as_lanes_and_as_processes() -> None:
    rows = run("lanes", "--search", "--trials", 4, "--budget", 18)
    assert [row[0] for row in rows] == ["16", "off", "16"]
    for row in rows:
        wall, processor, pace, steps, best = row[1:]
        assert float(wall.removesuffix(" s")) > 0
        assert re.fullmatch(r"\d+ s \([\d.]+x\)", processor)
        assert re.fullmatch(r"[\d,]+ \([\d.]+x\)", pace)
        assert 4 * 2 <= int(steps) <= 4 * 18
        assert re.fullmatch(r"[.\d]+ ± [.\d]+", best)
    assert rows[1][2].endswith("s (1.00x)")
    assert rows[1][3].endswith("(1.00x)")


@pytest.mark.slow
def test_proposals_by_structure() -> None:
    one, few = run("structures", "--specs", "maml", "metasgd", "--seeds", 3)
    assert (one[:2], one[-1], few[:2]) == (["maml", "1"], "100% → 100%", ["metasgd", "2"])
    assert all(0.95 < float(cell.rstrip("x")) < 1.05 for cell in one[2:5])
    assert all(0.8 < float(cell.rstrip("x")) < 1.4 for cell in few[2:5])


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


@pytest.fixture
def modules() -> Iterator[None]:
    """The benchmarks' own modules."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in [name for name in sys.modules if name.split(".")[0] in ("simulated", "quality")]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.ray
def test_search_quality(tmp_path: Path) -> None:
    small = ("--folder", tmp_path, "--picture", tmp_path / "p.png", "--shorter", 9, "--trainings", 2, "--fresh", 1)
    wanted = (*small, "--seeds", 2, "--problems", "sinusoid", "--methods", "stock Ray", "TPE+ASHA", "--slots", 1)
    rows = run("search_quality", *wanted)
    assert [row[:2] for row in rows] == [["stock Ray", "2"], ["TPE+ASHA", "2"]]
    assert all(float(row[5]) > 1 for row in rows)  # processor seconds
    assert (tmp_path / "p.png").stat().st_size > 1000
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    for path in tmp_path.glob("sinusoid/search-*.json"):
        last: dict[object, int] = {}
        rounds = json.loads(path.read_text())["rounds"]
        for entry in rounds:
            last[entry["trial"]] = entry["steps"]
        assert sum(last.values()) >= 120
        assert rounds[0]["point"]["outer.lr"] == 0.001  # the authors' setting
    assert run("search_quality", *wanted) == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == made


@pytest.mark.slow
@pytest.mark.usefixtures("modules")
def test_stock_ray_searches_over_the_choice_of_regularizer(tmp_path: Path) -> None:
    small = ("--folder", tmp_path, "--picture", tmp_path / "p.png", "--shorter", 9, "--trainings", 2, "--fresh", 1)
    run("search_quality", *small, "--seeds", 1, "--problems", "glyphs", "--methods", "stock Ray", "--slots", 1)
    rounds = json.loads((tmp_path / "glyphs/search-stock-Ray-0.json").read_text())["rounds"]
    assert {"none", "dropgrad"} <= {entry["point"]["regularizer"] for entry in rounds}


@pytest.mark.slow
@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(("method", "package"), [("Syne Tune", "syne_tune"), ("SMAC", "smac")])
def test_systems_that_are_asked_search_real_trainings(method: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    from quality.arms import ARMS, CHECKED
    from quality.asked import by_asking

    from raymeta.problem import open_problem

    for name, problem in CHECKED.items():
        small, path = problem.shorter(9), tmp_path / name / "rounds.json"
        path.parent.mkdir()
        plan = ARMS[method].plan(small, 0)
        open_problem(plan.base.task).prepare()
        by_asking(ARMS[method], plan, 2 * small.points[-1], 2, path)
        rounds = json.loads(path.read_text())
        last: dict[int, int] = {}
        for entry in rounds:  # a trial that was paused goes on where it was
            if entry["value"] is not None:  # else it diverged, in the middle of a round
                assert entry["steps"] == last.get(entry["trial"], 0) + plan.base.budget.validate_every
            last[entry["trial"]] = entry["steps"]
        assert sum(last.values()) >= 2 * small.points[-1]
        firsts = [next(entry["point"] for entry in rounds if entry["trial"] == trial) for trial in sorted(last)]
        assert all(plan.space.complete(point) for point in firsts)
        if method == "Syne Tune":  # SMAC has a design of its own before them
            assert firsts[:2] == [pytest.approx(point) for point in plan.space.start_from[:2]]


@pytest.mark.usefixtures("modules")
def test_processor_time_is_of_all_processes_below() -> None:
    from quality.processes import measured

    busy = "import time; [0 for _ in iter(lambda: time.process_time() < 1.5, False)]"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); print('so', file=sys.stderr)"
    said, seconds = measured([sys.executable, "-c", code])
    assert said == "so\n"
    assert 0.7 < seconds < 5


@pytest.mark.usefixtures("modules")
def test_what_was_found_with_so_much_compute() -> None:
    from quality.found import Search, incumbent

    from raymeta.metric import Metric

    less, more = Metric("mse", "min"), Metric("accuracy", "max")
    told = [(0, 20, 3.0), (1, 20, 2.0), (2, 20, None), (0, 40, 2.5), (0, 60, 2.2), (1, 40, 1.0), (1, 60, 2.1)]
    rounds = [{"trial": trial, "steps": steps, "value": value, "point": trial} for trial, steps, value in told]
    search = Search("TPE+ASHA", 0, 0.0, rounds)
    for limit, count in ((19, 0), (20, 1), (39, 1), (40, 2), (60, 3), (80, 4), (99, 4), (100, 5), (140, 7), (900, 7)):
        assert len(search.until(limit)) == count
    ours = [incumbent("TPE+ASHA", rounds[:count], [20, 60], less) for count in range(8)]
    assert ours == [None, 0, 1, 1, 1, 0, 0, 1]  # the highest rung first, there the best round
    assert [incumbent("SMAC", rounds[:count], [20, 60], more) for count in range(8)] == [None, *[0] * 7]
    stock = [incumbent("stock Ray", rounds[:count], [20, 60], less) for count in range(8)]
    assert stock == [None, 0, 1, 1, 1, 1, 1, 1]  # the best last score, however short the training
    assert (search.trials, search.diverged, search.whole(60)) == (3, 1, 2)


@pytest.mark.usefixtures("modules")
def test_the_searches_differ_in_nothing_but_how_they_search() -> None:
    from quality.arms import ARMS, CHECKED

    for name, problem in CHECKED.items():
        rungs = {"sinusoid": [20, 60, 180, 540], "glyphs": [6, 18, 54, 162]}[name]
        for method, plan in ((method, arm.plan(problem, 3)) for method, arm in ARMS.items()):
            assert plan.study.halving == ("stopping" if method == "TPE+ASHA" else "promoting")
            assert plan.rungs == (rungs[-1:] if method == "random" else rungs)
            assert (plan.study.startup_trials == 1000) == (method == "random")
            assert (plan.study.seed, plan.study.trials) == (3, 1000)
            assert plan.space.start_from == ([] if method == "random" else problem.plan.space.start_from)
            assert (plan.base, plan.space.params) == (problem.plan.base, problem.plan.space.params)


@pytest.mark.usefixtures("modules")
def test_differences_of_searches() -> None:
    from quality.result import apart
    from scipy.stats import ttest_ind

    values, others = [1.0, 2.0, 4.0], [3.0, 3.5, 5.0, 6.0]
    mean, half = apart(values, others)
    interval = ttest_ind(values, others, equal_var=False).confidence_interval()
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))
    assert apart([1.0, 1.0], [2.0, 2.0]) == (-1.0, 0.0)


@pytest.mark.usefixtures("modules")
def test_the_table_of_searches() -> None:
    from quality.arms import CHECKED
    from quality.found import Search
    from quality.result import table

    from raymeta.metric import Metric

    rounds = [{"trial": 0, "steps": 540, "value": 1.0, "point": {}}]
    found = [
        Search(method, seed, 60.0, rounds, [early + seed, middle + seed, end + seed])
        for method, (early, middle, end) in {
            "random": (9.0, 6.0, 4.0), "stock Ray": (7.0, 5.0, 3.0), "TPE+ASHA": (6.0, 4.0, 2.0),
            "SMAC": (9.0, 8.0, 5.0),
        }.items()
        for seed in range(2)
    ]  # fmt: skip
    lines = table(CHECKED["sinusoid"], Metric("mse", "min"), found, (0.25, 0.5, 1.0))
    rows = {row[0]: row[1:] for row in (re.split(r" *\| *", line)[1:-1] for line in lines)}
    assert rows["random"][:5] == ["2", "1.0", "0.0", "1.0", "60"]
    assert {method: row[-1] for method, row in rows.items()} == {
        "search": "random's end at", "---": "--:", "random": "1", "stock Ray": "1", "TPE+ASHA": "0.5", "SMAC": "never"
    }  # fmt: skip
    late = {method: row[-3:-1] for method, row in rows.items()}
    assert late["TPE+ASHA"][0] == late["stock Ray"][1] == ""
    assert late["stock Ray"][0].startswith("+1.0")
    assert late["TPE+ASHA"][1].startswith("-1.0")
    assert late["SMAC"][0].startswith("+3.5")


@pytest.mark.slow
def test_initial_values_are_their_sources() -> None:
    rows = run("initial_values", "--seeds", 10)
    assert len(rows) > 200
    assert max(float(row[-1] or 0) for row in rows) < 5  # standard errors
