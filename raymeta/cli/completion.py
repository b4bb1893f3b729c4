"""What the shell completes. Called at every press of the Tab key, so nothing heavy is imported here.

Keys and tasks are known to the methods' and the data sets' classes, which import torch. They are asked once, in a
process of its own, and the answer is kept in the cache until a module that it came from changes.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import typer

from raymeta import __version__, installed, registry

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
    return _starting(incomplete, dict.fromkeys([*names, *_known("tasks", _files("problem") + _files("dataset"))]))


def presets(incomplete: str) -> list[str]:
    """Presets, rows of tables, and YAML files of this folder."""
    return _starting(incomplete, [*registry.presets(), *_rows(), *_yaml_files()])


def trackers(incomplete: str) -> list[str]:
    """Trackers beside MLflow."""
    return _starting(incomplete, registry.names("tracker"))


def spaces(incomplete: str) -> list[str]:
    """YAML files of this folder, and none."""
    return _starting(incomplete, ["none", *_yaml_files()])


def studies(incomplete: str) -> list[str]:
    """Studies of this folder; none of those on a store, which may be far away."""
    from raymeta.study.record.folder import names_in

    folder = _studies()
    return _starting(incomplete, names_in(folder) if folder else [])


def runs(incomplete: str) -> list[str]:
    """Studies, and final runs."""
    return [*studies(incomplete), *finals(incomplete)]


def finals(incomplete: str) -> list[str]:
    """Final runs."""
    folder = _studies()
    return _starting(
        incomplete, sorted(path.name for path in folder.glob("finals/*") if path.is_dir()) if folder else []
    )


def analyses(incomplete: str) -> list[str]:
    """Analyses and all, behind a comma others."""
    before, comma, part = incomplete.rpartition(",")
    return _starting(part, ["all", *registry.names("analysis")], before + comma)


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
    known = _yaml_files()
    before = [word for word in ctx.params.get("configs") or [] if "=" not in word and word.split(":")[0] not in known]
    return [*specs(incomplete), *_starting(incomplete, known), *(f"{k}=" for k in _keys_of(before, incomplete))]


def methods_and_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Methods, and keys of those that were named before."""
    before = [word for word in ctx.params.get("methods") or [] if "=" not in word.split(":")[0]]
    return [*specs(incomplete), *(f"{key}=" for key in _keys_of(before, incomplete))]


def _rows() -> list[str]:
    """Names of the rows of all tables, as raymeta/study/plan/tables.py makes them."""
    from raymeta.storage.files import read_yaml

    found = []
    for table in registry.tables():
        with suppress(ValueError, LookupError, AttributeError, TypeError):  # commands tell of a broken table
            for method, entry in read_yaml(registry.table_file(table) or Path())["methods"].items():
                found += [f"{table}/{task}-{method}" for task in entry["published"]]
    return found


def _keys_of(given: Iterable[str], incomplete: str) -> list[str]:
    found: dict[str, None] = {}
    for spec in given:
        method, *regularizers = (part.split(":")[0] for part in spec.split("+"))
        if method in registry.names("method") and set(regularizers) <= set(registry.names("regularizer")):
            paths = (
                _files("method", [method])
                + _files("regularizer", regularizers)
                + _files("backbone")
                + _files("problem")
            )
            found |= dict.fromkeys(_known("+".join([method, *regularizers]), paths))
    return _starting(incomplete, list(found))


def _yaml_files() -> list[str]:
    return sorted(str(path) for path in Path().glob("*.y*ml"))


def _starting(part: str, names: Iterable[str], before: str = "") -> list[str]:
    return [f"{before}{name}" for name in names if name.startswith(part)]


def _studies() -> Path | None:
    from raymeta.storage.files import studies_folder

    folder: Any = studies_folder()
    return folder if isinstance(folder, Path) else None


def _files(kind: registry.Kind, names: Sequence[str] | None = None) -> list[Path]:
    """The modules of some names, by default of all of a kind."""
    known = installed.modules(f"raymeta.{kind}s")
    return [place.path for name in (known if names is None else names) for place in known.get(name, [])]


def _known(what: str, paths: Iterable[Path]) -> list[str]:
    """What `python -m raymeta.cli.completion` answers: from the cache, or asked."""
    from raymeta.storage.files import cache_folder, write_atomically

    times = [[str(path), path.stat().st_mtime_ns] for path in paths]
    stamp = json.dumps([__version__, sys.prefix, what, times])
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
    from raymeta.schema import fields
    from raymeta.study.plan.layers import StudyConfig

    method, regularizers = split_spec(what)
    found: dict[str, Any] = {}
    for problem in registry.working("problem"):  # the keys of every one
        found |= fields(trial_schema(method, regularizers, task=problem))
    for backbone in registry.working("backbone"):
        found |= fields(trial_schema(method, regularizers, model=backbone))
    for outer in registry.working("outer"):
        found |= fields(trial_schema(method, regularizers, outer=outer))
    return [*found, *(f"study.{key}" for key in fields(StudyConfig))]


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1])))  # noqa: T201
