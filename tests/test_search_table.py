"""The table of trainings and the searches simulated on it: what is recorded, what is read, who judges."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymeta.training.trainer import Trainer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def modules() -> Iterator[None]:
    """The benchmarks' own modules."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in [name for name in sys.modules if name.split(".")[0] in ("simulated", "search_table")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def problem() -> Any:
    """The sinusoid's, in small."""
    from simulated.problems import PROBLEMS

    own = PROBLEMS["sinusoid"]
    budget = ("budget.validate_every=2", "budget.validation_tasks=6", "study.first_rung=2")
    words = (*own.words[:2], "model.hidden=[4,4]", "maml.inner_steps=2", *budget)
    return replace(own, words=words, points=(2, 4, 6), lanes=8, fresh_tasks=5, test_tasks=7)


@pytest.fixture(scope="module")
def recorded(problem: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of eight configs, recorded in two goes, with both seeds."""
    import search_table
    from simulated import table
    from simulated.problems import JUDGE_SEED, SEARCH_SEED

    folder: Path = tmp_path_factory.mktemp("table") / "sinusoid"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(search_table.PROBLEMS, "sinusoid", problem)
        search_table.record("sinusoid", folder, 6, SEARCH_SEED, float("inf"))
        first = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
        search_table.record("sinusoid", folder, 8, SEARCH_SEED, float("inf"))
        assert len(first) == 12
        assert {path: path.stat().st_mtime_ns for path in first} == first  # what was there is not made again
        search_table.record("sinusoid", folder, 8, JUDGE_SEED, 0.0)
        assert not list(folder.glob(f"*/*-{JUDGE_SEED}.npz"))  # no time, no row
        search_table.record("sinusoid", folder, 8, JUDGE_SEED, float("inf"))
    assert table.Table.load(folder).validation.shape == (8, 3, 6)
    return folder


def smooth(name: str, rows: int, seed: int = 0) -> Any:
    """A table of made-up curves: best where two learning rates are at two places of their ranges."""
    from simulated.cube import Cube
    from simulated.problems import PROBLEMS
    from simulated.table import Table

    problem = PROBLEMS[name]
    points, keys = problem.configs(rows), list(problem.plan.space.params)
    at, rng = Cube(problem.plan.space.params).of(points), np.random.default_rng(seed)
    steps = np.array(problem.points)
    far = (at[:, keys.index("maml.inner_lr")] - 0.7) ** 2 + (at[:, keys.index("outer.lr")] - 0.6) ** 2
    error = far[:, None] + (steps / steps[0]) ** -0.5
    scores = error[:, :, None] + 0.3 * rng.standard_normal((rows, len(steps), 30))
    seconds = np.tile(steps / 100, (rows, 1)).astype(float)
    sign = -1 if problem.plan.base.task.problem == "images" else 1
    return Table(problem, points, steps, sign * scores, seconds, 0 * seconds, sign * scores[:, -1]), far


@pytest.mark.slow
def test_a_training_alone_is_the_trainers_own(problem: Any) -> None:
    from simulated.problems import SEARCH_SEED
    from simulated.recording import train

    point = problem.configs(3)[2]
    ((read, closed),) = train(problem, [point], SEARCH_SEED)
    trainer = Trainer(problem.plan.config(point))
    while not trainer.done:
        trainer.round()
    expected = {entry["outer_steps"]: entry["val_mse"] for entry in trainer.rounds}
    assert read["validation"].mean(1) == pytest.approx([expected[step] for step in problem.points], rel=1e-6)
    assert read["steps"].tolist() == list(problem.points)
    assert (np.diff(read["seconds"]) > 0).all()
    assert json.loads(str(read["config"])) == trainer.config.as_dict()
    best = min(range(3), key=lambda place: read["validation"][place].mean())
    if problem.points[best] == trainer.best["outer_step"]:  # the trainer validates more often
        bank = trainer.problem.bank("test", trainer.config.task.bank_seed, final=True)
        score = trainer.evaluate(bank, 7, [trainer.best["weights"]])
        assert closed["test"] == pytest.approx(score.values.numpy(), rel=1e-5)


@pytest.mark.slow
def test_lanes_are_the_same_trainings(problem: Any) -> None:
    from simulated.recording import train

    points = [{**problem.configs(1)[0], "maml.inner_lr": rate} for rate in (0.01, 0.03, 0.1)]
    for point, (lane, closed) in zip(points, train(problem, points, 0), strict=True):
        ((alone, judged),) = train(problem, [point], 0)
        assert json.loads(str(lane["point"])) == point
        for key in ("validation", "fresh"):
            assert lane[key] == pytest.approx(alone[key], rel=1e-3)
        assert closed["test"] == pytest.approx(judged["test"], rel=1e-3)


def test_groups_are_of_one_structure_and_take_turns() -> None:
    from simulated.problems import PROBLEMS
    from simulated.recording import groups

    from raymeta.training.lanes import lane_structure

    problem = PROBLEMS["glyphs"]
    points = problem.configs(64)
    few = groups(replace(problem, lanes=2), points, range(64))
    structures = [{lane_structure(problem.plan.config(points[row])) for row in rows} for rows in few]
    assert all(len(found) == 1 and len(rows) <= 2 for found, rows in zip(structures, few, strict=True))
    assert sorted(row for rows in few for row in rows) == list(range(64))
    kinds = len(set().union(*structures))
    assert kinds > 4
    assert len(set().union(*structures[:kinds])) == kinds


def test_more_rows_go_on_where_fewer_end(problem: Any) -> None:
    points = problem.configs(300)
    assert problem.configs(20) == points[:20]
    assert points[:2] == problem.plan.space.start_from
    assert all(problem.plan.space.complete(point) for point in points[2:])


def test_no_search_reads_test_scores(problem: Any, recorded: Path, tmp_path: Path) -> None:
    """It finds the same where they are gone and where they are others; only the judge sees them."""
    import shutil

    from simulated.search import Setting, simulate
    from simulated.table import Judge, Table, read, write

    bare, other = tmp_path / "bare" / "sinusoid", tmp_path / "other" / "sinusoid"
    for copy in (bare, other):
        shutil.copytree(recorded, copy)
    shutil.rmtree(bare / "closed")
    for path in (other / "closed").iterdir():
        write(path, {"test": 1000 - read(path)["test"]})
    # With the small problem's plan, whose rungs these trainings reach, or finalists would never be asked for.
    tables = [replace(Table.load(folder), problem=problem) for folder in (recorded, bare, other)]
    some = [Setting("random", "hyperband"), Setting("PriorBand-like", "lenient ASHA"), Setting(finalists=2)]
    for setting in some:
        found = [simulate(one, setting, 0, workers=2, most=4) for one in tables]
        assert found[0] == found[1] == found[2], setting
    # A search that read them would be noticed: one whose finalists are judged by them finds something else.
    judges = [np.stack([read(path)["test"] for path in sorted((one / "closed").glob("*-0.npz"))])
              for one in (recorded, other)]  # fmt: skip
    cheater = Setting("random", "none", finalists=2)
    cheats = [simulate(replace(tables[0], fresh=test), cheater, 0, workers=2, most=4) for test in judges]
    assert cheats[0] != cheats[1]
    assert np.isfinite(Judge.load(recorded).mean).all()
    assert np.isnan(Judge.load(bare).mean).all()
    assert (Judge.load(other).mean != Judge.load(recorded).mean).all()


def test_a_sample_is_the_tables_beginning(recorded: Path, tmp_path: Path) -> None:
    from simulated.problems import SEARCH_SEED
    from simulated.search import Setting, simulate
    from simulated.table import Judge, Table, checksum, read, row_file, sample, write

    sample(recorded, 8, tmp_path / "few.npz")
    few, whole = Table.load(tmp_path / "few.npz"), Table.load(recorded)
    for setting in (Setting(), Setting("random", "hyperband")):
        assert simulate(few, setting, 1, 2, most=4) == simulate(whole, setting, 1, 2, most=4)
    assert Judge.load(tmp_path / "few.npz").mean.tolist() == Judge.load(recorded).mean.tolist()
    before = checksum(recorded)
    path = row_file(recorded / "rows", 0, SEARCH_SEED)
    row = read(path)
    write(path, row | {"seconds": 2 * row["seconds"]})
    assert checksum(recorded) == before  # another machine's times
    write(path, row | {"fresh": 2 * row["fresh"]})
    assert checksum(recorded) != before
    write(path, row)
    sample(recorded, 3, tmp_path / "three.npz")
    assert checksum(recorded) == before
    assert len(Table.load(tmp_path / "three.npz").points) == 3


@given(st.lists(st.floats(0, 0.999), min_size=15, max_size=15))
@settings(max_examples=10, deadline=None)
def test_a_point_and_its_coordinates(unit: list[float]) -> None:
    from simulated.cube import Cube
    from simulated.problems import PROBLEMS, point_at

    params = dict(PROBLEMS["glyphs"].plan.space.params)
    point = point_at(params, unit[: len(params)] + [0.5] * (len(params) - 15))
    (at,) = Cube(params).of([point])
    for key, place, u in zip(params, at, unit, strict=False):
        if key not in point:
            assert np.isnan(place)
        elif params[key].choice is None:
            assert place == pytest.approx(u, abs=1e-9)
        else:
            assert params[key].choice[int(place)] == point[key]
    assert Cube(params).distances(at[None], at).tolist() == [0.0]


def test_what_is_proposed_is_moved_to_the_nearest_row_that_is_left() -> None:
    from simulated.cube import Cube, Exhausted, Lookup
    from simulated.problems import PROBLEMS

    problem = PROBLEMS["sinusoid"]
    points = problem.configs(12)
    lookup = Lookup(Cube(problem.plan.space.params), points)
    assert [lookup.take(point) for point in points[:5]] == [0, 1, 2, 3, 4]
    again = lookup.take(points[3])
    apart = lookup.cube.distances(lookup.rows, lookup.rows[3])
    assert again == min(range(5, 12), key=apart.__getitem__)
    assert {lookup.take(points[0]) for _ in range(6)} == set(range(5, 12)) - {again}
    with pytest.raises(Exhausted):
        lookup.take(points[0])


def test_compute_without_cuts() -> None:
    from simulated.search import Setting, simulate

    table, _ = smooth("sinusoid", 64)
    found = simulate(table, Setting("random", "none"), 0, workers=4, most=8)
    assert found.trials == 12  # eight that ended, and four that run
    assert found.whole == 8
    one = simulate(table, Setting("random", "none"), 0, workers=1, most=8)
    assert (one.trials, one.whole) == (9, 8)
    assert one.rows[0] == 0  # the first starting point
    assert table.means[one.rows[-1], -1] == min(table.means[row, -1] for row in set(one.rows))


def test_one_worker_is_asha_by_hand() -> None:
    """Against a loop that is written without Ray: a trial passes a rung if it is in the best third seen there."""
    from simulated.samplers import Drawn
    from simulated.search import STOPPING, Setting, simulate

    table, _ = smooth("sinusoid", 64)
    plan = STOPPING.plan(table, 5)
    drawn, rungs, spent = Drawn(table, plan), {20: [], 60: [], 180: []}, 0.0
    begun, best = 0, {}
    limit = 6 * table.times[:, -1].mean()
    while spent < limit:
        row, begun = drawn.ask(begun), begun + 1
        for place, step in enumerate(table.steps):
            spent += table.times[row, place] - (table.times[row, place - 1] if place else 0)
            if spent > limit:
                break
            value = table.means[row, place]
            rung = sum(step >= one for one in (*rungs, 540))
            best[row] = (-rung, min(value, best.get(row, (0, np.inf))[1]))
            if step in rungs:
                passes = not rungs[step] or value <= np.percentile(rungs[step], 100 / 3)
                rungs[step].append(value)
                if not passes:
                    break
    found = simulate(table, Setting("random"), 5, workers=1, most=6)
    assert found.trials == begun
    assert found.rows[-1] == min(best, key=best.__getitem__)


def test_rungs_that_open_late() -> None:
    """No trial passes before `reduction` were there; where few are to come, and for the two starts, ASHA's own rule."""
    from simulated.schedulers import ASHA, Opening, Strict, Trial
    from simulated.search import STOPPING

    table, _ = smooth("sinusoid", 12)
    few, many = (STOPPING.plan(table, 0, most=most) for most in (1, 16))
    assert few.study.trials < 24 < many.study.trials
    scores = [0.5, 0.4, 0.3, 0.6, 0.2, 0.32, 0.21]  # less is better

    def passed(scheduler: Any) -> list[bool]:
        trials = [Trial(number, number) for number in range(len(scores))]
        for trial in trials:
            scheduler.begin(trial)
        return [scheduler.goes_on(trial, 20, score) for trial, score in zip(trials, scores, strict=True)]

    own = passed(ASHA(table, many))
    assert own == [True, True, True, False, True, True, True]
    assert passed(Strict(table, many)) == [False, False, True, False, True, False, True]
    assert passed(Opening(table, many)) == [True, True, True, False, True, False, True]
    assert passed(Opening(table, few)) == own


def test_a_trial_that_waits_is_no_running_one_to_tpe() -> None:
    from optuna.trial import TrialState
    from simulated.samplers import OfOptuna
    from simulated.search import STOPPING

    table, _ = smooth("sinusoid", 12)
    proposer = OfOptuna(table, STOPPING.plan(table, 0))
    proposer.ask(0)
    proposer.report(0, 20, 0.5)
    states = []
    for waiting in (True, False):
        proposer.waits(0, waiting=waiting)
        states.append(proposer.study.trials[0].state)
    assert states == [TrialState.PRUNED, TrialState.RUNNING]
    proposer.report(0, 60, 0.4)
    proposer.end(0, 0.4)
    assert proposer.study.trials[0].intermediate_values == {20: 0.5, 60: 0.4}


@pytest.mark.slow
def test_cuts_and_models_pay_on_smooth_curves() -> None:
    from simulated.search import Setting, simulate
    from simulated.settings import RANDOM

    table, far = smooth("sinusoid", 128)

    def left(setting: Setting) -> float:
        return float(np.mean([far[simulate(table, setting, seed, most=8).rows[-1]] for seed in range(6)]))

    plain = left(RANDOM)
    assert left(Setting("random", starts=False)) < plain
    assert left(Setting("random", "promoting ASHA")) < plain
    assert left(Setting("PriorBand-like")) < plain


def test_a_warm_start_begins_with_the_others_best() -> None:
    from simulated.search import Setting, best_points

    (table, _), (other, _) = smooth("glyphs", 40), smooth("sinusoid", 40)
    plan = Setting(warm=True).plan(table, 0, [other])
    own = table.problem.plan.space.start_from
    assert plan.space.start_from[: len(own)] == own
    warm = plan.space.start_from[len(own) :]
    order = np.argsort(other.means[:, -1])[:5]
    assert [point["maml.inner_lr"] for point in warm] == [other.points[row]["maml.inner_lr"] for row in order]
    assert {point["regularizer"] for point in warm} == {"dropgrad"}
    assert best_points(other, other.problem.plan) == [other.points[row] for row in order]


def lines(setting: Any, rows: list[int]) -> list[dict[str, Any]]:
    return [
        {"setting": str(setting), "seed": seed, "rows": [row] * 10, "trials": 3, "whole": 1}
        for seed, row in enumerate(rows)
    ]


def test_the_rule_needs_a_win_on_every_problem() -> None:
    from simulated.results import Results, chosen, verdict
    from simulated.search import STOPPING, Setting
    from simulated.settings import RANDOM
    from simulated.table import Judge

    from raymeta.metric import Metric

    judge = Judge(np.array([0.0, 0.1, 0.2, 0.5, 1.0, np.nan]))
    new = Setting("PriorBand-like")

    def of(mine: list[int], other: list[int]) -> Results:
        return Results.of(
            [*lines(STOPPING, other), *lines(new, mine), *lines(RANDOM, [3] * 8)], judge, Metric("mse", "min")
        )

    wins, loses = of([0, 1] * 4, [2] * 8), of([2, 1] * 4, [1, 2] * 4)
    assert (wins.best, wins.middle) == (0.0, 0.2)
    assert wins.regret(str(new))[1][0] == pytest.approx(0.5)
    assert wins.regret(str(RANDOM))[0][0] == 1.0  # what is worse than the median counts as the median
    apart, half = wins.paired(str(new), str(STOPPING))
    assert (apart, half) == pytest.approx((-0.75, 1.96 * np.std([-1, -0.5] * 4, ddof=1) / 8**0.5))
    assert chosen({"a": wins, "b": loses}, but="b") == str(new)
    assert "default becomes: PriorBand-like + ASHA" in verdict({"a": wins, "b": wins})[-1]
    assert "default stays" in verdict({"a": wins, "b": loses})[-1]
    assert "default stays" in verdict({"a": loses, "b": loses})[-1]
    assert "no ground" in verdict({"a": wins})[-1]


def test_the_second_rule_is_over_all_problems_together() -> None:
    from simulated.results import Results, offered
    from simulated.search import STOPPING, Setting
    from simulated.table import Judge

    from raymeta.metric import Metric

    judge = Judge(np.array([0.0, 0.1, 0.2, 0.5, 1.0]))
    new, system = Setting(scheduler="promoting ASHA"), Setting("Ray's Optuna")

    def of(mine: list[int], other: list[int]) -> Results:
        found = [*lines(STOPPING, other), *lines(new, mine), *lines(system, mine)]
        return Results.of(found, judge, Metric("mse", "min"))

    wins, even, loses = of([0, 1] * 4, [2] * 8), of([1, 2] * 4, [2, 1] * 4), of([2] * 8, [1, 2] * 4)
    (line, last) = offered({"a": wins, "b": even})
    assert "TPE + promoting ASHA, -0.375 ± 0.207" in line
    assert last == "By the second rule the default becomes: TPE + promoting ASHA."
    (line, last) = offered({"a": wins, "b": loses})
    assert line.endswith("but worse on b")
    assert last == "By the second rule the default stays."
    assert offered({"a": even, "b": even}) == ["By the second rule the default stays."]
    assert offered({"a": wins, "b": even}, str(new)) == ["By the second rule the default stays."]
    assert offered({"a": loses, "b": loses}, str(new))[-1] == f"By the second rule the default becomes: {STOPPING}."
    assert "no ground" in offered({"a": wins})[0]


def test_reaching_what_random_search_has_at_its_end() -> None:
    from simulated.results import Results
    from simulated.search import STOPPING
    from simulated.settings import RANDOM
    from simulated.table import Judge

    from raymeta.metric import Metric

    judge = Judge(np.array([1.0, 0.9, 0.7, 0.5, 0.2]))
    rows = {str(STOPPING): [4, 3, 3, 2, 2, 1, 1, 0, 0, 0], str(RANDOM): [4, 4, 4, 3, 3, 3, 2, 2, 2, 1]}
    found = [{"setting": name, "seed": 0, "rows": row, "trials": 1, "whole": 1} for name, row in rows.items()]
    results = Results.of(found, judge, Metric("accuracy", "max"))
    assert results.reaches(str(RANDOM)) == 32
    assert results.reaches(str(STOPPING)) == 8
