"""The example of docs/extending.md, taken from the page and run as it stands there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign import found, install

from raymeta.study.plan.plan import make_plan
from raymeta.testing import CHECKS, small_trial

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The page's files by their names, its learner and its regularizer installed as a package from outside."""
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    on_page = dict(blocks)
    inside = {
        "theirs/methods/__init__.py": "",
        "theirs/methods/shrinking.py": on_page["trainables/shrinking.py"],
        "theirs/methods/shrinking.yaml": on_page["search_spaces/shrinking.yaml"],
        "theirs/regularizers/__init__.py": "",
        "theirs/regularizers/centred.py": on_page["trainables/regularizers/centred.py"],
    }
    points = {"methods": {"theirs": "theirs.methods"}, "regularizers": {"theirs": "theirs.regularizers"}}
    with found(install(tmp_path, "theirs", points, inside)):
        yield on_page


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("spec", ["shrinking+dropgrad", "maml+centred"])
def test_the_example_conforms(check: Any, spec: str, files: dict[str, str], glyphs: Any) -> None:
    from raymeta.trainable import register_all

    register_all()
    check(small_trial(spec, config={spec.split("+")[0]: {"inner_lr": 0.1}}))


def test_its_search_space_makes_a_plan(files: dict[str, str], glyphs: Any) -> None:
    plan = make_plan("shrinking+dropgrad")
    assert {"shrinking.inner_lr", "shrinking.shrink", "outer.lr"} < set(plan.space.params)
    assert plan.space.origins["shrinking.shrink"] == "methods/shrinking.yaml"
    assert plan.base.settings.inner_steps == make_plan("maml").base.settings.inner_steps
    assert plan.base.settings.order == make_plan("maml").base.settings.order == "first"  # of the preset


def test_a_regularizer_without_a_space_is_searched_by_ranges(files: dict[str, str], glyphs: Any) -> None:
    plan = make_plan("shrinking+centred", words=["regularizers.centred.share=0..1"])
    assert str(plan.space.params["regularizers.centred.share"]) == "[0, 1]"
    assert plan.space.labels == ["authors' setting", "un-regularized"]
    with pytest.raises(
        ValueError, match=r"^centred has no search space, which would be centred.yaml beside its module; "
    ):
        make_plan("shrinking+centred")


def test_its_test_is_the_conformance_suite(files: dict[str, str]) -> None:
    assert 'conformance("shrinking", "shrinking+dropgrad")' in files["tests/trainables/test_shrinking.py"]
