"""`neuralign merge`: one checkpoint out of several, aligned and repaired, and whether it is worth having."""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.cli.local_jobs import load_data_and_model
from neuralign.common.files import atomic
from neuralign.common.tables import align_columns
from neuralign.workflow.running.gpus import lease

EXAMPLES = [
    "neuralign merge torchvision.models:resnet18 a.pt b.pt --data my_images/ -o merged.safetensors",
    "neuralign merge ./nets.py:Net a.pt b.pt c.pt --data my.npz --at-most 1 --report merge.json",
    "neuralign merge ./nets.py:Net a.pt b.pt --input 2,3,32,32 -o merged.pt   # without data",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    shared.add_network(parser)
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", help="two checkpoints or more: A B [C ...]")
    parser.add_argument(
        "--method",
        default="auto",
        help="`none`, or a method of alignment (default: the best of several)",
    )
    parser.add_argument("--repair", default="auto", help="`none`, or a repair (default: the better of two)")
    parser.add_argument(
        "--weights", type=shared.numbers, metavar="W,W", help="of the checkpoints, with sum 1 (default: equal)"
    )
    parser.add_argument(
        "--greedy", action="store_true", help="leave out checkpoints that make the mean worse on validation examples"
    )
    parser.add_argument(
        "--cohort",
        default="mean",
        help="how three checkpoints or more get into one frame: mean, reference or frank_wolfe (default: %(default)s)",
    )
    parser.add_argument("--loss", default="cross_entropy", help="the objective of the training (default: %(default)s)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="write the merge, with A's names, and a card: .safetensors, .pt or .pth",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all facts as JSON")
    parser.add_argument(
        "--at-most",
        type=shared.noise_level,
        metavar="POINTS",
        help="status 1 if the merge is more than so many points below the best checkpoint",
    )
    shared.add_inside(parser)
    shared.add_example(parser)
    shared.add_data(parser, required=False)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Merge, and write the files that the options name. The status is 1 if the merge is worse than --at-most allows."""
    from neuralign.merging.export import check_suffix

    if len(arguments.checkpoints) < 2:
        raise shared.UsageError(f"CHECKPOINT: found {len(arguments.checkpoints)}; at least two are needed")
    if arguments.output:
        check_suffix(arguments.output, "--output")
    if arguments.at_most is not None and not arguments.data:
        raise shared.UsageError("--at-most: the merge can only be measured with --data")
    with lease(1) if arguments.data else nullcontext():  # without data it runs on the CPU
        return _merge(arguments)


def _merge(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """What `run` returns."""
    from neuralign import api
    from neuralign.merging.export import write_card, write_checkpoint
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import Model
    from neuralign.symmetry.memory import return_freed_memory

    return_freed_memory()
    examples: dict[str, Any] = {"batches": None, "example": None, "test": None, "mean": None, "std": None}
    if arguments.data:
        data, model = load_data_and_model(arguments, arguments.checkpoints)
        examples |= {"batches": data.train, "test": data.test}
        if model.mean is not None:
            examples |= {name: getattr(model, name).flatten().tolist() for name in ("mean", "std")}
    else:
        example = shared.example_inputs(arguments)
        model = Model(shared.run_on_example(arguments, lambda network, example, attention: network), None, None)
        examples["example"] = example
    read = foreign_checkpoints.read if arguments.data else foreign_checkpoints.read_mapped
    checkpoints = [read(file, model, arguments.inside) for file in arguments.checkpoints]
    states, names = [checkpoint.state for checkpoint in checkpoints], api.letters(len(checkpoints))
    for name, parameter in model.network.named_parameters():
        parameter.data = states[0][name]  # frees those that the network was made with
    state, _, report = api.merge_states(
        model.network,
        states,
        names,
        weights=arguments.weights,
        method=arguments.method,
        repair=arguments.repair,
        loss=arguments.loss,
        attention=arguments.attention,
        greedy=arguments.greedy,
        cohort=arguments.cohort,
        **examples,
    )
    inputs = [
        {"name": name, **shared.file_digests(file)} for name, file in zip(names, arguments.checkpoints, strict=True)
    ]
    facts = {"network": arguments.network, "checkpoints": inputs, **report}
    if arguments.output:
        write_checkpoint(checkpoints[0].renamed(state), arguments.output)
        card = write_card(arguments.output, arguments.network, inputs, report)
        facts |= {"output": str(arguments.output), "card": str(card)}
    status = 0
    if arguments.at_most is not None:
        if facts["metric"] == "loss":
            raise shared.UsageError(f"--at-most: {arguments.loss} has no metric in percent")
        status = int(not -facts["gain"] <= arguments.at_most)  # also if the gain is not a number
    if arguments.report:
        with atomic(arguments.report) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n")
    return status, facts, _format(facts, names)


def _format(facts: dict[str, Any], names: list[str]) -> str:
    """All that was tried, the metrics, the files and the sentence."""
    tried = [["method", "repair", "score"]]
    tried += [[row["method"], row["repair"], f"{row['score']:.4g}"] for row in facts["tried"]]
    chosen = f"chosen: {facts['method']}, {facts['repair']}, the mean of {', '.join(facts['members'])}"
    lines = [align_columns(tried), "", chosen]
    lines.append(f"certified: aligning changes outputs by {facts['certificate']:.1e} of their size")
    if "merged" in facts:
        rows = dict(zip(names, facts["inputs"], strict=True)) | {"merge": facts["merged"]}
        rows |= {"ensemble": facts["ensemble"]} if "ensemble" in facts else {}
        columns = [name for name in facts["merged"] if name != "error"]
        table = [["", *columns]]
        table += [[name, *(f"{row[c]:.4g}" if c in row else "" for c in columns)] for name, row in rows.items()]
        lines += ["", f"on n = {facts['n']} {facts['measured_on']} examples:", align_columns(table)]
    lines += ["", *(f"{key}: {facts[key]}" for key in ("output", "card") if key in facts), facts["sentence"]]
    return "\n".join(lines)
