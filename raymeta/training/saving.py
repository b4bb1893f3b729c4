"""A trainer whose work is kept: after every round, once a minute within one, and soon after it was asked for."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from raymeta.storage.places import AnyPath
from raymeta.training.trainer import Trainer

EVERY_S = 60.0  # what a killed worker loses at most
LOOK_S = 1.0  # between two looks whether somebody asks
ASKED = "save"  # a file beside the checkpoint


def ask_to_save(folder: AnyPath) -> None:
    """Let whatever trains in a folder save soon, in the middle of its round. On a store it saves when it does."""
    if isinstance(folder, Path):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ASKED).touch()


class Saving:
    """Trains a trainer round by round and keeps its checkpoint.

    Args:
        trainer: it may be in the middle of a round.
        checkpoint: where; it and the one before it are always there.
    """

    def __init__(self, trainer: Trainer, checkpoint: AnyPath) -> None:
        self.trainer, self.checkpoint = trainer, checkpoint
        self._asked = checkpoint.parent / ASKED if isinstance(checkpoint, Path) else None
        self._saved = self._looked = time.monotonic()

    def round(self) -> dict[str, Any]:
        """A round, saved; returns its metrics.

        Raises:
            OSError: it can't be saved.
        """
        metrics = self.trainer.round(self.look)
        self.save()
        return metrics

    def look(self) -> None:
        """A moment between two outer steps: save if it is time, or was asked for."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if now - self._saved > EVERY_S or (self._asked is not None and self._asked.exists()):
            self.save()

    def save(self) -> None:
        """Save now."""
        self.trainer.save(self.checkpoint)
        if self._asked is not None:
            self._asked.unlink(missing_ok=True)
        self._saved = time.monotonic()
