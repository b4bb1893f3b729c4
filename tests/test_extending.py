"""The example of docs/extending.md, taken from the page and run as it stands there."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raymeta import registry
from raymeta.study.plan import space
from raymeta.study.plan.plan import make_plan
from raymeta.testing import CHECKS, small_trial

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The page's files by their names, its method installed like one from outside."""
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    found = dict(blocks)
    (tmp_path / "shrinking.py").write_text(found["trainables/shrinking.py"])
    about = tmp_path / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[raymeta.methods]\nshrinking = shrinking\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._modules.cache_clear()
    yield found
    registry._modules.cache_clear()
    registry._classes.pop(("method", "shrinking"), None)
    sys.modules.pop("shrinking", None)


@pytest.mark.parametrize("check", CHECKS)
def test_the_example_conforms(check: Any, files: dict[str, str], glyphs: Any) -> None:
    from raymeta.trainable import register_all

    register_all()
    check(small_trial("shrinking+dropgrad", config={"shrinking": {"inner_lr": 0.1}}))


def test_its_search_space_makes_a_plan(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glyphs: Any
) -> None:
    folder = tmp_path / "spaces"
    shutil.copytree(space.shipped_space(), folder)
    (folder / "shrinking.yaml").write_text(files["search_spaces/shrinking.yaml"])
    monkeypatch.setattr(space, "shipped_space", folder.joinpath)
    plan = make_plan("shrinking+dropgrad")
    assert {"shrinking.inner_lr", "shrinking.shrink", "outer.lr"} < set(plan.space.params)
    assert plan.base.settings.inner_steps == make_plan("maml").base.settings.inner_steps


def test_its_test_is_the_conformance_suite(files: dict[str, str]) -> None:
    assert 'conformance("shrinking", "shrinking+dropgrad")' in files["tests/trainables/test_shrinking.py"]
