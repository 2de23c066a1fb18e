"""The site: how pages are executed and checked, and that every page is in it. `make site` builds the whole of it."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from workflow_project import REPOSITORY

from neuralign import api

sys.path.append(str(REPOSITORY / "docs" / "site"))
import checks
import generated
import make_site

SITE = REPOSITORY / "docs" / "site"

PAGE = """\
# A page

```python
import warnings
x = 2
print("two")
```

Text.

```python
x += 1
```

```python
print(x)
```
"""


def run(page: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SITE / "executed.py"), str(page), str(page.with_name("done.md"))]
    return subprocess.run(command, cwd=page.parent, capture_output=True, text=True)


def test_what_the_code_of_a_page_prints_stands_below_it(tmp_path):
    (tmp_path / "page.md").write_text(PAGE)
    assert run(tmp_path / "page.md").stderr == ""
    two, three = ("```{code-block} text\n:class: output\n\n" + printed + "\n```\n" for printed in ("two", "3"))
    expected = PAGE.replace('print("two")\n```\n', f'print("two")\n```\n\n{two}')
    assert (tmp_path / "done.md").read_text() == expected.replace("print(x)\n```\n", f"print(x)\n```\n\n{three}")


def test_what_the_code_of_a_page_draws_stands_below_it(tmp_path):
    code = "import matplotlib\nmatplotlib.use('agg')\nfrom matplotlib import pyplot as plt\n_ = plt.figure()\n"
    (tmp_path / "page.md").write_text(f"```python\n{code}```\n\n```python\n_ = plt.figure()\n_ = plt.figure()\n```\n")
    assert run(tmp_path / "page.md").stderr == ""
    assert [line for line in (tmp_path / "done.md").read_text().splitlines() if line.startswith("!")] == [
        f"![Drawn by the block above](done-{number}.png)" for number in (1, 2, 3)
    ]
    assert (tmp_path / "done-3.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("code", "error"), [("1 / 0", "ZeroDivisionError"), ("warnings.warn('mind')", "UserWarning: mind")]
)
def test_an_error_or_a_warning_in_a_page_ends_its_execution_and_names_the_line(tmp_path, code, error):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("x += 1", code))
    done = run(page)
    assert done.returncode == 1 and error in done.stderr and f'File "{page}", line 12' in done.stderr
    assert not (tmp_path / "done.md").exists()


def test_links_that_lead_nowhere_and_files_from_elsewhere_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<link rel="canonical" href="https://x.org/a.html"><link rel="stylesheet" href="//cdn.org/s.css">'
        '<script src="https://cdn.org/s.js"></script><img src="here.png"><img src="data:image/png;base64,AA">'
        "<style>@font-face {src: url('https://fonts.org/f.woff')}</style>"
        '<a href="https://x.org">x</a> <a href="b.html#place">b</a> <a href="b.html#other">b</a> <a href="c.html">c</a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="place">b</h1> <a href="#place">b</a> <a href="a.html?q=1">a</a>')
    (tmp_path / "s.css").write_text('@import "https://cdn.org/t.css"; p {background: url(b.png)}')
    assert checks.problems(tmp_path) == [
        "a.html loads //cdn.org/s.css from elsewhere",
        "a.html links to b.html#other, which is no place of that page",
        "a.html links to c.html, which does not exist",
        "a.html links to here.png, which does not exist",
        "a.html loads https://cdn.org/s.js from elsewhere",
        "a.html loads https://fonts.org/f.woff from elsewhere",
        "s.css loads https://cdn.org/t.css from elsewhere",
    ]


def test_pages_are_read_as_plain_markdown():
    """What only MyST reads otherwise than GitHub is off: comments, breaks of blocks, targets."""
    settings = runpy.run_path(str(SITE / "conf.py"))
    config = MdParserConfig(disable_syntax=settings["myst_disable_syntax"])
    html = create_md_parser(config, RendererHTML).render("5\n% of\n+++ and\n(a)= b\n")
    assert html == "<p>5\n% of\n+++ and\n(a)= b</p>\n"


def test_every_page_is_in_the_contents_of_a_section():
    """Sphinx demands this too, but only when the site is built."""
    contents = "\n".join(page.read_text() for page in (SITE / "pages").glob("*.md"))
    entries = re.split(r"[\n<>]", contents)
    folders = ("docs", "docs/tutorials", "docs/plugin_template")
    pages = [p.relative_to(REPOSITORY).as_posix() for folder in folders for p in (REPOSITORY / folder).glob("*.md")]
    pages += make_site.PAGES
    missing = [page for page in pages if page.removesuffix(".md") not in entries]
    assert len(pages) > 25 and missing == []


def test_every_call_of_the_library_is_on_its_page():
    page = (SITE / "pages" / "api.md").read_text()
    described = re.findall(r"auto(?:function|class):: neuralign\.(\w+)$", page, re.MULTILINE)
    assert sorted(described) == sorted(api.__all__)


def test_modules_that_the_documentation_names_have_a_page(tmp_path):
    modules = generated.named_modules(REPOSITORY)
    assert {"neuralign.networks.foreign_checkpoints", "neuralign.alignment.problem", "neuralign.merging.soups"} <= {
        *modules
    }
    generated.module_pages(REPOSITORY, tmp_path)
    contents = (tmp_path / "modules" / "index.md").read_text()
    assert all(f"\n{module.removeprefix('neuralign.')}\n" in contents for module in modules)
    assert "| [merging.soups](merging.soups.md) | " in contents


def test_published_studies_have_a_page_with_their_report_and_figures(tmp_path):
    generated.gallery(REPOSITORY / "results" / "published", tmp_path)
    page = (tmp_path / "gallery" / "cifar10_tinyten.md").read_text()
    assert "| Curve, aligned | 88.91 ± 0.26 |" in page and "reports/cifar10_tinyten.html" in page
    figure = "results/published/cifar10_tinyten/studies/cifar10_tinyten/figures/accuracy_standard.png"
    assert f"](../{figure})" in page and (tmp_path / figure).is_file()
    assert (tmp_path / "_reports" / "reports" / "cifar10_tinyten.html").is_file()
