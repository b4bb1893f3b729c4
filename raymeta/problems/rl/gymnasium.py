"""Any environment of Gymnasium whose goal can be set, as a problem: a subclass of `Goals` in a file of one's own.

@problem("halfcheetahvel")
class HalfCheetahVel(Goals):
Config = HalfCheetahVelTask
actions, observations = 6, 17

def make(self):
return gymnasium.make("HalfCheetah-v5")

def goals(self, uniform, numbers, split):
return 2 * uniform

def reward(self, goal, reward, information):
return -abs(information["x_velocity"] - goal[0]) + information["reward_ctrl"]
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raymeta.errors import Repeatable
from raymeta.problems.rl.advantages import Array
from raymeta.problems.rl.bodies import refuse_without
from raymeta.problems.rl.control import Control


class Goals(Control):
    """Environments of Gymnasium with a goal each; actions are clipped to their bounds."""

    start_numbers: ClassVar[int] = 1

    def __init__(self, task: Any) -> None:
        refuse_without(self.name, "gymnasium")
        super().__init__(task)

    @abstractmethod
    def make(self) -> Any:
        """An environment of Gymnasium, with bounded continuous actions."""

    def begin(self, environment: Any, goal: Array) -> None:
        """Set the goal of an environment that keeps it itself, before an episode."""

    def reward(self, goal: Array, reward: float, information: Mapping[str, Any]) -> float:
        """The reward of a step towards a goal [G], from the environment's own and its information."""
        return reward

    def environments(self, count: int) -> "Side":
        return Side(self, count)


class Side:
    """B environments of a problem side by side, one after the other."""

    def __init__(self, problem: Goals, count: int) -> None:
        self._problem = problem
        self._all = [self._tried(problem.make) for _ in range(count)]
        found = [self._all[0].observation_space.shape, self._all[0].action_space.shape]
        if found != (wanted := [(problem.observations,), (problem.actions,)]):
            raise Repeatable(
                f"{problem.name}: its environment has observations of shape {found[0]} and actions of "
                f"shape {found[1]}, "
                f"and its class says {wanted[0]} and {wanted[1]}"
            )

    def reset(self, goals: Array, noise: Array) -> Array:
        """Episodes with these goals, each from a seed of its own."""
        self._goals, seen = goals, []
        for environment, goal, (number,) in zip(self._all, goals, noise, strict=True):
            self._problem.begin(environment, goal)
            seen.append(self._tried(environment.reset, seed=int(number * 2**31))[0])
        self._seen = np.array(seen, dtype=np.float64)
        return self._seen.copy()

    def step(self, actions: Array, going: NDArray[np.bool_]) -> tuple[Array, Array, NDArray[np.bool_]]:
        """A step of each."""
        rewards, ended = np.zeros(len(actions)), np.zeros(len(actions), bool)
        for i in going.nonzero()[0]:
            space = self._all[i].action_space
            action = actions[i].clip(space.low, space.high).astype(space.dtype)
            self._seen[i], reward, over, cut, information = self._tried(self._all[i].step, action)
            rewards[i] = self._problem.reward(self._goals[i], float(reward), information)
            ended[i] = over or cut
        return self._seen.copy(), rewards, ended

    def _tried(self, act: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return act(*arguments, **named)
        except Exception as error:  # an environment may fail in any way
            what = " ".join(str(error).split())
            raise Repeatable(f"{self._problem.name}: its environment failed: {type(error).__name__}: {what}") from error
