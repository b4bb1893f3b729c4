"""Which folder the final runs of a config are in.

    <studies>/finals/<name>-<task>-<hash>/config.yaml     the config without its seed, and the version that made it

The hash is of the whole config, so a folder of an older version, whose schema was another one, has another hash. It is
found by what is in it, and the same command goes on with it. A shortened run's config says so (`budget.scale`), so that
it never shares a folder with a whole one.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from raymeta.config import TrialConfig, parse_trial
from raymeta.config.migration import FIRST, VERSION
from raymeta.errors import UserError, suggest
from raymeta.finals.results import RESULT, FinalTable, Origin, read_result
from raymeta.problem import open_problem
from raymeta.storage import checkpoints
from raymeta.storage.files import dump_yaml, read_yaml, studies_folder, write_atomically
from raymeta.storage.places import AnyPath, any_path

FILE = "config.yaml"


def folder_of(name: str, config: TrialConfig) -> AnyPath:
    """Where the final runs of a config are, or will be.

    Args:
        name: what tables call the config.
        config: its seed does not matter.
    """
    label, wanted = name.replace(":", "-").replace("/", "-"), _seedless(config.as_dict())
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:8]
    finals = studies_folder() / "finals"
    task = config.task.name.replace(":", "-").replace(",", "+")
    own = finals / f"{label}-{task}-{digest}"
    if own.exists():
        return own
    named = sorted(folder for folder in finals.glob("*") if folder.name.startswith(f"{label}-"))
    return next((folder for folder in named if config_in(folder) == wanted), own)


def tested_run(run: "str | Path | AnyPath") -> FinalTable:
    """All tested seeds of a final run.

    Args:
        run: its folder, or its name.

    Raises:
        UserError: there is none.
    """
    at = any_path(run) if isinstance(run, str) else run
    finals = studies_folder() / "finals"
    for folder in (at, finals / at.name):
        results = [read_result(path.parent) for path in folder.glob(f"seed*/{RESULT}")]
        found = config_in(folder) if results else None
        if found is not None:
            config = parse_trial(found, str(folder))
            seeds = sorted(results, key=lambda result: result.seed)
            return FinalTable(folder.name, config, open_problem(config.task).metric, folder, seeds)
    names = {path.parent.parent.name for path in finals.glob(f"*/seed*/{RESULT}")}
    raise UserError(f"{run}: no final run that has been tested; {suggest(at.name, names)}")


def begin(folder: AnyPath, config: TrialConfig, origin: Origin | None = None) -> None:
    """Note in a folder what it is of, and the data it is tested on, unless that is noted."""
    if not (folder / FILE).exists():
        task = config.task.elsewhere or config.task
        about: dict[str, Any] = {"data": {"name": task.data, "fingerprint": open_problem(task).fingerprint}}
        _note(folder, config, VERSION, about | ({"preset": origin.as_dict()} if origin else {}))


def data_of(folder: AnyPath) -> str:
    """The fingerprint of the data that the runs in a folder are tested on; "": older versions noted none."""
    about = read_yaml(folder / FILE).get("provenance") if (folder / FILE).exists() else None
    data = about.get("data") if isinstance(about, dict) else None
    return str(data.get("fingerprint", "")) if isinstance(data, dict) else ""


def _note(folder: AnyPath, config: TrialConfig, written_by: str, about: Mapping[str, Any] | None = None) -> None:
    provenance = {"versions": {"raymeta": written_by}, **(about or {})}
    write_atomically(folder / FILE, dump_yaml({"provenance": provenance, **_seedless(config.as_dict())}))


def config_in(folder: AnyPath) -> dict[str, Any] | None:
    """The config that a folder is of; None: nothing in it tells. 0.1.0 left it in the checkpoints only, which are
    large: once read it is noted.
    """
    if (folder / FILE).exists():
        data = read_yaml(folder / FILE)
        data.pop("provenance", None)
        return _parsed(data)
    for data in _in_checkpoints(folder):
        if found := _parsed(data):
            _note(folder, parse_trial(found), FIRST)
            return found
    return None


def _in_checkpoints(folder: AnyPath) -> Iterator[dict[str, Any]]:
    for path in folder.glob("seed*/checkpoint.pt"):
        try:
            state = checkpoints.read(path, torch.device("cpu"))
        except UserError:
            continue  # a damaged one tells nothing; another seed's may
        if isinstance(state, dict) and isinstance(state.get("config"), dict):
            yield state["config"]


def _parsed(data: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return _seedless(parse_trial(data).as_dict())
    except UserError:
        return None


def _seedless(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "seed": 0}
