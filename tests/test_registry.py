"""Names to places: what is found, without importing the rest; what comes from outside; what is refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from foreign import found, free, install

from raymeta import registry
from raymeta.errors import UserError
from raymeta.hooks import Regularizer
from raymeta.learner import Learner
from raymeta.models import Backbone
from raymeta.problem import Problem

METHOD = """
from raymeta.learner import Learner
from raymeta.problems.images.dataset import ImageDataset
from raymeta.registry import method
@method({name!r})
class Mine(Learner): ...
"""
ROOT = Path(__file__).parent.parent
METHODS, REGULARIZERS, DATASETS = (", ".join(registry.names(kind)) for kind in ("method", "regularizer", "dataset"))
EMPTY = "params: {}\n"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """An installed distribution whose package `elsewhere` is declared under `raymeta.methods`."""
    files = {
        "elsewhere/__init__.py": "",
        "elsewhere/_helper.py": "raise RuntimeError",
        "elsewhere/mine.py": METHOD.format(name="mine"),
        "elsewhere/mine.yaml": EMPTY,
        "elsewhere/misnamed.py": METHOD.format(name="other"),
        "elsewhere/broken.py": "import no_such_module",
        "alone.py": METHOD.format(name="single"),
        "single.yaml": EMPTY,
        "theirs/shared.yaml": EMPTY,
        "theirs/regularizers/shared.yaml": EMPTY,
        "theirs/presets/tiny.yaml": "budget: {outer_steps: 18}",
    }
    points = {
        "methods": {"elsewhere": "elsewhere", "single": "alone"},
        "spaces": {"theirs": "theirs"},
        "presets": {"theirs": "theirs.presets"},
    }
    with found(install(tmp_path / "site", "elsewhere", points, files)):
        yield tmp_path / "site"


def test_a_name_is_the_module_of_that_name() -> None:
    assert registry.find("method", "maml").__module__ == "trainables.maml"
    assert registry.find("regularizer", "dropgrad").__module__ == "trainables.regularizers.dropgrad"
    assert registry.find("dataset", "glyphs").__module__ == "raymeta.problems.images.datasets.glyphs"
    assert registry.find("problem", "sinusoid").__module__ == "raymeta.problems.sinusoid"
    assert registry.find("backbone", "resnet12").__module__ == "raymeta.models.resnet"
    assert all(issubclass(registry.find("dataset", name), Problem) for name in registry.names("dataset"))
    for kind, base in (("method", Learner), ("regularizer", Regularizer), ("backbone", Backbone)):
        for name in registry.names(kind):  # type: ignore[arg-type]
            cls = registry.find(kind, name)  # type: ignore[arg-type]
            assert issubclass(cls, base)
            assert cls.name == name
            assert kind == "backbone" or cls.__module__.rsplit(".", 1)[-1] == name


def test_names_are_known_without_importing_them() -> None:
    code = """
import sys
from raymeta import registry
assert "maml" in registry.names("method"), registry.names("method")
assert "dropgrad" in registry.names("regularizer")
assert registry.names("backbone") == ["conv4", "crest", "mlp", "policy", "resnet10", "resnet12", "resnet18", "sdnet"]
assert registry.names("dataset") == [
    "cifarfs", "cub", "fc100", "folder", "glyphs", "miniimagenet", "objectnet3d", "omniglot", "pascal3d", "sequences",
    "shapes3d", "sprites", "tieredimagenet", "views",
]
assert registry.names("problem") == [
    "ant-dir", "crest", "halfcheetah-dir", "images", "metadataset", "navigation2d", "sinusoid", "tracking", "viewpoint"
]
assert registry.space_file("method", "maml").name == "maml.yaml"
assert "omniglot" in registry.presets()
print([name for name in sys.modules if name.split(".")[0] in ("torch", "trainables", "search_spaces", "pydantic")])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("kind", get_args(registry.Kind))
def test_every_kind_has_its_decorator(kind: registry.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, kind, "quite_new")
    made = getattr(registry, kind)("quite_new")(type("Made", (), {}))
    assert registry.find(kind, "quite_new") is made
    assert made.name == "quite_new"
    assert "quite_new" in registry.names(kind)


