"""The presets that name a paper's row on published photographs: accepted on small trees in the published layouts."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from photos import class_tree, write_photo

from raymeta import cli
from raymeta.problems.images.datasets.cub import Cub
from raymeta.problems.images.datasets.imagenet import MiniImageNet
from raymeta.problems.images.reading.sources import Published
from raymeta.study.plan.plan import make_config


def mini(root: Path) -> tuple[type, Published]:
    for split in ("train", "val", "test"):
        class_tree(root / split, [f"{split}{i}" for i in range(5)], 17)
    return MiniImageNet, Published({"train": 5, "validation": 5, "test": 5}, (17, 17), 255)


def cub(root: Path) -> tuple[type, Published]:
    lines = []
    for number in range(20):
        for image in range(16):
            lines.append(f"{len(lines) + 1} {number:03d}.Bird/{image}.jpg")
            write_photo(root / "images" / f"{number:03d}.Bird" / f"{image}.jpg", 40, 30)
    (root / "images.txt").write_text("\n".join(lines))
    return Cub, Published({"train": 10, "validation": 5, "test": 5}, (16, 16), 320)


SMALLER = ["budget.validation_tasks=2", "outer.tasks_per_step=1", "maml.inner_steps=1"]  # a dry run takes steps
ROWS = [
    ("dropgrad-table1/mini-5w1s-maml-dropgrad", "maml+aug+dropgrad", mini, "model.channels=[2,2,2,2]"),
    ("mgaug-table2/cub-5w1s-maml-mgaug", "maml+aug+mgaug", cub, "model.width=2"),
]


@pytest.mark.parametrize(("preset", "spec", "tree", "narrow"), ROWS)
def test_a_search_of_a_papers_row_is_accepted(
    preset: str,
    spec: str,
    tree: Callable[[Path], tuple[type, Published]],
    narrow: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "root"
    dataset, published = tree(root)
    monkeypatch.setattr(dataset, "published", {"standard": published})
    words = ["search", spec, "--preset", preset, "--data-root", str(root), "--dry-run", "--json", *SMALLER, narrow]
    monkeypatch.setattr(sys, "argv", ["raymeta", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None)
    shown = json.loads(capsys.readouterr().out)
    assert shown["spec"] == spec
    assert shown["rungs"][-1] == make_config(spec, preset=preset).budget.outer_steps
