"""`neuralign init`: a folder for studies of one's own, with a config, profiles and a Snakefile."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError, workflow_file
from neuralign.common.workflow_files import WORKFLOW

DESCRIPTION = "Make a folder for studies of your own: a commented config, profiles and a Snakefile."
EXAMPLES = [
    "neuralign init my-study",
    "neuralign init .   # the files in the working directory, if none of them is there",
]
TEMPLATES = Path(__file__).parents[1] / "study_folder"
IGNORED = "/results/\n/logs/\n/.snakemake/\n"


def run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="the folder, which is created if need be")],
) -> tuple[int, dict[str, Any], str]:
    """Write the files of a study folder. Raises `UsageError`, before anything is written, if one of them is there."""
    profiles = workflow_file("profiles/default/profile.yaml").parents[1]
    contents = {".gitignore": IGNORED} | {file.name: file.read_text() for file in sorted(TEMPLATES.iterdir())}
    contents |= {str(f.relative_to(WORKFLOW)): f.read_text() for f in sorted(profiles.rglob("*.yaml"))}
    if existing := [folder / name for name in contents if (folder / name).exists()]:
        raise UsageError(f"FOLDER: {existing[0]} is there already; a folder without it is needed")
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    lines = [f"{folder}: {', '.join(contents)}", "", "next:"]
    lines += [f"  cd {folder}", "  neuralign run first   # or: snakemake --cores all first", "  edit config.yaml"]
    facts = {"folder": str(folder), "files": list(contents), "default_config": str(WORKFLOW / "config.yaml")}
    return 0, facts, "\n".join([*lines, f"the default config, whose entries can be used: {facts['default_config']}"])
