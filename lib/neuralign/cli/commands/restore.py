"""`neuralign restore`: the published results of a study, checked and put where the workflow looks for them."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import load_catalogue
from neuralign.cli.interface.options import ConfigFiles, Results
from neuralign.workflow.provenance.bundle import restore
from neuralign.workflow.running.run_lock import exclusive

DESCRIPTION = "Put the published results of a study where the workflow looks for them, after checking all of them."
EXAMPLES = ["neuralign restore results/published/cifar10"]


def run(
    bundle: Annotated[Path, typer.Argument(metavar="FOLDER", help="a folder that `neuralign publish` made")],
    results: Results = Path("results"),
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Check the bundle and copy those of its results that the config asks for."""
    catalogue = load_catalogue(configfile)
    is_of_workflow = results.name == "results"  # no run is at work in any other folder
    with exclusive(results.parent) if is_of_workflow else nullcontext():
        outcome = restore(catalogue, bundle, results)
    lines = [f"{results}: {len(outcome.copied)} results restored, {len(outcome.kept)} were there already"]
    if outcome.as_older:
        lines.append(
            f"made by older code or versions: {len(outcome.as_older)} of them. Their settings are those of the config, "
            "so they stand for results of the present code, and their notes say so; to compute them anew, delete them"
        )
    reasons = Counter(outcome.left_out.values())
    lines += [f"left out: {count} results: {reason}" for reason, count in reasons.most_common()]
    return 0, outcome._asdict(), "\n".join(lines)
