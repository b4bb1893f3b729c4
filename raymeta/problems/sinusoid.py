"""Sinusoid regression, the family of Meta-SGD and of ALFA's Table 8: y = A sin(w x + b).

    A ~ U[0.1, 5],  w ~ U[0.8, 1.2],  b ~ U[0, pi],  x ~ U[-5, 5]

The phase is added: MAML's older family is sin(x - phi) without a frequency; as b is uniform on [0, pi] the two are not
the same. K = `shots` support points and `queries` query points a task; evaluation takes `eval_queries` (100, as ALFA).
There is nothing to hold out: the three splits are other streams of the same family.
"""

import json
import math
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from raymeta import registry
from raymeta.errors import UserError
from raymeta.problems.images.episodes import EpisodeBank, Episodes, Split, Uniforms
from raymeta.problems.images.reading.packing import Progress
from raymeta.problems.images.reading.remote import Root
from raymeta.problems.images.store import Dataset

if TYPE_CHECKING:
    from raymeta.config import TaskConfig

AMPLITUDE, FREQUENCY, PHASE, X = (0.1, 5.0), (0.8, 1.2), (0.0, math.pi), (-5.0, 5.0)
VERSION = 1


class SinusoidEpisodes:
    """Tasks of one curve each: x and y are float32, support [T, K, 1] and query [T, Q, 1]."""

    def __init__(self, task: "TaskConfig", split: Split, seed: int) -> None:
        self._shots = task.shots
        self._queries = task.queries if split == "train" else task.eval_queries or task.queries
        self._uniforms = Uniforms("sinusoid", VERSION, split, seed)

    def batch(self, first: int, count: int) -> Episodes:
        """Episodes `first` .. `first + count - 1`."""
        table = torch.from_numpy(self._uniforms.rows(first, count, 3 + self._shots + self._queries))
        amplitude, frequency, phase = (
            low + (high - low) * table[:, i, None, None] for i, (low, high) in enumerate((AMPLITUDE, FREQUENCY, PHASE))
        )
        x = X[0] + (X[1] - X[0]) * table[:, 3:, None]
        y = amplitude * torch.sin(frequency * x + phase)
        (support_x, query_x), (support_y, query_y) = (v.float().tensor_split([self._shots], 1) for v in (x, y))
        return Episodes(support_x, support_y, query_x, query_y)


@registry.dataset("sinusoid")
class Sinusoid(Dataset):
    """See the module's docstring."""

    kind: ClassVar[Literal["classification", "regression"]] = "regression"
    input_shape: ClassVar[tuple[int, ...]] = (1,)
    task_defaults: ClassVar[dict[str, Any]] = {"ways": 1, "shots": 10, "queries": 10, "eval_queries": 100}
    ready = True

    def __init__(self, task: "TaskConfig") -> None:
        """Raises UserError for settings that a curve can't follow: ways, labels, train_classes, rotations, sampler."""
        super().__init__(task)
        for key, found, allowed in (
            ("ways", task.ways, 1), ("labels", task.labels, "shuffled"), ("rotations", task.rotations, "none"),
            ("train_classes", task.train_classes, None), ("sampler", task.sampler, "fixed"),
        ):  # fmt: skip
            if found != allowed:
                raise UserError(f"task.{key}: found {found!r}, but sinusoid is a regression: allowed: {allowed!r}")

    def prepare(self, root: Root | None = None, progress: Progress | None = None, *, rebuild: bool = False) -> None:
        """Nothing to do: curves are computed.

        Raises:
            UserError: a `root` was given.
        """
        if root is not None:
            raise UserError(f"{root}: sinusoid is computed and reads no data: leave out --data-root")

    @property
    def fingerprint(self) -> str:
        return sha256(json.dumps(["sinusoid", VERSION, AMPLITUDE, FREQUENCY, PHASE, X]).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "input_shape": list(self.input_shape), "splits": list(self.splits),
            "ready": True, "fingerprint": self.fingerprint,
        }  # fmt: skip

    def _bank(self, split: Split, seed: int) -> EpisodeBank:
        return SinusoidEpisodes(self.task, split, seed)
