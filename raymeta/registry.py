"""Names to classes: methods, regularizers, data sets.

A name is a module: `maml` is the file `maml.py` of a package that an entry point of the group `raymeta.methods` names.
raymeta's own packages are declared the same way (see pyproject.toml), so a method from outside is nothing special. Only
the module that is asked for is imported.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

from raymeta.errors import UserError, suggest

Kind = Literal["method", "regularizer", "problem", "dataset"]
T = TypeVar("T", bound=type)

_classes: dict[tuple[Kind, str], type] = {}


def method(name: str) -> Callable[[T], T]:
    """Register a learner: `@method("maml")` on a subclass of `raymeta.learner.Learner`."""
    return _register("method", name)


def regularizer(name: str) -> Callable[[T], T]:
    """Register a regularizer: `@regularizer("dropgrad")` on a subclass of `raymeta.learner.Regularizer`."""
    return _register("regularizer", name)


def problem(name: str) -> Callable[[T], T]:
    """Register a problem: `@problem("sinusoid")` on a subclass of `raymeta.problem.Problem`."""
    return _register("problem", name)


def dataset(name: str) -> Callable[[T], T]:
    """Register a data set: `@dataset("omniglot")` on a subclass of `raymeta.problems.images.store.Problem`."""
    return _register("dataset", name)


def find(kind: Kind, name: str) -> Any:
    """The class registered under a name.

    Raises:
        UserError: no such name; the sentence has the nearest one. Or its module registers something else.
    """
    if (kind, name) not in _classes:
        modules = _modules(kind)
        if name not in modules:
            what = "data set" if kind == "dataset" else kind
            raise UserError(f"unknown {what} '{name}': {suggest(name, names(kind))}")
        importlib.import_module(modules[name])
        if (kind, name) not in _classes:
            raise UserError(f"{modules[name]}: registers no {kind} '{name}'; a module and its class have one name")
    return _classes[kind, name]


def names(kind: Kind) -> list[str]:
    """All registered names of a kind, without importing any of them."""
    return sorted({*_modules(kind), *(n for k, n in _classes if k == kind)})


@contextmanager
def planted(kind: Kind, name: str, cls: type) -> Iterator[None]:
    """A class under a name for as long as the block runs: what tests look at others with."""
    _classes[kind, name] = cls
    try:
        yield
    finally:
        del _classes[kind, name]


def _register(kind: Kind, name: str) -> Callable[[T], T]:
    def register(cls: T) -> T:
        known = _classes.setdefault((kind, name), cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"two classes are registered as {kind} '{name}': {known!r} and {cls!r}")
        _classes[kind, name] = cls  # the same class defined anew: a reloaded module
        cls.name = name  # type: ignore[attr-defined]
        return cls

    return register


@cache
def _modules(kind: Kind) -> dict[str, str]:
    """Name to module, from the entry points: one that names a package stands for every module in it."""
    found: dict[str, str] = {}
    for point in entry_points(group=f"raymeta.{kind}s"):
        spec = importlib.util.find_spec(point.value)
        if spec is None:
            continue  # an entry point of a package that was removed by hand
        if spec.submodule_search_locations is None:
            found[point.name] = point.value
            continue
        for module in pkgutil.iter_modules(spec.submodule_search_locations):
            if not module.ispkg and not module.name.startswith("_"):
                found[module.name] = f"{point.value}.{module.name}"
    return found
