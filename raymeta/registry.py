"""Names to what they stand for: methods, regularizers, problems, data sets, backbones, outer steps, analyses; their
spaces, and presets.

A name is a module: `maml` is the file `maml.py` of a package that an entry point of the group `raymeta.methods` names,
and its search space is `maml.yaml` beside it, or in a folder that one of the group `raymeta.spaces` names. raymeta's
own packages are declared the same way (see pyproject.toml), so a method from outside is nothing special. Only the
module that is asked for is imported. Two things of one name are refused, and so is what cannot be imported; the rest
works.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from raymeta import installed
from raymeta.errors import UserError, suggest

Kind = Literal["method", "regularizer", "problem", "dataset", "backbone", "outer", "analysis", "tracker"]
T = TypeVar("T", bound=type)

_classes: dict[tuple[Kind, str], type] = {}


def method(name: str) -> Callable[[T], T]:
    """Register a learner: `@method("maml")` on a subclass of `raymeta.learner.Learner`."""
    return _register("method", name)


def regularizer(name: str) -> Callable[[T], T]:
    """Register a regularizer: `@regularizer("dropgrad")` on a subclass of `raymeta.hooks.Regularizer`."""
    return _register("regularizer", name)


def problem(name: str) -> Callable[[T], T]:
    """Register a problem: `@problem("sinusoid")` on a subclass of `raymeta.problem.Problem`."""
    return _register("problem", name)


def dataset(name: str) -> Callable[[T], T]:
    """Register a data set: `@dataset("omniglot")` on a subclass of `raymeta.problems.images.dataset.ImageDataset`."""
    return _register("dataset", name)


def backbone(name: str) -> Callable[[T], T]:
    """Register a backbone: `@backbone("conv4")` on a subclass of `raymeta.models.Backbone`."""
    return _register("backbone", name)


def outer(name: str) -> Callable[[T], T]:
    """Register an outer step: `@outer("trpo")` on a subclass of `raymeta.training.outer.OuterStep`."""
    return _register("outer", name)


def tracker(name: str) -> Callable[[T], T]:
    """Register a copy of studies: `@tracker("tensorboard")` on a subclass of `raymeta.study.copies.copy.Copy`."""
    return _register("tracker", name)


def analysis(name: str) -> Callable[[T], T]:
    """Register an analysis: `@analysis("cka")` on a subclass of `raymeta.analysis.Analysis`."""
    return _register("analysis", name)


def find(kind: Kind, name: str) -> Any:
    """The class registered under a name.

    Raises:
        UserError: no such name (the sentence has the nearest one), or two things have it; or its module cannot be
            imported, or registers something else.
    """
    what, places = _in_words(kind), installed.modules(_group(kind)).get(name, [])
    known = _classes.get((kind, name))
    if len(places) > 1:
        raise _doubled(_several(kind), name, places)
    if known is None and not places:
        raise UserError(f"unknown {what} '{name}': {_meant(kind, name)}")
    if places and (known is None or known.__module__ == places[0].module):
        installed.load(places[0])
        if (kind, name) not in _classes:
            raise UserError(f"{places[0].module}: registers no {what} '{name}'; a module and its class have one name")
    return _classes[kind, name]


def names(kind: Kind) -> list[str]:
    """All registered names of a kind, without importing any of them."""
    return sorted({*installed.modules(_group(kind)), *(n for k, n in _classes if k == kind)})


def working(kind: Kind) -> dict[str, Any]:
    """Every name of a kind with its class; what `find` refuses is said on standard error and left out."""
    found = {}
    for name in names(kind):
        try:
            found[name] = find(kind, name)
        except UserError as error:
            installed.remark(str(error))
    return found


@contextmanager
def planted(kind: Kind, name: str, cls: type) -> Iterator[None]:
    """A class under a name for as long as the block runs: what tests look at others with."""
    before = _classes.get((kind, name))
    _classes[kind, name] = cls
    try:
        yield
    finally:
        del _classes[kind, name]
        if before is not None:
            _classes[kind, name] = before


def space_file(kind: Literal["method", "regularizer"], name: str) -> Path | None:
    """The search space of a method or a regularizer; None: it has none.

    Raises:
        UserError: two files are it.
    """
    below = "regularizers/" if kind == "regularizer" else ""
    modules = installed.modules(f"raymeta.{kind}s").get(name, [])
    beside = [(place, place.path.with_name(f"{name}.yaml")) for place in modules]
    shared = [(place, place.path / f"{below}{name}.yaml") for _, place in installed.places("raymeta.spaces")]
    return _only("search spaces", name, [*beside, *shared])


def shared_space(name: str, file: Path) -> Path | None:
    """What a space includes by this name: a file beside it, or of a folder of spaces."""
    if (beside := file.with_name(f"{name}.yaml")).is_file():
        return beside
    shared = [(place, place.path / f"{name}.yaml") for _, place in installed.places("raymeta.spaces")]
    return _only("search spaces", name, shared)


def presets() -> list[str]:
    """Names of all presets that are a file each; the rows of tables are in raymeta/study/plan/tables.py."""
    return sorted({path.stem for _, path in _presets()})


def preset_file(name: str) -> Path | None:
    """The file of a preset; None: there is none of that name.

    Raises:
        UserError: two files are it.
    """
    return _only("presets", name, [one for one in _presets() if one[1].stem == name])


def tables() -> list[str]:
    """Names of all tables, whose rows are presets."""
    return sorted({path.stem for _, path in _tables()})


def table_file(name: str) -> Path | None:
    """The file of a table; None: there is none of that name.

    Raises:
        UserError: two files are it.
    """
    return _only("tables", name, [one for one in _tables() if one[1].stem == name])


def _presets() -> list[tuple[installed.Place, Path]]:
    """Those of folders of presets, and one beside the module of a data set or problem that has its name."""
    folders = [place for _, place in installed.places("raymeta.presets")]
    found = [(place, path) for place in folders for path in place.path.glob("*.yaml")]
    for group in ("raymeta.datasets", "raymeta.problems"):
        for name, places in installed.modules(group).items():
            beside = [(place, place.path.with_name(f"{name}.yaml")) for place in places]
            found += [(place, path) for place, path in beside if path.is_file()]
    return found


def _tables() -> list[tuple[installed.Place, Path]]:
    folders = [place for _, place in installed.places("raymeta.presets")]
    return [(place, path) for place in folders for path in place.path.glob("tables/*.yaml")]


def _only(what: str, name: str, candidates: Sequence[tuple[installed.Place, Path]]) -> Path | None:
    found = {path: installed.Place(name, path, place.root, place.by) for place, path in candidates if path.is_file()}
    if len(found) > 1:
        raise _doubled(what, name, list(found.values()))
    return next(iter(found), None)


def _doubled(what: str, name: str, places: Sequence[installed.Place]) -> UserError:
    return UserError(f"two {what} are named '{name}': {places[0]} and {places[1]}; remove one of them")


def _meant(kind: Kind, name: str) -> str:
    """What was probably meant by an unknown name: one of its kind, or a method's in place of a regularizer's."""
    other: Kind | None = {"method": "regularizer", "regularizer": "method"}.get(kind)  # type: ignore[assignment]
    elsewhere = names(other) if other else []
    near = get_close_matches(name, [*names(kind), *elsewhere], n=1, cutoff=0.5)
    if not near or near[0] in names(kind):
        return suggest(name, names(kind))
    how = f"maml+{near[0]}" if other == "regularizer" else f"it stands first, as in {near[0]}+dropgrad"
    return f"{near[0]} is a {other}: {how} ({_several(kind)}: {', '.join(names(kind))})"


def _in_words(kind: Kind) -> str:
    return {"dataset": "data set", "outer": "outer step"}.get(kind, kind)


def _several(kind: Kind) -> str:
    return "analyses" if kind == "analysis" else f"{_in_words(kind)}s"


def _group(kind: Kind) -> str:
    """The group of entry points that name a kind."""
    return f"raymeta.{_several(kind).replace(' ', '')}"


def _register(kind: Kind, name: str) -> Callable[[T], T]:
    def register(cls: T) -> T:
        known = _classes.setdefault((kind, name), cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UserError(
                f"two {_several(kind)} are named '{name}': {known.__module__}.{known.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}; remove one of them"
            )
        _classes[kind, name] = cls  # the same class defined again: a reloaded module
        cls.name = name  # type: ignore[attr-defined]
        return cls

    return register
