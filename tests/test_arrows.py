"""Who imports whom, read off the code: no circle between modules, none between rooms, and no crowded folder.

A room is a folder of `raymeta` (in `study` each of its folders) or a module beside the folders. Imports inside
functions count; those for type checkers alone don't.
"""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
Arrows = dict[str, set[str]]


def modules() -> dict[str, Path]:
    paths = sorted((ROOT / "raymeta").rglob("*.py"))
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {".".join(part[:-1] if part[-1] == "__init__" else part): path for path, part in parts.items()}


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports when it runs; `from a import b` gives `a.b`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node)


def arrows() -> Arrows:
    known = modules()
    found: Arrows = {}
    for name, path in known.items():
        there = set()
        for target in imports(ast.parse(path.read_text(encoding="utf-8"))):
            while target and target not in known:
                target = target.rpartition(".")[0]
            if target and target != name:
                there.add(target)
        found[name] = there
    return found


def room(module: str) -> str:
    parts = module.split(".")
    depth = 3 if parts[1:2] == ["study"] else 2
    return ".".join(parts[:depth])


def circle(graph: Arrows) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = arrows()
    assert sum(map(len, found.values())) > 200
    # A package's own file hands on names of the modules in it, which import each other.
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert circle({name: there - packages for name, there in found.items() if name not in packages}) == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    graph: Arrows = {}
    for name, there in arrows().items():
        graph.setdefault(room(name), set()).update(room(other) for other in there if room(other) != room(name))
    graph.pop("raymeta")  # the package itself, which hands on the Python API
    assert circle({name: there - {"raymeta", "raymeta.study"} for name, there in graph.items()}) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})[0] in "abc"


def test_only_problems_know_what_their_tasks_are_made_of() -> None:
    """But for what older versions wrote, and the small tasks of the conformance suite."""
    allowed = ["raymeta/problems/", "raymeta/config/migration.py", "raymeta/testing/suite.py"]
    words = re.compile(r"\b(ways|shots|accuracy|mse)\b")
    for path in (ROOT / "raymeta").rglob("*.py"):
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith(tuple(allowed)):
            assert not words.search(path.read_text(encoding="utf-8")), place


def test_no_folder_is_crowded() -> None:
    for folder in [ROOT / "raymeta", *(path for path in (ROOT / "raymeta").rglob("*") if path.is_dir())]:
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 12, f"{folder.relative_to(ROOT)}: {len(files)} files"
