"""Optuna's journal file, which waits for the disk once for all lines that belong together."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from raymeta.storage.places import AnyPath


class Journal(JournalFileBackend):
    """Appends and syncs as Optuna's own backend does, but under `together` syncs at the end of it.

    Every line is with the operating system when it is told, so that a killed process loses none of them; a machine that
    loses its power can lose only what is not yet out of `together`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self._writing = JournalFileSymlinkLock(str(path))
        self._sync = True

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._writing.acquire()
        try:
            with open(self.path, "ab") as file:
                file.write(lines.encode())
                file.flush()
                if self._sync:
                    os.fsync(file.fileno())
        finally:
            self._writing.release()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is appended inside is on the disk when this is left, not before."""
        self._sync = False
        try:
            yield
        finally:
            self._sync = True
            with open(self.path, "ab") as file:
                os.fsync(file.fileno())


def mend_journal(folder: AnyPath) -> None:
    """Take a killed driver's unfinished last line and lock off the journal. Needs the study's lock.

    On a store there are none.
    """
    if not isinstance(folder, Path):
        return
    path = folder / "journal.log"
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    Path(f"{path}.lock").unlink(missing_ok=True)
