"""Names to places: what is found, without importing the rest; methods from outside; what is refused."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymeta import registry
from raymeta.errors import UserError
from raymeta.hooks import Regularizer
from raymeta.learner import Learner
from raymeta.problems.images.dataset import ImageDataset

METHOD = """
from raymeta.learner import Learner
from raymeta.problems.images.dataset import ImageDataset
from raymeta.registry import method
@method({name!r})
class Mine(Learner): ...
"""

METHODS, REGULARIZERS, DATASETS = (", ".join(registry.names(kind)) for kind in ("method", "regularizer", "dataset"))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution whose package `elsewhere` is declared under `raymeta.methods`."""
    about = tmp_path / "elsewhere-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[raymeta.methods]\nelsewhere = elsewhere\nsingle = alone\ngone = gone\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").write_text("")
    (tmp_path / "elsewhere" / "_helper.py").write_text("raise RuntimeError")
    (tmp_path / "elsewhere" / "mine.py").write_text(METHOD.format(name="mine"))
    (tmp_path / "elsewhere" / "broken.py").write_text(METHOD.format(name="other"))
    (tmp_path / "alone.py").write_text(METHOD.format(name="single"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    registry._modules.cache_clear()
    yield tmp_path
    registry._modules.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] in ("elsewhere", "alone")]:
        del sys.modules[name]


def test_a_name_is_the_module_of_that_name() -> None:
    assert registry.find("method", "maml").__module__ == "trainables.maml"
    assert registry.find("regularizer", "dropgrad").__module__ == "trainables.regularizers.dropgrad"
    assert registry.find("dataset", "glyphs").__module__ == "raymeta.problems.images.datasets.glyphs"
    assert registry.find("problem", "sinusoid").__module__ == "raymeta.problems.sinusoid"
    assert all(issubclass(registry.find("dataset", name), ImageDataset) for name in registry.names("dataset"))
    for kind, base in (("method", Learner), ("regularizer", Regularizer)):
        for name in registry.names(kind):  # type: ignore[arg-type]
            found = registry.find(kind, name)  # type: ignore[arg-type]
            assert issubclass(found, base)
            assert (found.name, found.__module__.rsplit(".", 1)[-1]) == (name, name)


def test_names_are_known_without_importing_them() -> None:
    code = """
import sys
from raymeta import registry
assert "maml" in registry.names("method"), registry.names("method")
assert "dropgrad" in registry.names("regularizer")
assert registry.names("dataset") == [
    "cifarfs", "cub", "fc100", "folder", "glyphs", "miniimagenet", "omniglot", "tieredimagenet"
]
assert registry.names("problem") == ["images", "sinusoid"]
print([name for name in sys.modules if name in ("torch", "trainables.maml", "raymeta.problems.images.dataset")])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_method_from_outside_is_nothing_special(outside: Path) -> None:
    assert set(registry.names("method")) == {"broken", "mine", "single", *METHODS.split(", ")}
    assert "elsewhere.mine" not in sys.modules
    assert registry.find("method", "mine").__module__ == "elsewhere.mine"
    assert registry.find("method", "single").__module__ == "alone"
    assert registry.find("method", "maml").__module__ == "trainables.maml"


def test_a_module_that_registers_another_name_is_a_sentence(outside: Path) -> None:
    with pytest.raises(UserError) as caught:
        registry.find("method", "broken")
    assert str(caught.value) == "elsewhere.broken: registers no method 'broken'; a module and its class have one name"


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("method", "mmal", f"unknown method 'mmal': did you mean 'maml'? (allowed: {METHODS})"),
        (
            "regularizer",
            "dropgra",
            f"unknown regularizer 'dropgra': did you mean 'dropgrad'? (allowed: {REGULARIZERS})",
        ),
        ("problem", "sinusoids", "unknown problem 'sinusoids': did you mean 'sinusoid'? (allowed: images, sinusoid)"),
        ("dataset", "x", f"unknown data set 'x': allowed: {DATASETS}"),
    ],
)
def test_an_unknown_name_is_a_sentence(kind: registry.Kind, name: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.find(kind, name)
    assert str(caught.value) == sentence


def test_two_classes_of_one_name_are_refused_and_a_reloaded_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    registry.method("twice")(type("One", (), {}))
    with pytest.raises(ValueError, match="two classes are registered as method 'twice'"):
        registry.method("twice")(type("Two", (), {}))
    again = [registry.method("again")(type("Same", (), {})) for _ in range(2)]
    assert registry.find("method", "again") is again[1]
    registry.regularizer("again")(type("Other", (), {}))  # another kind, another name
