"""Views as a part of an HTML page, and as a page of their own; plotly.js is in the page, compressed."""

import gzip
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from neuralign.report.interactive.view import View

FOLDER = Path(__file__).parent


def embed(views: Sequence[View]) -> Markup:
    """The views with all that they need; nothing is loaded, and the same views give the same bytes."""
    code = (FOLDER / "views.js").read_text(encoding="utf-8")
    return Markup(_render("views.html", views=views, code=code, bundle=_bundle()))


def page(view: View, title: str, *, printed: bytes) -> str:
    """A page with one view.

    Args:
        view: what it shows.
        title: of the page.
        printed: the same as a PNG, for print and for readers without JavaScript.
    """
    return _render(
        "page.html", views=embed([view]), title=title, caption=view.caption, printed=b64encode(printed).decode()
    )


def _render(template: str, **values: object) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((FOLDER / template).read_text(encoding="utf-8")).render(**values)


@cache
def _bundle() -> str:
    """plotly.js, compressed by gzip to less than a third, in base64."""
    from plotly.offline import get_plotlyjs

    return b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
