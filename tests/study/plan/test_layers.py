"""Presets: by name, by file, on bases of their own; what is taken over from those of other methods; wrong ones."""

from pathlib import Path
from typing import Any

import pytest
from foreign import found, install

from raymeta import registry
from raymeta.errors import UserError
from raymeta.study.plan.layers import preset_layers
from raymeta.study.plan.plan import make_config, make_plan

PRESETS = ", ".join(registry.presets())


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_a_preset_by_its_file_lies_where_a_named_one_does(tmp_path: Path) -> None:
    file = write(tmp_path, mine="outer: {tasks_per_step: 7}\nstudy: {trials: 3}\nbudget: {outer_steps: 9000}")
    plan = make_plan("maml", "sinusoid", file, ["maml.inner_steps=2"])
    assert (plan.base.outer.tasks_per_step, plan.study.trials, plan.base.budget.outer_steps) == (7, 3, 9000)
    assert plan.base.budget.validate_every == 1000  # the data set's preset lies below
    assert make_plan("maml", "sinusoid", str(file), ["maml.inner_steps=2"]) == plan
    assert plan.origins["outer.tasks_per_step"].endswith("/mine.yaml")
    assert plan.origins["budget.validate_every"] == "presets/sinusoid.yaml"


def test_a_preset_may_name_its_bases(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        top="base: middle.yaml\nouter: {lr: 0.5}",
        middle="base: learners\nouter: {lr: 0.25, tasks_per_step: 9}\nmaml: {inner_lr: 0.3}",
    )
    config = make_config("maml", None, file)
    assert (config.task.dataset, config.task.rotations) == ("omniglot", "always")  # of `learners`
    assert (config.outer.lr, config.outer.tasks_per_step) == (0.5, 9)
    assert (config.settings.inner_lr, config.settings.inner_steps) == (0.3, 1)
    assert [Path(layer.source).stem for layer in preset_layers(file)] == ["learners", "middle", "top"]


def test_presets_from_outside_are_found_by_name(tmp_path: Path) -> None:
    files = {"theirs/presets/quick.yaml": "base: smoke\nouter: {tasks_per_step: 3}"}
    with found(install(tmp_path, "theirs", {"presets": {"theirs": "theirs.presets"}}, files)):
        config = make_config("maml", "sinusoid", "quick")
    assert (config.outer.tasks_per_step, config.budget.outer_steps) == (3, 18)


@pytest.mark.parametrize(
    ("method", "methods"),
    [("maml", ()), ("alfa", ("maml",)), ("cavia", ("maml",)), ("protonet", ()), ("matchingnet", ("protonet",))],
)
def test_what_is_taken_over_is_said_by_the_learner(method: str, methods: tuple[str, ...]) -> None:
    assert registry.find("method", method).presets_of == methods


def test_settings_of_other_methods_are_taken_over_below_the_own(tmp_path: Path) -> None:
    file = write(
        tmp_path, mine="maml: {inner_lr: 0.3, inner_steps: 2, eval_steps: 9}\nalfa: {inner_steps: 4}\nprotonet: {}"
    )

    def settings(method: str) -> dict[str, Any]:
        return make_config(method, "sinusoid", file).settings.model_dump()

    alfa = settings("alfa")
    assert (alfa["inner_lr"], alfa["inner_steps"], alfa["eval_steps"]) == (0.3, 4, None)  # not eval_steps: its own
    assert settings("maml")["eval_steps"] == settings("metasgd")["eval_steps"] == 9
    assert "inner_lr" not in settings("cavia")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("outer: {learning_rate: 1}", "{file}: unknown key 'outer.learning_rate', allowed: added, clip, clip_norm, "
            "clip_scope, clip_when, decay, decay_of, every, factors, lr, milestones, min_lr, momentum, nesterov, "
            "optimizer, reduction, restart_every, restart_of, schedule, tasks_per_step, weight_decay"),
        ("modle: {name: mlp}", "{file}: unknown key 'modle', did you mean 'model'? (allowed: budget, engine, maml, "
            "method, model, outer, pretraining, regularizers, seed, task)"),
        ("study: {trails: 3}", "{file}: study: unknown key 'trails', did you mean 'trials'? (allowed: also, "
            "finalist_seeds, finalist_tasks, finalists, first_rung, halving, hung_after_s, reduction, seed, "
            "startup_trials, trials)"),
        ("task: 3", "{file}: task: expected a section of keys, found 3"),
        ("regularizers: {dropgrad: 3}", "{file}: dropgrad: expected a section of keys, found 3"),
        ("regularizers: {dropgrd: {}}", "{file}: regularizers: unknown regularizer 'dropgrd', did you mean "
            f"'dropgrad'? (allowed: {', '.join(registry.names('regularizer'))})"),
        ("maml: {inner_lr: -1}", "{file}: maml.inner_lr: found -1: input should be greater than or equal to 0"),
        ("base: smok", "{file}: base: unknown preset 'smok', did you mean 'smoke'? ("
            f"allowed: {', '.join(sorted([*registry.presets(), 'mine.yaml']))})"),
        ("base: mine.yaml", "{file}: base: mine.yaml builds on this file"),
        ("budget: {scale: 0.5}", "{file}: budget.scale: it is what `raymeta final --scale` sets; leave it out"),
        ("base: [smoke]", "{file}: base: expected a preset's name or file, found ['smoke']"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = write(tmp_path, mine=text)
    with pytest.raises(UserError) as caught:
        make_plan("maml", "sinusoid", file, ["maml.inner_steps=2"])
    assert str(caught.value) == sentence.replace("{file}", str(file))


def test_a_circle_of_bases_is_a_sentence(tmp_path: Path) -> None:
    file = write(tmp_path, one="base: two.yaml", two="base: one.yaml")
    with pytest.raises(UserError) as caught:
        make_plan("maml", "sinusoid", file)
    assert str(caught.value) == f"{tmp_path / 'two.yaml'}: base: one.yaml builds on this file"
