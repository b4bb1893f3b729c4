"""What all problems of policies share: tasks are environments with goals, examples are trajectories.

A task is learned from trajectories of the learner's own policy: E of them before every inner step, made with the policy
of that moment, and E with the adapted policy, which are the query set. All that is random in them, goals, starts and
what actions are drawn with, is a function of (problem, split, seed, task), so that a task's trajectories are one of the
learner's weights alone. Nothing is normalised but the advantages.

Finn, Abbeel, Levine (ICML 2017), section 5.3; an inner step descends REINFORCE's loss, the outer step TRPO's surrogate.
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raymeta.config.sections import SEARCHED, TaskConfig
from raymeta.errors import Repeatable, UserError
from raymeta.inner import Player
from raymeta.metric import Metric, Score
from raymeta.problem import CHUNK, Bank, Examples, Problem, Split, Tasks
from raymeta.problems.rl.advantages import Array, advantages, baseline, normalised, weights
from raymeta.problems.rl.rollouts import Environments, Rollouts, rollouts
from raymeta.problems.rl.trajectories import Steps, mean_divergence, mean_return, policy_gradient, surrogate
from raymeta.problems.uniforms import Uniforms

if TYPE_CHECKING:
    from raymeta.learner import Learner

QUERY = "query"


class ControlTask(TaskConfig):
    """How much of an environment is seen, and how its rewards are credited."""

    trajectories: int = Field(20, ge=2, description="Of a task, before each inner step and after the last one.")
    horizon: int = Field(100, ge=2, description="Steps of a trajectory at most.")
    gamma: float = Field(
        0.99, ge=0, le=1, description="Discount of rewards; learn2learn: 0.95.", json_schema_extra=SEARCHED
    )
    gae_lambda: float = Field(
        1.0, ge=0, le=1, description="Of generalised advantages; 1: returns less the baseline.",
        json_schema_extra=SEARCHED,
    )  # fmt: skip

    def of_evaluation(self, test: bool) -> dict[str, Any]:
        """Undiscounted returns know nothing of credit."""
        return self.model_dump(exclude={"gamma", "gae_lambda"})


class Control(Problem):
    """A problem of policies; a subclass says what its environments are.

    Attributes:
        actions: A, numbers of an action.
        observations: D, numbers of an observation.
        goal_numbers: uniform numbers that a goal is made from.
        start_numbers: R, uniform numbers of an episode's own.
        plane: which two numbers of an observation are a place in the plane, if there is one.
        body: its environments are `Bodies`, which can be drawn.
        version: changed when a task of some number is no longer what it was.
    """

    Config: ClassVar[type[TaskConfig]] = ControlTask
    metric: ClassVar[Metric] = Metric("return", "max", digits=2)
    needs: ClassVar[frozenset[str]] = frozenset({"policy"})
    actions: ClassVar[int]
    observations: ClassVar[int]
    goal_numbers: ClassVar[int] = 1
    start_numbers: ClassVar[int] = 0
    plane: ClassVar[tuple[int, int] | None] = None
    body: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self.input_shape = (self.observations,)

    @abstractmethod
    def goals(self, uniform: Array, numbers: Sequence[int], split: Split) -> Array:
        """Goals [T, G] of tasks, from uniform numbers [T, goal_numbers] and their numbers in the bank."""

    @abstractmethod
    def environments(self, count: int) -> Environments:
        """So many environments side by side."""

    @property
    def outputs(self) -> int:
        return self.actions

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"policy"} | ({"plane"} if self.plane else set()) | ({"body"} if self.body else set()))

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """REINFORCE's, of trajectories; see `policy_gradient`."""
        return policy_gradient(outputs, y)

    def outer_loss(
        self, outputs: Tensor, y: Tensor, inner: Callable[[Tensor, Tensor], Tensor], clip: float | None = None
    ) -> Tensor:
        """TRPO's surrogate, with `clip` PPO's; see `surrogate`."""
        return surrogate(outputs, y, clip)

    def distance(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean KL divergence from the policy that the trajectories are of."""
        return mean_divergence(outputs, y)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean undiscounted return of the trajectories."""
        return mean_return(y, self.task.trajectories)

    def of_step(self, support: Examples, step: int) -> Examples:
        """Those that were made before that step, with the policy of then."""
        return Examples(support.x[step], support.y[step])

    def evaluate(
        self,
        learner: "Learner",
        bank: Bank,
        tasks: int,
        *,
        device: torch.device,
        vectorized: bool,
        members: Sequence[Mapping[str, Tensor]] = (),
        steps: int | None = None,
    ) -> Score:
        """Mean return of a task's trajectories after adaptation; the loss is minus it.

        An ensemble is a mixture: a member plays a whole task, and the score is the mean over members.
        """
        now = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
        before, after = [], []
        for member in members or [now]:
            learner.load_state_dict(member)
            drawn = [
                bank.draw(first, count, Player.in_evaluation(learner, first, count, steps))
                for first in range(0, tasks, CHUNK)
                for count in [min(CHUNK, tasks - first)]
            ]
            after.append(torch.cat([mean_return(one.query.y, self.task.trajectories) for one in drawn]).double().cpu())
            firsts = [one.support.y[:, 0] if one.support.y.shape[1] else one.query.y for one in drawn]
            before.append(torch.cat([mean_return(y, self.task.trajectories) for y in firsts]).double().cpu())
        learner.load_state_dict(now)
        values = torch.stack(after).mean(0)
        first = torch.stack(before).mean(0)
        return Score(values, -float(values.mean()), {"return_before": float(first.mean())}, first)

    def paths(self, examples: Examples) -> Tensor:
        """Where the trajectories of a task are in the plane at each step, [E, H, 2]; not a number after their ends."""
        assert self.plane is not None
        ended = (Steps.of(examples.y).weights == 0)[..., None]
        places = examples.x[:, list(self.plane)].masked_fill(ended, torch.nan)
        return places.view(self.task.trajectories, -1, 2)

    def inputs(self, given: Any) -> Tensor:
        raise UserError(f"{self.name}: a policy adapts to trajectories of its own, not to examples that are given")

    @property
    def fingerprint(self) -> str:
        return sha256(json.dumps([self.name, self.version]).encode()).hexdigest()

    def _bank(self, split: Split, seed: int) -> Bank:
        return Trajectories(self, split, seed)


class Trajectories:
    """Tasks of trajectories of S inner steps: support x [T, S, N, D] and y [T, S, N, .], query x [T, N, D] and y
    [T, N, .]; see `raymeta.problems.rl.trajectories`.
    """

    def __init__(self, problem: Control, split: Split, seed: int) -> None:
        self._problem, self._split, self._seed = problem, split, seed
        self._goals = self._uniforms("goals")

    def goals(self, first: int, count: int) -> Array:
        """Of tasks `first` .. `first + count - 1`, [T, G]."""
        problem = self._problem
        return problem.goals(
            self._goals.rows(first, count, problem.goal_numbers), range(first, first + count), self._split
        )

    def draw(self, first: int, count: int, player: Player | None = None) -> Tasks:
        """Tasks `first` .. `first + count - 1`, with trajectories of the player."""
        if player is None:
            raise RuntimeError(f"the trajectories of {self._problem.name} are made by a policy, and none is given")
        size = self._problem.task.trajectories * self._problem.task.horizon
        columns = self._problem.observations, 3 * self._problem.actions + 3
        x, y = (torch.zeros(count, 0, size, n, dtype=player.dtype, device=player.device) for n in columns)
        for step in range(player.steps):
            made = self._examples(first, player, player.adapted(Examples(x, y), step), step)
            x, y = (torch.cat([old, new[:, None]], 1) for old, new in zip((x, y), made, strict=True))
        return Tasks(Examples(x, y), self._examples(first, player, player.adapted(Examples(x, y), player.steps), QUERY))

    def played(self, first: int, player: Player, adapted: Sequence[Any], moment: int | str) -> Rollouts:
        """Trajectories of tasks under adapted states, at an inner step or as the query set."""
        task, problem, count, device = self._problem.task, self._problem, len(adapted), player.device
        starts, noise = self._chance(first, count, moment)

        def acting(state: Any) -> Callable[[Tensor], Tensor]:
            return lambda x: player.outputs(state, x.to(device)).cpu()

        environments = problem.environments(count * task.trajectories)
        policies = [acting(state) for state in adapted]
        found = rollouts(environments, policies, self.goals(first, count), starts, noise, player.dtype)
        if np.isfinite(found.actions).all() and not np.isfinite(found.rewards).all():
            raise Repeatable(f"{problem.name}: its environment gave a reward that is not finite")
        return found

    def replayed(self, number: int, made: Examples, moment: int | str) -> Iterator[Environments]:
        """The environments of a task as its trajectories of a moment began and after each of their steps."""
        problem, task = self._problem, self._problem.task
        steps = Steps.of(made.y)
        actions, valid = (part.double().cpu().numpy() for part in (steps.actions, steps.weights > 0))
        environments = problem.environments(task.trajectories)
        starts, _ = self._chance(number, 1, moment)
        environments.reset(np.repeat(self.goals(number, 1), task.trajectories, 0), starts[0])
        yield environments
        for now, going in zip(
            actions.reshape(task.trajectories, task.horizon, -1).swapaxes(0, 1),
            valid.reshape(task.trajectories, task.horizon).T.astype(bool),
            strict=True,
        ):
            environments.step(now, going)
            yield environments

    def _chance(self, first: int, count: int, moment: int | str) -> tuple[Array, Array]:
        """Uniform numbers of starts [T, E, R] and standard normal ones of actions [T, E, H, A]."""
        task, problem = self._problem.task, self._problem
        of_actions = task.horizon * problem.actions
        width = problem.start_numbers + of_actions + of_actions % 2
        table = self._uniforms("episodes", moment).rows(first, count, task.trajectories * width)
        starts, rest = np.split(table.reshape(count, task.trajectories, width), [problem.start_numbers], 2)
        noise = _normal(rest)[..., :of_actions].reshape(count, task.trajectories, task.horizon, problem.actions)
        return starts, noise

    def _examples(self, first: int, player: Player, adapted: Sequence[Any], moment: int | str) -> Examples:
        made = self.played(first, player, adapted, moment)
        count, size = len(adapted), made.rewards[0].size
        worth = np.stack([self._worth(*one) for one in zip(made.observations, made.rewards, made.valid, strict=True)])

        def tensor(values: Array, *shape: int) -> Tensor:
            return torch.from_numpy(values).reshape(count, size, *shape).to(player.device, player.dtype)

        x = tensor(made.observations, -1)
        old = torch.stack([player.outputs(state, own) for state, own in zip(adapted, x, strict=True)])
        of_steps = np.stack([weights(valid) for valid in made.valid])
        return Examples(
            x, Steps(tensor(made.actions, -1), old, tensor(worth), tensor(of_steps), tensor(made.rewards)).y
        )

    def _worth(self, observations: Array, rewards: Array, valid: Array) -> Array:
        """Normalised advantages of a task's trajectories, [E, H]."""
        task = self._problem.task
        if not np.isfinite(rewards).all():  # of a policy that has diverged
            return np.full_like(rewards, np.nan)
        values = baseline(observations, rewards, valid, task.gamma)
        return normalised(advantages(rewards, values, valid, task.gamma, task.gae_lambda), valid)

    def _uniforms(self, *what: object) -> Uniforms:
        return Uniforms(self._problem.name, self._problem.version, self._split, self._seed, *what)


def _normal(uniform: Array) -> Array:
    """Standard normal numbers [..., n] of as many uniform ones, n even (Box-Muller)."""
    first, second = np.split(uniform, 2, -1)
    radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], -1)
