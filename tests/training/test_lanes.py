"""Lanes: equal to single trials, and independent of what runs beside them."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.engine import traced
from raymeta.errors import UserError
from raymeta.problem import Tasks
from raymeta.problems.images.dataset import ImageDataset
from raymeta.schema import merge, nest
from raymeta.testing import small_trial
from raymeta.training.lanes import Lanes, alone, computed_tasks, lane_structure, whole_width
from raymeta.training.trainer import Trainer

SPECS = [*registry.names("method"), *(f"maml+{name}" for name in registry.names("regularizer"))]
ONE_BY_ONE = ("maml+mgaug", "maml+advquery")
SGD = {"optimizer": "sgd", "momentum": 0.5, "lr": 0.1}  # Adam makes steps of gradients that are rounding alone


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are float64 wherever they are computed."""

    def to(self: Tasks, device: torch.device) -> Tasks:
        return self.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    monkeypatch.setattr(Tasks, "to", to)


def mixed(config: TrialConfig, lane: int) -> TrialConfig:
    """The trial with other numbers and another seed."""
    numbers = {key: (1 - 0.07 * lane) * value for key, value in config.numbers().items()}
    return parse_trial(merge(config.as_dict(), nest(numbers), {"seed": lane}))


def picked(config: TrialConfig, lane: int) -> TrialConfig:
    """The trial with other numbers and seed, and with DropGrad's settings that lanes may differ in."""
    own = {
        "rate": 0.1 + 0.05 * lane,
        "noise": ("gaussian", "binary")[lane % 2],
        "layers": ("all", "head", "last")[lane % 3],
        "ramp": ("constant", "linear")[lane // 2 % 2],
    }
    return parse_trial(merge(mixed(config, lane).as_dict(), {"regularizers": {"dropgrad": own}}))


def trainers(config: TrialConfig, count: int, dtype: torch.dtype = torch.float64) -> list[Trainer]:
    found = [Trainer(mixed(config, lane)) for lane in range(count)]
    for one in found:
        one.learner.to(dtype)
    return found


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors(value[key])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)


def bits(trainer: Trainer) -> list[bytes]:
    """Of all that a checkpoint has."""
    state = {key: value for key, value in trainer.state_dict().items() if key != "rounds"}
    rounds = [torch.tensor([v for k, v in one.items() if k != "seconds"]) for one in trainer.rounds]
    return [tensor.numpy().tobytes() for tensor in tensors([state, rounds])] + [repr(state["losses"]).encode()]


def assert_close(lane: Trainer, single: Trainer, tolerance: float = 1e-10) -> None:
    found, expected = lane.state_dict(), single.state_dict()
    assert found["losses"] == pytest.approx(expected["losses"], rel=tolerance)
    for part in ("method", "optimizer"):
        for a, b in zip(tensors(found[part]), tensors(expected[part]), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def check(config: TrialConfig, width: int, steps: int = 2) -> None:
    """Lanes with numbers and seeds of their own do what single trials do."""
    together, singly = trainers(config, width), trainers(config, width)
    lanes = Lanes(together[0], width)
    for one in together:
        lanes.join(one)
    for _ in range(steps):
        lanes.step(range(width))
    for one in singly:
        for _ in range(steps):
            one._losses.append(one.outer_update())
    for lane, single in zip(together, singly, strict=True):
        assert_close(lane, single)


def kind(spec: str) -> str:
    """The cheapest of the small problems that a composition has a meaning for."""
    try:
        Trainer(small_trial(spec, "sinusoid"))
    except UserError:
        return "images"
    return "sinusoid"


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in ("maml+aug", "maml+maxup", "maml+metadropout")])
def test_lanes_are_single_trials(spec: str, glyphs: ImageDataset, double: None) -> None:
    config = small_trial(spec, kind(spec), {"outer": SGD})
    if reason := alone(config, Trainer(config).learner):
        assert spec in ONE_BY_ONE
        assert reason == f"{spec.partition('+')[2]} computes task by task"
        return
    check(config, 3)


