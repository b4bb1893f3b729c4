"""Values, ranges and names that are not meant are refused before anything is made; what is meant is understood."""

from pathlib import Path
from typing import Any

import pytest
from study.driving import WORDS, noted, tiny_record

import raymeta
from raymeta.errors import UserError
from raymeta.report.export import read_export
from raymeta.study.machines.resources import SLOTS_PER_CORE, beyond, cores
from raymeta.study.plan.plan import make_plan
from raymeta.study.plan.warm_start import warm_started

WAYS = "config: task.ways: found 1: input should be greater than or equal to 2"


@pytest.mark.parametrize(
    ("task", "words", "sentence"),
    [
        ("glyphs-1w1s", [], WAYS),
        ("glyphs", ["task.ways=1"], WAYS),
        ("glyphs", ["maml.inner_lr=yes"], "config: maml.inner_lr: found true: a truth value, where a number is"),
        ("glyphs", ["maml.inner_steps=on"], "config: maml.inner_steps: found true: a truth value, where a number is"),
        ("glyphs", ["study.trials=yes"], "study: trials: found true: a truth value, where a number is expected"),
        ("glyphs", ["study.seed=4294967296"], "study: seed: found 4294967296: input should be less than 4294967296"),
        ("glyphs", ["pretraining.seed=4294967296"], "config: pretraining.seed: found 4294967296: input should be less"),
        ("glyphs", ["task.bank_seed=9223372036854775808"], "config: task.bank_seed: found 9223372036854775808"),
        ("glyphs", ["outer.lr=1:30"], "config: outer.lr: found '1:30': input should be a valid number"),
        ("glyphs", ["maml.inner_lr=0.1..0.1"], "'maml.inner_lr=0.1..0.1': the range [0.1, 0.1] is one value; say"),
        ("glyphs", ["maml.inner_steps=3..3"], "'maml.inner_steps=3..3': the range [3, 3] int is one value; say"),
        ("glyphs", ["maml.inner_lr=-1e308..1e308"], "'maml.inner_lr=-1e308..1e308': the range [-1e+308, 1e+308] is"),
        ("glyphs", ["trials=5"], "config: unknown key 'trials', did you mean 'study.trials'?"),
        ("glyphs", ["outer_steps=5"], "config: unknown key 'outer_steps', did you mean 'budget.outer_steps'?"),
        ("glyphs", ["studdy.trials=5"], "config: unknown key 'studdy', did you mean 'study'?"),
        ("glyphs", ["lr=0.1"], "config: unknown key 'lr', did you mean 'outer.lr'?"),
    ],
)
def test_words_that_are_not_meant(task: str, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make_plan("maml", task, None, words)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"int": [1, 64], "log": True, "step": 2}, "a step is for whole numbers that are not on a log scale"),
        ({"float": [False, 1.0]}, "a truth value, where a number is expected"),
        ({"float": [0.5, 0.5]}, "is one value"),
    ],
)
def test_a_range_of_a_file_that_is_none(form: dict[str, Any], sentence: str) -> None:
    key = "maml.inner_steps" if "int" in form else "maml.inner_lr"
    with pytest.raises(UserError, match=sentence):
        make_plan("maml", "glyphs", space={"params": {key: form}})


@pytest.mark.parametrize(
    ("provenance", "sentence"),
    [
        ("glyphs", "provenance: found 'glyphs': expected a section of keys"),
        ("[]", "provenance: found []: expected a section of keys"),
        ("{data: [glyphs]}", "provenance.data: found ['glyphs']: expected a section of keys, allowed: fingerprint,"),
        ("{data: {fingerprint: abcdefabcdef}}", "the key 'provenance.data.name' is missing"),
        ("{data: {name: glyphs}}", "the key 'provenance.data.fingerprint' is missing"),
        ("{data: {name: glyphs, fingerprint: 5}}", "provenance.data.fingerprint: found 5: input should be a valid str"),
        ("{data: {name: glyphs, fingerprint: ab}}", "provenance.data.fingerprint: found 'ab': string should have at"),
        ("{data: {name: 3, fingerprint: abcdefabcdef}}", "provenance.data.name: found 3: input should be a valid str"),
        ("{versions: 0.2}", "provenance.versions: found 0.2: expected a section of keys"),
        ("{versions: {raymeta: 0.2}}", "provenance.versions.raymeta: found 0.2: input should be a valid string"),
        ("{study: [1]}", "provenance.study: found [1]: input should be a valid string"),
    ],
)
def test_an_export_that_was_edited(tmp_path: Path, provenance: str, sentence: str) -> None:
    file = tmp_path / "best.yaml"
    file.write_text(f"provenance: {provenance}\nmethod: maml\n")
    with pytest.raises(UserError) as caught:
        read_export(file)
    assert str(caught.value).startswith(f"{file}: {sentence}")


