"""`raymeta compare` on records made by hand: what it finds, what it refuses, and how it is written."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study.driving import WORDS, give_all, noted, tiny_record
from typer.testing import CliRunner

import raymeta as package
from raymeta.cli import app
from raymeta.comparison.comparison import compared
from raymeta.comparison.entries import TEST, Entry
from raymeta.errors import UserError
from raymeta.finals.folders import begin, data_of, folder_of
from raymeta.metric import Metric, half_width
from raymeta.problems.images.task import ImagesTask
from raymeta.report.export import exported, write_export
from raymeta.study.plan.plan import make_config

PERCENT = Metric("accuracy", "max", unit="%", scale=100.0, digits=2)


def entry(name: str, scores: object, *, metric: Metric = PERCENT, steps: int = 100, **task: object) -> Entry:
    found = ImagesTask(**task)  # type: ignore[arg-type]
    return Entry(name, name, metric, found, TEST, 0, "", steps, np.array(scores, dtype=float))


def scores(mean: float, seeds: int = 3, tasks: int = 600, seed: int = 0) -> object:
    shared = 0.05 * np.random.default_rng(7).standard_normal(tasks)
    own = 0.02 * np.random.default_rng(seed).standard_normal((seeds, tasks))
    return mean + shared + own


def final_run(name: str, mean: float, *words: str, seeds: int = 2) -> str:
    config = make_config("maml", "sinusoid-5s", None, [word for word in WORDS if "study." not in word] + list(words))
    folder = folder_of(name, config)
    begin(folder, config)
    values = np.random.default_rng(1).uniform(0, 1, 40)
    for seed in range(seeds):
        found = {
            "seed": seed,
            "values": (mean + values + 0.01 * seed).tolist(),
            "ensemble": 1.0,
            "val": 1.0,
            "rounds": [],
        }
        (folder / f"seed{seed}").mkdir()
        about = {"ensemble_ci95": 0.1, "val_ci95": 0.1, "selected_at": 18}
        (folder / f"seed{seed}" / "result.json").write_text(json.dumps(found | about))
    return folder.name


def test_a_clear_difference_is_a_sentence() -> None:
    found = compared([entry("A", scores(0.60, seed=1)), entry("B", scores(0.614, seed=2))])
    assert [one.name for one in found.entries] == ["B", "A"]
    assert found.best is not None
    assert found.sentence.startswith("B is 1.35 ± 0.16")
    assert " points above A on the same 600 test tasks (p < 0.001)" in found.sentence
    assert "with 3 seeds the spread between seeds is 0." in found.sentence
    assert found.pairs[0].difference == pytest.approx(
        float(np.mean(scores(0.614, seed=2)) - np.mean(scores(0.6, seed=1)))
    )


def test_less_is_better_where_it_is_so() -> None:
    metric = Metric("mse", "min")
    found = compared([entry("A", scores(0.6, seed=1), metric=metric), entry("B", scores(0.5, seed=2), metric=metric)])
    assert found.entries[0].name == "B"
    assert found.pairs[0].difference < 0
    assert " below A in mse, where less is better, on the same 600 test tasks" in found.sentence


def test_of_many_the_best_is_held_against_each() -> None:
    found = compared([entry(name, scores(mean, seed=number)) for number, (name, mean) in enumerate(
        [("A", 0.5), ("B", 0.6), ("C", 0.6001)])])  # fmt: skip
    assert found.best is None
    first, second = found.entries[:2]
    assert (
        f"{first.name} has the best mean, significantly better than A, not significantly better than {second.name}"
        in (found.sentence)
    )
    assert len(found.pairs) == len(found.frame()) == 3


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"steps": 50}, "A was trained 100 outer steps and B 50"),
        ({"ways": 20}, "task.ways is 5 for A and 20 for B"),
        ({"bank_seed": 3}, "task.bank_seed is 0 for A and 3 for B"),
        ({"test_dataset": "cub"}, "task.test_dataset is null for A and cub for B"),
    ],
)
def test_what_can_t_be_compared(changed: dict[str, object], why: str) -> None:
    both = [entry("A", scores(0.5, 1)), entry("B", scores(0.6, 1), **changed)]  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        compared(both)
    assert (
        str(caught.value) == f"compare: {why}; --unpaired (in Python unpaired=True) compares their means nevertheless"
    )
    found = compared(both, unpaired=True)
    assert not found.paired
    assert "unpaired" in found.sentence


def test_what_is_of_training_alone_is_no_hindrance() -> None:
    a = entry("A", scores(0.5, 1), queries=15, eval_queries=15)
    training = {"queries": 5, "train_classes": 9, "rotations": "train", "labels": "fixed", "share_classes": True}
    b = entry("B", scores(0.6, 1), eval_queries=15, **training)
    assert compared([a, b]).paired


def test_other_metrics_are_never_compared() -> None:
    both = [entry("A", scores(0.5, 1)), entry("B", scores(0.6, 1), metric=Metric("mse", "min"))]
    with pytest.raises(UserError, match="A is scored by accuracy, B by mse"):
        compared(both, unpaired=True)


def test_the_first_tasks_that_both_have() -> None:
    a, b = np.asarray(scores(0.5)), np.asarray(scores(0.6))[:, :100]
    found = compared([entry("A", a), entry("B", b)])
    assert found.tasks == 100
    best, other = found.as_dict()["entries"]
    assert (best["mean"], best["tasks"], other["tasks"]) == (pytest.approx(b.mean()), 100, 100)
    assert best["mean"] - other["mean"] == pytest.approx(found.pairs[0].difference)  # not of the tasks that one has
    assert PERCENT.text(float(a[:, :100].mean()), half_width(a[:, :100].mean(0).tolist())) in found.written("md")
    whole = {one.name: one.tasks for one in compared([entry("A", a), entry("B", b)], unpaired=True).entries}
    assert whole == {"A": 600, "B": 100}
    assert found.remarks == ["the first 100 tasks are compared, which all of them have"]


def test_few_seeds_have_the_others_spread() -> None:
    one, three, five = (entry(f"{n} seeds", scores(0.6, seeds=n, seed=n)) for n in (1, 3, 5))
    said = "too few seeds to tell their spread, which is taken to be that of all configs: 1 seeds (1)"
    for others in ([three], [three, five]):
        found = compared([one, *others])
        assert said in found.sentence
        assert all(pair.half > 0 for pair in found.pairs)
    alone, another = compared([one, replace(one, name="other")]), compared([one, three, replace(one, name="other")])
    (two,) = (pair for pair in another.pairs if {pair.a, pair.b} == {"1 seeds", "other"})
    assert two.half > alone.pairs[0].half  # the third config tells how far trainings are apart


def test_two_seeds_have_the_pooled_spread_which_is_said() -> None:
    two, three = (entry(f"{n} seeds", scores(0.6, seeds=n, seed=n)) for n in (2, 3))
    sentence = compared([two, three]).sentence
    assert "too few seeds to tell their spread, which is taken to be that of all configs: 2 seeds (2); with" in sentence
    assert "with 2 to 3 seeds the spread between seeds is" in sentence
    assert "too few" not in compared([three, replace(three, name="other")]).sentence


def test_a_region_of_practical_equivalence() -> None:
    alike = [entry("A", scores(0.6, seed=1)), entry("B", scores(0.601, seed=2))]
    assert compared(alike, rope=0.5).pairs[0].practically[1] > 0.95  # type: ignore[index]
    apart = compared([entry("A", scores(0.6, seed=1)), entry("B", scores(0.62, seed=2))], rope=0.5)
    assert apart.pairs[0].practically[2] > 0.99  # type: ignore[index]
    assert "B is better than A by more than 0.5 points with 100 %" in apart.sentence


def test_as_papers_print_it() -> None:
    found = compared([entry("A_1", scores(0.60, seed=1)), entry("B", scores(0.65, seed=2))])
    text = found.written("tex")
    assert text.startswith("% B is 4.95")
    assert r"\toprule" in text
    assert r"A\_1 & $59." in text
    assert r"B & $\mathbf{64." in text
    alike = compared([entry("A", scores(0.6, seed=1)), entry("B", scores(0.6, seed=2))])
    assert "mathbf" not in alike.written("tex")


def test_a_study_s_finalists(studies: Path) -> None:
    record = tiny_record("one", "study.trials=3", "study.finalists=3")
    for score in (2.0, 1.9, 1.8):
        noted(record, score)
    values = np.random.default_rng(0).uniform(0, 1, 40)
    give_all(record, t0=list(values), t1=list(values + 0.5), t2=list(values + 1.0))
    found = package.compare("one")
    assert [one.name for one in found.entries] == ["one:0", "one:1", "one:2"]
    assert "each has one seed" in found.sentence
    assert [one.name for one in package.compare(["one:2", "one"]).entries] == ["one", "one:2"]
    with pytest.raises(UserError, match="the study 'one' has no trial 9"):
        package.compare(["one:9", "one"])


def test_a_trial_of_which_only_means_are_kept(studies: Path) -> None:
    record = tiny_record("one", "study.trials=3", "study.finalists=1")
    for score in (2.0, 1.9, 1.8):
        noted(record, score)
    with pytest.raises(UserError, match=r"^one: its finalists have no scores on fresh tasks yet: `raymeta resume one`"):
        package.compare(["one", "one:1"])
    give_all(record, t1=[1.0, 2.0], t2=[1.0, 2.0])
    with pytest.raises(UserError, match="trial 0 has no scores on fresh tasks, and of the search's own only means are"):
        package.compare(["one:0", "one:2"])


def test_an_exported_file_is_the_trial_it_says(studies: Path, tmp_path: Path) -> None:
    record = tiny_record("one", "study.trials=3", "study.finalists=3")
    for score in (2.0, 1.9, 1.8):
        noted(record, score)
    give_all(record, t0=[1.0, 2.0], t1=[1.5, 2.5], t2=[2.0, 3.0])
    file = tmp_path / "best.yaml"
    content = exported(record, 0)

    def with_(**changed: object) -> list[str | Path]:
        write_export(content | changed, file)
        return [file, "one:1"]

    assert package.compare(with_()).pairs[0].difference == pytest.approx(-0.5)
    assert package.compare(with_(seed=5)).pairs[0].difference == pytest.approx(-0.5)
    budget = content["budget"] | {"outer_steps": 16}
    with pytest.raises(UserError, match=r"trial 0 of the study 'one' that is here: budget\.outer_steps is 16 in"):
        package.compare(with_(budget=budget))
    provenance = {key: value for key, value in content["provenance"].items() if key != "trial"}
    with pytest.raises(UserError, match="was not tested yet, and its study is not here"):
        package.compare(with_(provenance=provenance))


def test_the_command(studies: Path, tmp_path: Path) -> None:
    a, b, short = final_run("a", 1.0), final_run("b", 0.5), final_run("c", 0.5, "budget.outer_steps=16")
    assert data_of(studies / "finals" / a)
    file = tmp_path / "table.csv"
    assert CliRunner().invoke(app, ["compare", a, b, "-o", str(file)]).exit_code == 0
    found = json.loads(CliRunner().invoke(app, ["compare", a, b, "--format", "json"]).stdout)
    assert [one["name"] for one in found["entries"]] == [b, a]
    assert found["pairs"][0]["difference"] == pytest.approx(-0.5)
    (row,) = csv.DictReader(io.StringIO(file.read_text()))
    assert (row["a"], row["b"], row["significant"]) == (a, b, "True")
    refused = CliRunner().invoke(app, ["compare", a, b, "--ranks", "--rope", "1"]).exception
    assert "found with --ranks" in str(refused)
    with pytest.raises(UserError, match="--ranks: found 1 methods"):
        package.rank([a, b])
    with pytest.raises(UserError, match="was trained 18 outer steps and"):
        package.compare([a, short])
    with pytest.raises(UserError, match=f"did you mean '{b}'"):
        package.compare([a, b[:-1]])
