"""Plans: layers, what the user fixes, task names, rungs, and sentences for what cannot be."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study.driving import tiny_plan

from raymeta import registry
from raymeta.errors import UserError
from raymeta.study.plan.layers import StudyConfig
from raymeta.study.plan.plan import Plan, make_config, make_plan

METHODS, REGULARIZERS = (", ".join(registry.names(kind)) for kind in ("method", "regularizer"))

PRESETS = f"allowed: {', '.join(registry.presets())}"


def flat(*arguments: Any, **named: Any) -> dict[str, Any]:
    return make_plan(*arguments, **named).base.flat()


# Layers


def test_layers_lie_in_order() -> None:
    data_set = flat("maml", "sinusoid")
    assert (data_set["task.shots"], data_set["outer.tasks_per_step"], data_set["task.eval_queries"]) == (10, 25, 100)
    chosen = flat("maml", "sinusoid", "smoke")
    assert (chosen["budget.outer_steps"], data_set["budget.outer_steps"]) == (18, 70000)
    assert chosen["outer.tasks_per_step"] == 25  # the preset of the data set lies below
    asked = flat("maml", "sinusoid-5s", "smoke")
    assert asked["task.shots"] == 5
    typed = flat("maml", "sinusoid-5s", "smoke", ["task.shots=7", "budget.outer_steps=36"])
    assert (typed["task.shots"], typed["budget.outer_steps"], typed["budget.validate_every"]) == (7, 36, 2)


def test_the_task_is_the_presets_or_glyphs(glyphs: Any) -> None:
    assert flat("maml")["task.dataset"] == "glyphs"
    assert flat("maml", preset="sinusoid")["task.problem"] == "sinusoid"
    assert flat("maml", "glyphs-20w5s")["task.ways"] == 20
    assert flat("maml", "sinusoid", preset="sinusoid")["task.shots"] == 10


def test_a_key_that_the_user_gives_is_not_searched() -> None:
    plan = make_plan("maml+dropgrad", "sinusoid", words=["maml.inner_lr=0.2", "regularizers.dropgrad.noise=binary"])
    assert "maml.inner_lr" not in plan.space.params
    assert "regularizers.dropgrad.noise" not in plan.space.params
    assert "outer.lr" in plan.space.params
    for point in plan.space.start_from:
        config = plan.config(point)
        assert config.settings.inner_lr == 0.2
        assert config.flat()["regularizers.dropgrad.noise"] == "binary"


def test_what_does_nothing_on_the_model_is_not_searched(glyphs: Any) -> None:
    """A norm has a shift at least; a policy has no norm."""
    key = "maml.adapt_norm"
    assert key in make_plan("maml", "glyphs-5w1s").space.params
    assert key in make_plan("maml", "glyphs-5w1s", words=["model.norm_scale=false"]).space.params
    assert key in make_plan("maml", "glyphs-5w1s", words=["model.norm_scale=true,false"]).space.params
    policies = make_plan("maml", "navigation2d").space
    assert list(policies.params) == ["outer.limit", "task.gae_lambda", "maml.inner_lr"]
    assert policies.start_from == [{"outer.limit": 0.01, "task.gae_lambda": 1.0, "maml.inner_lr": 0.1}]
    with pytest.raises(UserError) as caught:
        make_plan("maml", "sinusoid", words=[f"{key}=true,false"])
    assert str(caught.value) == (
        f"'{key}=true,false': {key} does nothing without scales and shifts of a norm, and model.name mlp has none; "
        "leave it out"
    )


def test_choices_that_the_method_refuses_are_not_searched(glyphs: Any) -> None:
    scopes = {
        method: make_plan(f"{method}+dropgrad").space.params["regularizers.dropgrad.layers"].choice
        for method in ("maml", "boil", "cavia")
    }
    assert scopes == {"maml": ("all", "last", "head"), "boil": ("all", "last"), "cavia": ("all",)}


def test_a_config_alone_has_no_rungs() -> None:
    words = ["budget.outer_steps=1000", "budget.validate_every=500"]
    with pytest.raises(UserError, match="first_rung"):
        make_plan("maml", "sinusoid", words=words)
    assert make_config("maml", "sinusoid", words=words).budget.outer_steps == 1000


def test_settings_beside_the_names_are_words(glyphs: Any) -> None:
    spec = "maml:inner_lr=0.2+dropgrad:rate=0.3,noise=binary+taskaug"
    config = make_config(spec, "glyphs")
    words = ["maml.inner_lr=0.2", "regularizers.dropgrad.rate=0.3", "regularizers.dropgrad.noise=binary"]
    assert config == make_config("maml+dropgrad+taskaug", "glyphs", words=words)
    plan = make_plan("maml+dropgrad:rate=0.3", "glyphs")
    assert plan == make_plan("maml+dropgrad", "glyphs", words=["regularizers.dropgrad.rate=0.3"])
    assert "regularizers.dropgrad.rate" not in plan.space.params


def test_a_choice_of_regularizers_is_searched_as_one_more_key(glyphs: Any) -> None:
    words = ["regularizers.dropgrad.noise=binary", "regularizers.metadropout.eval_samples=3", "maml.inner_steps=2"]
    plan = make_plan("maml+taskaug", "glyphs", "smoke", words, "dropgrad,metadropout,none")
    assert Plan.from_dict(plan.as_dict(), "study.yaml") == plan
    assert plan.spec == "maml+taskaug+dropgrad|metadropout|none"
    assert plan.base.spec == "maml+taskaug"
    assert plan.space.labels == ["dropgrad: authors' setting", "metadropout: authors' setting", "un-regularized"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in plan.space.start_from:
        study.enqueue_trial(point)
    seen = set()
    for _ in range(30):
        point = plan.space.sample(study.ask())
        chosen, config = point["regularizer"], plan.config(point)
        seen.add(chosen)
        assert config.spec == "maml+taskaug" + ("" if chosen == "none" else f"+{chosen}")
        assert {key.split(".")[1] for key in point if key.startswith("regularizers.")} <= {"taskaug", chosen}
        assert config.settings.inner_steps == 2
        assert all(config.flat()[key] == value for key, value in point.items() if key != "regularizer")
        if chosen == "dropgrad":
            assert config.flat()["regularizers.dropgrad.noise"] == "binary"
        if chosen == "metadropout":
            assert config.flat()["regularizers.metadropout.eval_samples"] == 3
    assert seen == {"dropgrad", "metadropout", "none"}
    assert "regularizers.dropgrad.noise" not in plan.space.params


@pytest.mark.parametrize(
    ("spec", "choose", "sentence"),
    [
        ("protonet", "dropgrad,none", "protonet+dropgrad: dropgrad needs an inner loop, and protonet has none"),
        ("maml", "dropgrid", "unknown regularizer 'dropgrid': did you mean 'dropgrad'?"),
        ("maml", "none,dropout,none", "--choose none,dropout,none: 'none' is given twice"),
        ("maml+dropout", "dropout,none", "'maml+dropout+dropout': the regularizer 'dropout' is given twice"),
    ],
)
def test_what_cannot_be_chosen(spec: str, choose: str, sentence: str, glyphs: Any) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(spec, "glyphs", choose=choose)
    assert str(caught.value).startswith(sentence)


def test_a_presets_regularizers_are_settings_of_those_that_are_there(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("regularizers: {dropgrad: {rate: 0.25}, dropout: {rate: 0.5}}")
    rates = {"maml": {}, "maml+dropgrad": {"dropgrad": 0.25}, "maml+dropgrad:rate=0.1": {"dropgrad": 0.1}}
    for spec, expected in rates.items():
        found = make_config(spec, "sinusoid", own).as_dict()["regularizers"]
        assert {name: section["rate"] for name, section in found.items()} == expected


def test_settings_of_the_study_are_not_the_trials() -> None:
    plan = make_plan("maml", "sinusoid", "smoke", ["study.trials=3", "study.seed=9"])
    assert plan.study == StudyConfig(trials=3, first_rung=2, reduction=3, seed=9)
    assert not any(key.startswith("study") for key in plan.base.flat())


def test_as_dict_and_back() -> None:
    plan = tiny_plan("study.seed=4")
    again = Plan.from_dict(plan.as_dict(), "study.yaml")
    assert again == plan
    assert again.as_dict() == plan.as_dict()


# Rungs and what they cost


def plan(steps: int, first: int, reduction: int = 3, trials: int = 18) -> Plan:
    words = [f"budget.outer_steps={steps}", "budget.validate_every=1", f"study.first_rung={first}"]
    return tiny_plan(*words, f"study.reduction={reduction}", f"study.trials={trials}")


@pytest.mark.parametrize(
    ("steps", "first", "reduction", "rungs"),
    [
        (450, 50, 3, [50, 150, 450]),
        (18, 2, 3, [2, 6, 18]),
        (20, 2, 3, [2, 6, 18, 20]),
        (8, 1, 2, [1, 2, 4, 8]),
        (5, 5, 3, [5]),
    ],
)
def test_rungs(steps: int, first: int, reduction: int, rungs: list[int]) -> None:
    assert plan(steps, first, reduction).rungs == rungs


@pytest.mark.parametrize(("halving", "start"), [("stopping", 0), ("promoting", 400)])
def test_usual_steps(halving: str, start: int) -> None:
    """With promotions the un-regularized start, the second of the trials, goes on from the first rung to the end."""

    def usual(first: int, trials: int) -> int:
        made = plan(450, first, trials=trials)
        return replace(made, study=made.study.model_copy(update={"halving": halving})).usual_steps()

    assert usual(50, 18) == 18 * 50 + 6 * 100 + 2 * 300 + start
    assert usual(50, 1) == 450
    assert usual(450, 4) == 4 * 450
    assert usual(50, 10) == 10 * 50 + 4 * 100 + 2 * 300 + start  # thirds are rounded up


def test_a_plan_written_before_trials_could_wait_still_cuts_them() -> None:
    made = tiny_plan()
    assert made.study.halving == "promoting"
    written = made.as_dict()
    del written["study"]["halving"]
    assert Plan.from_dict(written, "study.yaml").study.halving == "stopping"
    assert Plan.from_dict(made.as_dict(), "study.yaml") == made


@given(first=st.integers(1, 40), times=st.integers(1, 30), reduction=st.integers(2, 5), trials=st.integers(1, 50))
def test_rungs_and_cost_of_any_plan(first: int, times: int, reduction: int, trials: int) -> None:
    steps = first * times
    base = tiny_plan()
    made = Plan(
        base.spec,
        base.base.model_copy(update={"budget": base.base.budget.model_copy(update={"outer_steps": steps})}),
        base.space,
        StudyConfig(trials=trials, first_rung=first, reduction=reduction),
    )
    rungs = made.rungs
    assert rungs[0] == first
    assert rungs[-1] == steps
    assert sorted(set(rungs)) == rungs
    assert all(after == before * reduction for before, after in pairwise(rungs[:-1]))
    start = steps - first if trials > 1 else 0
    assert trials * first <= made.usual_steps() - start <= trials * steps
    assert made.usual_steps() >= steps


# What cannot be

NARROW = ["model.width=4"]
SINUSOID = ("maml+dropgrad", "sinusoid-5s", "smoke")
WRONG = [
    (("mam",), f"unknown method 'mam': did you mean 'maml'? (allowed: {METHODS})"),
    (("maml+dropgrd",), f"unknown regularizer 'dropgrd': did you mean 'dropgrad'? (allowed: {REGULARIZERS})"),
    (("maml+dropgrad+dropgrad",), "'maml+dropgrad+dropgrad': the regularizer 'dropgrad' is given twice"),
    (
        ("maml", "glyps-5w1s"),
        "unknown data set 'glyps': did you mean 'glyphs'? (allowed: ant-dir, cifarfs, crest, cub, fc100, folder, "
        "glyphs, halfcheetah-dir, images, metadataset, miniimagenet, navigation2d, objectnet3d, omniglot, pascal3d, "
        "sequences, shapes3d, sinusoid, sprites, tieredimagenet, tracking, viewpoint, views)",
    ),
    (
        ("maml", None, "smok"),
        f"unknown preset 'smok': did you mean 'smoke'? ({PRESETS}); rows of tables: raymeta presets",
    ),
    (("maml", None, "../maml"), "../maml: no such file"),
    (
        (*SINUSOID, ["study.trails=3"]),
        "study: unknown key 'trails', did you mean 'trials'? "
        "(allowed: also, finalist_seeds, finalist_tasks, finalists, first_rung, halving, hung_after_s, reduction, "
        "seed, startup_trials, trials)",
    ),
    (
        (*SINUSOID, ["study.first_rung=3"]),
        "study.first_rung (3) must be a multiple of budget.validate_every (2): "
        "trials are compared when they are validated",
    ),
    (
        (*SINUSOID, ["study.first_rung=20"]),
        "study.first_rung (20) is above budget.outer_steps (18): no trial would ever be cut",
    ),
    (
        (*SINUSOID, ["budget.outer_steps=19"]),
        "config: budget: outer_steps (19) must be a multiple of validate_every (2)",
    ),
    ((*SINUSOID, ["maml.inner_lr"]), "'maml.inner_lr': expected key=value, as in maml.inner_lr=0.1"),
    (
        (*SINUSOID, ["task.ways=5"]),
        "config: unknown key 'task.ways', allowed: bank_seed, eval_queries, problem, queries, shots",
    ),
]


def test_a_cosine_does_not_climb() -> None:
    """Where one of its ends is searched, that is for the search to find out."""
    words = ["outer.schedule=cosine", "outer.min_lr=0.005"]
    sentence = r"^outer\.min_lr: found 0\.005, above outer\.lr \(0\.001\); a cosine ends below where it starts$"
    for make in (make_plan, make_config):
        with pytest.raises(UserError, match=sentence):
            make("maml", *SINUSOID[1:], [*words, "outer.lr=0.001"])
        make("maml", *SINUSOID[1:], [*words, "outer.lr=0.005"])
    assert make_plan("maml", *SINUSOID[1:], words).base.outer.min_lr == 0.005


@pytest.mark.parametrize(
    ("word", "needs", "on"),
    [
        ("outer.clip_when=per_task", "outer.clip or outer.clip_norm", "outer.clip=1"),
        ("outer.clip_scope=head", "outer.clip or outer.clip_norm", "outer.clip_norm=1"),
        ("outer.decay_of=kernels", "outer.weight_decay", "outer.weight_decay=0.001"),
        ("outer.restart_of=unadapted", "outer.restart_every", "outer.restart_every=5"),
        ("model.init.bn_gamma=uniform", "model.norm_scale", "model.norm_scale=true"),
    ],
)
def test_what_does_nothing_is_refused(word: str, needs: str, on: str, glyphs: Any) -> None:
    """Unless what it needs is searched; where it is a choice, too."""
    key, _, value = word.partition("=")
    base = [*NARROW, "model.norm_scale=false"]
    sentence = f"{key}: found '{value}', which does nothing without {needs}; leave it out"
    for make in (make_plan, make_config):
        with pytest.raises(UserError) as caught:
            make("maml", "glyphs-5w1s", "smoke", [*base, word])
        assert str(caught.value) == sentence
        make("maml", "glyphs-5w1s", "smoke", [*base, word, on])
    first, _, last = on.partition("=")
    off = {"true": "false", "0.001": "0"}.get(last, "null")
    assert make_plan("maml", "glyphs-5w1s", "smoke", [*base[:1], word, f"{first}={off},{last}"]).space.params[first]
    default = {"per_task": "after_mean", "uniform": "ones"}.get(value, "all")
    with pytest.raises(UserError) as caught:
        make_plan("maml", "glyphs-5w1s", "smoke", [*base, f"{key}={default},{value}"])
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[sentence[:40] for _, sentence in WRONG])
def test_one_sentence_with_the_nearest_match(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(*arguments)
    assert str(caught.value) == sentence
