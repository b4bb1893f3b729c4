"""The Markdown files as the repository shows them: each link leads to a file, and to a heading that there is.

The built site has a check of its own (docs/_ext/links.py).
"""

import re
from functools import cache
from pathlib import Path

import pytest
from pages.blocks import ROOT

FILES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@cache
def places(page: Path) -> set[str]:
    """The anchors that headings get."""
    titles = HEADING.findall(re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead(page: Path, text: str) -> list[str]:
    """The links of a text that lead nowhere, from where its page lies."""
    found = []
    for link in LINK.findall(CODE.sub("", text)):
        name, _, place = link.partition("#")
        target = page.parent / name if name else page
        if "://" in link:
            continue
        if not target.exists() or (place and place not in places(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", FILES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page: Path) -> None:
    assert dead(page, page.read_text(encoding="utf-8")) == []


def test_a_dead_link_is_found() -> None:
    text = "[a](docs/first.md#search) [b](docs/frist.md) [c](docs/first.md#serach) [d](https://x.y) `[e](f)`"
    assert dead(ROOT / "README.md", text) == ["docs/frist.md", "docs/first.md#serach"]
