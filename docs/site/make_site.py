"""The site, as HTML: `make site`, or `python docs/site/make_site.py TARGET`.

The pages are those of the repository, in the same folders, so that a link works on both; the tutorials with what their
code prints and draws; pages for modules and published studies, which are generated; and `pages/`, the landing page and
the contents of each section, whose links are relative to the root. Warnings of Sphinx, and what `checks.py` finds in
the result, are errors.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import checks
import generated

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PAGES = ("README.md", "DECISIONS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
PAGES += ("results/README.md", "results/published/README.md")


def collect(folder: Path) -> None:
    """Write all pages, figures and reports that Sphinx reads into an empty folder."""
    shutil.copytree(REPOSITORY / "docs", folder / "docs", ignore=shutil.ignore_patterns("site"))
    shutil.copytree(HERE / "pages", folder, dirs_exist_ok=True)
    shutil.copytree(HERE / "static", folder / "_static")
    shutil.copy2(HERE / "conf.py", folder)
    for name in PAGES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)
    for page in sorted((folder / "docs" / "tutorials").glob("*.md")):
        if "```python" in page.read_text(encoding="utf-8"):
            execute(page)
    generated.module_pages(REPOSITORY, folder)
    generated.gallery(REPOSITORY / "results" / "published", folder)


def execute(page: Path) -> None:
    """Put what the code of a page prints and draws below it. Raises CalledProcessError if the code fails."""
    paths = os.pathsep.join([str(REPOSITORY / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "MPLBACKEND": "Agg"}
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(HERE / "executed.py"), str(page.resolve()), str(page.resolve())]
        subprocess.run(command, cwd=scratch, env=environment, check=True)


def main(target: str) -> None:
    """The command line."""
    site, source = Path(target).resolve(), Path(f"{target}-source").resolve()
    for folder in (site, source):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    collect(source)
    sphinx = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "lib")}
    subprocess.run([*sphinx, "-d", str(source / ".doctrees"), str(source), str(site)], env=environment, check=True)
    if problems := checks.problems(site):
        sys.exit("\n".join(problems))
    print(f"the site: {site / 'index.html'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
