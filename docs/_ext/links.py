"""Every link within the built site leads to a page, and to a place of that page that there is; else the build warns."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging


class Page(HTMLParser):
    """The links of a page, and its places."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.places.add(value or "")
            elif name in ("href", "src") and value:
                self.links.add(value)


def dead(folder: Path) -> Iterator[str]:
    """A sentence for each link that leads nowhere."""
    folder = folder.resolve()
    pages = {path: Page(path) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path.parent.joinpath(unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (target in pages and unquote(parts.fragment) not in pages[target].places):
                yield f"{path.relative_to(folder)}: the link '{link}' leads nowhere"


def check(app: Sphinx, exception: Exception | None) -> None:
    """Sphinx has built the site."""
    if exception is None and app.builder.format == "html":
        for sentence in dead(Path(app.outdir)):
            logging.getLogger(__name__).warning(sentence)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
