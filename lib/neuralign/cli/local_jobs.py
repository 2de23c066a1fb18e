"""Runs jobs of the workflow without Snakemake: the scripts of their rules, one after another in this process."""

import inspect
import logging
import runpy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralign.cli.archives import archive_folder
from neuralign.cli.configs import extended_catalogue, load_config, workflow_file
from neuralign.cli.entries import REGIME, dataset_entry, network_entry, regime_entry
from neuralign.cli.interface.options import ImageOptions, NetworkOptions
from neuralign.common.logs.progress import report
from neuralign.config.catalogue import Catalogue
from neuralign.config.plugins import Entry
from neuralign.workflow.job import Ref, ref

log = logging.getLogger("neuralign")
# {rule: its outputs}
OUTPUTS = {"fetch_data": ["data"], "import_endpoint": ["network"], "align": ["permutation", "moved"]}


def make(c: Catalogue, output: Ref, folder: Path) -> Path:
    """The file of a job's output in `folder`. If it does not exist, the job and those that it needs are run."""
    from neuralign.workflow.graph import job  # imports numpy, which the help does without

    job_name = "-".join([output.rule, *(value for _, value in output.wildcards)])
    files = {name: folder / name / job_name for name in OUTPUTS[output.rule]}
    if not files[output.output].exists():
        description = job(c, output.rule, dict(output.wildcards))
        inputs = {name: str(make(c, r, folder)) for name, r in description.inputs.items() if isinstance(r, Ref)}
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        if output.rule == "fetch_data" and (archives := archive_folder(description.settings["dataset"])):
            (files["data"].parent / "archives").symlink_to(archives)  # where the job looks for them and puts them
        main = _load_main(output.rule)
        report(job_name.replace("_", " "), 0, 0)
        scratch = {"scratch": folder / "scratch" / job_name} if "scratch" in inspect.signature(main).parameters else {}
        for path in scratch.values():
            path.mkdir(parents=True)
        main(**inputs, **{name: str(file) for name, file in files.items()}, **description.settings, **scratch)
    return files[output.output]


def load_data_and_model(
    network: NetworkOptions,
    configfile: Sequence[Path] | None,
    data: str,
    images: ImageOptions,
    checkpoints: Sequence[str] = (),
) -> tuple[Any, Any, Entry]:
    """The dataset of --data, NETWORK as a model with weights of seed 0, normalised for it, and the model's settings.

    Warns if that may not be the normalisation that the checkpoints were trained with.
    """
    from neuralign.networks import setup
    from neuralign.workflow.graph import job

    config = load_config(configfile)
    name, entry = network_entry(network, config, images)
    data_name, dataset = dataset_entry(data, config)
    overlay = {"networks": {name: entry}, "datasets": {data_name: dataset}}
    overlay["regimes"] = {REGIME: regime_entry(normalise=images.normalise)}
    overlay["checkpoints"] = {"any": {"file": "any"}}  # never read: only the settings of its job are needed
    c = extended_catalogue(config, overlay)
    wildcards = {"dataset": data_name, "network": name, "regime": REGIME, "checkpoint": "any"}
    with tempfile.TemporaryDirectory(prefix="neuralign-") as folder:
        file = make(c, ref("fetch_data", "data", dataset=data_name), Path(folder))
        settings = job(c, "import_endpoint", wildcards).settings["model"]
        loaded, model = setup.load_data_and_model(str(file), settings, seed=0)
    for checkpoint in checkpoints:
        for warning in setup.normalisation_warnings(model, settings, loaded, checkpoint):
            log.warning(warning)
    return loaded, model, settings


def _load_main(rule: str) -> Any:
    """The function `main` of the script of a rule."""
    return runpy.run_path(str(workflow_file(f"scripts/{rule}.py")))["main"]
