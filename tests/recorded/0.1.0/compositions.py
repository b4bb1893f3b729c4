"""Every method and every regularizer: the config as 0.1.0 writes it, and what its checkpoint holds of the weights."""

import json
import sys
from pathlib import Path

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.trainer import Trainer

TASKS = {
    "glyphs": {"task": {"dataset": "glyphs", "ways": 3}, "model": {"name": "conv4", "width": 2}},
    "sinusoid": {"task": {"dataset": "sinusoid", "ways": 1}, "model": {"name": "mlp", "hidden": [4]}},
}
found = {}
for method in registry.names("method"):
    for regularizer in [None, *registry.names("regularizer")]:
        for task, sections in TASKS.items():
            if regularizer and method not in ("maml", "protonet"):
                continue
            try:
                added = {regularizer: {}} if regularizer else {}
                config = parse_trial({"method": method, "regularizers": added, **sections})
                trainer = Trainer(config)
            except UserError:
                continue
            found[f"{config.spec} {task}"] = {
                "config": config.as_dict(),
                "weights": {name: list(tensor.shape) for name, tensor in trainer.method.state_dict().items()},
                "optimizer": [[list(p.shape) for p in group["params"]] for group in trainer.optimizer.param_groups],
            }
Path(sys.argv[1]).write_text(json.dumps(found, indent=1))
