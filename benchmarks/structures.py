"""What it would bring to hand out proposals by structure, so that lanes are filled: a simulation.

    uv run python benchmarks/structures.py
    uv run python benchmarks/structures.py --specs l2f alfa --task omniglot-5w1s

Each row: structures among the first 32 random proposals of a shipped search, and how many times as many outer steps are
computed in the same time as when proposals are handed out as they come. `of N`: of N proposals that were drawn ahead
that is taken whose structure has most trials in flight. Each is taken in the end, N later on average and 4 N at most,
so that the same structures are tried. `best of 2`: of two proposals the other one is thrown away, which changes what is
tried: `share` is that of the 200 trials that the most frequent structure has, without it and with it.

Two fleets of 16 lanes, trials that go on three times as long with probability 1/3 (successive halving), random
proposals, times of a program as MAML's on sinusoids (docs/lanes.md, 2x40 units, 4 tasks, traced).
"""

import argparse
import random
from collections import Counter, deque
from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

import optuna

from raymeta.study.plan.plan import make_plan
from raymeta.training.lanes import lane_structure

LANES, TRIALS, LONGEST = 16, 200, 27
LATEST = 4  # times the length of the queue, before which a proposal is taken
STEP_MS = {0: 0.0, 8: 17.5, 16: 26.6}
SPECS = ("maml", "maml+dropgrad", "metasgd", "anil", "boil", "cavia", "maml+mr", "modgrad", "l2f", "alfa", "mamlpp")


class Search(NamedTuple):
    """Outer steps in a millisecond, and the share of trials that the most frequent structure had."""

    pace: float
    share: float


def structures(spec: str, task: str, count: int) -> list[int]:
    """The structures of random proposals, as numbers."""
    plan = make_plan(spec, task)
    proposals = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=plan.study.seed))
    known: dict[Any, int] = {}
    found = (lane_structure(plan.config(plan.space.sample(proposals.ask()))) for _ in range(count))
    return [known.setdefault(structure, len(known)) for structure in found]


def step_ms(trials: int) -> float:
    """Of an outer step of trials of one structure."""
    full, rest = divmod(trials, LANES)
    return full * STEP_MS[16] + STEP_MS[8 * -(-rest // 8)]


def search(drawn: Sequence[int], seed: int, ahead: int = 1, best_of: int = 1) -> Search:
    """A search of trials whose structures are drawn from these."""
    chance, tried = random.Random(seed), Counter[int]()
    queue = deque((chance.choice(drawn), 0) for _ in range(ahead))
    fleets: list[list[list[int]]] = [[], []]  # of trials: structure and rounds that are left
    clocks, steps = [0.0, 0.0], 0

    def proposal() -> int:
        flying = Counter(structure for fleet in fleets for structure, _ in fleet)
        if best_of > 1:
            return max((chance.choice(drawn) for _ in range(best_of)), key=lambda one: flying[one])
        places = range(len(queue)) if queue[0][1] < LATEST * ahead else [0]
        place = max(places, key=lambda one: flying[queue[one][0]])
        taken = queue[place][0]
        del queue[place]
        queue.append((chance.choice(drawn), 0))
        for place, (one, age) in enumerate(queue):
            queue[place] = (one, age + 1)
        return taken

    def fleet_for(structure: int) -> list[list[int]]:
        """As `Fleets.place`."""
        least = min(fleets, key=len)
        most = min(LANES, len(least) + LANES // 2)
        same = {place: sum(one == structure for one, _ in fleet) for place, fleet in enumerate(fleets)}
        room = [place for place, fleet in enumerate(fleets) if same[place] and len(fleet) < most]
        return fleets[max(room, key=lambda place: same[place])] if room else least

    while tried.total() < TRIALS or any(fleets):
        while tried.total() < TRIALS and sum(map(len, fleets)) < 2 * LANES:
            rounds = 1
            while rounds < LONGEST and chance.random() < 1 / 3:
                rounds *= 3
            structure = proposal()
            tried[structure] += 1
            fleet_for(structure).append([structure, rounds])
        now = min((place for place in (0, 1) if fleets[place]), key=lambda place: clocks[place])
        steps += len(fleets[now])
        clocks[now] += sum(step_ms(count) for count in Counter(one for one, _ in fleets[now]).values())
        fleets[now][:] = [[one, left - 1] for one, left in fleets[now] if left > 1]
        idle = 1 - now
        if not fleets[idle]:
            clocks[idle] = max(clocks)
    return Search(steps / max(clocks), max(tried.values()) / TRIALS)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specs", nargs="+", default=SPECS)
    parser.add_argument("--task", default="sinusoid-10s")
    parser.add_argument("--seeds", type=int, default=50)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| search | structures of 32 | of 8 | of 16 | best of 2 | share |\n| --- | --: | --: | --: | --: | --- |")
    for spec in options.specs:
        drawn = structures(spec, options.task, 400)

        def paced(drawn: Sequence[int] = drawn, **how: int) -> tuple[float, float]:
            found = [search(drawn, seed, **how) for seed in range(options.seeds)]
            return mean(one.pace for one in found), mean(one.share for one in found)

        plain, share = paced()
        eight, sixteen = (paced(ahead=ahead)[0] / plain for ahead in (8, 16))
        pace, changed = paced(best_of=2)
        print(
            f"| {spec} | {len(set(drawn[:32]))} | {eight:.2f}x | {sixteen:.2f}x | {pace / plain:.2f}x | "
            f"{share:.0%} → {changed:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
