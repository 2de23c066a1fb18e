"""Sphinx's settings. `make_site.py` collects the pages and runs Sphinx with them."""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

import neuralign

project = "neuralign"
author = "The neuralign developers"
project_copyright = author
version = release = neuralign.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
root_doc = "index"
myst_enable_extensions = ["colon_fence"]
# a line of these pages may begin with a per cent sign, which is no comment elsewhere
myst_disable_syntax = ["myst_line_comment", "myst_block_break", "myst_target"]
myst_heading_anchors = 4  # as GitHub names them, so that links to headings work there and here

default_role = "code"  # `x` in docstrings is code, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 90  # a longer one has a line for each parameter
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "neuralign"
html_static_path = ["_static"]
html_css_files = ["neuralign.css"]
html_extra_path = ["_reports"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_sidebars = {"index": []}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "github-light",
    "pygments_dark_style": "github-dark",
}
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div:not(.output) > div.highlight > pre"

FIELD = re.compile(r"    (\w+): [^#]*?  # (.+)")


def describe_fields(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Add the fields of a dataclass, which are described by comments in its code, to its docstring."""
    if what != "class" or not hasattr(thing, "__dataclass_fields__") or any(line == "Attributes:" for line in lines):
        return
    fields = [match.groups() for line in inspect.getsource(thing).splitlines() if (match := FIELD.fullmatch(line))]
    if fields:
        lines += ["", "Attributes:", *(f"    {field}: {_escaped(comment)}" for field, comment in fields), ""]


def _escaped(comment: str) -> str:
    """A comment as reStructuredText: what stands in backticks is code, all else has no markup."""
    parts = comment.split("`")
    parts[::2] = [re.sub(r"([|*_])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", describe_fields, priority=100)  # before napoleon reads `Attributes:`
