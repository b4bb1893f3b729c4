"""A trial as Ray Tune sees it: the trainer's numbers, its own checkpoint, rounds nobody had heard of, plain Tune."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import CURVES, small_trial

from raymeta.errors import UserError
from raymeta.schema import merge
from raymeta.trainable import MetaTrainable
from raymeta.training.trainer import Trainer

SECTIONS: dict[str, Any] = {"regularizers": {"dropgrad": {"rate": 0.2, "ramp": "linear"}}, "outer": {"lr": 0.01}}


def config(**sections: Any) -> dict[str, Any]:
    return small_trial(CURVES, **merge(SECTIONS, sections)).as_dict()


def numbers(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a round measured, without what Tune adds and without wall times."""
    keys = ("outer_steps", "train_loss", "val_mse", "val_ci95", "val_loss", "diverged", "done")
    return [{key: result[key] for key in keys if key in result} for result in results]


def train(trainable: MetaTrainable) -> list[dict[str, Any]]:
    results = [trainable.train()]
    while not results[-1]["done"]:
        results.append(trainable.train())
    return results


@pytest.fixture(scope="module")
def whole() -> list[dict[str, Any]]:
    """The rounds of a trial that nobody interrupted."""
    trainer = Trainer(small_trial(CURVES, **SECTIONS))
    while not trainer.done:
        trainer.round()
    return numbers([{**entry, "done": i == 2} for i, entry in enumerate(trainer.rounds)])


def test_step_by_step_it_is_the_trainer(whole: list[dict[str, Any]]) -> None:
    results = train(MetaTrainable(config()))
    assert numbers(results) == whole
    assert [result["training_iteration"] for result in results] == [1, 2, 3]
    assert all(result["seconds"] > 0 for result in results)


