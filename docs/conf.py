"""The site of docs/: `uv run --group docs sphinx-build -nW --keep-going docs build/docs`, then build/docs/index.html.

Nothing is fetched. Pages are plain Markdown, as the repository shows it; what only a site has is added while it is
built, by the modules of `_ext`, which say it.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project, author, copyright = "raymeta", "the raymeta authors", "the raymeta authors, Apache-2.0"
version = release = installed("raymeta")
extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "docstrings", "files", "links", "parser", "toctrees",
]  # fmt: skip

exclude_patterns = ["cluster", "pictures", "_ext"]
highlight_language = "none"
myst_heading_anchors = 4
default_role = "code"  # docstrings are written as Markdown is
ROOMS = r"api\.given|api\.many\.planned|study|storage|finals|comparison|report|keeping|engine|config|training|problems"
nitpick_ignore_regex = [  # all other names in docstrings and signatures must lead somewhere
    ("py:.*", r"(numpy|np|torch|pandas|pydantic|rich|ray|optuna|collections|pathlib|typing)\..*|Path"),
    ("py:class", rf"raymeta\.({ROOMS})\..*"),  # which no page describes: read the source
    ("py:class", r"Overrides|Pack|raymeta\.registry\.T|dict\[str"),
]

autodoc_class_signature = "separated"  # how an object is made is the business of what returns it
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"raymeta {version}"
html_static_path = ["_ext/style.css"]
html_css_files = ["style.css"]
html_copy_source = html_show_sphinx = False
copybutton_prompt_text = "$ "
