"""Environment steps of half cheetahs per second of one core: raymeta's bodies side by side against Gymnasium's loops.

    uv run python benchmarks/rollouts.py

Random actions, no policy; processor time, of child processes too, so that a busy machine says the same. All take five
steps of the simulator of 0.01 s each; an episode is of 100 steps.
"""

import resource
import time
from collections.abc import Callable

import numpy as np

from raymeta.problems.rl.locomotion import Cheetahs

COUNT, HORIZON, REPEATS = 16, 100, 5


def processor_time() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ours(actions: np.ndarray) -> None:
    bodies, rng = Cheetahs(COUNT), np.random.default_rng(0)
    bodies.reset(np.ones((COUNT, 1)), rng.random((COUNT, 27)))
    going = np.ones(COUNT, bool)
    for step in actions:
        bodies.step(10 * step, going)


def loop(actions: np.ndarray) -> None:
    import gymnasium

    environment = gymnasium.make("HalfCheetah-v5")
    for number in range(COUNT):
        environment.reset(seed=number)
        for step in actions[:, number]:
            environment.step(step)


def vector(mode: str) -> Callable[[np.ndarray], None]:
    def run(actions: np.ndarray) -> None:
        import gymnasium

        environments = gymnasium.make_vec("HalfCheetah-v5", num_envs=COUNT, vectorization_mode=mode)
        environments.reset(seed=0)
        for step in actions:
            environments.step(step)
        environments.close()

    return run


def main() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (HORIZON, COUNT, 6)).astype(np.float32)
    rates = {}
    ways = {"raymeta": ours, "gymnasium, a loop": loop, "sync vector": vector("sync"), "async vector": vector("async")}
    for name, run in ways.items():
        times = []
        for _ in range(REPEATS + 1):
            start = processor_time()
            run(actions)
            times.append(processor_time() - start)
        rates[name] = COUNT * HORIZON / sorted(times[1:])[REPEATS // 2]  # the first one imports and compiles
    best = max(rate for name, rate in rates.items() if name != "raymeta")
    for name, rate in rates.items():
        print(f"{name:20s}{rate:10,.0f} steps/s")
    print(f"raymeta is {rates['raymeta'] / best:.2f} times the best of the others")


if __name__ == "__main__":
    main()
