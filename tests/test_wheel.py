"""What is released: the wheel and the source archive, what is in them, and that they do what the README says."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from study.driving import parse

ROOT = Path(__file__).parent.parent
PACKAGES = ("raymeta", "trainables", "search_spaces")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {  # of folders
    "testing": ["testing"], "comparison": ["statistics"], "copies": ["tensorboard", "wandb"], "rl": ["rl"],
}  # fmt: skip
OWN = f"{PROJECT['name']}-{PROJECT['version']}"


def run(*words: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command prints; it must not fail."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(source: Path, out: Path, kind: str) -> Path:
    """The one file that `uv build` makes of a source tree or archive."""
    run("uv", "build", "--quiet", f"--{kind}", "--python", sys.executable, "--out-dir", out, source)
    (made,) = (path for path in out.iterdir() if path.suffix in (".whl", ".gz"))
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (
            path
            for path in (ROOT / package).rglob("*")
            if path.suffix in (".py", ".yaml", ".typed", ".html", ".css", ".h", ".cpp")
        )


def test_the_wheel_has_every_module_and_space_and_nothing_else(wheel: Path) -> None:
    found = contents(wheel)
    about = {
        f"{OWN}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    expected = {path.relative_to(ROOT).as_posix() for path in sources()}
    assert set(found) == expected | about
    assert {"raymeta/py.typed", "trainables/py.typed", "search_spaces/presets/glyphs.yaml"} <= set(found)
    assert all(found[name] == (ROOT / name).read_bytes() for name in expected)
    assert found[f"{OWN}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def metadata(wheel: Path) -> Message:
    return message_from_bytes(contents(wheel)[f"{OWN}.dist-info/METADATA"])


def test_the_wheel_says_what_the_project_says(wheel: Path) -> None:
    about = metadata(wheel)
    assert (about["Version"], about["License-Expression"]) == (PROJECT["version"], "Apache-2.0")
    assert about["Version"] == version("raymeta")
    assert set(about.get_all("Provides-Extra", [])) >= {"cluster", "testing"}
    assert f"\n## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_entry_points_lead_into_the_wheel(wheel: Path) -> None:
    found = contents(wheel)
    lines = found[f"{OWN}.dist-info/entry_points.txt"].decode().splitlines()
    targets = [line.split("=")[1].strip().split(":")[0] for line in lines if "=" in line]
    assert {"raymeta.__main__", "trainables", "trainables.regularizers"} <= set(targets)
    for target in targets:
        path = target.replace(".", "/")
        assert f"{path}.py" in found or any(name.startswith(f"{path}/") for name in found), target


def test_what_is_imported_is_required(wheel: Path) -> None:
    """By the wheel; what its extras bring only where that extra is for."""
    requirements = [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist", [])]
    plain = {one.name.lower() for one in requirements if one.marker is None}
    extras = {
        folder: {
            one.name.lower()
            for one in requirements
            if one.marker and any(one.marker.evaluate({"extra": extra}) for extra in named)
        }
        for folder, named in EXTRAS.items()
    }
    distributions = packages_distributions()
    known = {*sys.stdlib_module_names, *PACKAGES}
    for path in sources():
        if path.suffix != ".py":
            continue
        allowed = plain.union(*(extras[folder] for folder in extras if folder in path.parts))
        for name in imported(path) - known:
            assert {re.sub("[-_.]+", "-", one).lower() for one in distributions.get(name, [name])} & allowed, (
                path,
                name,
            )


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_source_archive_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build(ROOT, tmp_path / "archive", "sdist")
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    assert {f"{OWN}/{name}" for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".lock"))]
    assert contents(build(archive, tmp_path / "wheel", "wheel")) == contents(wheel)


USER = """
from raymeta.config import parse_trial
from trainables.maml import MAML

config = parse_trial({"method": "maml"})
reveal_type(config.seed)
reveal_type(MAML)
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_in_an_empty_environment_the_wheel_does_what_the_readme_says(wheel: Path, tmp_path: Path) -> None:
    run("uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "env")
    commands = tmp_path / "env" / ("Scripts" if sysconfig.get_platform().startswith("win") else "bin")
    python = commands / "python"
    run("uv", "pip", "install", "--quiet", "--python", python, f"{wheel}[testing]")
    assert "hypothesis" not in run("uv", "pip", "list", "--python", python)  # what only this repository's tests need

    (tmp_path / "home").mkdir()
    places = {"RAYMETA_STUDIES": str(tmp_path / "studies"), "RAYMETA_CACHE": str(tmp_path / "cache")}
    done = parse(run(commands / "raymeta", "search", "maml+dropgrad", "--json", cwd=tmp_path / "home", **places))
    assert sum(done["trials"].values()) == 18
    assert done["trials"]["completed"] >= 1
    assert done["best"]["val_accuracy"] > 0.8  # of characters of scripts that it never saw; chance is 0.2
    assert done["finalists"]["best"] == done["best"]["trial"]

    (tmp_path / "home" / "test_mine.py").write_text(
        "from raymeta.testing import conformance\n\ntest_mine = conformance('protonet')\n"
    )
    assert " passed" in run(python, "-m", "pytest", "-q", cwd=tmp_path / "home", **places)

    (tmp_path / "home" / "mine.py").write_text(USER)
    shown = run(
        sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "mine.py", cwd=tmp_path / "home"
    )
    assert 'Revealed type is "int"' in shown
    assert "MAML" in shown
