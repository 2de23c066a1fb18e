"""`neuralign export`: one network of a trained curve, as an ordinary checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError
from neuralign.cli.devices import on_device
from neuralign.cli.interface import completions
from neuralign.cli.interface.options import Device
from neuralign.cli.outputs import check_outputs
from neuralign.common.files import sha256
from neuralign.workflow.running.notes import Note, read_note

DESCRIPTION = "Write one network of a trained curve as an ordinary checkpoint: its best point, its mean, or any other."
EXAMPLES = [
    "neuralign export results/curves/digits/tinyten/demo/1-2/correlation/bezier/1.safetensors -o best.safetensors",
    "neuralign export connected/results/curves/.../1.safetensors --point mean -o mean.pt",
]
WHAT = "network on the curve"


def run(
    curve: Annotated[
        Path, typer.Argument(metavar="CURVE", help="a trained curve, with its note: results/curves/.../1.safetensors")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="the checkpoint, with a card: .safetensors, .pt or .pth"),
    ],
    point: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            autocompletion=completions.words("best", "mean", "t="),
            help="`best` by the loss on training images (default), `mean` of the whole curve, or a place such as t=0.5",
        ),
    ] = "best",
    device: Device = None,
) -> tuple[int, dict[str, Any], str]:
    """Write the network and its card, and measure it beside the ends of the curve."""
    from neuralign.merging.curve_points import parse_point
    from neuralign.merging.export import card_path, check_suffix

    check_suffix(output, "--output")
    place = parse_point(point, "--point")
    note, inputs = _checked_note(curve)
    check_outputs({"--output": output, "--output (its card)": card_path(output)}, [curve, *inputs.values()])
    with on_device(device):
        return _export(curve, note, inputs, place, output)


def _checked_note(curve: Path) -> tuple[Note, dict[str, Path]]:
    """(the note of a trained curve, the files that it was trained with, by name).

    Raises UsageError if there is no such note, or if it does not fit the files.
    """
    if not curve.is_file():
        raise UsageError(f"CURVE: no such file as {curve}")
    note = read_note(curve)
    if note.get("rule") != "train_curve" or not curve.name.endswith(".safetensors"):
        raise UsageError(f"CURVE: {curve} has no note of a trained curve beside it; results/curves/... is needed")
    results = curve.absolute().parents[len(Path(note["artefact"]).parts) - 2]
    root = results.parent  # from which paths in the note start
    inputs = {name: root / entry["path"] for name, entry in note["inputs"].items()}
    digests = [note["sha256"], *(entry["sha256"] for entry in note["inputs"].values())]
    for file, digest in zip([curve, *inputs.values()], digests, strict=True):
        if not file.is_file():
            raise UsageError(f"CURVE: {_missing(file, curve, note, results)}")
        if sha256(file) != digest:
            raise UsageError(f"CURVE: {file} has changed since the curve was trained; see `neuralign verify`")
    return note, inputs


def _missing(file: Path, curve: Path, note: Note, results: Path) -> str:
    """That `file`, which the curve was trained with, does not exist, and the commands that make it.

    `results`: the folder of results that the curve lies in.
    """
    data = note["inputs"]["data"]["path"]
    make_data = f"`snakemake --cores 1 {data}`"
    if results.name != Path(note["artefact"]).parts[0]:
        return (
            f"{curve} is a published result, whose data are not beside it; restore its study by `neuralign restore "
            f"{results}`, make the data by {make_data}, and name {note['artefact']}"
        )
    problem = f"{file}, which the curve was trained with, does not exist"
    return f"{problem}; in {results.parent}, {make_data} makes it" if file == results.parent / data else problem


def _export(
    curve: Path, note: Note, inputs: dict[str, Path], point: str | float, output: Path
) -> tuple[int, dict[str, Any], str]:
    """What `run` returns."""
    from neuralign.curves.storage import open_path
    from neuralign.merging.curve_points import named_point
    from neuralign.merging.export import describe_normalisation, normalisation_of, write_network, write_point_card
    from neuralign.merging.selection import split_off_validation
    from neuralign.merging.verdict import judge
    from neuralign.networks.setup import load_data_and_model
    from neuralign.training.augmentation import augmented
    from neuralign.training.loop import objective_of

    files = {name: str(file) for name, file in inputs.items()}
    settings = note["settings"]
    data, model = load_data_and_model(files.pop("data"), settings["model"])
    path = open_path(model, data.train, **files, curve=settings["curve"], bends=str(curve))
    objective = objective_of(settings.get("objective"))
    training, validation = split_off_validation(data.train)
    augment = settings["augment"]  # statistics are of such images as the curve was trained on
    training = augmented(training, augment, seed=0)
    t, state = named_point(point, path.curve, path.endpoints, training, validation, objective)
    write_network(model.network, state, output)
    place = "the mean over all t" if t is None else f"t = {t:.4g}"
    names = [f"network {member}" for member in note["wildcards"]["pair"].split("-")]
    ends = [
        {"name": name, **{key: note["inputs"][end][key] for key in ("path", "sha256")}}
        for name, end in zip(names, ("target", "source"), strict=True)
    ]
    has_classes = "objective" not in settings
    report = judge(model, path.states, state, data.test, objective, names, has_classes, WHAT)
    report |= {"curve": str(curve), "point": point, "t": t, "measured_on": "test", "output": str(output)}
    how = [
        describe_normalisation(normalisation_of(model)),
        f"curve: `{note['artefact']}`",
        f"alignment of {names[1]}: {note['wildcards']['alignment']}",
        f"place: {place}"
        + (f", which has the lowest loss on {len(validation)} training examples" if point == "best" else ""),
    ]
    if path.endpoints.statistics:
        varied = ", augmented as in the training of the curve" if augment else ""
        how.append(f"running statistics: re-estimated on {len(training)} training examples{varied}")
    card = write_point_card(
        output, how, {"network": settings["model"]["network"], "curve": settings["curve"]}, ends, report
    )
    lines = [f"{place} of {curve}", report["sentence"], f"output: {output}", f"card: {card}"]
    return 0, report | {"card": str(card)}, "\n".join(lines)
