"""`neuralign publish`: the finished results of a study in a folder of their own, for others to restore."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import check_study, load_catalogue
from neuralign.cli.interface.options import ConfigFiles, Results, Study
from neuralign.workflow.provenance.bundle import publish

DESCRIPTION = "Copy the finished results of a study, with their provenance notes, to a folder that can be published."
EXAMPLES = [
    "neuralign publish cifar10                # to results/published/cifar10",
    "neuralign publish cifar10 --unfinished   # what is finished so far",
]


def run(
    study: Study,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="the folder, which is replaced if it is there (default: results/published/STUDY)",
        ),
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="also if some jobs of the study are not finished")
    ] = False,
    results: Results = Path("results"),
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Check the results of the study and copy them."""
    catalogue = load_catalogue(configfile)
    check_study(catalogue, study)
    bundle = to or Path("results", "published", study)
    published, missing = publish(catalogue, study, results, bundle, unfinished=unfinished)
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    lines = [f"{bundle}: {len(published)} results, {size / 1e6:.1f} MB with their notes"]
    if missing:
        lines.append(f"not finished, so not in it: {len(missing)} jobs, such as {missing[0]}")
    facts = {"bundle": str(bundle), "bytes": size, "published": published, "missing": missing}
    return 0, facts, "\n".join(lines)
