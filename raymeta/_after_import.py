"""Import one module right after another one is imported, whenever that is.

`import raymeta` must make `tune.Tuner("raymeta/maml")` work and must not import Ray, which no method file needs.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class _Follow(MetaPathFinder, Loader):
    """Finds `first` as ever, and imports `then` when it has been executed."""

    def __init__(self, first: str, then: str) -> None:
        self.first, self.then = first, then
        self.loader: Loader | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.first:
            return None
        sys.meta_path.remove(self)  # its work is done: the search below must not come back here
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec) if self.loader else None

    def exec_module(self, module: ModuleType) -> None:
        assert self.loader is not None
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        importlib.import_module(self.then)


def import_after(first: str, then: str) -> None:
    """Import module `then` when `first` is imported, or now if it already is."""
    if first in sys.modules:
        importlib.import_module(then)
    else:
        sys.meta_path.insert(0, _Follow(first, then))
