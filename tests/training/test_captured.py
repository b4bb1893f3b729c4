"""Outer steps of trials and of lanes captured: the same bits as uncaptured, whatever changes from step to step."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial
from raymeta.engine import graphs
from raymeta.engine.recorded import RecordedGraphs
from raymeta.errors import UserError
from raymeta.problems.images.dataset import ImageDataset
from raymeta.schema import merge
from raymeta.testing import small_trial
from raymeta.training import device
from raymeta.training.lanes import Lanes
from raymeta.training.trainer import Trainer

STEPS, BEFORE = 8, 2
BUDGET = {"budget": {"outer_steps": STEPS, "validate_every": STEPS // 2, "validation_tasks": 2}}
SPECS = [*registry.names("method"), *(f"maml+{name}" for name in registry.names("regularizer"))]
ONE_BY_ONE = ("maml+mgaug", "maml+advquery")
FEW = ("mamlpp", "maml+dropgrad")
REST = [pytest.param(spec, marks=pytest.mark.slow) for spec in SPECS if spec not in (*FEW, *ONE_BY_ONE)]
SLOW = [spec for spec in SPECS if spec not in (FEW[1], *ONE_BY_ONE)]  # of lanes
OUTER = [
    {"clip_norm": 0.05, "clip_when": "per_task", "reduction": "sum"},
    pytest.param({"schedule": "cosine", "weight_decay": 0.01, "restart_every": 3}, marks=pytest.mark.slow),
    pytest.param(
        {"optimizer": "sgd", "momentum": 0.9, "clip": 0.01, "schedule": "exponential", "every": 0.3},
        marks=pytest.mark.slow,
    ),
]


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraphs]:
    """What capturing is done with, wherever `engine.graphs` is not off."""
    made: list[RecordedGraphs] = []
    monkeypatch.setattr(graphs, "BEFORE", BEFORE)

    def recorder() -> RecordedGraphs:
        made.append(RecordedGraphs())
        return made[-1]

    monkeypatch.setitem(device.CAPTURES, "cpu", recorder)
    return made


def trial(spec: str, *changes: dict[str, Any], graphs: str = "auto", **top: Any) -> TrialConfig:
    """A small trial of batched tasks."""
    problem = top.pop("problem", None) or ("images" if spec in IMAGES else "sinusoid")
    own = {"engine": {"tasks": "vmap", "graphs": graphs}}
    return parse_trial(merge(small_trial(spec, problem).as_dict(), BUDGET, own, *changes, top))


def is_of_images(spec: str) -> bool:
    try:
        Trainer(small_trial(spec, "sinusoid"))
    except UserError:
        return True
    return False


IMAGES = {spec for spec in SPECS if is_of_images(spec)}


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors(value[key])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)
    elif isinstance(value, int | float):
        yield torch.tensor(value, dtype=torch.float64)


def bits(trainer: Trainer) -> list[bytes]:
    """Of all that a checkpoint has, but for times and for how it was computed."""
    state = {key: value for key, value in trainer.state_dict().items() if key not in ("config", "rounds")}
    rounds = [{key: value for key, value in one.items() if key != "seconds"} for one in trainer.rounds]
    return [tensor.numpy().tobytes() for tensor in tensors([state, rounds])]


def trained(config: TrialConfig) -> Trainer:
    trainer = Trainer(config)
    while not trainer.done:
        trainer.round()
    return trainer


# A single trial


def check(recorders: list[RecordedGraphs], spec: str, *changes: dict[str, Any]) -> None:
    """A trial captured does what it does uncaptured."""
    on, off = (trained(trial(spec, *changes, graphs=wanted)) for wanted in ("auto", "off"))
    assert on.captured.active, "nothing was captured"
    assert not on.captured.problem
    assert not off.captured.active
    (recorder,) = recorders
    assert recorder.replays > 0
    assert recorder.early_calls + recorder.replays == STEPS
    assert bits(on) == bits(off)


@pytest.mark.parametrize("spec", [*FEW, *REST])
def test_a_trial_is_the_same_bits(spec: str, recorders: list[RecordedGraphs], glyphs: ImageDataset) -> None:
    check(recorders, spec)


@pytest.mark.parametrize("outer", OUTER)
def test_however_its_outer_step_is(outer: dict[str, Any], recorders: list[RecordedGraphs]) -> None:
    check(recorders, "metasgd", {"outer": outer})


def test_what_changes_over_the_budget_is_not_frozen(recorders: list[RecordedGraphs]) -> None:
    """DropGrad's ramp, and the order: a program for each phase."""
    ramp = {"regularizers": {"dropgrad": {"ramp": "linear"}}}
    check(recorders, "maml+dropgrad", {"maml": {"first_order_share": 0.5}}, ramp)
    assert recorders[0].recorded == 2


def test_a_trial_goes_on_from_a_checkpoint_and_out_of_lanes(recorders: list[RecordedGraphs]) -> None:
    whole = trained(trial("maml", graphs="off"))
    first, second = Trainer(trial("maml")), Trainer(trial("maml"))
    for _ in range(BEFORE + 2):
        first.step()
    second.load_state_dict(first.state_dict())
    together = Lanes(second, 2)
    together.join(second)
    together.leave(0)  # its tensors are new ones
    while not second.done:
        second.round()
    assert bits(second) == bits(whole)


# Lanes


