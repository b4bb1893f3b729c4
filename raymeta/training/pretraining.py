"""Pre-training: a backbone first learns to tell all training classes apart, as MetaSGD* in DropGrad's paper does.

Plain classification with a linear head that is thrown away afterwards. It is done once for a data set, a backbone and
the settings of `pretraining`, and kept in the cache, where all trials of the machine find it:

    $RAYMETA_CACHE/pretrained-<hash>.pt

The file is rewritten whole after every epoch, so a killed run goes on from the last one. Only training classes are
read.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from raymeta.config import TrialConfig
from raymeta.config.migration import as_before
from raymeta.engine.labelled import Labelled
from raymeta.errors import UserError
from raymeta.learner import backbone
from raymeta.models import Backbone, Weights
from raymeta.models.passes import Pass
from raymeta.problem import Problem
from raymeta.storage import checkpoints
from raymeta.storage.files import cache_folder


def load_pretrained(model: Backbone, config: TrialConfig, problem: Problem, device: torch.device) -> None:
    """Give a learner's backbone, all but its head, the weights that pre-training ends with; train them if need be."""
    weights = pretrained(config, problem, device)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict({name: weights[name].expand_as(tensor) for name, tensor in own.items()}, strict=False)


def pretrained(
    config: TrialConfig, problem: Problem, device: torch.device, progress: Callable[[int, int], None] | None = None
) -> Weights:
    """The backbone's tensors by name after `pretraining.epochs` epochs, from the cache or trained now.

    Args:
        config: what of it matters are the sections `model` and `pretraining`, and `task.train_classes`.
        problem: whose training classes.
        device: where to train.
        progress: called with batches done and in all.

    Raises:
        UserError: the data have no classes, or the cache can't be written.
    """
    examples = problem.labelled()
    if examples is None:
        raise UserError(
            f"pretraining.epochs: found {config.pretraining.epochs}, but {problem.name} has no classes; allowed: 0"
        )
    if (
        getattr(config.model, "norm", None) == "per_step"
    ):  # there are no steps yet: every row then starts from the one learned here
        config = config.model_copy(update={"model": config.model.model_copy(update={"norm": "batch"})})
    path = _path(config, problem, examples)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            return _train(config, problem.input_shape, examples, device, path, progress or (lambda done, total: None))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error} (RAYMETA_CACHE moves it)") from error


def _path(config: TrialConfig, problem: Problem, examples: Labelled) -> Path:
    about = {
        **examples.about,
        "data": problem.fingerprint,
        "model": as_before(config.model.model_dump(mode="json")),
        "pretraining": config.pretraining.model_dump(mode="json"),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"pretrained-{digest}.pt"


def _train(
    config: TrialConfig,
    input_shape: tuple[int, ...],
    examples: Labelled,
    device: torch.device,
    path: Path,
    progress: Callable[[int, int], None],
) -> Weights:
    settings = config.pretraining
    state = checkpoints.read(path, device) if path.exists() else None
    if state is not None and state["epoch"] == settings.epochs:
        return dict(state["weights"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = backbone(config, input_shape, examples.classes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    done = 0
    if state is not None:
        done = state["epoch"]
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
    batches = examples.size // settings.batch_size or 1  # what is left over is another epoch's: its norm would be noisy
    for epoch in range(done, settings.epochs):
        order = np.random.Generator(np.random.Philox([settings.seed, epoch])).random(examples.size).argsort()
        for batch, chosen in enumerate(np.array_split(order[: batches * settings.batch_size], batches)):
            x, y = (part.to(device) for part in examples.take(chosen))
            loss = F.cross_entropy(_outputs(model, x), y)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            progress(epoch * batches + batch + 1, settings.epochs * batches)
        state = {"epoch": epoch + 1, "weights": model.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoints.write(path, state)
    return model.state_dict()


def _outputs(model: Backbone, x: Tensor) -> Tensor:
    outputs: Tensor = model(model.prepare(x), model.weights(), Pass())
    return outputs
