"""Half cheetahs that run at a speed which only the reward knows (Finn, Abbeel, Levine 2017, section 5.3).

    reward - |v - g| - .1 u^2,  g ~ U[0, 2] m/s

A problem of one's own from an environment of Gymnasium. As a module of a package with an entry point

    [project.entry-points."raymeta.problems"]
    halfcheetahvel = "halfcheetahvel"

it is `raymeta search maml+dropgrad --task halfcheetahvel model.name=policy outer.optimizer=trpo`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium

from raymeta.config import TaskConfig
from raymeta.problem import Split
from raymeta.problems.rl.advantages import Array
from raymeta.problems.rl.control import ControlTask
from raymeta.problems.rl.gymnasium import Goals
from raymeta.registry import problem


class HalfCheetahVelTask(ControlTask):
    """Half cheetahs."""

    problem: Literal["halfcheetahvel"] = "halfcheetahvel"


@problem("halfcheetahvel")
class HalfCheetahVel(Goals):
    """See the module's docstring."""

    Config: ClassVar[type[TaskConfig]] = HalfCheetahVelTask
    actions: ClassVar[int] = 6
    observations: ClassVar[int] = 17

    def make(self) -> Any:
        return gymnasium.make("HalfCheetah-v5")

    def goals(self, uniform: Array, numbers: Sequence[int], split: Split) -> Array:
        return 2 * uniform

    def reward(self, goal: Array, reward: float, information: Mapping[str, Any]) -> float:
        return float(-abs(information["x_velocity"] - goal[0]) + information["reward_ctrl"])
