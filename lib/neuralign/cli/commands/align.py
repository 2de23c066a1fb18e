"""`neuralign align`: the permutation that aligns the neurons of one checkpoint to those of another."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.cli.local_jobs import make
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.job import Setting, ref
from neuralign.workflow.running.gpus import lease

EXAMPLES = [
    "neuralign align torchvision.models:resnet18 a.pt b.pt --data my_images/ -o b_aligned.safetensors",
    "neuralign align ./nets.py:Net a.pt b.pt --data my.npz --method transport --permutation b.permutation.safetensors",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    shared.add_network(parser)
    parser.add_argument("a", metavar="A", help="a checkpoint: .safetensors, or a state_dict saved by torch.save")
    parser.add_argument("b", metavar="B", help="the checkpoint whose neurons are permuted")
    parser.add_argument("--method", default="correlation", help="an alignment of the config (default: correlation)")
    parser.add_argument(
        "-o", "--output", type=Path, help="write the permuted B, with its own tensor names: .safetensors, .pt or .pth"
    )
    parser.add_argument("--permutation", type=Path, help="write the permutation, with its certificate (.safetensors)")
    shared.add_inside(parser)
    shared.add_data(parser, required=True)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Align by the jobs of the rules `import_endpoint` and `align`, and write the files that the options name."""
    from neuralign.merging.export import check_suffix

    if arguments.output:
        check_suffix(arguments.output, "--output")
    for path in filter(None, (arguments.output, arguments.permutation)):
        path.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    config = shared.load_config(arguments)
    (network, entry), (data, dataset) = shared.network_entry(arguments, config), shared.dataset_entry(arguments, config)
    shared.alignment_plugins(arguments, [arguments.method])  # raises UsageError if the config has no such alignment
    method, alignments = shared.alignment_entry(arguments, config)
    endpoints = shared.checkpoint_entries(arguments, [arguments.a, arguments.b])
    if len(endpoints) < 2:
        raise shared.UsageError(f"A and B are the same file, {arguments.a}")
    c = shared.extended_catalogue(
        config,
        {
            "networks": {network: entry},
            "datasets": {data: dataset},
            "checkpoints": endpoints,
            "alignments": alignments,
            "regimes": {shared.REGIME: shared.regime_entry(normalise=not arguments.no_normalise)},
        },
    )
    setting = Setting(data, network, shared.REGIME)
    output = ref("align", "permutation", setting, pair="-".join(endpoints), alignment=method)
    from neuralign.symmetry.certificate import CertificateError

    with lease(1), tempfile.TemporaryDirectory(prefix="neuralign-") as folder:
        try:
            permutation = make(c, output, Path(folder))
        except CertificateError as error:
            return 1, {"method": arguments.method, "certificate": None, "error": str(error)}, f"not certified: {error}"
        return _write_and_report(arguments, c, setting, permutation, Path(folder), list(endpoints)[1])


def _write_and_report(
    arguments: argparse.Namespace, c: Catalogue, setting: Setting, permutation_file: Path, folder: Path, source: str
) -> tuple[int, dict[str, Any], str]:
    """Write the files that the options name; return what `run` returns.

    `permutation_file`: the output of the job `align`; `source`: the name of the entry of checkpoint B.
    """
    from neuralign.common.tensors import load_facts, load_tensors, save_tensors
    from neuralign.merging.export import write_checkpoint
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import canonical_names
    from neuralign.symmetry.explain import why_all_is_fixed
    from neuralign.symmetry.other_tensors import spec_as_data
    from neuralign.symmetry.permutations import permute

    facts = load_facts(permutation_file)
    permutation = load_tensors(str(permutation_file))
    groups = {g: {"units": len(p), "moved": int((p != p.sort().values).sum())} for g, p in permutation.items()}
    report = {"method": arguments.method, "certificate": facts["certificate"], "groups": groups}
    report |= {key: facts[key] for key in ("certificate_precision", "unreached")}
    report |= {"target": shared.file_digests(arguments.a), "source": shared.file_digests(arguments.b)}
    if arguments.output or arguments.permutation or not groups:
        model, trace = _trace_model(arguments, c, setting, source, folder)
    if not groups:
        report["why"] = why_all_is_fixed(trace.frozen)
    if arguments.permutation:
        data = {"spec": spec_as_data(trace.spec, canonical_names(model.network)), "network": arguments.network}
        save_tensors(dict(permutation), arguments.permutation, facts | report | data)
        report["permutation"] = str(arguments.permutation)
    if arguments.output:
        b = foreign_checkpoints.read(arguments.b, model, arguments.inside)
        write_checkpoint(b.renamed(permute(trace.spec, permutation, b.stored)), arguments.output)
        report["output"] = str(arguments.output)
    moved, units = (sum(g[key] for g in groups.values()) for key in ("moved", "units"))
    lines = [f"{g}: {n['moved']} of {n['units']} units moved" for g, n in groups.items()]
    if groups:
        lines.append(f"{arguments.method}: {moved} of {units} units moved in {len(groups)} groups")
        change = f"{facts['certificate']:.1e} of their size, in {facts['certificate_precision']}"
        lines.append(f"certified: the outputs of B change by {change}")
    else:
        lines.append(f"{report['why']}. So B needs no permutation.")
    if unreached := facts["unreached"]:
        lines.append(
            f"not certified, because no run of the network uses them: {', '.join(unreached)}; units that they may take "
            "as input are not permuted"
        )
    lines += [f"{key}: {report[key]}" for key in ("output", "permutation") if key in report]
    return 0, report, "\n".join(lines)


def _trace_model(
    arguments: argparse.Namespace, c: Catalogue, setting: Setting, checkpoint: str, folder: Path
) -> tuple[Any, Any]:
    """(the model of the checkpoints, its trace)."""
    from neuralign.networks.setup import load_data_and_model
    from neuralign.symmetry.tracing.trace import trace_model
    from neuralign.workflow.graph import job

    settings = job(c, "import_endpoint", {**setting._asdict(), "checkpoint": checkpoint}).settings
    data = make(c, ref("fetch_data", "data", dataset=setting.dataset), folder)
    images, model = load_data_and_model(str(data), settings["model"])
    return model, trace_model(model, images.train, attention=arguments.attention)
