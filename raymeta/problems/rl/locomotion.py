"""Run forward or backward, as only the reward knows: HalfCheetah and Ant (Finn, Abbeel, Levine 2017, section 5.3).

Half cheetah:  reward d v - .05 |u|^2; it sees its places but x (8), speeds (9) and the torso's place (3).
Ant:  reward d v - .005 |u|^2 - .0005 |c|^2 + .05; it sees its places (15), speeds (14), contact forces in [-1, 1] (84),
the torso's rotation (9) and place (3). It ends unless all is finite and the torso's height within [.2, 1].

d is the task's direction, +1 or -1, v the torso's speed along x in m/s over a step of .05 s, u the forces in units of
the motors', c the contact forces. In training each direction is a coin's; validation and test take them in turn.
Nothing is normalised. Where MuJoCo's contact forces were not asked for, as in many published runs, c was 0.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.problem import Split
from raymeta.problems.rl.advantages import Array
from raymeta.problems.rl.bodies import Bodies, refuse_without
from raymeta.problems.rl.control import Control, ControlTask


class Cheetahs(Bodies):
    """See the module's docstring."""

    file: ClassVar[str] = "half_cheetah.xml"
    mass: ClassVar[float | None] = 14.0

    def views(self, data: Any) -> tuple[Array, ...]:
        return data.qpos[1:], data.qvel, data.xpos[1]

    def reward(self, seen: Array, speed: Array, forces: Array) -> Array:
        found: Array = speed - 0.05 * (forces**2).sum(1)
        return found


class Ants(Bodies):
    """See the module's docstring."""

    file: ClassVar[str] = "ant.xml"
    contacts: ClassVar[slice] = slice(29, 113)

    def settle(self, data: Any) -> None:
        self._contacts(self.model, data)
        super().settle(data)

    def views(self, data: Any) -> tuple[Array, ...]:
        return data.qpos, data.qvel, data.cfrc_ext.reshape(-1), data.xmat[1], data.xpos[1]

    def seen(self) -> Array:
        found = super().seen()
        found[:, self.contacts] = found[:, self.contacts].clip(-1, 1)
        return found

    def reward(self, seen: Array, speed: Array, forces: Array) -> Array:
        effort, contact = (forces**2).sum(1), (seen[:, self.contacts] ** 2).sum(1)
        found: Array = speed - 0.005 * effort - 0.0005 * contact + 0.05
        return found

    def ended(self, seen: Array) -> NDArray[np.bool_]:
        height = seen[:, 2]
        return ~(np.isfinite(seen).all(1) & (height >= 0.2) & (height <= 1.0))


class Direction(Control):
    """Forward or backward."""

    body: ClassVar[bool] = True
    bodies: ClassVar[type[Bodies]]

    def __init__(self, task: Any) -> None:
        refuse_without(self.name, "mujoco", "gymnasium")
        super().__init__(task)

    def goals(self, uniform: Array, numbers: Sequence[int], split: Split) -> Array:
        if split == "train":
            return np.where(uniform < 0.5, 1.0, -1.0)
        return np.array([[1.0 if number % 2 == 0 else -1.0] for number in numbers])

    def environments(self, count: int) -> Bodies:
        return self.bodies(count)


class HalfCheetahDirTask(ControlTask):
    """Half cheetahs."""

    problem: Literal["halfcheetah-dir"] = "halfcheetah-dir"


@registry.problem("halfcheetah-dir")
class HalfCheetahDir(Direction):
    """See the module's docstring."""

    Config: ClassVar[type[TaskConfig]] = HalfCheetahDirTask
    bodies: ClassVar[type[Bodies]] = Cheetahs
    actions: ClassVar[int] = 6
    observations: ClassVar[int] = 20
    start_numbers: ClassVar[int] = 27


class AntDirTask(ControlTask):
    """Ants."""

    problem: Literal["ant-dir"] = "ant-dir"


@registry.problem("ant-dir")
class AntDir(Direction):
    """See the module's docstring."""

    Config: ClassVar[type[TaskConfig]] = AntDirTask
    bodies: ClassVar[type[Bodies]] = Ants
    actions: ClassVar[int] = 8
    observations: ClassVar[int] = 125
    start_numbers: ClassVar[int] = 43
