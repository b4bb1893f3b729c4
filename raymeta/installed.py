"""What is installed for raymeta: modules and folders that entry points name, and where they lie.

Nothing is imported to find that out. The place of an entry point's own distribution decides, so a folder of the same
name in the current directory never stands in for an installed package.
"""

import importlib
import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from types import ModuleType

from raymeta.errors import UserError

HERE = Path(__file__).parent.parent  # this raymeta is the one that runs, whichever is installed


@dataclass(frozen=True)
class Place:
    """Where something installed lies.

    Attributes:
        module: its dotted name.
        path: the file of a module, the folder of a package.
        root: the folder that the dotted name starts from.
        by: the distribution that declares it, with its version.
    """

    module: str
    path: Path
    root: Path
    by: str

    def __str__(self) -> str:
        return f"{self.path} ({self.by})"


@cache
def places(group: str) -> tuple[tuple[str, Place], ...]:
    """Name and place of every entry point of a group; what cannot be found is said on standard error and left out."""
    found = []
    for point, distribution in _points():
        if point.group == group:
            by = f"{distribution.metadata['Name']} {distribution.version}"
            if place := _locate(point.module, distribution, by):
                found.append((point.name, place))
            else:
                remark(f"{by}: '{point.module}', which its entry point {group} names, is not there; it is left out")
    return tuple(found)


@cache
def modules(group: str) -> dict[str, list[Place]]:
    """Name to modules: an entry point that names a package stands for every module in it."""
    found = defaultdict[str, list[Place]](list)
    for name, place in places(group):
        files = {name: place.path}
        if place.path.is_dir():
            files = {path.stem: path for path in sorted(place.path.glob("*.py")) if not path.name.startswith("_")}
        for stem, path in files.items():
            module = f"{place.module}.{stem}" if place.path.is_dir() else place.module
            one = Place(module, path, place.root, place.by)
            if all(other.path != path for other in found[stem]):  # named twice is not two things
                found[stem].append(one)
    return dict(found)


def load(place: Place) -> ModuleType:
    """Import a module from its place.

    Raises:
        UserError: it cannot be imported, or its package was imported from somewhere else before.
    """
    try:
        _load_package(place)
        module = importlib.import_module(place.module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        what = " ".join(str(error).split())
        raise UserError(f"{place}: cannot be imported: {type(error).__name__}: {what}") from error
    loaded = module.__file__
    if loaded is None or not place.path.samefile(loaded):
        raise UserError(f"{place}: another '{place.module}' is imported already, from {loaded}")
    return module


def forget() -> None:
    """Look again, at the next question, at what is installed."""
    for cached in (_points, places, modules):
        cached.cache_clear()


def current_folder_last() -> None:
    """Let no file of the current folder stand in for a library of this process (`PYTHONPATH=.` puts it first)."""
    sys.path[:] = import_path()


def child_environment() -> dict[str, str]:
    """The environment for a Python process of ours, in which no file of the current folder stands in for a library."""
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = os.pathsep.join(entry for entry in path if entry and not _is_here(entry))
    return {**os.environ, "PYTHONPATH": kept, "PYTHONSAFEPATH": "1"}


def import_path() -> list[str]:
    """The import path with the current folder, which `python -m`, notebooks and pytest put first, at its end."""
    return sorted(sys.path, key=_is_here)


def _is_here(entry: str) -> bool:
    """It is the current folder, which may have been deleted."""
    try:
        return Path(entry).resolve() == Path.cwd()
    except FileNotFoundError:
        return not Path(entry).is_absolute()


@cache
def remark(text: str) -> None:
    """A line on standard error, once."""
    sys.stderr.write(f"raymeta: {text}\n")


def _load_package(place: Place) -> None:
    """Import the outermost package from the place's root: the import path may have another one of its name first."""
    name = place.module.partition(".")[0]
    if name in sys.modules:
        return
    spec = PathFinder.find_spec(name, [str(place.root)])
    if spec is None or spec.loader is None or not spec.has_location:
        return  # a folder without `__init__.py`, or of an import hook: the import system knows it alone
    package = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[name]
        raise


@cache
def _points() -> tuple[tuple[EntryPoint, Distribution], ...]:
    """Entry points of raymeta's groups, of every distribution; one that cannot be read spoils no other."""
    found, seen = [], set()
    for distribution in distributions(path=import_path()):
        try:
            if "[raymeta." not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = distribution.metadata["Name"].lower()
            points = [
                point for point in distribution.entry_points if point.group.startswith("raymeta.") and point.module
            ]
        except Exception as error:  # of metadata that were written by hand, say
            where = getattr(distribution, "_path", None) or distribution.locate_file("")
            remark(f"{where}: its entry points cannot be read ({type(error).__name__}: {error}); it is left out")
            continue
        if name not in seen:  # the first on the import path is the one that is installed
            seen.add(name)
            found += [(point, distribution) for point in points]
    return tuple(found)


def _locate(module: str, distribution: Distribution, by: str) -> Place | None:
    """The folder of a package or the file of a module; a folder without `__init__.py` if there is neither."""
    parts = module.split(".")
    roots = list(_roots(parts[0], distribution))
    for root in roots:
        stem = root.joinpath(*parts)
        if (stem / "__init__.py").is_file():
            return Place(module, stem, root, by)
        if stem.with_suffix(".py").is_file():
            return Place(module, stem.with_suffix(".py"), root, by)
    bare = (root for root in roots if root.joinpath(*parts).is_dir())
    return next((Place(module, root.joinpath(*parts), root, by) for root in bare), None)


def _roots(package: str, distribution: Distribution) -> Iterator[Path]:
    """Where a distribution's package may lie, in order: beside it, or where an editable install points to."""
    if package == __package__:
        yield HERE
        return
    yield Path(str(distribution.locate_file("")))
    yield from (Path(entry).resolve() for entry in sys.path if not _is_here(entry))
    for finder in sys.meta_path:
        spec = None if finder is PathFinder else finder.find_spec(package, None)
        if spec is not None and spec.origin is not None and spec.has_location:
            yield Path(spec.origin).parent.parent if spec.submodule_search_locations else Path(spec.origin).parent
    with suppress(FileNotFoundError):
        yield from (Path(entry).resolve() for entry in sys.path if _is_here(entry))
