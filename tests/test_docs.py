"""Documentation pages: the paths, names and targets of links exist, and lines have at most 100 columns."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from workflow_project import REPOSITORY

from neuralign.common.files import PACKAGE
from neuralign.config.references import defined_names, find

WIDTH = 100
HISTORY = REPOSITORY / "CHANGELOG.md"  # names what there was, too
PAGES = [
    *(REPOSITORY / f"{n}.md" for n in ("README", "DECISIONS", "CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT")),
    *(
        page
        for folder in (".", "tutorials", "plugin_template")
        for page in sorted((REPOSITORY / "docs" / folder).glob("*.md"))
    ),
    *sorted((REPOSITORY / "results").glob("*.md")),
    *sorted((REPOSITORY / "results" / "published").glob("*.md")),
]
FOLDERS = {path.name for path in (*REPOSITORY.iterdir(), *PACKAGE.iterdir()) if not path.name.startswith((".", "_"))}
TEMPLATE = REPOSITORY / "docs" / "plugin_template"
WRITTEN = ("results", "logs", "build")  # what is written there need not be here
SUFFIXES = (".py", ".smk", ".md", ".lock", ".toml", ".cff")
# files of the reader, and plug-ins that docs/extending.md has as examples: their folders must exist
EXAMPLES = ("nets.py", "svhn.py", "wide.py", "mine.py", "cubic.py", "cosine.py", "blur.py", "absolute_error.py")
ROOTS = (REPOSITORY, PACKAGE, REPOSITORY / "docs")  # paths are relative to one of them, or to the page's own folder
UNWANTED = re.compile(r"\bissues? *#?\d|(?<!\w)#\d+\b|\breviewers?\b|\bthis session\b", re.IGNORECASE)


def identity(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines outside of blocks of code."""
    in_code = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not line.startswith("    "):
            yield number, line


def spans(page: Path) -> Iterator[str]:
    """What stands in backticks, also where it goes on in the next line."""
    text = "\n".join(line for _, line in prose(page))
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))


def is_path(span: str) -> bool:
    """Whether a span names a file or folder of the repository: no command, no placeholder, nothing that jobs write."""
    if re.search(r"[\s<>{}:=(]|\.\.\.", span) or span.startswith(("/", "-", "http")):
        return False
    first, *rest = span.split("/")
    return first not in WRITTEN and ((bool(rest) and first in FOLDERS) or span.endswith(SUFFIXES))


def path_exists(span: str, page: Path) -> bool:
    """Whether a path, or what a pattern stands for, exists; a bare name may lie in any folder of the code."""
    if Path(span).name in EXAMPLES:
        return any((root / span).parent.is_dir() for root in ROOTS)
    if any(list(root.glob(span)) for root in (*ROOTS, page.parent)):
        return True
    return "/" not in span and any(list((REPOSITORY / folder).rglob(span)) for folder in ("lib", "scripts", "tests"))


def module_and_names(dotted: str) -> tuple[Path | None, list[str]]:
    """The file of the longest beginning of a dotted name that is a module or a package, and the names after it."""
    parts = dotted.split(".")
    root = PACKAGE.parent if parts[0] == "neuralign" else REPOSITORY
    for end in range(len(parts), 0, -1):
        folder = root.joinpath(*parts[:end])
        for path in (folder.with_suffix(".py"), folder / "__init__.py"):
            if path.exists():
                return path, parts[end:]
    return None, parts


def name_exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or something that a module defines."""
    path, names = module_and_names(dotted)
    return path is not None and (not names or names[0] in (defined_names(path) or ()))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_long(line: str) -> bool:
    """Whether a line of prose is too long: tables and lines with a link may be."""
    return len(line) > WIDTH and not line.startswith("|") and "](" not in line


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_paths_that_a_page_names_exist(page):
    assert [span for span in spans(page) if is_path(span) and not path_exists(span, page)] == []


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_modules_and_functions_that_a_page_names_exist(page):
    text = page.read_text()
    names = [span for span in spans(page) if span.startswith("neuralign.")]
    dotted = {re.match(r"[\w.]+", name)[0] for name in names} | set(re.findall(r"python -m ([\w.]+\w)", text))
    assert sorted(name for name in dotted if not name_exists(name)) == []


@pytest.mark.parametrize("page", [*PAGES, HISTORY], ids=identity)
def test_targets_of_links_exist(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", "\n".join(line for _, line in prose(page)))
    for target in [target for target in targets if "://" not in target]:
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{identity(page)} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(other), f"{identity(page)} links to {target}, which is no heading"


@pytest.mark.parametrize("page", [*PAGES, HISTORY], ids=identity)
def test_lines_of_prose_have_at_most_100_columns(page):
    assert [f"{identity(page)}:{number}" for number, line in prose(page) if is_long(line)] == []


@pytest.mark.parametrize("page", [*PAGES, HISTORY], ids=identity)
def test_a_page_does_not_mention_issues_or_reviewers(page):
    """No numbers of issues, which say nothing to a reader."""
    assert [line for _, line in prose(page) if UNWANTED.search(line)] == []


def test_the_template_of_plug_ins_has_what_its_page_and_its_entry_points_name(monkeypatch):
    """tests/workflow/test_plugin_template.py builds and runs it."""
    monkeypatch.chdir(TEMPLATE)
    points = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"]
    kinds = {group.removeprefix("neuralign."): names for group, names in points.items()}
    files = {name: find(target) for names in kinds.values() for name, target in names.items()}
    rows = re.findall(r"^\| `(\w+)` \| (\w+).*\| `(\S+)` \|$", Path("README.md").read_text(), re.MULTILINE)
    assert {name: Path(file).absolute() for name, _, file in rows} == files
    assert {(f"{kind}s", name) for name, kind, _ in rows} == {(kind, name) for kind in kinds for name in kinds[kind]}
    named = re.findall(r'use: "(\S+?:\w+)"', Path("README.md").read_text())
    assert named and all(find(name).is_file() for name in named)
    settings = yaml.safe_load(Path("config.yaml").read_text())
    assert all(name in str(settings) for name in files), "the study uses each of them"


def test_these_checks_notice_a_wrong_page(tmp_path):
    """The checks above see a wrong page."""
    page = tmp_path / "page.md"
    page.write_text("`lib/neuralign/setting.py` `scripts/align.py`\n`rules/*.smk` `results/x.py` `no/such.py`\n")
    assert [s for s in spans(page) if is_path(s)] == [
        "lib/neuralign/setting.py",
        "scripts/align.py",
        "rules/*.smk",
        "no/such.py",
    ]
    assert [s for s in spans(page) if is_path(s) and not path_exists(s, page)] == [
        "lib/neuralign/setting.py",
        "no/such.py",
    ]
    assert name_exists("neuralign.api.align") and name_exists("benchmarks.statistics")
    assert not name_exists("neuralign.api.curve") and not name_exists("neuralign.setting")
    assert is_long("x " * 51) and not is_long("| " * 60) and not is_long("[a](b) " * 20)
    assert UNWANTED.search("as issue 11 says") and UNWANTED.search("see #12") and not UNWANTED.search("# 3 packages")
    page.write_text("# A `b`, and c\n")
    assert anchors(page) == {"a-b-and-c"}