def test_an_export_without_provenance(tmp_path: Path) -> None:
    for text in ("method: maml\n", "method: maml\nprovenance:\n", "method: maml\nprovenance: {mine: 1}\n"):
        (tmp_path / "best.yaml").write_text(text)
        assert read_export(tmp_path / "best.yaml")[0].method == "maml"


def test_a_choice_begins_with_what_another_study_found(studies: Path) -> None:
    base = tiny_record("base")
    noted(base, 3.0, 2.0)  # the authors' setting: with dropgrad
    plan = make_plan("maml", "sinusoid-5s", None, WORDS, "dropgrad,none")
    same = warm_started(plan, base)
    point = {"regularizer": "dropgrad"} | base.trial(0).point
    assert same.space.start_from[0] == point  # it is a starting point already
    noted(base, 1.0, steps=2)
    noted(base, 0.5)
    started = warm_started(plan, base)
    number = started.space.labels.index("base: trial 2")
    point = {"regularizer": "dropgrad"} | base.trial(2).point
    assert started.space.start_from[number] == point
    assert started.config(point).regularizers == base.config(base.trial(2)).regularizers
    other = make_plan("maml", "sinusoid-5s", None, WORDS, "mr,none")
    with pytest.raises(UserError, match="--warm-start base: no scored trial of it has a value"):
        warm_started(other, base)


def test_a_name_that_is_taken_is_refused_before_the_data_are_looked_at(studies: Path) -> None:
    tiny_record("base")
    with pytest.raises(UserError, match="the study 'base' exists: go on with `raymeta resume base`"):
        raymeta.preview("maml", "sinusoid-5s", name="base", data_root="/nowhere")
    with pytest.raises(UserError, match="the study 'base' exists"):
        raymeta.search("maml", "sinusoid-5s", name="base", data_root="/nowhere")


def test_a_folder_of_data_that_is_not_there(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "mini").mkdir()
    with pytest.raises(UserError, match=r"mni: no such folder, did you mean '.*mini'\?"):
        raymeta.preview("maml", "glyphs-5w1s", preset="smoke", data_root=tmp_path / "mni")


def test_slots_beyond_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert beyond(None) == beyond(cores()) == ""
    assert beyond(cores() + 1).startswith(f"--slots {cores() + 1}: this machine has {cores()} cores, which the trials")
    most = SLOTS_PER_CORE * cores()
    with pytest.raises(UserError, match=f"--slots {most + 1}: this machine has {cores()} cores; allowed: 1 to {most}"):
        beyond(most + 1)
    with pytest.raises(UserError, match="--slots 100000"):
        raymeta.search("maml", "sinusoid-5s", slots=100_000)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert beyond(100_000) == ""


def test_seeds_of_final_runs() -> None:
    for seeds in ([2**32], [-1], [True], [0, 0], []):
        with pytest.raises(UserError, match=r"seeds: found .*: at least one, and each once, from 0 to 2\^32 - 1"):
            raymeta.final("maml", "sinusoid-5s", seeds=seeds)


def test_a_config_s_file_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").write_text("method: maml\n")
    for given, sentence in (
        ("bset.yaml", "bset.yaml: no such file, did you mean 'best.yaml'?"),
        ("best", "unknown method 'best': did you mean the file 'best.yaml'?"),
        ("configs/best", "configs/best: no such file: there is no folder configs"),
        ("~nosuchuser/best.yaml", "~nosuchuser/best.yaml: there is no user 'nosuchuser'"),
    ):
        with pytest.raises(UserError) as caught:
            raymeta.final(given)
        assert str(caught.value) == sentence
