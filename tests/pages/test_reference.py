"""The pages that the site makes of lists: nothing public is missing from them."""

import re

import pytest
from pages.blocks import PAGES, ROOT

import raymeta

DOCS = ROOT / "docs"


def test_every_call_is_in_the_reference() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(raymeta.__all__)


@pytest.mark.parametrize("page", [page.name for page in PAGES if page.parent == DOCS and page.name != "index.md"])
def test_every_page_is_reached_from_a_list_of_the_index(page: str) -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"^- \[[^]]+\]\({page}\): ", index, re.MULTILINE)) == 1
