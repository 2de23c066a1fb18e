"""The table over torchvision's classification networks: what may be permuted, what is fixed and why, and the proof.

`python -m benchmarks.zoo` measures every network, small ones first, and writes docs/zoo.csv and docs/zoo.md after each;
`--only PATTERN` measures those whose name matches, `--missing` those without a row; `--only '^$'` writes the page
again. Weights are as initialised.
"""

import argparse
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torchvision
from torch import Tensor, nn
from torchvision import models

from neuralign import symmetry
from neuralign.align import Problem
from neuralign.align.correlation import correlation
from neuralign.explain import explain, scattered
from neuralign.files import atomic
from neuralign.images import Images, as_float
from neuralign.networks import Model
from neuralign.tracing import trace

ROOT = Path(__file__).resolve().parents[1]
SIDES = {"inception": 299, "maxvit": 224, "alexnet": 96, "vit": 64}  # pixels; the others take 64
PLANTED = 51_000_000  # parameters: of larger networks no planted permutation is looked for
ATTENTIVE = 100_000_000  # parameters: larger networks are not certified a second time, with attention
IMAGES, NOISE = 96, 1e-3  # random images; noise on the permuted weights, of their standard deviation


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network of torchvision as initialised, and two images of a size that it takes."""
    torch.manual_seed(0)
    side = next((s for start, s in SIDES.items() if name.startswith(start)), 64)
    options: dict[str, Any] = {}
    if name.startswith("vit"):
        side = 4 * int(name.rpartition("_")[2])
        options["image_size"] = side
    if name.startswith(("googlenet", "inception")):
        options["init_weights"] = True
    return models.get_model(name, weights=None, **options), torch.randn(2, 3, side, side)


def examined(name: str) -> dict[str, Any]:
    """One row of the table."""
    network, example = build(name)
    facts = explain(network, example)
    reasons = Counter(entry["reason"] for entry in facts["frozen"] if not entry["reason"].startswith("it is the"))
    row: dict[str, Any] = {"network": name, "parameters": facts["parameters"], "groups": len(facts["groups"])}
    row |= {"permutable": facts["permutable_fraction"], "fixed": sum(reasons.values())}
    row |= {"reason": reasons.most_common(1)[0][0] if reasons else "", "outputs": facts["outputs"]}
    row |= {"gradients": facts["gradients"], "certified": facts["certified"], "seconds": facts["seconds"]}
    small = facts["parameters"] <= PLANTED
    row["recovered"] = recovered(network, example) if small else None
    row["attention"] = row["attention_error"] = None
    if facts["parameters"] <= ATTENTIVE and any("attention" in reason for reason in reasons):
        other = explain(network, example, attention=True)
        row |= {"attention": other["permutable_fraction"], "attention_error": other["max_error"]}
    return row


def recovered(network: nn.Module, example: Tensor) -> float:
    """The share of units whose place correlation finds where a network meets itself, permuted and with noise."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    pixels = torch.randint(256, (IMAGES, *example.shape[1:]), dtype=torch.uint8)
    model = Model(network, torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.3))
    with torch.no_grad():
        network.train()(model.normalise(as_float(pixels[:16])))  # norms of these images, or deep networks explode
    found = trace(network, model.normalise(as_float(pixels[:2])))
    target, draws = scattered(network, 1), torch.Generator().manual_seed(2)
    planted = symmetry.random(found.spec, draws)
    source = {
        name: t + NOISE * t.std() * torch.randn(t.shape, generator=draws)
        if t.dim() > 1 and t.is_floating_point()
        else t
        for name, t in symmetry.permute(found.spec, planted, target).items()
    }
    problem = Problem(model, found, target, source, Images(pixels, torch.zeros(IMAGES, dtype=torch.long)))
    with torch.no_grad():
        matched = correlation(problem, images=IMAGES, batch_size=16)
    expected = symmetry.inverse(planted)
    hits = sum(int((matched[g] == expected[g]).sum()) for g in matched)
    return hits / sum(map(len, matched.values()))


def page(rows: pd.DataFrame) -> str:
    """The table in Markdown."""
    many, every = len(rows), models.list_models(module=models)
    others = ", ".join(sorted(set(every) - set(rows.network)))
    good = rows[rows.certified]
    enough = good.permutable >= good.network.map(lambda n: 0.5 if n.startswith(("vit", "swin", "maxvit")) else 0.8)
    lines = [
        "# Networks of torchvision",
        "",
        f"{many} of the {len(every)} classification networks of torchvision "
        f"{torchvision.__version__} as initialised, traced on two random images",
        "(`python -m benchmarks.zoo`; times on a busy machine).",
        f"Certified: {len(good)} of {many}; of these at least 0.8 (attention: 0.5) permutable: {int(enough.sum())}.",
        *([f"Not measured, for want of memory (24 GiB): {others}."] if others else []),
        "",
        "- groups: sets of channels that may be permuted; permutable: the share of parameters that one of them moves.",
        "- fixed: axes of tensors that stay, besides the images' channels and the classes; and the commonest reason.",
        "- outputs, gradients: what a random permutation of all groups changed, in float64, as a share of their size.",
        f"- recovered: the share of units that activation correlation on {IMAGES} random images puts in their place,",
        "  where the network is compared with itself permuted, with noise of 0.001 of each matrix' deviation",
        f"  (networks up to {PLANTED // 10**6} million parameters).",
        "- with attention: permutable, and the larger error, where heads and channels of attentions move too",
        f"  (networks up to {ATTENTIVE // 10**6} million parameters).",
        "",
        "| network | parameters (million) | groups | permutable | fixed | most frequent reason | outputs | gradients "
        "| tracing (s) | recovered | with attention |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.sort_values("network").to_dict("records"):
        other = "" if pd.isna(row["attention"]) else f"{row['attention']:.3f}, {row['attention_error']:.0e}"
        found = "" if pd.isna(row["recovered"]) else f"{row['recovered']:.3f}"
        reason = "" if pd.isna(row["reason"]) else row["reason"]
        verdict = "" if row["certified"] else " **refused**"
        lines.append(
            f"| {row['network']}{verdict} | {row['parameters'] / 1e6:.1f} | {row['groups']} | {row['permutable']:.3f} "
            f"| {row['fixed']} | {reason} | {row['outputs']:.0e} | {row['gradients']:.0e} | {row['seconds']:.2f} "
            f"| {found} | {other} |"
        )
    return "\n".join(lines) + "\n"


def write(table: Path, rows: pd.DataFrame) -> None:
    """The table as data, and the page beside it."""
    for path, text in ((table, rows.to_csv(index=False)), (table.with_suffix(".md"), page(rows))):
        with atomic(path) as temporary:
            Path(temporary).write_text(text)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression on names")
    parser.add_argument("--missing", action="store_true", help="only networks without a row")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of zoo.csv and zoo.md")
    arguments = parser.parse_args()
    table = arguments.out / "zoo.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    sizes = {n: models.get_model_weights(n).DEFAULT.meta["num_params"] for n in models.list_models(module=models)}
    have = {row["network"] for row in rows} if arguments.missing else set()
    for name in sorted(sizes, key=lambda n: sizes[n]):
        if re.search(arguments.only, name) and name not in have:
            began = time.perf_counter()
            rows = [row for row in rows if row["network"] != name] + [examined(name)]
            write(table, pd.DataFrame(rows))
            print(f"{name}: {time.perf_counter() - began:.0f} s, {rows[-1]}", flush=True)
    write(table, pd.DataFrame(rows))


if __name__ == "__main__":
    main()