# From outside


def test_a_method_from_outside_is_nothing_special(outside: Path) -> None:
    assert set(registry.names("method")) == {"broken", "mine", "misnamed", "single", *METHODS.split(", ")}
    assert "elsewhere.mine" not in sys.modules
    assert registry.find("method", "mine").__module__ == "elsewhere.mine"
    assert registry.find("method", "single").__module__ == "alone"
    assert registry.find("method", "maml").__module__ == "trainables.maml"


def test_its_space_lies_beside_it_or_in_a_folder_of_spaces(outside: Path) -> None:
    assert registry.space_file("method", "mine") == outside / "elsewhere/mine.yaml"
    assert registry.space_file("method", "single") == outside / "single.yaml"
    assert registry.space_file("method", "shared") == outside / "theirs/shared.yaml"
    assert registry.space_file("regularizer", "shared") == outside / "theirs/regularizers/shared.yaml"
    assert registry.space_file("method", "broken") is None
    assert registry.space_file("method", "maml") == ROOT / "search_spaces/maml.yaml"
    assert registry.shared_space("_common", outside / "elsewhere/mine.yaml") == ROOT / "search_spaces/_common.yaml"
    assert registry.shared_space("single", outside / "x.yaml") == outside / "single.yaml"


def test_presets_lie_in_folders_of_presets_or_beside_a_data_set(tmp_path: Path, outside: Path) -> None:
    files = {"photos.py": "", "photos.yaml": EMPTY, "readers.py": "", "drawings.yaml": EMPTY}
    points = {"datasets": {"photos": "photos", "drawings": "readers", "unset": "readers"}}
    with found(outside, install(tmp_path / "more", "photos", points, files)):
        assert registry.preset_file("tiny") == outside / "theirs/presets/tiny.yaml"
        assert registry.preset_file("photos") == tmp_path / "more/photos.yaml"
        assert registry.preset_file("drawings") == tmp_path / "more/drawings.yaml"
        assert set(registry.presets()) == {"tiny", "photos", "drawings"} | {
            path.stem for path in ROOT.joinpath("search_spaces/presets").glob("*.yaml")
        }


def test_a_folder_in_the_current_directory_is_not_the_installed_package(outside: Path, tmp_path: Path) -> None:
    """With the current directory first on the import path, as `python -m` and pytest have it."""
    here = tmp_path / "here"
    for package in ("elsewhere", "trainables", "search_spaces"):
        for name in ("__init__", "mine", "maml"):
            (here / package).mkdir(parents=True, exist_ok=True)
            (here / package / f"{name}.py").write_text("raise SystemExit('the wrong one')")
            (here / package / f"{name}.yaml").write_text("the wrong one")
    (here / "ask.py").write_text("""
from raymeta import registry
print(registry.find("method", "mine").__module__, registry.space_file("method", "mine"))
print(registry.find("method", "maml").__module__, registry.space_file("method", "maml"))
""")
    done = subprocess.run(
        [sys.executable, "-m", "ask"], cwd=here, env={**os.environ, "PYTHONPATH": str(outside)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        f"elsewhere.mine {outside / 'elsewhere/mine.yaml'}",
        f"trainables.maml {ROOT / 'search_spaces/maml.yaml'}",
    ], done.stderr
    wrong = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, ''); import elsewhere"], cwd=here, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "the wrong one" in wrong.stderr  # which is what it would have been