@pytest.mark.parametrize("problem", ["sinusoid", "images"])
def test_lanes_may_differ_in_what_they_pick(problem: str, glyphs: ImageDataset, double: None) -> None:
    """DropGrad's kind of noise, scope and ramp, in one program; with five tasks, of which it computes six."""
    config = small_trial("maml+dropgrad", problem, {"outer": {**SGD, "tasks_per_step": 5}, "engine": {"tasks": "vmap"}})
    together, singly = ([Trainer(picked(config, lane)) for lane in range(6)] for _ in range(2))
    for one in (*together, *singly):
        one.learner.double()
    lanes = Lanes(together[0], 8)
    for one in together:
        lanes.join(one)
    for _ in range(3):
        lanes.step(range(6))
        for one in singly:
            one._losses.append(one.outer_update())
    for lane, single in zip(together, singly, strict=True):
        assert_close(lane, single)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("problem", ["sinusoid", "images"])
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in ONE_BY_ONE])
def test_lanes_of_any_width_are_single_trials(
    spec: str, problem: str, width: int, glyphs: ImageDataset, double: None
) -> None:
    if problem == "images" or kind(spec) == problem:
        for tasks in ("loop", "vmap"):
            check(small_trial(spec, problem, {"outer": SGD, "engine": {"tasks": tasks}}), width)


@pytest.mark.parametrize(
    "outer",
    [
        {"optimizer": "adam", "weight_decay": 0.01, "restart_every": 2},
        {"optimizer": "adam", "decay_of": "kernels", "schedule": "cosine"},
        {"clip": 0.01, "schedule": "exponential", "every": 0.3},
        {"clip_norm": 0.05, "clip_scope": "per_module", "schedule": "step", "milestones": [0.5], "factors": [0.1]},
        {"clip_norm": 0.05, "clip_when": "per_task", "reduction": "sum"},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "clip": 0.01, "clip_when": "per_task"},
        {"added": {"lr": 0.01, "milestones": [0.5], "factors": [0.1]}, "restart_every": 3, "restart_of": "unadapted"},
    ],
)
def test_every_outer_update_is_that_of_single_trials(outer: dict[str, Any], double: None) -> None:
    check(small_trial("metasgd", "sinusoid", {"outer": outer}), 3, steps=4)


@pytest.mark.parametrize("spec", ["l2f", "mamlpp"])
def test_lanes_in_different_phases_do_not_mix(spec: str, double: None) -> None:
    """A lane that joined later is still in first order, or has the loss of every step, when the first are not."""
    own = {spec: {"first_order_share": 0.5}, "outer": {**SGD, "lr": 0.01}}
    config = small_trial(spec, "sinusoid", own)
    together, singly = trainers(config, 3), trainers(config, 3)
    lanes = Lanes(together[0], 4)
    for lane, one in enumerate(together):
        lanes.join(one)
        lanes.step(range(lane + 1))
    lanes.step(range(3))
    for done, one in zip((4, 3, 2), singly, strict=True):
        for _ in range(done):
            one._losses.append(one.outer_update())
    for lane, single in zip(together, singly, strict=True):
        assert_close(lane, single)


@pytest.mark.parametrize("spec", ["l2f", "mamlpp"])
def test_lanes_have_phases_of_their_own(spec: str, double: None) -> None:
    """One is in first order when another is not; the loss of every step goes on for shares of their own."""
    config = small_trial(spec, "sinusoid", {"outer": {**SGD, "lr": 0.01}, "budget": {"outer_steps": 4}})
    shares = [{"first_order_share": 0.3 * lane} for lane in range(4)]
    if spec == "mamlpp":
        shares = [share | {"msl_share": (0.6, 1.0, 0.3, 0.0)[lane]} for lane, share in enumerate(shares)]
    configs = [parse_trial(merge(mixed(config, lane).as_dict(), {spec: share})) for lane, share in enumerate(shares)]
    together, singly = ([Trainer(one) for one in configs] for _ in range(2))
    for one in (*together, *singly):
        one.learner.double()
    lanes, phases = Lanes(together[0], 4), []
    for one in together:
        lanes.join(one)
    for _ in range(4):
        phases.append(lanes.step(range(4)))
        for one in singly:
            one._losses.append(one.outer_update())
    assert max(phases) > 1
    for lane, single in zip(together, singly, strict=True):
        assert_close(lane, single)


