"""The machines of a Ray cluster: something done once on each of them, and what is done so before trials run there."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymeta.config import TaskConfig, TrialConfig, parse_trial
from raymeta.errors import UserError
from raymeta.models.kernels import kernels_of
from raymeta.problem import open_problem, task_section
from raymeta.problems.images.reading.remote import Root
from raymeta.problems.images.store import Store
from raymeta.problems.images.stored import StoredImages
from raymeta.storage.files import studies_folder
from raymeta.storage.places import any_path
from raymeta.study.machines.resources import on_cluster

PART_BYTES = 64 * 2**20  # of a store that is shipped
PATIENCE_S = 3600.0  # a data set may have to be downloaded
T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a machine gave back.

    Attributes:
        node: the machine's host name and address.
        gpus: that Ray gives out there.
        value: what the function returned there; None if it did not.
        problem: why it did not, in one line; "" if it did.
    """

    node: str
    gpus: int
    value: T | None
    problem: str = ""


def on_every_node(function: Callable[..., T], *args: Any, within_s: float = PATIENCE_S) -> list[Answer[T]]:
    """Call a function at once on every machine of the cluster that this process has joined. It takes nobody's core.

    Args:
        function: of a module that the machines have, too.
        args: what to call it with.
        within_s: seconds after which a machine is not waited for.
    """
    asked = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(function).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
        asked[task.remote(*args)] = node
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=within_s)
    answers: list[Answer[T]] = []
    for ref, node in asked.items():
        name, gpus = _name(node, {answer.node for answer in answers}), int(node["Resources"].get("GPU", 0))
        value, problem = _result(ref) if ref in done else (None, f"no answer within {within_s:.0f} s")
        answers.append(Answer(name, gpus, value, problem))
    return answers


def _name(node: dict[str, Any], taken: set[str]) -> str:
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    return f"{name} node {node['NodeID'][:6]}" if name in taken else name  # a machine may be several of Ray's nodes


def _result(ref: Any) -> tuple[Any, str]:
    try:
        return ray.get(ref), ""
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        lines = str(cause).strip().splitlines() or [""]
        if isinstance(cause, UserError):
            return None, lines[0]
        # Ray says first what happened, anything else (a module that cannot be imported, say) last.
        return None, f"{type(cause).__name__}: {lines[0 if isinstance(cause, ray.exceptions.RayError) else -1]}"


def prepare_nodes(task: TaskConfig, root: Root | None = None, *, ship: bool = False) -> None:
    """Make every machine of `$RAY_ADDRESS`'s cluster ready for trials; nothing happens if there is no cluster.

    Each must see the folder of the studies, where trials keep their checkpoints, and gets the data set packed.

    Args:
        task: of the trials; its data set is ready on this machine.
        root: folder with the data on disk, the same on all machines, or a URL that all can read; None: drawn or
            downloaded.
        ship: machines that lack the data get this machine's packed store instead, through Ray's object store.

    Raises:
        UserError: a machine does not see the studies, cannot have the data, or has other data than this one.
    """
    if not on_cluster():
        return
    dataset, studies = open_problem(task), studies_folder()
    expected = dataset.fingerprint
    studies.mkdir(parents=True, exist_ok=True)
    source: Root | _Shipment | None = root.resolve() if isinstance(root, Path) else root
    if ship and isinstance(dataset, StoredImages):
        there = on_every_node(_has, task.model_dump())
        source = None if all(answer.value for answer in there) else _shipped(dataset.store)
    mark = studies / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    try:
        answers = on_every_node(_make_ready, task.model_dump(), source, str(mark))
    finally:
        mark.unlink(missing_ok=True)
    problems = [f"{answer.node}: {answer.problem}" for answer in answers if answer.problem]
    problems += [
        f"{answer.node}: its {task.data} has fingerprint {answer.value[:12]} and this machine's {expected[:12]}"
        for answer in answers
        if answer.value is not None and answer.value != expected
    ]
    if problems:
        raise UserError(f"not all machines are ready for trials (raymeta doctor tells more): {'; '.join(problems)}")


def prepare_kernels(config: TrialConfig) -> None:
    """Build the kernels that trials run on, on this machine and on every one of `$RAY_ADDRESS`'s cluster.

    Raises:
        UserError: a machine can't have them.
    """
    if kernels_of(config) == "torch" or not on_cluster():
        return
    answers = on_every_node(_have_kernels, config.as_dict())
    if problems := [f"{answer.node}: {answer.problem}" for answer in answers if answer.problem]:
        raise UserError(
            f"not all machines are ready for trials (with engine.kernels=torch they are): {'; '.join(problems)}"
        )


def _have_kernels(config: dict[str, Any]) -> None:
    """On a machine."""
    kernels_of(parse_trial(config))


@dataclass(frozen=True)
class _Shipment:
    """A packed store in Ray's object store: its `meta.json`, and a row and a reference for each part of its images.

    The references are within a dataclass, so Ray hands them over as they are: a part travels when it is asked for.
    """

    meta: dict[str, Any]
    parts: list[tuple[int, Any]]

    def arriving(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The parts, one at a time in memory."""
        for row, reference in self.parts:
            yield row, ray.get(reference)


def _shipped(store: Store) -> _Shipment:
    images = store.images
    rows = max(PART_BYTES // images[0].nbytes, 1)
    return _Shipment(
        store.meta, [(row, ray.put(np.array(images[row : row + rows]))) for row in range(0, len(images), rows)]
    )


def _has(task: dict[str, Any]) -> bool:
    """On a machine: whether its data set is ready."""
    return open_problem(task_section(task)).ready


def _make_ready(task: dict[str, Any], source: Root | _Shipment | None, mark: str) -> str:
    """On a machine: the fingerprint of its data set, which is made ready first."""
    if not any_path(mark).exists():
        folder = any_path(mark).parent
        raise UserError(f"{folder} is not the folder of that name on the driver's machine: all must share it")
    dataset = open_problem(task_section(task))
    if isinstance(source, _Shipment):
        assert isinstance(dataset, StoredImages)
        dataset.receive(source.meta, source.arriving())
    else:
        dataset.prepare(source)
    return dataset.fingerprint
