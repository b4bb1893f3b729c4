"""The best weights as a model of MLflow's: `mlflow.pyfunc.load_model(uri).predict(task)`.

What a few-shot learner takes is a whole task: labelled examples to learn it from, and new ones to say something of.

    support_x  [n, ...]  labelled examples: numbers float32, pictures uint8 [n, H, W, C] of any size
    support_y  [n]       their classes, int64; of a regression their values, float32 [n, D]
    query_x    [m, ...]  new examples
    predicted  [m, N]    float32: probabilities of the classes in ascending order; of a regression values [m, D]

The model holds the trial's checkpoint and names the module that reads it, `raymeta.api.pyfunc`; it holds no code.
`described` is for the process that has the problem, `keep` for the one that writes to MLflow and knows no torch.
"""

import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raymeta.storage.places import any_path, local_copy

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from raymeta.problem import Problem

LOADER = "raymeta.api.pyfunc"
NAME = "learner"
INPUTS = ("support_x", "support_y", "query_x")
OF = "raymeta.model_of"  # tag of the run that has a model: which weights they are


@dataclass(frozen=True)
class FewShotModel:
    """A trained learner, as plain data.

    Attributes:
        checkpoint: its file.
        of: which weights they are, in words; equal words, equal weights.
        forms: type and shape of each input, -1 being any number; of the output too.
        example: a small task; None: its data are not on this machine.
        params: what is to be seen of its config.
    """

    checkpoint: str
    of: str
    forms: dict[str, tuple[str, tuple[int, ...]]]
    example: dict[str, NDArray[Any]] | None = None
    params: dict[str, str] = field(default_factory=dict)


def described(problem: "Problem", checkpoint: str, of: str, params: dict[str, Any]) -> FewShotModel | None:
    """The model of a checkpoint that was trained on a problem. Its example is of the first validation task.

    None: a policy, which adapts to trajectories of its own and not to a task that is given.
    """
    import torch

    if "policy" in problem.offers:
        return None
    x = problem.given(torch.zeros(1, *problem.input_shape))
    shape = (-1, -1, -1, x.shape[-1]) if "images" in problem.offers else (-1, *x.shape[1:])
    wide, y = (-1, problem.outputs), ("int64", (-1,))
    forms = {
        "support_x": (str(x.dtype), shape),
        "support_y": y if problem.labels else ("float32", wide),
        "query_x": (str(x.dtype), shape),
        "predicted": ("float32", (-1, -1) if problem.labels else wide),
    }
    example = _example(problem) if problem.ready else None
    return FewShotModel(checkpoint, of, forms, example, {key: str(value) for key, value in params.items()})


def _example(problem: "Problem") -> dict[str, NDArray[Any]]:
    """A task as a user would give it, of a class one example each: pictures are many numbers."""
    task = problem.bank("validation", problem.task.bank_seed).draw(0, 1).task(0)
    found: dict[str, NDArray[Any]] = {}
    for name, part in zip(("support", "query"), task, strict=True):
        y = part.y.numpy()
        rows = np.unique(y, return_index=True)[1] if problem.labels else np.arange(len(y))
        found |= {f"{name}_x": problem.given(part.x[rows]), f"{name}_y": y[rows]}
    return {name: found[name] for name in INPUTS}


def keep(client: "MlflowClient", experiment: str, run: str, model: FewShotModel) -> str:
    """Keep a model with a run, in the place of the one that it has; returns its id.

    Raises:
        Exception: whatever the server, its absence or the file system raises; the run keeps the model that it has.
    """
    from mlflow.entities import LoggedModelOutput

    made = client.create_logged_model(experiment, NAME, run, params=model.params, model_type="few-shot learner")
    with TemporaryDirectory(prefix="raymeta-model-") as folder, local_copy(any_path(model.checkpoint)) as checkpoint:
        where = str(Path(folder) / NAME)
        _write(where, str(checkpoint), model, made.model_id, run)
        client.log_model_artifacts(made.model_id, where)
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(made.model_id, step=0)])
    client.set_tag(run, OF, model.of)
    client.set_tag(run, "raymeta.model", f"models:/{made.model_id}")
    forget(client, experiment, run, but=made.model_id)
    return str(made.model_id)


def forget(client: "MlflowClient", experiment: str, run: str, *, but: str = "") -> None:
    """Delete the models of a run, but one."""
    for old in client.search_logged_models([experiment], f"source_run_id = '{run}'"):
        if old.model_id != but:
            client.delete_logged_model(old.model_id)


def _write(where: str, checkpoint: str, model: FewShotModel, number: str, run: str) -> None:
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # it would take the lock file of a project that stands here
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensors(*names: str) -> Schema:
        forms = [(name, *model.forms[name]) for name in names]
        return Schema([TensorSpec(np.dtype(kind), shape, name) for name, kind, shape in forms])

    pyfunc.save_model(
        where,
        loader_module=LOADER,
        data_path=checkpoint,
        # No folder of this machine: the studies may be moved.
        mlflow_model=Model(artifact_path=f"models:/{number}", model_uuid=number, run_id=run, model_id=number),
        signature=ModelSignature(tensors(*INPUTS), tensors("predicted")),
        input_example=model.example,
        pip_requirements=[f"raymeta=={version('raymeta')}"],
    )
