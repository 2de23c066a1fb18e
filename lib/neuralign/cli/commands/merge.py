"""`neuralign merge`: one checkpoint out of several, aligned and repaired, and whether it is worth having."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError, load_config
from neuralign.cli.devices import demand_cpu, on_device
from neuralign.cli.entries import (
    augmentations,
    data_as_given,
    file_digests,
    lone_alignment,
    network_as_given,
    network_plugin,
)
from neuralign.cli.examples import example_inputs, example_shapes, run_on_example
from neuralign.cli.inner_parts import inner_parts
from neuralign.cli.interface import completions
from neuralign.cli.interface.options import (
    METHOD,
    Augmented,
    ConfigFiles,
    Device,
    ExampleOptions,
    ImageOptions,
    Inside,
    Loss,
    NetworkOptions,
    OptionalData,
)
from neuralign.cli.interface.parsers import Numbers, value_of, values_of
from neuralign.cli.local_jobs import load_data_and_model
from neuralign.cli.outputs import check_outputs, input_files
from neuralign.common.files import atomic
from neuralign.common.quantities import LOSS
from neuralign.common.tables import align_columns
from neuralign.config.signatures import check_known, reads_examples

DESCRIPTION = "Make one checkpoint out of several, aligned and repaired, and say whether it is worth having."
EXAMPLES = [
    "neuralign merge torchvision.models:resnet18 a.pt b.pt --data my_images/ -o merged.safetensors",
    "neuralign merge ./nets.py:Net a.pt b.pt c.pt --data my.npz --at-most 1 --report merge.json",
    "neuralign merge ./nets.py:Net a.pt b.pt --input 2,3,32,32 -o merged.pt   # without data",
]
CHOSEN = ("auto", "none")  # values of --method and --repair that are no plug-ins


def run(
    network: NetworkOptions,
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT", help="two checkpoints or more: A B [C ...]")
    ],
    example: ExampleOptions,
    images: ImageOptions,
    data: OptionalData = None,
    augmented: Augmented = False,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"`none`, or {METHOD} (default: the best of several)",
            autocompletion=completions.alignments(*CHOSEN),
        ),
    ] = "auto",
    repair: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="`none`, or a repair (default: the better of two)",
            autocompletion=completions.plugins("repairs", *CHOSEN),
        ),
    ] = "auto",
    weights: Annotated[
        Numbers | None,
        typer.Option(
            parser=values_of("NonNegative"),
            metavar="W,W",
            help="weights of the checkpoints, with sum 1 (default: equal)",
        ),
    ] = None,
    greedy: Annotated[
        bool,
        typer.Option("--greedy", help="leave out checkpoints that make the mean worse on validation examples"),
    ] = False,
    cohort: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="how three checkpoints or more get into one frame: mean, reference or frank_wolfe",
            autocompletion=completions.plugins("cohorts"),
        ),
    ] = "mean",
    loss: Loss = "cross_entropy",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="write the merge, with A's names, and a card: .safetensors, .pt or .pth",
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="write all facts as JSON")] = None,
    at_most: Annotated[
        float | None,
        typer.Option(
            parser=value_of("NonNegative"),
            metavar="POINTS",
            help="status 1 if the merge is more than so many points below the best checkpoint",
        ),
    ] = None,
    device: Device = None,
    inside: Inside = None,
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Merge, and write the files that the options name. The status is 1 if the merge is worse than --at-most allows."""
    from neuralign import api
    from neuralign.merging.export import card_path, check_suffix, normalisation_of, write_card, write_checkpoint
    from neuralign.merging.merge import are_weights
    from neuralign.merging.verdict import deciding_metric
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import Model
    from neuralign.symmetry.memory import return_freed_memory
    from neuralign.training.loop import objective_of

    if len(checkpoints) < 2:
        raise UsageError(f"CHECKPOINT: found {len(checkpoints)}; at least two are needed")
    if output:
        check_suffix(output, "--output")
    config = load_config(configfile)
    alignments = lone_alignment("--method", method, config, attention=network.attention, also=CHOSEN)
    _check_choices(repair, cohort, loss, has_data=bool(data))
    if weights and not are_weights(weights, len(checkpoints)):
        found = ",".join(f"{weight:g}" for weight in weights)
        raise UsageError(f"--weights: found {found}; {len(checkpoints)} numbers that sum to 1 are needed")
    if greedy and (weights or not data):
        raise UsageError("--greedy: needs --data, and no --weights, because it chooses the checkpoints")
    if at_most is not None and not data:
        raise UsageError("--at-most: the merge can only be measured with --data")
    if at_most is not None and deciding_metric(objective_of({"use": loss})) == LOSS:
        raise UsageError(f"--at-most: {loss} has no metric in percent")
    if cohort != "mean" and len(checkpoints) < 3:
        raise UsageError("--cohort: needs three checkpoints or more")
    if network.attention and method == "none":
        raise UsageError("--attention: --method none permutes nothing")
    _check_ignored(example, images, loss, has_data=bool(data))
    augment = augmentations(data, config) if augmented else []
    outputs = {"--output": output, "--output (its card)": card_path(output) if output else None, "--report": report}
    check_outputs(outputs, input_files(config, configfile, network, data, checkpoints))
    return_freed_memory()
    if not data:
        demand_cpu(device)
    with on_device(device if data else "cpu"):
        examples: dict[str, Any] = {"batches": None, "example": None, "test": None, "mean": None, "std": None}
        if data:
            dataset, model, described = load_data_and_model(network, configfile, data, images, checkpoints)
            given = {"data": data_as_given(data, config), "input_size": described["input_size"]}
            examples |= {"batches": dataset.train, "test": dataset.test, **normalisation_of(model)}
        else:
            examples["example"] = example_inputs(example)
            module = run_on_example(network, configfile, example, lambda module, inputs, attention: module)
            model, described = Model(module, None, None), {"network": network_plugin(network, config)}
            given = {"data": None, "input": example_shapes(example)}
        read = foreign_checkpoints.read if data else foreign_checkpoints.read_mapped
        parts = inner_parts(checkpoints, inside)
        contents = [read(file, model, part) for file, part in zip(checkpoints, parts, strict=True)]
        states, names = [content.state for content in contents], api.letters(len(contents))
        for name, parameter in model.network.named_parameters():
            parameter.data = states[0][name]  # frees those that the network was made with
        state, _, outcome = api.merge_states(
            model.network,
            states,
            names,
            weights=weights,
            method=method,
            alignments=alignments,
            repair=repair,
            loss=loss,
            attention=network.attention,
            greedy=greedy,
            cohort=cohort,
            augment=augment,
            as_written=contents[0].rounded,
            **examples,
        )
    inputs = [{"name": name, **file_digests(file)} for name, file in zip(names, checkpoints, strict=True)]
    settings = {
        "network": network_as_given(network, described["network"]),
        **given,
        "normalisation": outcome["normalisation"] or None,
        "augmented": augmented,
        "alignment": alignments.get(method),
        "attention": network.attention,
        "inside": inside,
        "loss": loss,
        "greedy": greedy,
    }
    facts = {"network": network.network, "checkpoints": inputs, **outcome, "settings": settings}
    if output:
        write_checkpoint(contents[0].renamed(state), output)
        card = write_card(output, network.network, inputs, outcome, settings, prefix=contents[0].prefix)
        facts |= {"output": str(output), "card": str(card)}
    status = 0
    if at_most is not None:
        status = int(not -facts["gain"] <= at_most)  # also if the gain is not a number
    if report:
        with atomic(report) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n")
    return status, facts, _format(facts, names)


