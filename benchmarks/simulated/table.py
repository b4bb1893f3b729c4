"""The table on disk and in memory: what a simulated search may read, and apart from it what it is judged by.

<folder>/rows/0007-0.npz       config 7 trained with the search's seed: point, curves, seconds, fresh scores
<folder>/closed/0007-0.npz     its test scores
<folder>/closed/0007-1000.npz  those of the same config trained with the judge's seed
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from raymeta.metric import Metric
from raymeta.problem import open_problem
from raymeta.storage.files import cache_folder
from raymeta.study.plan.param import Param, Point
from simulated.cube import Cube, Lookup
from simulated.problems import JUDGE_SEED, PROBLEMS, SEARCH_SEED, TableProblem


def default_folder() -> Path:
    """Where tables are kept: in the cache, outside of git."""
    return cache_folder() / "search_table"


def row_file(folder: Path, row: int, seed: int) -> Path:
    """The file of a row."""
    return folder / f"{row:04d}-{seed}.npz"


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; nothing in it is executed."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


TIMES = ("seconds", "validating")
"""Arrays of a row that are measured, and others at every recording."""


def checksum(folder: Path) -> str:
    """Sixteen hexadecimal digits of all that a problem's table says but times: whenever it is recorded, the same."""
    digest = sha256()
    for path in sorted(folder.glob("*/*.npz")):
        digest.update(f"{path.parent.name}/{path.name}".encode())
        for name, array in sorted((name, array) for name, array in read(path).items() if name not in TIMES):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Table:
    """What a simulated search may read of a problem's trainings: N configs, each validated at P points.

    Attributes:
        problem: what was recorded.
        points: of the search space, [N].
        steps: outer steps of the validations, [P].
        validation: scores [N, P, tasks], of the same tasks for all; not finite once a training has diverged.
        seconds: processor time of the outer steps up to each validation, [N, P].
        validating: of each validation, [N, P].
        fresh: scores of each training's best weights on fresh validation tasks, [N, tasks].
    """

    problem: TableProblem
    points: list[Point]
    steps: np.ndarray
    validation: np.ndarray
    seconds: np.ndarray
    validating: np.ndarray
    fresh: np.ndarray

    @cached_property
    def metric(self) -> Metric:
        """The problem's."""
        return open_problem(self.problem.plan.base.task).metric

    @cached_property
    def means(self) -> np.ndarray:
        """Validation scores, [N, P]."""
        return self.validation.mean(-1)

    def lookup(self, params: Mapping[str, Param]) -> Lookup:
        """Rows by points of a space."""
        return Lookup(Cube(params), self.points)

    @cached_property
    def times(self) -> np.ndarray:
        """Seconds of a trial up to each point, with its validations, [N, P]."""
        return self.seconds + self.validating.cumsum(1)

    @classmethod
    def load(cls, path: Path) -> "Table":
        """Read the rows of a problem's folder, or of a sample."""
        if path.is_dir():
            files = sorted((path / "rows").glob(f"*-{SEARCH_SEED}.npz"))
            rows = [read(file) for file in files]
            name, arrays = path.name, {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        else:
            arrays = read(path)
            name = str(arrays["name"])
        return cls(
            PROBLEMS[name],
            [json.loads(str(point)) for point in arrays["point"]],
            arrays["steps"][0],
            *(arrays[key].astype(np.float64) for key in ("validation", "seconds", "validating", "fresh")),
        )


@dataclass(frozen=True)
class Judge:
    """Test scores of the configs of a table, trained with a seed that no search has seen.

    Attributes:
        mean: of each config, [N]; NaN where it diverged or was not trained.
    """

    mean: np.ndarray

    @classmethod
    def load(cls, path: Path, seed: int = JUDGE_SEED) -> "Judge":
        """Read what belongs to the table at the same path."""
        if not path.is_dir():
            return cls(read(closed_beside(path))["mean"])
        rows = [file.name.split("-")[0] for file in sorted((path / "rows").glob(f"*-{SEARCH_SEED}.npz"))]
        files = [row_file(path / "closed", int(row), seed) for row in rows]
        return cls(np.array([read(file)["test"].mean(dtype=np.float64) if file.exists() else np.nan for file in files]))


def closed_beside(path: Path) -> Path:
    """The file with the test scores of a sample."""
    return path.with_name(f"{path.stem}-closed.npz")


def sample(folder: Path, rows: int, to: Path) -> None:
    """Write the first rows of a table as one file, and their test scores as one beside it."""
    files = sorted((folder / "rows").glob(f"*-{SEARCH_SEED}.npz"))[:rows]
    found = [{key: value for key, value in read(file).items() if key != "config"} for file in files]
    write(to, {"name": np.array(folder.name)} | {key: np.stack([row[key] for row in found]) for key in found[0]})
    write(closed_beside(to), {"mean": Judge.load(folder).mean[:rows]})
