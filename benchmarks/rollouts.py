"""Environment steps of half cheetahs per second of one core: raymeta's rollouts against Gymnasium's loops.

    uv run python benchmarks/rollouts.py

Processor time, of child processes too, so that a busy machine says the same. All take five steps of the simulator of
0.01 s each; an episode is of 100 steps. With a policy (2x64 tanh, float32) each way asks it as often as it must: a loop
once a step, the others once for all of their environments. Without one actions are random.
"""

import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from raymeta.models import Pass
from raymeta.problems.rl.gaussian import parts
from raymeta.problems.rl.locomotion import Cheetahs
from raymeta.problems.rl.policy import Policy, PolicyConfig
from raymeta.problems.rl.rollouts import rollouts

COUNT, HORIZON, REPEATS, ACTIONS = 20, 100, 5, 6  # trajectories of a task as the paper has them
Noise = np.ndarray[Any, np.dtype[np.float64]]


def processor_time() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def policy(observations: int) -> Callable[[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    model = Policy(PolicyConfig(), (observations,), ACTIONS, 1)
    weights = model.weights()

    def act(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(x, weights, Pass(False))

    return act


def chosen(act: Callable[[torch.Tensor], torch.Tensor] | None, seen: Any, noise: Noise) -> np.ndarray:
    """Actions in the motors' range, [-1, 1]."""
    if act is None:
        return noise.clip(-1, 1).astype(np.float32)
    mean, deviation = parts(act(torch.from_numpy(np.asarray(seen, dtype=np.float32))))
    drawn = mean + deviation.exp() * torch.from_numpy(noise.astype(np.float32))
    return (drawn / 10).clamp(-1, 1).numpy()


def ours(noise: Noise, with_policy: bool) -> None:
    starts, goals = np.random.default_rng(0).random((1, COUNT, 27)), np.ones((1, 1))
    bodies = Cheetahs(COUNT)
    if with_policy:
        rollouts(bodies, [policy(20)], goals, starts, noise.transpose(1, 0, 2)[None], torch.float32)
        return
    bodies.reset(np.ones((COUNT, 1)), starts[0])
    going = np.ones(COUNT, bool)
    for step in noise:
        bodies.step(10 * step, going)


def loop(noise: Noise, with_policy: bool) -> None:
    import gymnasium

    environment, act = gymnasium.make("HalfCheetah-v5"), policy(17) if with_policy else None
    for number in range(COUNT):
        seen, _ = environment.reset(seed=number)
        for step in noise[:, number]:
            seen, *_ = environment.step(chosen(act, seen, step))


def vector(mode: str) -> Callable[[Noise, bool], None]:
    def run(noise: Noise, with_policy: bool) -> None:
        import gymnasium

        environments = gymnasium.make_vec("HalfCheetah-v5", num_envs=COUNT, vectorization_mode=mode)
        act = policy(17) if with_policy else None
        seen, _ = environments.reset(seed=0)
        for step in noise:
            seen, *_ = environments.step(chosen(act, seen, step))
        environments.close()

    return run


def simulator(noise: Noise) -> None:
    """MuJoCo alone."""
    import mujoco

    bodies = Cheetahs(COUNT)
    bodies.reset(np.ones((COUNT, 1)), np.random.default_rng(0).random((COUNT, 27)))
    for step in noise:
        for data, action in zip(bodies.data, step, strict=True):
            data.ctrl[:] = action
            mujoco.mj_step(bodies.model, data, 5)


def rate(run: Callable[[], None]) -> float:
    times = []
    for _ in range(REPEATS + 1):
        start = processor_time()
        run()
        times.append(processor_time() - start)
    return COUNT * HORIZON / sorted(times[1:])[REPEATS // 2]  # the first one imports and compiles


def main() -> None:
    import mujoco

    torch.set_num_threads(1)
    mujoco.set_mju_user_warning(lambda text: None)  # MuJoCo 4 complains of a key in Gymnasium's model files
    noise = np.random.default_rng(0).standard_normal((HORIZON, COUNT, ACTIONS))
    ways = {"raymeta": ours, "gymnasium, a loop": loop, "sync vector": vector("sync"), "async vector": vector("async")}
    for with_policy in (True, False):
        rates = {name: rate(partial(run, noise, with_policy)) for name, run in ways.items()}
        print("with a policy" if with_policy else "without one")
        best = max(found for name, found in rates.items() if name != "raymeta")
        for name, found in rates.items():
            print(f"  {name:20s}{found:10,.0f} steps/s")
        print(f"  raymeta is {rates['raymeta'] / best:.2f} times the best of the others")
    print(f"MuJoCo alone            {rate(partial(simulator, noise)):8,.0f} steps/s")


if __name__ == "__main__":
    main()
