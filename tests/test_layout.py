"""What the house's plan promises of the code's places and imports, checked where it can be: in fresh processes."""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from raymeta import registry

ROOT = Path(__file__).parent.parent
HEAVY = ["ray", "optuna", "mlflow"]
CORE = [
    "raymeta", "raymeta.errors", "raymeta.storage.places", "raymeta.storage.files", "raymeta.storage.checkpoints",
    "raymeta.schema", "raymeta.registry", "raymeta.config.trial", "raymeta.models.norm", "raymeta.inner",
    "raymeta.learner.base", "raymeta.metric", "raymeta.problem", "raymeta.engine.noise", "raymeta.training.pretraining",
    "raymeta.training.trainer",
]  # fmt: skip
FOLDERS = [f"raymeta/{name}" for name in ("config", "engine", "models", "problems", "training")]


def modules(*folders: str) -> list[str]:
    """Dotted names of all modules below folders of the repository."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in paths]
    return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(found) > 3
    return found


def python(code: str) -> str:
    """What code prints in a fresh process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_methods_and_the_core_import_neither_ray_nor_optuna_nor_mlflow() -> None:
    names = [*CORE, *modules(*FOLDERS), *modules("trainables")]
    registered = [*registry.names("method"), *registry.names("regularizer")]
    assert len(registered) >= 2
    assert {name.rsplit(".", 1)[-1] for name in names} >= set(registered)
    code = f"""
import importlib, json, sys
found = {{}}
for name in {names}:
    importlib.import_module(name)
    found[name] = [heavy for heavy in {HEAVY} if heavy in sys.modules]
print(json.dumps(found))"""
    assert json.loads(python(code)) == {name: [] for name in names}


@pytest.mark.parametrize("name", ["raymeta", "raymeta.registry", "raymeta.schema", "raymeta.cli"])
def test_what_the_command_line_needs_first_imports_no_torch(name: str) -> None:
    heavy = ["torch", "numpy", *HEAVY]
    assert python(f"import {name}, sys; print([h for h in {heavy} if h in sys.modules])") == "[]\n"


def test_help_imports_no_torch() -> None:
    code = f"""
import contextlib, io, sys
from raymeta.cli import main
sys.argv = ["raymeta", "--help"]
said = io.StringIO()
with contextlib.redirect_stdout(said):
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
assert "search" in said.getvalue(), said.getvalue()
print([heavy for heavy in {["torch", *HEAVY]} if heavy in sys.modules])"""
    assert python(code) == "[]\n"


def test_importing_the_trainable_makes_every_method_known_to_tune_and_importing_raymeta_changes_nothing() -> None:
    code = """
import sys
before = list(sys.meta_path)
import raymeta
unchanged = sys.meta_path == before
from ray.tune.registry import _global_registry
print(unchanged, _global_registry.contains("trainable_class", "raymeta/maml"))
import raymeta.trainable
from raymeta import registry
print(all(_global_registry.contains("trainable_class", f"raymeta/{name}") for name in registry.names("method")))"""
    assert python(code) == "True False\nTrue\n"


def test_no_import_changes_the_environment() -> None:
    """What Ray and its workers find is set when they are started, not for whoever imports something."""
    names = [*modules("raymeta"), *modules("trainables")]
    assert "raymeta.study.run.tuning" in names
    code = f"""
import importlib, os
import matplotlib, mlflow, optuna, ray.tune, torch  # what they do is theirs
before = dict(os.environ)
for name in {names}:
    importlib.import_module(name)
print({{key: value for key, value in os.environ.items() if before.get(key) != value}})"""
    assert python(code) == "{}\n"


def test_no_folder_has_more_than_twelve_files() -> None:
    counts = Counter(path.parent for path in sources("raymeta", "trainables") if path.name != "__init__.py")
    flat = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if folder.name != "trainables"}
    assert max(flat.values()) <= 12, flat


@pytest.mark.parametrize(("kind", "below"), [("method", ""), ("regularizer", "regularizers/")])
def test_code_search_space_and_test_of_a_name_are_where_it_says(kind: registry.Kind, below: str) -> None:
    names = set(registry.names(kind))
    assert names

    def stems(pattern: str) -> set[str]:
        return {path.stem.removeprefix("test_") for path in ROOT.glob(pattern) if not path.name.startswith("_")}

    assert stems(f"trainables/{below}*.py") == names
    assert stems(f"search_spaces/{below}*.yaml") == names
    assert stems(f"tests/trainables/{below}test_*.py") == names


def test_no_file_is_over_400_lines() -> None:
    long = {path.name: count for path in sources("raymeta", "trainables") if (count := _lines(path)) > 400}
    assert not long


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_raymeta_never_names_trainables() -> None:
    """Neither in an import statement nor in a string that could be imported."""
    for path in sources("raymeta"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                named = [node.module or ""]
            elif isinstance(node, ast.Call):
                constants = [argument for argument in node.args if isinstance(argument, ast.Constant)]
                named = [str(constant.value) for constant in constants]
            else:
                continue
            assert not [name for name in named if name.split(".")[0] == "trainables"], path


@pytest.mark.parametrize("name", [*CORE[2:], "raymeta.models.conv4", "raymeta.models.mlp"])
def test_the_tests_of_a_module_are_where_it_is(name: str) -> None:
    *folders, module = name.split(".")[1:]
    assert (ROOT / "raymeta" / Path(*folders) / f"{module}.py").exists()
    assert (ROOT / "tests" / Path(*folders) / f"test_{module}.py").exists()
