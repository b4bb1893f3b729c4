"""Bodies of the simulator MuJoCo side by side: one model, the state of each of its own.

Todorov, Erez, Tassa: MuJoCo: A Physics Engine for Model-Based Control (IROS 2012). The model files are those that
Gymnasium brings; rewards and observations are computed here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raymeta.errors import UserError
from raymeta.problems.rl.advantages import Array

SUBSTEPS, DT = 5, 0.05  # of 0.01 s each
CLIP = 10.0  # policies' actions, which then fill the motors' range
SPREAD = 0.1  # of starts: positions uniform in +-, velocities normal with it


def refuse_without(task: str, *packages: str) -> None:
    """Say what the extra brings that is not there.

    Raises:
        UserError: one of them.
    """
    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"rl: the task {task} needs {package}; pip install 'raymeta[rl]'")


@cache
def model(file: str, mass: float | None) -> Any:
    """A compiled model of Gymnasium's files.

    Args:
        file: its name.
        mass: what all bodies weigh together, in kg, where the file says it by the key `settotalmass`, which MuJoCo 4
            complains of and does in this way.
    """
    import mujoco

    spec = find_spec("gymnasium")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "envs" / "mujoco" / "assets" / file).read_text(encoding="utf-8")
    found = mujoco.MjModel.from_xml_string(text.replace(f' settotalmass="{mass:g}"', "") if mass else text)
    if mass:
        mujoco.mj_setTotalmass(found, mass)
        mujoco.mj_setConst(found, mujoco.MjData(found))
    return found


class Bodies(ABC):
    """B bodies side by side; a subclass says what is seen and rewarded.

    A policy's action is clipped to +-10 and then fills the motors' range: 10 is full force.

    Args:
        count: B.
    """

    file: ClassVar[str]
    mass: ClassVar[float | None] = None

    def __init__(self, count: int) -> None:
        import mujoco

        self._clear: Callable[..., None] = mujoco.mj_resetData
        self._forward: Callable[..., None] = mujoco.mj_forward
        self._step: Callable[..., None] = mujoco.mj_step
        self._kinematics: Callable[..., None] = mujoco.mj_kinematics
        self._contacts: Callable[..., None] = mujoco.mj_rnePostConstraint
        self.model = model(self.file, self.mass)
        self.data = [mujoco.MjData(self.model) for _ in range(count)]
        # Views of the simulator's memory, as asking for them anew in every step takes a tenth of its time.
        self._controls = [data.ctrl for data in self.data]
        self._places = [data.qpos for data in self.data]
        self._views = [self.views(data) for data in self.data]
        self._start = self.data[0].qpos.copy()
        low, high = self.model.actuator_ctrlrange.T
        self._middle, self._half = (low + high) / 2, (high - low) / 2

    def reset(self, goals: Array, noise: Array) -> Array:
        """From the model's own pose, each somewhat off it: a uniform number for each place, two for each speed."""
        self.goals = goals[:, 0]
        places, speeds = self.model.nq, self.model.nv
        first, second = np.split(noise[:, places:], 2, 1)
        normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
        for number, data in enumerate(self.data):
            self._clear(self.model, data)
            data.qpos[:] = self._start + SPREAD * (2 * noise[number, :places] - 1)
            data.qvel[:] = SPREAD * normal[number, :speeds]
            self._forward(self.model, data)
            self.settle(data)
        return self.seen()

    def step(self, actions: Array, going: NDArray[np.bool_]) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Five steps of the simulator under the same forces."""
        forces = self._middle + self._half * actions.clip(-CLIP, CLIP) / CLIP
        before = self.forward()
        step, settle, compiled, controls = self._step, self.settle, self.model, self._controls
        for number in going.nonzero()[0].tolist():
            data = self.data[number]
            controls[number][:] = forces[number]
            step(compiled, data, SUBSTEPS)
            settle(data)
        seen = self.seen()
        speed = (self.forward() - before) / DT
        return seen, self.reward(seen, self.goals * speed, forces / self._half), self.ended(seen)

    def forward(self) -> Array:
        """Places of the torsos along x, [B]."""
        return np.array([places[0] for places in self._places])

    def settle(self, data: Any) -> None:
        """Compute from a state what is seen of it and is no part of it."""
        self._kinematics(self.model, data)

    @abstractmethod
    def views(self, data: Any) -> tuple[Array, ...]:
        """Views of what is seen of a body, which put together are an observation [D]."""

    def seen(self) -> Array:
        """Observations [B, D]."""
        return np.array([np.concatenate(views) for views in self._views])

    @abstractmethod
    def reward(self, seen: Array, speed: Array, forces: Array) -> Array:
        """Rewards [B]: of what is seen, speeds along the goals' directions, forces [B, A] in units of the motors'."""

    def ended(self, seen: Array) -> NDArray[np.bool_]:
        """Which episodes end with this step, [B]."""
        return np.zeros(len(seen), bool)

    def limbs(self, number: int) -> Array:
        """A body's capsules as seen from the side, [n, 5]: their ends' x and z, and their radius, in m."""
        data, spheres, capsules = self.data[number], *(self.model.geom_type == shape for shape in (2, 3))
        solid = spheres | capsules
        half = np.where(capsules, self.model.geom_size[:, 1], 0)[:, None] * data.geom_xmat[:, [2, 8]]
        middle, radius = data.geom_xpos[:, [0, 2]], self.model.geom_size[:, :1]
        return np.hstack([middle - half, middle + half, radius])[solid]

    @classmethod
    def start_numbers(cls, places: int, speeds: int) -> int:
        """Uniform numbers of a start: one for each place, two for each speed."""
        return places + 2 * speeds
