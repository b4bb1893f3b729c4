"""The journal of a study on a store, where nothing can be appended to: numbered objects, merged into one now and then.

    journal/000002-000000/000000000.log      all that was noted before, in the lines of `journal.log`
    journal/000002-000000/000000001.log      what was noted since, an object for all that belongs together

A generation, `000002-000000`, begins with everything in one object, put whole; only then are older ones deleted.
Readers take the newest, so a kill between any two operations loses and doubles nothing. Whoever takes the study over
begins a generation with a higher first number: what a driver that was only thought dead still writes goes to a lower
one, where nobody reads it.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import inf
from threading import RLock
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from raymeta.errors import UserError
from raymeta.storage.places import RemotePath

MOST_OBJECTS = 200  # of a generation: what a reader has to fetch at most
FRESH_S = 1.0  # how old what a reader knows may be
_OBJECT = re.compile(r"(\d{6})-(\d{6})/(\d{9})\.log")

Generation = tuple[int, int]  # takeovers, and merges since


class StoredJournal(BaseJournalBackend):
    """Optuna's journal as objects below a folder. Its driver, under `owned`, knows what is noted without looking."""

    def __init__(self, folder: RemotePath) -> None:
        self.folder = folder
        self._lines: list[bytes] = []  # those of the store, then those on their way there
        self._stored = 0
        self._tried = 0  # of those on their way, how many the object holds that may or may not have arrived
        self._generation: Generation = (0, 0)
        self._objects = 0  # of the generation, read or written
        self._may_write: Callable[[], None] | None = None
        self._together = False
        self._looked = -inf
        self._guard = RLock()  # the thread that feeds MLflow reads, too

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        with self._guard:
            if time.monotonic() - self._looked > FRESH_S:
                self._look()
            return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._guard:
            if not self._together:
                self._look()
            self._lines += [json.dumps(log, separators=(",", ":")).encode() for log in logs]
            if not self._together:
                self._put()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is appended inside is put as one object when this is left: all of it is noted, or nothing."""
        self._look()
        self._together = True
        try:
            yield
        finally:
            self._together = False
            self._put()

    @contextmanager
    def owned(self, may_write: Callable[[], None]) -> Iterator[None]:
        """Nobody else writes, so nothing is looked for; a generation begins.

        Args:
            may_write: raises OSError once that is no longer so; called before anything is put.
        """
        with self._guard:
            self._look()
            self._may_write = may_write
            self._begin((self._generation[0] + 1, 0))
        try:
            yield
        finally:
            self._may_write, self._looked = None, -inf

    def _put(self) -> None:
        """Bring what is not there yet to the store. What a store that was away did not take is put with the next."""
        with self._guard:
            while self._stored < len(self._lines):
                if self._may_write is not None:
                    self._may_write()
                if self._tried == self._stored:  # else the same again: an object that somebody has read never changes
                    self._tried = len(self._lines)
                content = b"".join(line + b"\n" for line in self._lines[self._stored : self._tried])
                self._object(self._generation, self._objects).write_bytes(content)
                self._stored, self._objects = self._tried, self._objects + 1
            if self._objects > MOST_OBJECTS and self._may_write is not None:
                takeovers, merges = self._generation
                self._begin((takeovers, merges + 1))

    def _begin(self, generation: Generation) -> None:
        """Put everything as the first object of a generation, then delete the older ones."""
        self._generation, self._objects, self._stored, self._tried = generation, 0, 0, len(self._lines)
        self._put()
        mine = self._object(generation, 0).parent.name
        for folder in self.folder.iterdir():
            if folder.name < mine:
                folder.rmtree()

    def _look(self) -> None:
        """Read what others have written, unless there are none or something of ours is on its way."""
        with self._guard:
            if self._may_write is not None or self._together or self._stored < len(self._lines):
                return
            for _ in range(5):
                generation, count = self._newest()
                known = self._objects if generation == self._generation else 0
                try:
                    found = self._fetch([self._object(generation, number) for number in range(known, count)])
                except FileNotFoundError:  # merged meanwhile
                    continue
                self._lines = (self._lines if known else []) + found
                self._generation, self._objects = generation, count
                self._stored = self._tried = len(self._lines)
                self._looked = time.monotonic()
                return
            raise UserError(f"{self.folder}: the journal changes faster than it can be read; try again")

    def _newest(self) -> tuple[Generation, int]:
        """The newest generation, and how many objects it has."""
        there: dict[Generation, list[int]] = {}
        for path in self.folder.files():
            if match := _OBJECT.fullmatch(path):
                takeovers, merges, number = map(int, match.groups())
                there.setdefault((takeovers, merges), []).append(number)
        if not there:
            return (0, 0), 0
        generation = max(there)
        numbers = sorted(there[generation])
        if numbers != list(range(len(numbers))):
            lost = next(number for number, found in enumerate(numbers) if number != found)
            raise UserError(f"{self._object(generation, lost)}: an object of the study's journal is not there")
        return generation, len(numbers)

    @staticmethod
    def _fetch(objects: list[RemotePath]) -> list[bytes]:
        with ThreadPoolExecutor(16) as pool:
            return [line for content in pool.map(RemotePath.read_bytes, objects) for line in content.splitlines()]

    def _object(self, generation: Generation, number: int) -> RemotePath:
        return self.folder / "{:06d}-{:06d}".format(*generation) / f"{number:09d}.log"
