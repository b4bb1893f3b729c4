"""What the shell completes. Called at every press of the Tab key, so nothing heavy is imported here.

Keys and tasks are known to the methods' and the data sets' classes, which import torch. They are asked once, in a
process of its own, and the answer is kept in the cache until a module that it came from changes.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer

from raymeta import __version__, registry

PATIENCE_S = 30.0


def specs(incomplete: str) -> list[str]:
    """Methods, and behind a `+` regularizers."""
    before, plus, part = incomplete.rpartition("+")
    names = registry.names("regularizer") if plus else registry.names("method")
    return _starting(part, names, before + plus)


def choices(incomplete: str) -> list[str]:
    """Regularizers and none, behind a comma others."""
    before, comma, part = incomplete.rpartition(",")
    return _starting(part, [*registry.names("regularizer"), "none"], before + comma)


def entries(incomplete: str) -> list[str]:
    """Methods and regularizers."""
    return _starting(incomplete, [*registry.names("method"), *registry.names("regularizer")])


def datasets(incomplete: str) -> list[str]:
    """Data sets."""
    return _starting(incomplete, registry.names("dataset"))


def tasks(incomplete: str) -> list[str]:
    """Problems and data sets, and the task of each that is its default."""
    names = [*registry.names("problem"), *registry.names("dataset")]
    modules = [*_modules("problem").values(), *_modules("dataset").values()]
    return _starting(incomplete, dict.fromkeys([*names, *_known("tasks", modules)]))


def presets(incomplete: str) -> list[str]:
    """Shipped presets."""
    folder = files("search_spaces") / "presets"
    return _starting(incomplete, sorted(path.name[:-5] for path in folder.iterdir() if path.name.endswith(".yaml")))


def studies(incomplete: str) -> list[str]:
    """Studies of this folder; none of those on a store, which may be far away."""
    folder = _studies()
    return _starting(incomplete, sorted(path.parent.name for path in folder.glob("*/study.yaml")) if folder else [])


def runs(incomplete: str) -> list[str]:
    """Studies, and final runs."""
    folder = _studies()
    finals = sorted(path.name for path in folder.glob("finals/*") if path.is_dir()) if folder else []
    return [*studies(incomplete), *_starting(incomplete, finals)]


def trials(ctx: typer.Context, incomplete: str) -> list[str]:
    """Trials of the study that was named before."""
    # Of an option without its value the parser leaves what stands before in `args`.
    folder, study = _studies(), ctx.params.get("name") or next(iter(ctx.args), None)
    found = folder.glob(f"{study}/trials/*") if folder and study else []
    return _starting(incomplete, [str(int(path.name)) for path in sorted(found) if path.name.isdecimal()])


def keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys of the config of the method that was named before, and of `study`."""
    spec = ctx.params.get("spec")
    return [f"{key}=" for key in _keys_of([spec] if spec else [], incomplete)]


def configs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Methods, YAML files of this folder, and keys of the methods that were named before."""
    known = sorted(str(path) for path in Path().glob("*.y*ml"))
    before = [word for word in ctx.params.get("configs") or [] if "=" not in word and word.split(":")[0] not in known]
    return [*specs(incomplete), *_starting(incomplete, known), *(f"{k}=" for k in _keys_of(before, incomplete))]


def _keys_of(given: Iterable[str], incomplete: str) -> list[str]:
    found: dict[str, None] = {}
    for spec in given:
        method, *regularizers = (part.split(":")[0] for part in spec.split("+"))
        modules, others = _modules("method"), _modules("regularizer")
        if method in modules and all(name in others for name in regularizers):
            names = [modules[method], *(others[name] for name in regularizers)]
            found |= dict.fromkeys(_known("+".join([method, *regularizers]), names))
    return _starting(incomplete, list(found))


def _starting(part: str, names: Iterable[str], before: str = "") -> list[str]:
    return [f"{before}{name}" for name in names if name.startswith(part)]


def _studies() -> Path | None:
    from raymeta.storage.files import studies_folder

    folder: Any = studies_folder()
    return folder if isinstance(folder, Path) else None


def _modules(kind: registry.Kind) -> Mapping[str, str]:
    return registry._modules(kind)


def _known(what: str, modules: Iterable[str]) -> list[str]:
    """What `python -m raymeta.cli.completion` answers: from the cache, or asked."""
    from raymeta.storage.files import cache_folder, write_atomically

    origins = [spec.origin for name in sorted(modules) if (spec := importlib.util.find_spec(name)) and spec.origin]
    stamp = json.dumps([__version__, sys.prefix, what, [[path, Path(path).stat().st_mtime_ns] for path in origins]])
    path = cache_folder() / "completion" / f"{sha256(stamp.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError):
        return list(json.loads(path.read_text()))
    command = [sys.executable, "-P", "-m", "raymeta.cli.completion", what]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        found = list(json.loads(done.stdout))
        write_atomically(path, json.dumps(found))
        return found
    return []  # a broken module is told of by the commands, not by the Tab key


def _answer(what: str) -> Sequence[str]:
    """Names of tasks, or the keys of a composition: what takes torch to know."""
    if what == "tasks":
        from raymeta.problem import find_problem, parse_task, task_section

        names = [*registry.names("problem"), *registry.names("dataset")]
        return [task_section({**parse_task(name), **find_problem(name).task_defaults}).name for name in names]
    from raymeta.config import split_spec, trial_schema
    from raymeta.schema import keys_of
    from raymeta.study.plan.plan import StudyConfig

    return [*keys_of(trial_schema(*split_spec(what))), *(f"study.{key}" for key in keys_of(StudyConfig))]


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1])))  # noqa: T201
