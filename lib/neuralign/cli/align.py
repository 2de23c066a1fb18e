"""`neuralign align`: the permutation that aligns the neurons of one checkpoint to those of another."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.cli.local_jobs import make
from neuralign.common.files import atomic, sha256
from neuralign.common.shards import checkpoint_files
from neuralign.workflow.job import ref

EXAMPLES = [
    "neuralign align torchvision.models:resnet18 a.pt b.pt --data my_images/ -o b_aligned.safetensors",
    "neuralign align ./nets.py:Net a.pt b.pt --data my.npz --method transport --permutation b.permutation.safetensors",
]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    shared.add_network(parser)
    parser.add_argument("a", metavar="A", help="a checkpoint: .safetensors, or a state_dict saved by torch.save")
    parser.add_argument("b", metavar="B", help="the one whose neurons are permuted")
    parser.add_argument("--method", default="correlation", help="an alignment of the config (default: correlation)")
    parser.add_argument(
        "-o", "--output", type=Path, help="write B permuted, by its own names: .safetensors, .pt or .pth"
    )
    parser.add_argument("--permutation", type=Path, help="write the permutation, with its certificate (.safetensors)")
    shared.add_checkpoints(parser)
    shared.add_data(parser, required=True)


def run(given: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Align as the rules `import_endpoint` and `align` do, and write what is asked for."""
    if given.output and given.output.suffix not in (".safetensors", ".pt", ".pth"):
        raise shared.UsageError(f"--output: found {given.output}; .safetensors, .pt or .pth is wanted")
    for path in filter(None, (given.output, given.permutation)):
        path.parent.mkdir(parents=True, exist_ok=True)  # or it fails before the work, not after
    known = shared.config(given)
    (network, entry), (data, dataset) = shared.network(given, known), shared.data(given, known)
    shared.methods(given, [given.method])
    method, alignments = shared.alignment(given, known)
    ends = shared.checkpoints(given, [given.a, given.b])
    if len(ends) < 2:
        raise shared.UsageError(f"A and B are the same file, {given.a}")
    c = shared.catalogue(
        known,
        {
            "networks": {network: entry},
            "datasets": {data: dataset},
            "checkpoints": ends,
            "alignments": alignments,
            "regimes": {shared.REGIME: shared.regime(not given.no_normalise)},
        },
    )
    place = {"dataset": data, "network": network, "regime": shared.REGIME}
    needed = ref("align", "permutation", **place, pair="-".join(ends), alignment=method)
    from neuralign.symmetry.certificate import CertificateError

    with tempfile.TemporaryDirectory(prefix="neuralign-") as folder:
        try:
            permutation = make(c, needed, Path(folder))
        except CertificateError as error:
            return 1, {"method": given.method, "certificate": None, "error": str(error)}, f"not certified: {error}"
        return _report(given, c, place, permutation, Path(folder), list(ends)[1])


def _report(
    given: argparse.Namespace, c: Any, place: dict[str, str], permutation: Path, folder: Path, source: str
) -> tuple[int, dict[str, Any], str]:
    from neuralign.common.tensors import load_facts, load_tensors, save_tensors
    from neuralign.networks import foreign_checkpoints
    from neuralign.symmetry.explain import why_all_is_fixed
    from neuralign.symmetry.permutations import permute

    facts = load_facts(permutation)
    found = load_tensors(str(permutation))  # certified a moment ago
    groups = {g: {"units": len(p), "moved": int((p != p.sort().values).sum())} for g, p in found.items()}
    told = {"method": given.method, "certificate": facts["certificate"], "groups": groups}
    told |= {key: facts[key] for key in ("certificate_precision", "unreached")}
    told |= {"target": _identity(given.a), "source": _identity(given.b)}
    if given.output or not groups:
        model, trace = _traced(given, c, place | {"checkpoint": source}, folder)
    if not groups:
        told["why"] = why_all_is_fixed(trace.frozen)
    if given.permutation:
        save_tensors(dict(found), given.permutation, facts | told | {"network": given.network})
        told["permutation"] = str(given.permutation)
    if given.output:
        theirs = foreign_checkpoints.read(given.b, model, given.inside)
        _write(theirs.renamed(permute(trace.spec, found, theirs.stored)), given.output)
        told["output"] = str(given.output)
    moved, units = (sum(g[key] for g in groups.values()) for key in ("moved", "units"))
    lines = [f"{g}: {n['moved']} of {n['units']} units moved" for g, n in groups.items()]
    if groups:
        lines.append(f"{given.method}: {moved} of {units} units moved in {len(groups)} groups")
        change = f"{facts['certificate']:.1e} of their size, in {facts['certificate_precision']}"
        lines.append(f"certified: the outputs of B change by {change}")
    else:
        lines.append(f"{told['why']}. B is in A's order as it is.")
    if missed := facts["unreached"]:
        lines.append(f"not certified, for no run used them: {', '.join(missed)}; what may feed them stays in place")
    lines += [f"{key}: {told[key]}" for key in ("output", "permutation") if key in told]
    return 0, told, "\n".join(lines)


def _traced(given: argparse.Namespace, c: Any, place: dict[str, str], folder: Path) -> tuple[Any, Any]:
    """The model that the checkpoints are of, and its symmetry."""
    from neuralign.networks.setup import prepare
    from neuralign.symmetry.tracing.trace import trace_model
    from neuralign.workflow.graph import job

    settings = job(c, "import_endpoint", place).settings
    data = make(c, ref("fetch_data", "data", dataset=place["dataset"]), folder)
    images, model = prepare(str(data), settings["model"])
    return model, trace_model(model, images.train, attention=given.attention)


def _identity(file: str) -> dict[str, Any]:
    """A checkpoint's file and its digest, or those of its shards."""
    files = checkpoint_files(file).files
    if len(files) == 1:
        return {"file": file, "sha256": sha256(files[0])}
    return {"file": file, "shards": {shard.name: sha256(shard) for shard in files}}


def _write(tensors: dict[str, Any], path: Path) -> None:
    import torch

    from neuralign.common.tensors import save_tensors

    if path.suffix == ".safetensors":
        save_tensors(tensors, path)
        return
    with atomic(path) as temporary:
        torch.save({name: t.cpu().contiguous() for name, t in tensors.items()}, temporary)