def test_an_editable_install_is_found_by_its_path_and_by_its_import_hook(tmp_path: Path) -> None:
    source = tmp_path / "project"
    for package in ("by_path", "by_hook"):
        (source / package / package).mkdir(parents=True)
        (source / package / package / "__init__.py").write_text("")
        (source / package / package / f"{package}_method.py").write_text(METHOD.format(name=f"{package}_method"))
        site = install(tmp_path / "site", package, {"methods": {package: package}}, {})
    (site / "by_path.pth").write_text(f"{source / 'by_path'}\n")
    (site / "by_hook.pth").write_text("import by_hook_finder; by_hook_finder.install()\n")
    (site / "by_hook_finder.py").write_text(f"""
import sys
from importlib.util import spec_from_file_location
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "by_hook":
            folder = {str(source / "by_hook" / "by_hook")!r}
            return spec_from_file_location(name, folder + "/__init__.py", submodule_search_locations=[folder])
def install():
    sys.meta_path.append(Finder)
""")
    code = """
import site, sys
site.addsitedir(sys.argv[1])
from raymeta import registry
print(*(registry.find("method", f"{name}_method").__module__ for name in ("by_path", "by_hook")))
"""
    done = subprocess.run([sys.executable, "-c", code, str(site)], capture_output=True, text=True, check=False)
    assert done.stdout == "by_path.by_path_method by_hook.by_hook_method\n", done.stderr


# What is refused


def test_a_module_that_registers_another_name_is_a_sentence(outside: Path) -> None:
    with pytest.raises(UserError) as caught:
        registry.find("method", "misnamed")
    assert str(caught.value) == (
        "elsewhere.misnamed: registers no method 'misnamed'; a module and its class have one name"
    )


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("method", "mmal", f"unknown method 'mmal': did you mean 'maml'? (allowed: {METHODS})"),
        (
            "regularizer",
            "dropgra",
            f"unknown regularizer 'dropgra': did you mean 'dropgrad'? (allowed: {REGULARIZERS})",
        ),
        (
            "problem",
            "sinusoids",
            "unknown problem 'sinusoids': did you mean 'sinusoid'? "
            "(allowed: ant-dir, crest, halfcheetah-dir, images, metadataset, navigation2d, sinusoid, tracking, "
            "viewpoint)",
        ),
        ("dataset", "x", f"unknown data set 'x': allowed: {DATASETS}"),
        (
            "backbone",
            "conv5",
            "unknown backbone 'conv5': did you mean 'conv4'? "
            "(allowed: conv4, crest, mlp, policy, resnet10, resnet12, resnet18, sdnet)",
        ),
    ],
)
def test_an_unknown_name_is_a_sentence(kind: registry.Kind, name: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.find(kind, name)
    assert str(caught.value) == sentence


def test_two_classes_of_one_name_are_refused_and_a_reloaded_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, "method", "twice", "again")
    free(monkeypatch, "regularizer", "again")
    registry.method("twice")(type("One", (), {}))
    with pytest.raises(UserError) as caught:
        registry.method("twice")(type("Two", (), {}))
    here = "tests.test_registry"
    assert str(caught.value) == f"two methods are named 'twice': {here}.One and {here}.Two; remove one of them"
    again = [registry.method("again")(type("Same", (), {})) for _ in range(2)]
    assert registry.find("method", "again") is again[1]
    registry.regularizer("again")(type("Other", (), {}))  # another kind, another name


