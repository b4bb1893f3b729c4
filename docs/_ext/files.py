"""Files and folders beside docs/ that pages link to, `../trainables/maml.py` say, are pages of the site."""

import posixpath
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
LINK = re.compile(r"\]\(([\w./-]*\.\./[\w./-]+|cluster/[\w.]+)\)")
LEXERS = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".toml": "toml"}


def beside(page: str, target: str) -> Path | None:
    """What a link of a page names, if it is no page; relative to the repository."""
    path = (DOCS / page).parent.joinpath(target).resolve()
    inside = path.is_relative_to(ROOT) and path != ROOT and path.exists()
    return path.relative_to(ROOT) if inside and not (path.is_relative_to(DOCS) and path.suffix == ".md") else None


class Links(SphinxTransform):
    """Links to such files lead to their pages."""

    default_priority = 5

    def apply(self, **kwargs: Any) -> None:
        for kind in (addnodes.pending_xref, addnodes.download_reference):
            for node in list(self.document.findall(kind)):
                target = node["reftarget"] + (".md" if node.get("refdomain") == "doc" else "")
                if node.get("reftype") == "myst" and (path := beside(self.env.docname, target)):
                    uri = posixpath.relpath(f"files/{path.as_posix()}.html", posixpath.dirname(self.env.docname) or ".")
                    node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))


def linked() -> set[Path]:
    """All that pages link to, and what is in the folders among it."""
    found = set()
    for page in DOCS.rglob("*.md"):
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if path := beside(page.relative_to(DOCS).as_posix(), target):
                found |= {path, *within(path)}
    return found


def within(folder: Path) -> set[Path]:
    """Files and folders below a folder that can be read as text."""
    below = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*"))
    return {path for path in below if path.suffix in LEXERS or ((ROOT / path).is_dir() and path.name != "__pycache__")}


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each: a file's text, or what is in a folder."""
    for path in sorted(linked()):
        if (ROOT / path).is_dir():
            names = sorted(one.name for one in within(path) if one.parent == path)
            rows = "".join(f'<li><a href="{path.name}/{name}.html">{escape(name)}</a></li>' for name in names)
            body = f"<ul>{rows}</ul>"
        else:
            text = (ROOT / path).read_text(encoding="utf-8")
            body = app.builder.highlighter.highlight_block(text, LEXERS.get(path.suffix, "text"), linenos=False)
        title = path.as_posix()
        yield f"files/{title}", {"title": title, "body": f"<h1>{escape(title)}</h1>{body}"}, "page.html"


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry."""
    app.add_transform(Links)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True}
