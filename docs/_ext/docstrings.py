"""Docstrings as this project writes them: Google's sections, Markdown's backticks, formulas and examples indented."""

import re
from pydoc import locate
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.nodes import make_refnode

INDENT = "    "
STAR = re.compile(r"(?<=[\[, ])\*(?=\w)")  # of a shape, `[n, *input_shape]`: no emphasis


def google(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sections as fields, and paragraphs that are indented as code."""
    text: list[str] = []
    for line in lines:
        if line.startswith(INDENT) and text and not text[-1] and not any(one.startswith(INDENT) for one in text[-2:-1]):
            text += ["::", ""]
        text.append(STAR.sub(r"\\*", line))
    kind = "method" if what in ("property", "attribute", "data") else what  # a property's first words are no type
    lines[:] = GoogleDocstring(text, Config(), app, kind, name, obj, options).lines()


def short(app: Sphinx, env: BuildEnvironment, node: Any, shown: nodes.Element) -> nodes.reference | None:
    """A class that is named by its last word, or by where it is defined, if it is documented under another name."""
    target = node["reftarget"]
    if node.get("refdomain") != "py":
        return None
    last = target.rpartition(".")[2]
    names = [name for name in env.domains.python_domain.objects if name.rpartition(".")[2] == last]
    found = [name for name in names if "." not in target or locate(name) is locate(target)]
    if len(found) != 1:
        return None
    one = env.domains.python_domain.objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], one.docname, one.node_id, shown, target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry."""
    app.connect("autodoc-process-docstring", google)
    app.connect("missing-reference", short)
    return {"parallel_read_safe": True}
