"""An outer step on torch's meta device, whose tensors have shapes and no data.

What would break or wait on a GPU is an error there: a tensor that was left on the CPU, and all that reads a value
on the host (`item()`, `float()`, `if tensor:`, a mask as an index, a copy back).
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.engine.recorded import RecordedGraphs
from raymeta.engine.transfer import sent
from raymeta.errors import UserError
from raymeta.problems.images.dataset import ImageDataset
from raymeta.schema import merge
from raymeta.testing import small_trial
from raymeta.training.captured import CapturedGradients
from raymeta.training.device import CAPTURES
from raymeta.training.lanes import Lanes
from raymeta.training.trainer import Trainer

SPECS = [*registry.names("method"), *(f"maml+{name}" for name in registry.names("regularizer"))]


ONE_BY_ONE = ("maml+mgaug", "maml+advquery")  # the first one's tasks see different sizes
META = torch.device("meta")


class NeverWaits(TorchDispatchMode):
    """Refuses copies from the CPU that wait for a GPU, and there operations on tensors of the CPU.

    A number in the code is none, though vmap makes a tensor of it by a conversion whose argument is still the number.
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbers: list[Tensor] = []

    def places(self, args: Any, kwargs: Any) -> set[str]:
        """Where the tensors among the arguments lie."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return {tensor.device.type for tensor in tensors if not any(tensor is number for number in self._numbers)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        places = self.places(args, kwargs)
        into = args[0] if "copy" in str(func) and args and isinstance(args[0], Tensor) else None
        target = kwargs.get("device", None if into is None else into.device)
        there = target is not None and torch.device(target).type == "meta"
        if func is torch.ops.aten._to_copy.default and places == {"cpu"} and there:
            assert kwargs.get("non_blocking"), "a copy that waits"
        elif "meta" in places:
            assert places == {"meta"}, f"{func} has tensors on {sorted(places)}"
        found = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and isinstance(args[0], int | float):
            self._numbers.append(found)
        return found


class StaysThere(NeverWaits):
    """Refuses all copies from the CPU: in a captured graph they would bring what was there at the capture."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_dispatch__(func, types, args, kwargs)
        if isinstance(found, Tensor) and found.is_meta:
            places = self.places(args, kwargs or {})
            assert places <= {"meta"}, f"{func} brings something from the CPU"
        return found


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials compute on the meta device, where the images lie, too; what would be captured there gets nothing else."""

    def alone(computed: Any) -> Any:
        def inside(*given: Any) -> Any:
            with StaysThere():
                return computed(*given)

        return inside

    monkeypatch.setattr("raymeta.training.trainer.device_of", lambda config: META)
    monkeypatch.setitem(CAPTURES, "meta", RecordedGraphs)
    for owner in (Lanes, CapturedGradients):
        monkeypatch.setattr(owner, "_computed", alone(owner._computed))  # type: ignore[attr-defined]


def outer_gradient(spec: str, tasks: str = "loop") -> dict[str, Tensor]:
    """Gradients of an outer step on the meta device."""
    trainer = Trainer(parse_trial(merge(small_trial(spec).as_dict(), {"engine": {"tasks": tasks}})))
    trainer.learner.to("meta")
    trainer.device = torch.device("meta")
    loss = trainer.outer_gradient()
    assert loss.is_meta
    return {name: p.grad for name, p in trainer.learner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tasks", ["loop", "vmap"])
@pytest.mark.parametrize("spec", SPECS)
def test_an_outer_step_leaves_nothing_on_the_cpu_and_reads_no_value(
    spec: str, tasks: str, glyphs: ImageDataset
) -> None:
    if tasks == "vmap" and spec in ONE_BY_ONE:
        with pytest.raises(UserError, match="computes task by task"):
            outer_gradient(spec, tasks)
        return
    found = outer_gradient(spec, tasks)
    assert found
    assert all(gradient.is_meta for gradient in found.values())


FEW = ["mamlpp", "maml+dropgrad", "maml+taml"]
REST = [pytest.param(spec, marks=pytest.mark.slow) for spec in SPECS if spec not in (*FEW, *ONE_BY_ONE)]


@pytest.mark.parametrize("spec", [*FEW, *REST])
def test_an_outer_step_of_lanes_does_neither(spec: str, glyphs: ImageDataset) -> None:
    """One lane is empty, and gradients are clipped."""
    own = {"engine": {"tasks": "vmap"}, "outer": {"clip_norm": 1.0}}
    trainers = [Trainer(parse_trial(merge(small_trial(spec).as_dict(), own))) for _ in range(2)]
    for trainer in trainers:
        trainer.learner.to("meta")
        trainer.device = torch.device("meta")
    lanes = Lanes(trainers[0], 3)
    for trainer in trainers:
        lanes.join(trainer)
    for _ in range(2):
        lanes.step([0, 1])
    assert all(loss.is_meta for trainer in trainers for loss in trainer._losses)


ROUND = {"budget": {"outer_steps": 4, "validate_every": 4}}
ON_THE_CPU = ("maml+aug", "maml+taskaug")  # change tasks there
WAITING = ("maml+metamix", "maml+maxup")  # draw most on the CPU
REST = [pytest.param(spec, marks=pytest.mark.slow) for spec in SPECS if spec not in (*WAITING, *ONE_BY_ONE)]


@pytest.mark.parametrize("spec", [*WAITING, *REST])
def test_outer_steps_never_wait_for_the_device(spec: str, on_meta: None, glyphs: ImageDataset) -> None:
    """A trial's and those of lanes, from the draw of the tasks to the optimizer; turned images, too."""
    images = "host" if spec in ON_THE_CPU else "device"
    engine = {"tasks": "vmap", "images": images, "graphs": "auto"}
    own = {"engine": engine, "outer": {"clip_norm": 1.0}, "task": {"rotations": "train"}}
    config = parse_trial(merge(small_trial(spec).as_dict(), own, ROUND))
    single, *together = (Trainer(config) for _ in range(3))
    lanes = Lanes(single, 3)
    for one in together:
        lanes.join(one)
    with NeverWaits():
        for _ in range(2):
            single.step()
            lanes.step([0, 1])
    assert single.captured.active
    assert all(loss.is_meta for one in (single, *together) for loss in one._losses)


