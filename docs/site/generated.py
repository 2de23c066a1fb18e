"""Pages of the site that are made of the code and of published results: one for each module, one for each study."""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from neuralign.report.labels import label
from neuralign.report.page.results_page import Bundle, bundles, short_table

MODULE = """\
# {title}

```{{eval-rst}}
.. automodule:: {module}
   :members:
```
"""
MODULES = """\
# Modules

What the pages of this site name, besides [the calls of the package itself](../api.md).

| module | what it has |
| --- | --- |
{rows}

```{{toctree}}
:hidden:

{names}
```
"""
STUDY = """\
# {title}

{description}

{table}

:::{{button-link}} ../reports/{name}.html
:color: primary
The whole report
:::

{figures}
"""
CARD = """\
:::{{grid-item-card}} {title}
:img-top: {figure}
:link: {name}
:link-type: doc
{description}
:::
"""
GALLERY = """\
# Gallery of reports

Studies that this workflow has computed, as it reported them. The files that the reports are made of lie in the
repository: [published results](../results/published/README.md).

::::{{grid}} 1 2 2 2
:gutter: 3

{cards}
::::

```{{toctree}}
:hidden:

{names}
```
"""


def named_modules(repository: Path) -> dict[str, Path]:
    """{module: file} of the library's modules that the documentation names: by import, by name, or as an interface."""
    library = repository / "lib"
    files = {".".join(file.relative_to(library).with_suffix("").parts): file for file in library.rglob("*.py")}
    pages = [*sorted((repository / "docs").glob("*.md")), *sorted((repository / "docs" / "tutorials").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    names = set(re.findall(r"(?:^(?:from|import) |`)(neuralign\.[a-z_.]+\w)", text, re.MULTILINE))
    interfaces = (repository / "docs" / "extending.md").read_text(encoding="utf-8")
    names |= {f"neuralign.{path.replace('/', '.')}" for path in re.findall(r"`([a-z_/]+)\.py`", interfaces)}
    modules = {name if name in files else name.rpartition(".")[0] for name in names}
    return {name: files[name] for name in sorted(modules) if name in files and name != "neuralign.api"}


def module_pages(repository: Path, folder: Path) -> None:
    """Write a page for each named module, and one with their list, to `folder`/modules."""
    target = folder / "modules"
    target.mkdir()
    modules = named_modules(repository)
    rows = []
    for module, file in modules.items():
        short = module.removeprefix("neuralign.")
        (target / f"{short}.md").write_text(MODULE.format(title=short, module=module), encoding="utf-8")
        rows.append(f"| [{short}]({short}.md) | {_first_sentence(file)} |")
    names = "\n".join(module.removeprefix("neuralign.") for module in modules)
    (target / "index.md").write_text(MODULES.format(rows="\n".join(rows), names=names), encoding="utf-8")


def _first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")
    return re.split(r"(?<=\.)(?<!\bal\.)\s(?=[A-Z])", paragraph)[0]


def gallery(published: Path, folder: Path) -> None:
    """Write the gallery and a page for each published study to `folder`/gallery, and their reports to be copied."""
    target, reports = folder / "gallery", folder / "_reports" / "reports"
    target.mkdir()
    reports.mkdir(parents=True)
    cards, names = [], []
    for bundle in bundles(published):
        _copy_figures(bundle, folder)
        shutil.copy2(bundle.folder / "studies" / bundle.name / "report.html", reports / f"{bundle.name}.html")
        figures = [f"../{path}" for path in _figures(bundle)]
        facts = {key: bundle.study[key] for key in ("title", "description")} | {"name": bundle.name}
        images = "\n\n".join(f"![{label(Path(figure).stem)}]({figure})" for figure in figures)
        page = STUDY.format(**facts, table=short_table(bundle), figures=images)
        (target / f"{bundle.name}.md").write_text(page, encoding="utf-8")
        main = bundle.figure(bundle.metrics.headline.name)
        first = next((figure for figure in figures if main and figure.endswith(f"/{main.name}")), figures[0])
        cards.append(CARD.format(**facts, figure=first))
        names.append(bundle.name)
    page = GALLERY.format(cards="\n".join(cards), names="\n".join(names))
    (target / "index.md").write_text(page, encoding="utf-8")


def _figures(bundle: Bundle) -> Iterator[Path]:
    """Where the figures of a study lie, relative to the repository."""
    for figure in sorted((bundle.folder / "studies" / bundle.name / "figures").glob("*.png")):
        yield figure.relative_to(bundle.folder.parents[2])


def _copy_figures(bundle: Bundle, folder: Path) -> None:
    """Copy a study's figures, from which docs/results.md shows some, to the same place below `folder`."""
    for path in _figures(bundle):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(bundle.folder.parents[2] / path, folder / path)