def test_a_worker_used_again_is_as_good_as_a_new_one(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    used = MetaTrainable({**config(seed=5, model={"hidden": [7]}), "study": {"trial": 3, "folder": str(tmp_path)}})
    used.train()
    assert used.reset_config(config()) is True
    results = [used.step() for _ in range(3)]
    assert numbers(results) == whole
    again, fresh = used.trainer.state_dict(), Trainer(small_trial(CURVES, **SECTIONS))
    while not fresh.done:
        fresh.round()
    assert all(torch.equal(again["method"][key], value) for key, value in fresh.state_dict()["method"].items())
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["outer_step"] == 2  # the other trial's, untouched


def test_with_other_numbers_it_goes_on_from_the_checkpoint_of_another_trial(tmp_path: Path) -> None:
    """As population based training does it: the other's weights and optimizer, its own numbers."""
    other = MetaTrainable(config())
    other.train()
    other.save(str(tmp_path / "saved"))
    changed = {"maml": {"inner_lr": 0.07}, "regularizers": {"dropgrad": {"rate": 0.4}}, "outer": {"lr": 0.003}}
    exploiting = MetaTrainable(config(**changed))
    exploiting.restore(str(tmp_path / "saved"))
    results = train(exploiting)

    expected = Trainer(small_trial(CURVES, **merge(SECTIONS, changed)))
    expected.learner.load_state_dict(other.trainer.learner.state_dict())
    expected.update.optimizer.load_state_dict(other.trainer.update.optimizer.state_dict())
    expected.outer_step = other.trainer.outer_step
    assert numbers(results) == numbers([{**expected.round(), "done": done} for done in (False, True)])
    assert exploiting.trainer.rounds[0] == other.trainer.rounds[0]
    assert exploiting.trainer.config.outer.lr == 0.003


@pytest.mark.parametrize(
    ("sections", "key", "values"),
    [
        ({"maml": {"inner_steps": 3}}, "maml.inner_steps", (2, 3)),
        ({"regularizers": {"dropgrad": {"ramp": "constant"}}}, "regularizers.dropgrad.ramp", ("linear", "constant")),
        ({"model": {"hidden": [7]}}, "model.hidden", ([6], [7])),
        ({"outer": {"clip": 1.0}}, "outer.clip", (None, 1.0)),
        ({"budget": {"outer_steps": 8}}, "budget.outer_steps", (6, 8)),
    ],
)
def test_with_another_structure_it_does_not(
    sections: dict[str, Any], key: str, values: tuple[Any, Any], tmp_path: Path
) -> None:
    other = MetaTrainable(config())
    other.train()
    other.save(str(tmp_path / "saved"))
    exploiting = MetaTrainable(config(**sections))
    with pytest.raises(UserError) as error:
        exploiting.restore(str(tmp_path / "saved"))
    found, here = values
    assert str(error.value).endswith(
        f"/checkpoint.pt: the checkpoint belongs to a config with {key}: {found}, and here it is {here}; only numbers "
        "may change under way"
    )


@pytest.mark.parametrize("done", [1, 2])
def test_saved_and_loaded_by_tune(done: int, whole: list[dict[str, Any]], tmp_path: Path) -> None:
    first = MetaTrainable(config())
    for _ in range(done):
        first.train()
    first.save(str(tmp_path / "saved"))
    second = MetaTrainable(config())
    second.restore(str(tmp_path / "saved"))
    assert numbers(train(second)) == whole[done:]


def test_defaults_lie_below_the_config() -> None:
    named = type("Named", (MetaTrainable,), {"defaults": {"method": "maml", "seed": 9}})
    data = config()
    data.pop("method")
    assert named(data).trainer.config.seed == 0
    data.pop("seed")
    assert named(data).trainer.config.seed == 9


def test_a_wrong_config_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^the trial's config: unknown key 'maml.inner_lrr', did you mean"):
        MetaTrainable({"method": "maml", "maml": {"inner_lrr": 1}})
    with pytest.raises(UserError, match=r"^study: unknown key 'knwn', did you mean 'known'\?"):
        MetaTrainable({**config(), "study": {"trial": 0, "folder": "x", "knwn": 1}})


# In a study


def in_study(folder: Path, known: int = 0, **sections: Any) -> MetaTrainable:
    return MetaTrainable({**config(**sections), "study": {"trial": 0, "folder": str(folder), "known": known}})


def test_every_round_is_on_disk_before_the_driver_hears_of_it(tmp_path: Path) -> None:
    trainable = in_study(tmp_path)
    for steps in (2, 4, 6):
        trainable.train()
        saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert [entry["outer_steps"] for entry in saved["rounds"]][-1] == saved["outer_step"] == steps


@pytest.mark.parametrize("done", [1, 2])
@pytest.mark.parametrize("heard", [0, 1, 2])
def test_a_new_worker_goes_on_from_the_trials_checkpoint(
    done: int, heard: int, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Rounds that the dead driver had not heard of are told first, and are not trained again."""
    first = in_study(tmp_path)
    for _ in range(done):
        first.train()
    times = [entry["seconds"] for entry in first.trainer.rounds]
    results = train(in_study(tmp_path, known=2 * min(heard, done)))
    assert numbers(results) == whole[min(heard, done) :]
    assert [result["seconds"] for result in results][: max(done - heard, 0)] == times[heard:]


@pytest.mark.parametrize("heard", [0, 2, 4, 6])
def test_a_trial_that_was_done_is_only_told(heard: int, whole: list[dict[str, Any]], tmp_path: Path) -> None:
    train(in_study(tmp_path))
    before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    results = train(in_study(tmp_path, known=heard))
    assert numbers(results) == (whole[heard // 2 :] or whole[-1:])
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_config(path: Path) -> None:
    in_study(path.parent / "other", seed=3).train()
    (path.parent / "other" / "checkpoint.pt").replace(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_in_half, "not a checkpoint, or a damaged one"),
        (of_another_config, "the checkpoint belongs to another config"),
        (Path.unlink, ""),  # killed between putting the old one aside and writing the new one
    ],
)
@pytest.mark.parametrize("both", [False, True])
def test_without_its_checkpoint_a_trial_goes_on_from_the_one_before_or_starts_over(
    damage: Callable[[Path], None], reason: str, both: bool, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    first = in_study(tmp_path)
    first.train()
    first.train()
    files = [tmp_path / name for name in ("checkpoint.pt", "previous-checkpoint.pt")]
    for file in files[: 1 + both]:
        damage(file)
    results = train(in_study(tmp_path, known=4))
    assert numbers(results) == whole[0 if both else 1 :]
    expected = f"{files[both]}: {reason}; it goes on from outer step {0 if both else 2}" if reason else ""
    assert [result["note"] for result in results] == [expected] + [""] * (len(results) - 1)
    assert train(in_study(tmp_path, known=6))[0]["note"] == ""


def test_a_diverged_trial_is_done_and_has_the_metric_that_tune_insists_on(tmp_path: Path) -> None:
    results = train(in_study(tmp_path, maml={"inner_lr": 1e30}))
    assert len(results) == 1
    assert results[0]["diverged"] is results[0]["done"] is True
    assert math.isnan(results[0]["val_mse"])
    again = train(in_study(tmp_path, maml={"inner_lr": 1e30}))
    assert len(again) == 1
    assert again[0]["diverged"] is again[0]["done"] is True


# With plain Ray Tune

PLAIN = """
import json, sys
import raymeta.trainable
from ray import tune
tuner = tune.Tuner(
    "raymeta/maml",
    param_space={
        "maml": {"inner_lr": tune.loguniform(1e-3, 0.5), "inner_steps": 1},
        "regularizers": {"dropgrad": {"rate": tune.grid_search([0.0, 0.2])}},
        "model": {"name": "mlp", "hidden": tune.choice([[4], [6]])},
        "task": {"problem": "sinusoid", "shots": 3, "queries": 4},
        "outer": {"tasks_per_step": 2},
        "budget": {"outer_steps": 20, "validate_every": 2, "validation_tasks": 4},
    },
    tune_config=tune.TuneConfig(
        metric="val_mse", mode="min", scheduler=tune.schedulers.ASHAScheduler(max_t=2, grace_period=1)
    ),
    run_config=tune.RunConfig(storage_path=sys.argv[1], stop={"training_iteration": 2}, verbose=0),
)
results = tuner.fit()
print(json.dumps([[r.error and str(r.error), r.config, r.metrics] for r in results], default=str))
"""


@pytest.mark.ray
def test_plain_tune_by_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PLAIN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert len(results) == 2
    assert [config["regularizers"]["dropgrad"]["rate"] for _, config, _ in results] == [0.0, 0.2]
    for error, tried, metrics in results:
        assert error is None
        assert 1e-3 <= tried["maml"]["inner_lr"] <= 0.5
        trainer = Trainer(small_trial({}, **{"method": "maml", **tried}))
        for _ in range(metrics["training_iteration"]):
            trainer.round()
        assert metrics["training_iteration"] in (1, 2)
        assert metrics["val_mse"] == trainer.rounds[-1]["val_mse"]
    assert max(metrics["training_iteration"] for _, _, metrics in results) == 2


POPULATION = """
import json, sys
import raymeta.trainable
from ray import tune
tuner = tune.Tuner(
    "raymeta/alfa",
    param_space={
        "alfa": {"inner_steps": 1, "inner_lr": 0.05},
        "outer": {"lr": tune.grid_search([1e-9, 1e-2]), "tasks_per_step": 2},
        "model": {"name": "mlp", "hidden": [4]},
        "task": {"problem": "sinusoid", "shots": 3, "queries": 4},
        "budget": {"outer_steps": 12, "validate_every": 2, "validation_tasks": 4},
    },
    tune_config=tune.TuneConfig(
        metric="val_mse",
        mode="min",
        reuse_actors=True,
        scheduler=tune.schedulers.PopulationBasedTraining(
            time_attr="outer_steps",
            perturbation_interval=4,
            quantile_fraction=0.5,
            synch=True,
            hyperparam_mutations={"outer": {"lr": tune.loguniform(1e-3, 1e-1)}, "alfa": {"inner_lr": [0.01, 0.1]}},
        ),
    ),
    run_config=tune.RunConfig(storage_path=sys.argv[1], name="pbt", verbose=0),
)
results = tuner.fit()
print(json.dumps([[r.error and str(r.error), r.config, r.metrics] for r in results], default=str))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_population_based_training(tmp_path: Path) -> None:
    command = [sys.executable, "-c", POPULATION, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    exploits = (tmp_path / "pbt" / "pbt_global.txt").read_text().splitlines()
    assert len(exploits) >= 2  # one of two is the worse whenever they are compared
    for error, _, metrics in results:
        assert error is None
        assert (metrics["outer_steps"], metrics["done"]) == (12, True)
    rates = {config["outer"]["lr"] for _, config, _ in results}
    assert len(rates) == 2
    assert 1e-9 not in rates  # it has learned nothing, so it took the other's weights, and a rate near the other's
