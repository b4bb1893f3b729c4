"""Packages from outside, installed into a folder as an installer leaves them: their files and a dist-info."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from raymeta import installed, registry


def install(folder: Path, name: str, points: Mapping[str, Mapping[str, str]], files: Mapping[str, str]) -> Path:
    """A distribution with entry points by group (`methods` for `raymeta.methods`) and files by path."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = [
        "\n".join([f"[raymeta.{group}]", *(f"{key} = {value}" for key, value in named.items())])
        for group, named in points.items()
    ]
    (about / "entry_points.txt").write_text("\n".join(groups) + "\n")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(dedent(text))
    return folder


def free(patch: pytest.MonkeyPatch, kind: registry.Kind, *names: str) -> None:
    """Names under which a test may register what it likes; afterwards they stand for what they did."""
    for name in names:
        patch.setitem(registry._classes, (kind, name), object)
        del registry._classes[kind, name]


@contextmanager
def found(*folders: Path) -> Iterator[None]:
    """These folders on the import path as the last ones, like one's own site-packages; all traces go afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, *map(str, folders)])
        installed.forget()
        yield
    installed.forget()
    inside = [
        name
        for name, module in sys.modules.items()
        if any(str(getattr(module, "__file__", None)).startswith(f"{folder}/") for folder in folders)
    ]
    for name in inside:
        del sys.modules[name]
    for key in [key for key, cls in registry._classes.items() if cls.__module__ in inside]:
        del registry._classes[key]
