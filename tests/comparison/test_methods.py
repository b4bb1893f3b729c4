"""A study of methods: its plan, what it refuses, its differences and report on made-up scores, and a tiny real one."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison.test_compare import PERCENT
from study.driving import WORDS, raymeta, rounds_noted, start, tiny_record, until
from typer.testing import CliRunner

import raymeta as package
from raymeta.api.many.planned import methods_plan
from raymeta.cli import app
from raymeta.comparison.entries import TEST, Entry
from raymeta.comparison.methods import Methods, Result, Searched, gaps, plainer
from raymeta.comparison.methods_report import limits, report_of
from raymeta.comparison.statistics import differences, holm
from raymeta.errors import UserError
from raymeta.problems.images.task import ImagesTask
from raymeta.report.page.forms import FORMS

TRIED = ["maml", "maml+dropgrad", "maml+dropout"]


def entry(method: str, mean: float, ways: int = 5, seeds: int = 3, seed: int = 0) -> Entry:
    generator = np.random.default_rng(seed)
    tasks = 0.05 * np.random.default_rng(ways).standard_normal(20)
    noise = generator.standard_normal((seeds, 20))
    scores = mean + tasks + 0.01 * (noise - noise.mean())
    return Entry(method, method, PERCENT, ImagesTask(ways=ways), TEST, 0, "", 100, scores)


def searched(method: str, **changes: Any) -> Searched:
    about = {
        "trials": 8,
        "keys": 3,
        "outer_steps": 500,
        "seconds": 60.0,
        "chosen": {"maml.inner_lr": 0.1},
        "off": False,
    }
    return Searched(study=f"methods-{method}", **about | changes)


def result(method: str, untuned: float, tuned: float | None, ways: int = 5, seeds: int = 3, **changes: Any) -> Result:
    before = entry(method, untuned, ways, seeds, seed=len(method))
    after = None if tuned is None else entry(method, tuned, ways, seeds, seed=len(method) + 50)
    title = before.task.title
    return Result(method, title, PERCENT, before, after, searched(method, **changes))


def study(tuned: Sequence[float] = (0.60, 0.64, 0.60), tasks: int = 1) -> Methods:
    rows = [
        result(method, 0.5, score, ways=5 + place)
        for place in range(tasks)
        for method, score in zip(TRIED, tuned, strict=True)
    ]
    return Methods("methods", 3, rows)


def test_every_method_with_every_regularizer_on_every_task(studies: Path) -> None:
    plan = methods_plan(
        ["maml", "metasgd"], ["sinusoid-10s", "sinusoid-5s"], regularizers=["none", "dropgrad"], trials=5,
        overrides=["maml.inner_steps=2", "regularizers.dropgrad.rate=0.3", "budget.outer_steps=16000"],
    )  # fmt: skip
    assert [(cell.task, cell.method) for cell in plan.cells] == [
        (task, method)
        for task in ("sinusoid-10s", "sinusoid-5s")
        for method in ("maml", "maml+dropgrad", "metasgd", "metasgd+dropgrad")
    ]
    flat = [cell.authors.flat() for cell in plan.cells[:4]]
    assert [each["budget.outer_steps"] for each in flat] == [16000] * 4
    assert [each.get("maml.inner_steps") for each in flat] == [2, 2, None, None]  # of its method only
    assert [each.get("regularizers.dropgrad.rate") for each in flat] == [None, 0.3, None, 0.3]
    assert all(cell.plan.study.trials == 5 for cell in plan.cells)
    assert plan.cells[1].study == "methods-maml+dropgrad-sinusoid-10s"
    assert {row["state"] for row in plan.as_dict()["searches"]} == {"new"}
    assert "at most" in str(plan)
    assert not studies.exists()


@pytest.mark.parametrize(
    ("methods", "tasks", "options", "said"),
    [
        (["mamll"], ["glyphs"], {}, "unknown method 'mamll': did you mean 'maml'?"),
        (["maml"], ["glyhps"], {}, "unknown data set 'glyhps': did you mean 'glyphs'?"),
        (["maml"], ["glyphs"], {"regularizers": ["none", "dropgard"]}, "unknown regularizer 'dropgard'"),
        (["maml", "maml"], ["glyphs"], {}, "methods: found maml twice"),
        (["maml"], ["glyphs", "glyphs"], {}, "tasks: found glyphs twice"),
        ([], ["glyphs"], {}, "methods: found none: expected one or more"),
        (["maml"], [], {}, "tasks: found none"),
        (["maml+taml"], ["sinusoid"], {}, "taml needs labels, and sinusoid has none"),
        (["maml"], ["sinusoid"], {"seeds": 0}, "seeds: found 0: at least one"),
        (["maml"], ["glyphs"], {"name": "a/b"}, "a/b"),
        (["maml"], ["sinusoid", "sinusoid-10s"], {}, "would have the same study"),
        (["maml", "metasgd"], ["sinusoid"], {"overrides": ["budget.nothing=2"]}, "budget.nothing"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_before_anything_starts(
    studies: Path, methods: list[str], tasks: list[str], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        package.study_of_methods(methods, tasks, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not studies.exists()


def test_another_study_of_that_name_is_not_taken_for_this_one(studies: Path) -> None:
    tiny_record("methods-maml+dropgrad-sinusoid-5s")
    words = [word for word in WORDS if not word.startswith("study.trials")]
    (cell,) = methods_plan("maml+dropgrad", "sinusoid-5s", overrides=words, trials=8).cells
    assert cell.record is not None
    with pytest.raises(UserError, match=r"was planned with study.trials 8, and 9 is asked for: choose another --name"):
        methods_plan("maml+dropgrad", "sinusoid-5s", overrides=words, trials=9)
    with pytest.raises(UserError, match=r"with model.hidden \[8\], and \[16\] is asked for"):
        methods_plan("maml+dropgrad", "sinusoid-5s", overrides=[*words, "model.hidden=[16]"], trials=8)
    with pytest.raises(UserError, match="the search space"):
        methods_plan("maml+dropgrad", "sinusoid-5s", overrides=[*words, "maml.inner_lr=0.002..0.2:log"], trials=8)
    with pytest.raises(UserError, match="it has no authors' setting among its starting points"):
        methods_plan("maml", "sinusoid-5s", overrides=[*words, "maml.inner_lr=0.1..0.2"], trials=8)


def test_the_command_says_it_in_a_sentence(studies: Path) -> None:
    found = CliRunner().invoke(app, ["study-of-methods", "maml", "--task", "glyhps"])
    assert isinstance(found.exception, UserError)  # `main` prints it and exits with 2
    shown = CliRunner().invoke(
        app, ["study-of-methods", "maml", "--task", "sinusoid", "-n", "4", "--dry-run", "--json"]
    )
    assert json.loads(shown.stdout)["searches"][0]["trials"] == 4
    wrong = CliRunner().invoke(app, ["study-of-methods", "maml", "--task", "sinusoid", "-o", "report.doc"])
    assert isinstance(wrong.exception, UserError)
    assert ".md" in str(wrong.exception)


def test_what_a_method_is_held_against() -> None:
    others = ["maml", "maml+dropgrad", "anil", "maml+dropgrad+mr", "maml+dropout"]
    found = {method: plainer(method, others) for method in others}
    assert found == {
        "maml": None, "anil": None, "maml+dropgrad": "maml", "maml+dropout": "maml",
        "maml+dropgrad+mr": "maml+dropgrad",
    }  # fmt: skip
    assert plainer("maml+dropgrad:rate=0.2", others) == "maml"


def test_differences_are_the_bootstraps_corrected_for_their_number() -> None:
    pairs = [(entry("a", 0.62, seed=1), entry("b", 0.6, seed=2)), (entry("c", 0.6, seed=3), entry("b", 0.6, seed=2))]
    found = gaps(pairs)
    each = [differences(than.scores[None], of.scores[None], comparisons=2) for of, than in pairs]
    assert [gap.mean for gap in found] == pytest.approx([one.mean.item() for one in each])
    assert [(gap.low, gap.high) for gap in found] == [(one.low.item(), one.high.item()) for one in each]
    assert [gap.p for gap in found] == holm(np.array([one.p.item() for one in each])).tolist()
    assert found[0].significant
    assert not found[1].significant
    assert gaps([]) == []


def test_what_the_tables_say() -> None:
    (task,) = study().tasks
    effects = task.effects("tuned")
    assert {gap.of: gap.than for gap in effects.values()} == {"maml+dropgrad": "maml", "maml+dropout": "maml"}
    assert effects["maml+dropgrad"].mean == pytest.approx(0.04, abs=0.005)
    assert effects["maml+dropgrad"].significant
    assert not effects["maml+dropout"].significant
    assert not task.effects("untuned")["maml+dropgrad"].significant
    assert task.gains["maml"].mean == pytest.approx(0.1, abs=0.005)
    report = report_of(study())
    said = " ".join(report.sections[0].text)
    assert "maml+dropgrad has the best mean, significantly better than" in said
    assert "tuned: significantly better than without the regularizer: maml+dropgrad (+4.00" in said
    assert "not told apart from the method without it: maml+dropout" in said
    assert [row[0] for row in report.grid("scores0").rows] == TRIED
    assert report.grid("rows").rows[1][2] == "accuracy"


def test_less_is_better_where_it_is_so() -> None:
    from dataclasses import replace

    from raymeta.metric import Metric

    mse = Metric("mse", "min")
    rows = [
        replace(one, metric=mse, untuned=replace(one.untuned, metric=mse), tuned=replace(one.tuned, metric=mse))  # type: ignore[type-var]
        for one in study().results
    ]
    assert "significantly worse: maml+dropgrad (+0.04" in " ".join(report_of(Methods("m", 3, rows)).sections[0].text)


def test_ranks_need_three_methods_on_two_tasks() -> None:
    assert study().ranking("tuned") is None
    ranks = study(tasks=2).ranking("tuned")
    assert ranks is not None
    assert ranks.methods[0] == "maml+dropgrad"
    fewer = [one for one in study(tasks=2).results if one.method != "maml"]
    assert Methods("m", 3, fewer).ranking("tuned") is None
    lost = [result(one.method, 0.5, None, ways=6) if "6-way" in one.task else one
            for one in study(tasks=2).results]  # fmt: skip
    assert Methods("m", 3, lost).ranking("tuned") is None  # of no method all tasks are there
    assert Methods("m", 3, lost).ranking("untuned") is not None


def test_what_is_left_open_is_said_with_its_figures() -> None:
    plain = " ".join(limits(study()))
    assert "searched once" in plain
    assert "One task says nothing of others" in plain
    assert "points: smaller ones can't be seen" in plain
    assert "switched" not in plain
    assert "dearest" not in plain
    rows = [
        result("maml", 0.5, 0.6, seeds=2, keys=3, seconds=60.0),
        result("maml+dropgrad", 0.5, 0.6, seeds=2, keys=7, seconds=180.0, off=True),
    ]
    said = " ".join(limits(Methods("m", 2, rows)))
    assert "With 2 seeds the spread between trainings is hardly known" in said
    assert "the dearest took 3.0 times as long" in said
    assert "Spaces have 3 to 7 keys" in said
    assert "switched the regularizer off for maml+dropgrad on" in said
    assert "100 outer steps" in said


def test_every_form_of_the_report_has_it_all() -> None:
    found = study(tasks=2)
    report = report_of(found)
    for form, write in FORMS.items():
        text = write(report)
        assert "maml+dropgrad" in text, form
    html = FORMS["html"](report)
    assert html.count("<svg") == 3  # two tasks, and ranks
    assert "What the differences do not show" in FORMS["md"](report)
    assert len(FORMS["csv"](report).splitlines()) == 1 + 6
    data = json.loads(FORMS["json"](report))
    assert data["ranks"]["tuned"]["mean_ranks"]["maml+dropgrad"] == 1
    assert len(data["rows"]) == 6


def test_a_method_that_came_to_nothing_is_left_out_and_said() -> None:
    rows = [*study().results, result("maml+mr", 0.5, None, chosen=None)]
    report = report_of(Methods("m", 3, rows, ["m-maml+mr-glyphs: no trial has a score, so nothing tuned is tested"]))
    assert report.grid("scores0").rows[-1][2] is None
    assert "nothing: no trial has a score" in str(report.grid("searches").rows[-1][-1])
    assert report.sections[-2].text == ["m-maml+mr-glyphs: no trial has a score, so nothing tuned is tested"]
    assert all("maml+mr" not in str(row) for row in report.grid("between0").rows)


@pytest.mark.slow
def test_it_goes_on_after_a_kill_and_does_nothing_twice(studies: Path, tmp_path: Path) -> None:
    words = [word for word in WORDS if not word.startswith("study.trials")]
    line = [
        "study-of-methods", "maml", "--regularizers", "none,dropgrad", "--task", "sinusoid-5s", *words, "-n", "3",
        "--seeds", "2", "--slots", "1", "-o", str(tmp_path / "methods.md"),
    ]  # fmt: skip
    process = start(*line)
    until(lambda: rounds_noted("methods-maml+dropgrad-sinusoid-5s") > 2, process, seconds=600)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = (studies / "methods-maml-sinusoid-5s" / "journal.log").read_bytes()
    done = raymeta(*line)
    assert done.returncode == 0, done.stderr
    assert (studies / "methods-maml-sinusoid-5s" / "journal.log").read_bytes() == first
    assert "What the differences do not show" in (tmp_path / "methods.md").read_text()
    assert "| maml+dropgrad |" in (tmp_path / "methods.md").read_text()
    journals = {path: path.stat().st_mtime_ns for path in studies.glob("*/journal.log")}
    results = {path: path.stat().st_mtime_ns for path in studies.glob("finals/*/seed*/result.json")}
    assert len(journals) == 2
    assert len(results) >= 4
    again = raymeta(*line, "--json")
    assert again.returncode == 0, again.stderr
    assert [row["method"] for row in json.loads(again.stdout)["rows"]] == ["maml", "maml+dropgrad"]
    assert {path: path.stat().st_mtime_ns for path in journals} == journals
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert not any(path.name.endswith("-2") for path in studies.iterdir())