# The same bits whatever runs beside it, traced or not

WIDTH, STEPS = 8, 6
COMPANY = {"l2f": {"first_order_share": 0.3}, "maml+dropgrad": {}, "maml+mr": {}}
TASKS = {"l2f": 4, "maml+dropgrad": 7, "maml+mr": 4}  # of seven it computes eight


def in_float32(spec: str, seed: int) -> Trainer:
    """A trial of the company. Every third diverges on its way."""
    method = spec.split("+")[0]
    own = {
        method: {"inner_steps": 2, **COMPANY[spec]},
        "outer": {"tasks_per_step": TASKS[spec], "lr": 0.01 if seed % 3 else 1e30},
    }
    budget = {"budget": {"outer_steps": STEPS, "validate_every": STEPS, "validation_tasks": 2}, "seed": seed}
    config = parse_trial(merge(small_trial(spec, "sinusoid").as_dict(), own, budget))
    return Trainer(picked(config, seed) if spec == "maml+dropgrad" else config)


@cache
def by_itself(spec: str, seed: int) -> list[list[bytes]]:
    """The bits of a trial after each of its outer steps, in lanes that are empty but for it, and of its validation.

    It is not traced, which takes longer than so few steps.
    """
    trainer = in_float32(spec, seed)
    lanes, found = Lanes(trainer, WIDTH), [bits(trainer)]
    lanes.join(trainer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traced, "AFTER", 2 * STEPS)
        while not trainer.round_full:
            lanes.step()
            found.append(bits(trainer))
    trainer.end_round(0.0)
    return [*found, bits(trainer)]


