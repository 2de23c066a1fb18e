"""`neuralign align`: the permutation that aligns the neurons of one checkpoint to those of another."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError, extended_catalogue, load_config
from neuralign.cli.devices import on_device
from neuralign.cli.entries import (
    REGIME,
    alignment_entry,
    checkpoint_entries,
    dataset_entry,
    file_digests,
    network_entry,
    regime_entry,
)
from neuralign.cli.interface.options import (
    CheckpointA,
    ConfigFiles,
    Data,
    Device,
    ImageOptions,
    Inside,
    Method,
    NetworkOptions,
)
from neuralign.cli.local_jobs import make
from neuralign.cli.outputs import check_outputs, input_files
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.job import Setting, ref

DESCRIPTION = "Align the neurons of checkpoint B to those of checkpoint A."
EXAMPLES = [
    "neuralign align torchvision.models:resnet18 a.pt b.pt --data my_images/ -o b_aligned.safetensors",
    "neuralign align ./nets.py:Net a.pt b.pt --data my.npz --method transport --permutation b.permutation.safetensors",
]


def run(
    network: NetworkOptions,
    a: CheckpointA,
    b: Annotated[str, typer.Argument(metavar="B", help="the checkpoint whose neurons are permuted")],
    data: Data,
    images: ImageOptions,
    method: Method = "correlation",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="write the permuted B, with its own tensor names: .safetensors, .pt or .pth",
        ),
    ] = None,
    permutation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write the permutation, with its certificate (.safetensors)"),
    ] = None,
    device: Device = None,
    inside: Inside = None,
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Align by the jobs of the rules `import_endpoint` and `align`, and write the files that the options name."""
    from neuralign.common.tensors import load_facts, load_tensors, save_tensors
    from neuralign.merging.export import check_suffix, write_checkpoint
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import canonical_names
    from neuralign.symmetry.certificate import CertificateError
    from neuralign.symmetry.explain import why_all_is_fixed
    from neuralign.symmetry.other_tensors import spec_as_data
    from neuralign.symmetry.permutations import permute

    if output:
        check_suffix(output, "--output")
    config = load_config(configfile)
    (network_name, entry), (data_name, dataset) = network_entry(network, config, images), dataset_entry(data, config)
    alignment, alignments = alignment_entry("--method", method, config, attention=network.attention)
    endpoints = checkpoint_entries([a, b], inside)
    if len(endpoints) < 2:
        raise UsageError(f"A and B are the same file, {a}")
    check_outputs(
        {"--output": output, "--permutation": permutation}, input_files(config, configfile, network, data, [a, b])
    )
    c = extended_catalogue(
        config,
        {
            "networks": {network_name: entry},
            "datasets": {data_name: dataset},
            "checkpoints": endpoints,
            "alignments": alignments,
            "regimes": {REGIME: regime_entry(normalise=images.normalise)},
        },
    )
    setting = Setting(data_name, network_name, REGIME)
    job = ref("align", "permutation", setting, pair="-".join(endpoints), alignment=alignment)
    with on_device(device), tempfile.TemporaryDirectory(prefix="neuralign-") as temporary:
        folder = Path(temporary)
        try:
            file = make(c, job, folder)
        except CertificateError as error:
            return 1, {"method": method, "certificate": None, "error": str(error)}, f"not certified: {error}"
        facts, indices = load_facts(file), load_tensors(str(file))
        groups = {g: {"units": len(p), "moved": int((p != p.sort().values).sum())} for g, p in indices.items()}
        report = {"method": method, "certificate": facts["certificate"], "groups": groups}
        report |= {key: facts[key] for key in ("certificate_precision", "unreached")}
        report |= {"target": file_digests(a), "source": file_digests(b)}
        if output or permutation or not groups:
            model, trace = _trace_model(c, setting, list(endpoints)[1], folder, attention=network.attention)
        if not groups:
            report["why"] = why_all_is_fixed(trace.frozen)
        if permutation:
            data_of_spec = {
                "spec": spec_as_data(trace.spec, canonical_names(model.network)),
                "network": network.network,
            }
            save_tensors(dict(indices), permutation, facts | report | data_of_spec)
            report["permutation"] = str(permutation)
        if output:
            checkpoint = foreign_checkpoints.read(b, model, list(endpoints.values())[1].get("inside"))
            write_checkpoint(checkpoint.renamed(permute(trace.spec, indices, checkpoint.stored)), output)
            report["output"] = str(output)
    return 0, report, _format(report)


def _trace_model(c: Catalogue, setting: Setting, checkpoint: str, folder: Path, *, attention: bool) -> tuple[Any, Any]:
    """(the model of the checkpoints, its trace)."""
    from neuralign.networks.setup import load_data_and_model
    from neuralign.symmetry.tracing.trace import trace_model
    from neuralign.workflow.graph import job

    settings = job(c, "import_endpoint", {**setting._asdict(), "checkpoint": checkpoint}).settings
    data = make(c, ref("fetch_data", "data", dataset=setting.dataset), folder)
    images, model = load_data_and_model(str(data), settings["model"])
    return model, trace_model(model, images.train, attention=attention)


def _format(report: dict[str, Any]) -> str:
    """How many units moved in each group, the certificate and the files."""
    groups = report["groups"]
    moved, units = (sum(g[key] for g in groups.values()) for key in ("moved", "units"))
    lines = [f"{g}: {n['moved']} of {n['units']} units moved" for g, n in groups.items()]
    if groups:
        lines.append(f"{report['method']}: {moved} of {units} units moved in {len(groups)} groups")
        change = f"{report['certificate']:.1e} of their size, in {report['certificate_precision']}"
        lines.append(f"certified: the outputs of B change by {change}")
    else:
        lines.append(f"{report['why']}. So B needs no permutation.")
    if unreached := report["unreached"]:
        lines.append(
            f"not certified, because no run of the network uses them: {', '.join(unreached)}; units that they may take "
            "as input are not permuted"
        )
    return "\n".join([*lines, *(f"{key}: {report[key]}" for key in ("output", "permutation") if key in report)])