def test_two_things_of_one_name_are_refused_with_both_places(outside: Path, tmp_path: Path) -> None:
    files = {
        "second/__init__.py": "",
        "second/mine.py": METHOD.format(name="mine"),
        "second/maml.py": METHOD.format(name="maml"),
        "second/tiny.yaml": EMPTY,
        "second/shared.yaml": EMPTY,
    }
    points = {group: {"second": "second"} for group in ("methods", "spaces", "presets")}
    second = install(tmp_path / "second_site", "second", points, files)
    registry.find("method", "maml")  # imported before makes no difference
    with found(outside, second):
        for asked, what, one, other in [
            (lambda: registry.find("method", "mine"), "methods", "elsewhere/mine.py", "second/mine.py"),
            (
                lambda: registry.space_file("method", "shared"),
                "search spaces", "theirs/shared.yaml", "second/shared.yaml",
            ),
            (lambda: registry.preset_file("tiny"), "presets", "theirs/presets/tiny.yaml", "second/tiny.yaml"),
        ]:  # fmt: skip
            with pytest.raises(UserError) as caught:
                asked()
            name = Path(one).stem
            assert str(caught.value) == (
                f"two {what} are named '{name}': {outside / one} (elsewhere 1.0) and {second / other} (second 1.0); "
                "remove one of them"
            )
        with pytest.raises(
            UserError, match=r"^two methods are named 'maml': .*trainables/maml.py \(raymeta .*second/maml"
        ):
            registry.find("method", "maml")
        assert registry.find("method", "alfa").__module__ == "trainables.alfa"


def test_what_is_imported_already_from_somewhere_else_is_refused(tmp_path: Path) -> None:
    files = {"twin/__init__.py": "", "twin/twin_method.py": METHOD.format(name="twin_method")}
    site = install(tmp_path / "site", "twin", {"methods": {"twin": "twin"}}, files)
    other = tmp_path / "other"
    for path, text in files.items():
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        (other / path).write_text(text)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import twin.twin_method
sys.path.append(sys.argv[2])
from raymeta import registry
from raymeta.errors import UserError
try:
    registry.find("method", "twin_method")
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(other), str(site)], capture_output=True, text=True, check=True
    )
    method = "twin/twin_method.py"
    assert done.stdout == (
        f"{site / method} (twin 1.0): another 'twin.twin_method' is imported already, from {other / method}\n"
    )


# What is broken does not break the rest


def test_what_cannot_be_imported_is_named_and_the_rest_works(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = (
        f"{outside / 'elsewhere/broken.py'} (elsewhere 1.0): cannot be imported: ModuleNotFoundError: "
        "No module named 'no_such_module'"
    )
    with pytest.raises(UserError) as caught:
        registry.find("method", "broken")
    assert str(caught.value) == sentence
    assert set(registry.working("method")) == {"mine", "single", *METHODS.split(", ")}
    assert capsys.readouterr().err.splitlines() == [
        f"raymeta: {sentence}",
        "raymeta: elsewhere.misnamed: registers no method 'misnamed'; a module and its class have one name",
    ]


def test_metadata_that_are_wrong_are_named_and_the_rest_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = install(tmp_path, "gone", {"methods": {"gone": "no_such.package"}}, {})
    install(tmp_path, "good", {"methods": {"fine": "fine"}}, {"fine.py": METHOD.format(name="fine")})
    install(tmp_path, "nameless", {"methods": {"fine": "fine"}}, {})
    (site / "nameless-1.0.dist-info/METADATA").write_text("")
    install(tmp_path, "garbled", {"methods": {"fine": "fine"}}, {})
    (site / "garbled-1.0.dist-info/entry_points.txt").write_text("[raymeta.methods]\nno sign of equality\n")
    install(tmp_path, "unreadable", {"methods": {"fine": "fine"}}, {})
    (site / "unreadable-1.0.dist-info/entry_points.txt").write_bytes(b"[raymeta.methods]\nx = \xff\n")
    with found(site):
        assert registry.find("method", "fine").__module__ == "fine"
        assert set(registry.names("method")) == {"fine", *METHODS.split(", ")}
        registry.names("regularizer")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for name in ("garbled", "nameless", "unreadable"):
        (line,) = [line for line in lines if f"{name}-1.0.dist-info" in line]
        assert line.startswith(f"raymeta: {site / f'{name}-1.0.dist-info'}: its entry points cannot be read (")
        assert line.endswith("; it is left out")
    gone = "raymeta: gone 1.0: 'no_such.package', which its entry point raymeta.methods names, is not there"
    assert f"{gone}; it is left out" in lines