def in_lanes(configs: list[TrialConfig], width: int) -> list[Trainer]:
    """Trials that join one after the other, are now and then left out, and leave when they are done."""
    trainers = [Trainer(config) for config in configs]
    together, waiting = Lanes(trainers[0], width), list(trainers)
    for turn in range(60):
        if waiting and together.free and turn % 2 == 0:
            together.join(waiting.pop(0))
        inside = [lane for lane, one in enumerate(together.trainers) if one is not None]
        together.step([lane for lane in inside if (lane + turn) % 5])
        for lane in inside:
            one = together.trainers[lane]
            assert one is not None
            if one.round_full:
                one.end_round(0.0)
            if one.done:
                together.leave(lane)
        if not waiting and len(together.free) == width:
            break
    assert all(one.done for one in trainers)
    assert not together.untraced
    return trainers


def check_lanes(recorders: list[RecordedGraphs], spec: str, *changes: dict[str, Any]) -> None:
    def configs(wanted: str) -> list[TrialConfig]:
        return [trial(spec, *changes, graphs=wanted, seed=seed) for seed in range(3)]

    on, off = (in_lanes(configs(wanted), 2) for wanted in ("auto", "off"))
    assert sum(recorder.replays for recorder in recorders) > STEPS
    assert [bits(one) for one in on] == [bits(one) for one in off]


@pytest.mark.parametrize("spec", [FEW[1], *(pytest.param(spec, marks=pytest.mark.slow) for spec in SLOW)])
def test_lanes_are_the_same_bits(spec: str, recorders: list[RecordedGraphs], glyphs: ImageDataset) -> None:
    own = {"outer": {"lr": 0.01, "schedule": "cosine", "clip_norm": 1.0}}
    check_lanes(recorders, spec, own)


@pytest.mark.slow
@pytest.mark.parametrize("outer", OUTER)
def test_however_their_outer_steps_are(outer: dict[str, Any], recorders: list[RecordedGraphs]) -> None:
    check_lanes(recorders, "metasgd", {"outer": outer})


def test_a_lane_that_diverges_ends_alone(recorders: list[RecordedGraphs]) -> None:
    configs = [trial("maml", {"outer": {"lr": 0.01 if seed else 1e30}}, seed=seed) for seed in range(3)]
    plain = [parse_trial(merge(one.as_dict(), {"engine": {"graphs": "off"}})) for one in configs]
    on, off = in_lanes(configs, 4), in_lanes(plain, 4)
    assert [one.diverged for one in on] == [True, False, False]
    assert [bits(one) for one in on] == [bits(one) for one in off]


# What is not captured


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"engine": {"tasks": "auto", "chunk": 4}}, "engine.chunk computes some images of a task at a time"),
        ({"engine": {"tasks": "loop"}}, "engine.tasks computes one after the other"),
    ],
)
def test_what_cannot_be_captured_says_why(
    change: dict[str, Any], reason: str, recorders: list[RecordedGraphs], glyphs: ImageDataset
) -> None:
    trainer = Trainer(trial("maml", change, problem="images"))
    assert (trainer.captured.active, trainer.captured.problem) == (False, reason)
    with pytest.raises(UserError, match=f"^engine.graphs: found 'on', but {reason}; allowed: auto, off$"):
        Trainer(trial("maml", change, graphs="on", problem="images"))


@pytest.mark.slow
def test_a_policy_is_the_same_bits(recorders: list[RecordedGraphs]) -> None:
    on, off = (trained(trial("maml", graphs=wanted, problem="policies")) for wanted in ("auto", "off"))
    assert recorders[0].replays
    assert bits(on) == bits(off)


def test_a_policys_line_search_is_not_captured(recorders: list[RecordedGraphs]) -> None:
    policy = small_trial("maml", "policies", {"engine": {"tasks": "vmap", "graphs": "auto"}})
    assert Trainer(policy).captured.problem == ""
    trpo = parse_trial(merge(policy.as_dict(), {"outer": None}, {"outer": {"optimizer": "trpo"}}))
    assert Trainer(trpo).captured.problem == "outer.optimizer trpo asks for more than gradients"


def test_a_failed_capture_is_said_once_and_changes_nothing(
    recorders: list[RecordedGraphs], monkeypatch: pytest.MonkeyPatch
) -> None:
    from raymeta.trainable import MetaTrainable

    def refused(self: Any, flat: Any, tensors: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(RecordedGraphs, "record", refused)
    one = MetaTrainable(trial("maml").as_dict())
    notes = [one.step()["note"] for _ in range(2)]
    said = "its outer steps are not captured as a CUDA graph: RuntimeError: operation not permitted when stream is"
    assert [note.startswith(said) for note in notes] == [True, False]
    assert bits(one.trainer) == bits(trained(trial("maml", graphs="off")))


def test_on_a_cpu_it_is_refused_and_auto_is_nothing() -> None:
    assert not Trainer(trial("maml")).captured.active
    assert Trainer(trial("maml")).captured.problem == ""
    with pytest.raises(UserError, match=r"^engine.graphs: found 'on', but the trial computes on a CPU; allowed: auto"):
        Trainer(trial("maml", graphs="on"))
    assert parse_trial({"method": "maml", "engine": {"graphs": False}}).engine.graphs == "off"  # as YAML reads them
    assert parse_trial({"method": "maml", "engine": {"graphs": True}}).engine.graphs == "on"


def test_on_a_gpu_auto_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device.CAPTURES, "cuda", RecordedGraphs)
    cuda = torch.device("cuda")
    assert isinstance(device.graphs_of(trial("maml"), cuda), RecordedGraphs)
    assert isinstance(device.graphs_of(trial("maml", graphs="on"), cuda), RecordedGraphs)
    assert device.graphs_of(trial("maml", graphs="off"), cuda) is None