@settings(max_examples=6, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=() if spec == "maml+dropgrad" else pytest.mark.slow) for spec in sorted(COMPANY)]
)
def test_a_lane_is_the_same_bits_whatever_runs_beside_it_and_whenever_it_joined(
    spec: str, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(traced, "AFTER", data.draw(st.integers(0, 3)))
    company = [in_float32(spec, seed) for seed in range(data.draw(st.integers(1, 10)))]
    lanes = Lanes(company[0], WIDTH)
    for _ in range(data.draw(st.integers(1, 12))):
        for trainer in company:
            inside = trainer in lanes.trainers
            if not inside and lanes.free and data.draw(st.booleans(), label="joins"):
                lanes.join(trainer)
            elif inside and data.draw(st.integers(0, 5), label="leaves") == 0:
                lanes.leave(lanes.trainers.index(trainer))
        open_lanes = [n for n, one in enumerate(lanes.trainers) if one is not None and not one.round_full]
        lanes.step([lane for lane in open_lanes if data.draw(st.integers(0, 3), label="waits")])
    assert not lanes.untraced
    for seed, trainer in enumerate(company):
        expected = by_itself(spec, seed)
        assert bits(trainer) == expected[trainer.outer_step]
        if trainer.round_full:
            trainer.end_round(0.0)
            assert bits(trainer) == expected[-1]
            assert trainer.diverged == (seed % 3 == 0)


# Checkpoints


def test_a_lane_goes_on_as_a_single_trial_and_the_other_way_round(tmp_path: Path, double: None) -> None:
    """Saved in the middle of a round, in the format of a trainer."""
    config = small_trial("l2f+dropgrad", "sinusoid", {"budget": {"validate_every": 4}})
    (whole,), (single,), pair = trainers(config, 1), trainers(config, 1), trainers(config, 2)
    whole.round()
    lanes = Lanes(single, 4)
    for one in pair:
        lanes.join(one)
    lanes.step()
    pair[0].save(tmp_path / "lane.pt")
    assert (tmp_path / "lane.pt").stat().st_size < 3 * _size(single, tmp_path)  # of one lane, not of all
    single.load(tmp_path / "lane.pt")
    single._losses.append(single.outer_update())
    single.save(tmp_path / "single.pt")
    back = trainers(config, 1)[0]
    back.load(tmp_path / "single.pt")
    lanes.join(back)
    lanes.round([2])
    back.end_round(0.0)
    assert_close(back, whole)
    assert back.rounds[0]["val_mse"] == pytest.approx(whole.rounds[0]["val_mse"], rel=1e-10)
    assert lanes.leave(2) is back
    before = [tensor.clone() for tensor in tensors(back.state_dict())]
    lanes.step([0, 1])  # nothing of it is in the lanes any more
    assert all(map(torch.equal, before, tensors(back.state_dict())))


def _size(trainer: Trainer, folder: Path) -> int:
    trainer.save(folder / "plain.pt")
    return (folder / "plain.pt").stat().st_size


def test_a_lane_is_loaded_where_it_lies(tmp_path: Path) -> None:
    """A checkpoint, and the weights of an ensemble, are copied into a lane's tensors."""
    saved, trainer = in_float32("l2f", 1), in_float32("l2f", 1)
    saved.outer_update()
    saved.save(tmp_path / "one.pt")
    lanes = Lanes(trainer, WIDTH)
    lanes.join(trainer)
    trainer.load(tmp_path / "one.pt")
    assert bits(trainer) == bits(saved)
    lanes.step()
    again = in_float32("l2f", 1)
    others = Lanes(again, WIDTH)
    again.load(tmp_path / "one.pt")
    others.join(again)
    others.step()
    assert bits(trainer) == bits(again)


# What can't be a lane


def test_who_runs_alone_says_why(glyphs: ImageDataset) -> None:
    def reason(spec: str, problem: str = "images", config: dict[str, Any] | None = None) -> str:
        trial = small_trial(spec, problem, config or {})
        return alone(trial, Trainer(trial).learner)

    assert reason("maml") == reason("maml+metamix") == ""
    assert reason("maml+mgaug") == "mgaug computes task by task"
    assert (
        reason("maml", "images", {"model": {"norm": "running"}})
        == "model.norm running updates its averages task by task"
    )
    varied = parse_trial({"method": "protonet", "task": {"dataset": "glyphs", "sampler": "metadataset"}})
    assert alone(varied, Trainer(varied).learner).endswith("has tasks of different shapes")


def test_a_structure_is_what_a_program_depends_on() -> None:
    config = small_trial("maml", "sinusoid")

    def other(**data: Any) -> TrialConfig:
        return parse_trial(merge(config.as_dict(), data))

    outer = {"schedule": "cosine", "lr": 0.5}
    own = {"budget": {"outer_steps": 8}, "outer": outer, "seed": 7, "maml": {"inner_lr": 0.3}}
    assert lane_structure(other(**own)) == lane_structure(config)
    for program in ({"maml": {"inner_steps": 3}}, {"outer": {"clip": 1.0}}, {"outer": {"decay_of": "kernels"}}):
        assert lane_structure(other(**program)) != lane_structure(config)
    lanes = Lanes(Trainer(config), 2)
    with pytest.raises(ValueError, match="of another structure"):
        lanes.join(Trainer(other(maml={"inner_steps": 3})))


@pytest.mark.parametrize(
    ("width", "tasks", "whole", "computed"),
    [(1, 4, 8, 4), (8, 4, 8, 4), (9, 4, 16, 4), (3, 2, 16, 2), (1, 32, 2, 32), (5, 1, 16, 2), (5, 25, 8, 28)],
)
def test_lanes_times_tasks_fill_vector_registers(width: int, tasks: int, whole: int, computed: int) -> None:
    assert (whole_width(width, tasks), computed_tasks(tasks)) == (whole, computed)