@pytest.mark.parametrize("fault", [
    lambda x: x.to(META), lambda x: torch.empty(3, device=META) + x, lambda x: torch.empty(3, device=META).copy_(x),
])  # fmt: skip
def test_waiting_shows(fault: Any) -> None:
    with StaysThere(), pytest.raises(AssertionError):
        sent(torch.ones(3), META)
    with NeverWaits():
        sent(torch.ones(3), META)
        with pytest.raises(AssertionError):
            fault(torch.ones(3))


@pytest.mark.parametrize("guard", [NeverWaits, StaysThere])
def test_a_number_in_the_code_is_no_tensor_of_the_cpu(guard: Any) -> None:
    lanes, on_the_cpu = torch.empty(2, 3, device=META), torch.ones(())
    with guard():
        torch.vmap(lambda x: 1.0 * x / 3)(lanes)
        with pytest.raises(AssertionError):
            torch.vmap(lambda x: on_the_cpu * x)(lanes)


@pytest.mark.parametrize("tasks", ["loop", "vmap"])
@pytest.mark.parametrize("fault", [
    lambda loss: loss + (torch.ones(3) * loss.new_ones(3)).sum(),
    lambda loss: loss * float(loss.detach()),
    lambda loss: loss if loss > 0 else -loss,
    lambda loss: loss.expand(2)[loss.expand(2) > 0].sum(),
    lambda loss: loss + loss.detach().cpu().to(loss.device),
])  # fmt: skip
def test_faults_show(tasks: str, fault: Any, glyphs: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor on the CPU, then four ways of reading a value, planted in a learner's loss."""
    from trainables.maml import MAML

    plain = MAML.query_loss
    monkeypatch.setattr(MAML, "query_loss", lambda *arguments: fault(plain(*arguments)))
    with pytest.raises((RuntimeError, NotImplementedError)):
        outer_gradient("maml", tasks)
