"""The list of methods and their pages, which are never written by hand."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from raymeta import registry
from raymeta.errors import UserError
from raymeta.report import handbook
from raymeta.report.handbook import about, about_regularizers, page

DOCS = Path(__file__).parents[2] / "docs" / "methods"
NAMES = registry.names("method") + registry.names("regularizer")


def test_every_method_says_what_it_is() -> None:
    assert [one.name for one in about()] == registry.names("method")
    for one in about():
        assert one.title
        assert "(" in one.paper, f"{one.name}: no paper with a year"
        assert one.adapts
        assert one.learns


def test_every_regularizer_says_what_it_acts_on() -> None:
    acts = {one.name: one.acts_on for one in about_regularizers()}
    assert list(acts) == registry.names("regularizer")
    assert acts["dropgrad"] == "inner gradients"
    assert acts["metadropout"] == "convolutions, logits"
    assert all(acts.values())
    assert all("(" in one.paper for one in about_regularizers())


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_in_docs_are_the_code_s(name: str) -> None:
    """Else run `uv run python -m raymeta.report.handbook docs`."""
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == page(name)


def test_there_is_no_page_too_many() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == set(NAMES)
    assert DOCS.with_suffix(".md").read_text(encoding="utf-8") == handbook.contents()


def test_a_page_has_every_setting_with_its_default() -> None:
    text = page("mamlpp")
    for key in registry.find("method", "mamlpp").Config.model_fields:
        assert f"`mamlpp.{key}`" in text
    assert "| `mamlpp.order` | second | first, second |" in text
    assert "`model.norm: per_step`" in text
    assert "| `regularizers.dropout.rate` | 0.3 | float | p. |" in page("dropout")


def test_an_unknown_method_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^unknown method or regularizer 'malm': did you mean 'maml'\?"):
        page("malm")


@pytest.mark.parametrize(
    ("doc", "expected"), [(None, ("Bare", "")), ("", ("Bare", "")), ("A title.", ("A title.", ""))]
)
def test_a_module_that_says_little_of_itself(
    doc: str | None, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare:
        pass

    monkeypatch.setitem(sys.modules, "bare", ModuleType("bare", doc))
    monkeypatch.setattr(Bare, "__module__", "bare")
    assert handbook._title(Bare) == expected
