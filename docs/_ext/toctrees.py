"""The order of pages: a page that a list or the first column of a table of index.md or methods.md links to is below it.

Lists of the index are captioned by their headings.
"""

import re
from typing import Any

from sphinx.application import Sphinx

LISTS = ("index", "methods")
ENTRY = re.compile(r"^(?:- |\| )\[([^]]+)\]\(([\w/]+)\.md\)", re.MULTILINE)
TREE = "```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n"


def with_toctrees(text: str) -> str:
    """A page with a hidden toctree for each heading below which it lists pages."""
    for part in re.split(r"^## ", text, flags=re.MULTILINE):
        if pages := ENTRY.findall(part):
            text += "\n" + TREE.format(part.splitlines()[0], "\n".join(f"{title} <{page}>" for title, page in pages))
    return text


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Sphinx has read a page."""
    if page in LISTS:
        source[0] = with_toctrees(source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
