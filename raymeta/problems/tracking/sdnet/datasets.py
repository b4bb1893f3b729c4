"""Data sets of tracking: the embedded `sprites`, and `sequences`, folders as OTB and VOT are distributed."""

import json
import random
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from raymeta import registry
from raymeta.errors import UserError, shown
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.reading.trees import Tree
from raymeta.problems.tracking import sprites
from raymeta.problems.tracking.clips import Clip, clips_of
from raymeta.problems.tracking.sdnet.problem import Tracking


@registry.dataset("sprites")
class Sprites(Tracking):
    """Sequences of drawn polygons among others of their family; see `sprites.py`."""

    def count(self, split: Split) -> int:
        return sprites.CLIPS[split]

    def clip(self, split: Split, number: int) -> Clip:
        return sprites.clip(split, number)

    @property
    def fingerprint(self) -> str:
        about = ["sprites", sprites.VERSION, sprites.SIDE, sprites.FRAMES, dict(sprites.CLIPS)]
        return sha256(json.dumps(about).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"fitted": "drawn", "classes": dict(sprites.CLIPS)}


@registry.dataset("sequences")
class Sequences(Tracking):
    """Sequences of a user's folder, read in place; 64 / 16 / 20 % of them, shuffled by `random.Random(1)`.

    Where `task.test_source` names another folder all of its sequences are for the test, and a fifth of the others for
    validation: as MetaSDNet is trained on ImageNet's videos and VOT and tested on OTB.
    """

    has_source: ClassVar[bool] = True

    @cached_property
    def _clips(self) -> dict[Split, list[Clip]]:
        own = clips_of(self._tree)
        random.Random(1).shuffle(own)
        if self.task.test_source is not None:
            test = clips_of(self._opened(self.task.test_source))
            held = max(1, round(0.2 * len(own)))
            found: dict[Split, list[Clip]] = {"train": own[held:], "validation": own[:held], "test": test}
        else:
            test_count, held = (max(1, round(share * len(own))) for share in (0.2, 0.16))
            found = {
                "test": own[:test_count],
                "validation": own[test_count : test_count + held],
                "train": own[test_count + held :],
            }
        for split in SPLITS:
            if not found[split]:
                raise UserError(f"{shown(self.task.source)}: the {split} split has no sequence, of {len(own)} in all")
        return found

    @cached_property
    def _tree(self) -> Tree:
        if self.task.source is None:
            raise UserError("sequences: name the folder of sequences by --data-root")
        return self._opened(self.task.source)

    def _opened(self, source: str) -> Tree:
        if not Path(source).exists():
            raise UserError(f"{shown(source)}: no such folder")
        return Tree(Path(source))

    def count(self, split: Split) -> int:
        return len(self._clips[split])

    def clip(self, split: Split, number: int) -> Clip:
        return self._clips[split][number]

    @property
    def ready(self) -> bool:
        """There is a folder; what is in it is looked at when it is used."""
        return self.task.source is not None and Path(self.task.source).exists()

    def prepare(self, root: Any = None, progress: Any = None, *, rebuild: bool = False) -> None:
        if (
            root is not None
            and self.task.source is not None
            and Path(root).resolve() != Path(self.task.source).resolve()
        ):
            raise UserError(f"{shown(root)}: the task's source is another one, {self.task.source}")
        _ = self._clips

    @cached_property
    def fingerprint(self) -> str:
        """Of names, boxes and the sizes of the frames' files, wherever the folder lies; of an archive without these."""
        digest = sha256()
        for split, clips in self._clips.items():
            other = self.task.test_source if split == "test" else None
            source = Path(str(other or self.task.source))
            for clip in clips:
                sizes = [(source / file).stat().st_size for file in clip.files] if source.is_dir() else []
                digest.update(json.dumps([split, clip.name, clip.boxes.tolist(), clip.files, sizes]).encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "name": self.name,
            "input_shape": list(self.input_shape),
            "splits": [],
            "fitted": "cut out",
        }
        if not self.ready:
            return about | {"ready": False}
        clips = self._clips
        remarks = {clip.name: clip.remark for part in clips.values() for clip in part if clip.remark}
        counts = {split: len(part) for split, part in clips.items()}
        frames = sum(len(clip) for part in clips.values() for clip in part)
        said = (
            {"remarks": "; ".join(f"{name}: {remark}" for name, remark in sorted(remarks.items()))} if remarks else {}
        )
        return about | {
            "ready": True, "source": self.task.source, "classes": counts, "images": frames, "fingerprint":
            self.fingerprint
        } | said  # fmt: skip
