"""What is generated from requirements.lock, which `make lock` writes. Needs nothing but the standard library.

python envs/from_lock.py files    # write envs/requirements.txt, envs/neuralign.yaml and envs/Containerfile
python envs/from_lock.py cpu      # print the lock without PyTorch and without what only its CUDA build needs
python envs/from_lock.py torch    # print the pins of PyTorch that this leaves out
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
PYTORCH = ("torch", "torchvision")
OF_CUDA = re.compile(r"triton|nvidia-.+|cuda-.+")  # packages that no CPU build of PyTorch needs
HEAD = "# {} Written by `make lock`, from requirements.lock.\n"
CONDA = """channels:
  - conda-forge
  - nodefaults
dependencies:
  - python =3.11
  - pip =25.3
  - pip:
"""
BASE = "docker.io/library/python:3.11.14-slim-bookworm"
DIGEST = "sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d"  # of all its platforms
CONTAINER = """#
# podman build --file envs/Containerfile --tag neuralign .
# docs/install.md says how to run it.

FROM {base}

COPY envs/requirements.txt /source/envs/requirements.txt
RUN pip install --no-cache-dir --require-hashes --requirement /source/envs/requirements.txt

COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE Snakefile config.yaml /source/
COPY lib /source/lib
COPY rules /source/rules
COPY scripts /source/scripts
COPY envs /source/envs
COPY profiles /source/profiles
RUN pip install --no-cache-dir --no-deps --no-build-isolation /source \\
    && rm -rf /source \\
    && useradd --create-home --uid 1000 neuralign \\
    && install --directory --owner neuralign /study

USER neuralign
WORKDIR /study
ENTRYPOINT ["neuralign"]
CMD ["--help"]
"""


class Pin(NamedTuple):
    """One pinned release.

    Attributes:
        name: of the distribution.
        version: of the release.
        marker: where it is installed, as in PEP 508; "" for everywhere.
        lines: its lines in the lock, with the digests of its files.
        needed_by: names of the distributions that need it.
    """

    name: str
    version: str
    marker: str
    lines: tuple[str, ...]
    needed_by: frozenset[str]


def read_lock() -> list[Pin]:
    """All pins. A package has several where its version depends on the platform or on Python."""
    text = (REPOSITORY / "requirements.lock").read_text()
    return [_pin(block.splitlines()) for block in re.findall(r"^[a-z0-9].*\n(?: .*\n)+", text, re.MULTILINE)]


def _pin(block: list[str]) -> Pin:
    requirement, _, marker = block[0].removesuffix(" \\").partition(" ; ")
    name, version = requirement.split("==")
    needed_by = {line.split()[-1] for line in block if line.lstrip().startswith("#")} - {"via"}
    return Pin(name, version, marker, tuple(line for line in block if "#" not in line), frozenset(needed_by))


def named(project: dict[str, object]) -> set[str]:
    """The names of the packages in the metadata, of all extras but without the tools of developers."""
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    core: list[str] = project["dependencies"]  # type: ignore[assignment]
    requirements = [*core, *(requirement for extra in extras.values() for requirement in extra)]
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}
    return names - {project["name"]}


def needed(pins: Iterable[Pin], names: set[str]) -> list[Pin]:
    """The pins of these packages and of all that they need, directly or not."""
    pins, wanted = list(pins), set(names)
    while more := {pin.name for pin in pins if pin.needed_by & wanted} - wanted:
        wanted |= more
    return [pin for pin in pins if pin.name in wanted]


def requirements(pins: Iterable[Pin]) -> str:
    """Lines for `pip install -r`."""
    return "".join(f"{line}\n" for pin in pins for line in pin.lines)


def conda(pins: Iterable[Pin]) -> str:
    """An environment file of conda. Pins keep their markers, which pip reads, and have no digests."""
    entries = (f"{pin.name}=={pin.version}{' ; ' if pin.marker else ''}{pin.marker}" for pin in pins)
    return CONDA + "".join(f'      - "{entry}"\n' for entry in entries)


def files() -> dict[str, str]:
    """{path: content} of the generated files."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pins = needed(read_lock(), named(project))
    return {
        "envs/requirements.txt": HEAD.format("For `pip install -r`: all extras, without the tools of developers.")
        + requirements(pins),
        "envs/neuralign.yaml": HEAD.format("For `snakemake --sdm conda`.") + conda(pins),
        "envs/Containerfile": HEAD.format("An image with all extras.") + CONTAINER.format(base=f"{BASE}@{DIGEST}"),
    }


def main(what: str) -> None:
    """The command line."""
    pins = read_lock()
    if what == "files":
        for path, text in files().items():
            (REPOSITORY / path).write_text(text)
    elif what == "cpu":
        print(requirements(pin for pin in pins if pin.name not in PYTORCH and not OF_CUDA.fullmatch(pin.name)), end="")
    elif what == "torch":
        print(*(f"{pin.name}=={pin.version}" for pin in pins if pin.name in PYTORCH))
    else:
        sys.exit(f"found {what!r}; files, cpu or torch is needed")


if __name__ == "__main__":
    main(*sys.argv[1:])
