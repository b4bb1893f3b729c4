"""What every inner step does: final runs scored before the first and after each, on training and on test tasks.

A learner that has memorised its training tasks is good at them before it has seen their support sets, and no better
after; on test tasks it is lost, and inner steps don't help it much.
"""

import json

from raymeta.inner import Context
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath
from raymeta.training.trainer import Trainer


def write_scores(trainer: Trainer, path: AnyPath) -> None:
    """Score the best weights of a finished run by inner step, and write the scores to a file.

    Both kinds of tasks are as many as the config tests on; none of those of the training classes was trained on.
    """
    config, problem = trainer.config, trainer.problem
    assert trainer.best is not None
    banks = {
        "training": problem.untrained_bank(config.seed),
        "test": problem.bank("test", config.task.bank_seed, final=True),
    }
    steps = trainer.learner.steps(Context(training=False))  # type: ignore[operator]
    best = [trainer.best["weights"]]
    found = {
        name: [
            trainer.evaluate(bank, config.budget.test_tasks, best, step).values.tolist() for step in range(steps + 1)
        ]
        for name, bank in banks.items()
    }
    write_atomically(path, json.dumps(found))