def _check_choices(repair: str, cohort: str, loss: str, *, has_data: bool) -> None:
    """Raise UserError if an option names no plug-in, or a repair that reads examples where there are none."""
    check_known("--repair", "repairs", repair, CHOSEN)
    check_known("--cohort", "cohorts", cohort)
    check_known("--loss", "objectives", loss)
    if not has_data and repair not in CHOSEN and reads_examples("repairs", repair):
        raise UsageError(f"--repair: {repair!r} reads examples; --data is needed")


def _check_ignored(example: ExampleOptions, images: ImageOptions, loss: str, *, has_data: bool) -> None:
    """Raise UsageError if an option is given that says something of data where there are none, or the other way."""
    if has_data:
        given: dict[str, Any] = {"--input": example.input, "--tokens": example.tokens}
        reason = "only for a merge without --data"
    else:
        given = {"--size": images.size, "--mean": images.mean, "--std": images.std}
        given |= {"--no-normalise": images.no_normalise, "--loss": loss != "cross_entropy"}
        reason = "needs --data"
    for option, value in given.items():
        if value:
            raise UsageError(f"{option}: {reason}")


def _format(facts: dict[str, Any], names: list[str]) -> str:
    """All that was tried, the metrics, the files and the sentence."""
    from neuralign.merging.export import metrics_table

    tried = [["method", "repair", "score"]]
    tried += [[row["method"], row["repair"], f"{row['score']:.4g}"] for row in facts["tried"]]
    chosen = f"chosen: {facts['method']}, {facts['repair']}, the mean of {', '.join(facts['members'])}"
    lines = [align_columns(tried), "", chosen]
    lines.append(f"certified: aligning changes outputs by {facts['certificate']:.1e} of their size")
    if not facts["units"]:
        lines.append("no neuron of the network may be permuted (`neuralign explain` says why), so nothing was aligned")
    if facts["unreached"]:
        lines.append(
            f"no run of the network uses {', '.join(facts['unreached'])}; units that they may take as input are "
            "neither permuted nor repaired"
        )
    if "merged" in facts:
        table = align_columns(metrics_table(names, facts))
        lines += ["", f"on n = {facts['n']} {facts['measured_on']} examples:", table]
    lines += ["", *(f"{key}: {facts[key]}" for key in ("output", "card") if key in facts), facts["sentence"]]
    return "\n".join(lines)
