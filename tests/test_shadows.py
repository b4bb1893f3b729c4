"""Files of the current folder never stand in for what is installed; a plugin that is broken is a line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from foreign import found, install
from study.conftest import studies  # noqa: F401
from study.driving import COMMAND, TINY

from raymeta import installed, registry
from raymeta.errors import UserError
from raymeta.report.handbook import page

MINE = "raise SystemExit('this is a file of my own')\n"
SHADOWS = (
    "trainables.py", "pandas.py", "optuna.py", "typer.py", "yaml.py", "psutil.py", "torch/__init__.py",
    "mlflow/__init__.py", "search_spaces/__init__.py", "conv4.py", "maml.py",
)  # fmt: skip


@pytest.fixture
def shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that is full of them, first on the import path of every Python."""
    folder = tmp_path / "work"
    for name in SHADOWS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(MINE)
    (folder / "raymeta").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", ".")
    return folder


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_among_files_of_such_names_and_with_long_paths(
    shadowed: Path,
    studies: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = shadowed.parent / ("l" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    words = [*TINY, "study.trials=1", "study.finalists=0", "--slots", "1"]
    done = subprocess.run([str(COMMAND), "search", *words], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "1 completed of 1" in done.stdout
    assert "MLflow" not in done.stderr
    assert not list(long.glob("ray*"))


def test_what_is_asked_among_files_of_such_names(shadowed: Path) -> None:
    done = subprocess.run([str(COMMAND), "space", "maml"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "maml.inner_lr" in done.stdout


def test_the_current_folder_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for first in ("", str(tmp_path), "."):
        monkeypatch.setattr(sys, "path", [first, "/one", "/two"])
        assert installed.import_path() == ["/one", "/two", first]
        installed.current_folder_last()
        assert sys.path == ["/one", "/two", first]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "/one", str(tmp_path), "/two"]))
    environment = installed.child_environment()
    assert (environment["PYTHONPATH"], environment["PYTHONSAFEPATH"]) == ("/one:/two", "1")


BROKEN = {
    "exits": MINE,
    "imports": "import a_library_that_is_not_installed\n",
    "stumbles": "1 / 0\n",
    "unparsable": "def (:\n",
    "unregistered": "",
}


def test_a_broken_plugin_is_a_line_and_the_rest_works(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = {f"{name}.py": text for name, text in BROKEN.items()}
    points = {"methods": {name: name for name in [*BROKEN, "gone"]}}
    site = install(tmp_path / "site", "broken", points, files)
    installed.remark.cache_clear()
    with found(site):
        assert "maml" in registry.working("method")
        for name in BROKEN:
            with pytest.raises(UserError, match=name):
                registry.find("method", name)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(BROKEN) + 1
    assert all(any(name in line for line in lines) for name in [*BROKEN, "gone"])


METHOD = '''
from typing import ClassVar
from trainables.maml import MAML, MAMLConfig
from raymeta.registry import method
class MineConfig(MAMLConfig): ...
@method("{name}")
class Mine(MAML):
    """Mine. You: Mine (2026)."""
    Config = MineConfig
'''


def test_a_space_is_linked_where_it_lies(tmp_path: Path) -> None:
    files = {
        "abroad/__init__.py": "",
        "abroad/there.py": METHOD.format(name="there"),
        "abroad/there.yaml": "params: {}\n",
        "abroad/bare.py": METHOD.format(name="bare"),
    }
    site = install(tmp_path / "site", "abroad", {"methods": {"abroad": "abroad"}}, files)
    with found(site):
        assert f"searches its space, {site}/abroad/there.yaml." in page("there")
        assert "it has no space of its own" in page("bare")
    assert "[its space](../../search_spaces/maml.yaml)" in page("maml")
    assert "[its space](../../search_spaces/regularizers/dropgrad.yaml) with the learner's." in page("dropgrad")


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """The shell still stands in it."""
    (tmp_path / "gone").mkdir()
    script = f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && exec "$0" --version'
    done = subprocess.run(["sh", "-c", script, str(COMMAND)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_called_like_a_method_is_not_taken_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raymeta.api.finals import _is_method

    (tmp_path / "maml").mkdir()
    monkeypatch.chdir(tmp_path)
    assert _is_method("maml")
