"""What one job of a setting reads, which settings it may see, and which code it runs. Torch-free.

Every rule of the workflow has one function that describes one of its jobs: here those from data to evaluations, in
`studies.py` those of a whole study, in `workflow.py` all of them by name.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from neuralign.config.catalogue import Catalogue, Entry

Wildcards = dict[str, str]
PAIR = ("dataset", "network", "regime", "pair")
INITIAL = "initial"  # the plane of both ends and the aligned one
NUMERIC = ("torch",)


class Ref(NamedTuple):
    """One output of another job."""

    rule: str
    output: str
    wildcards: tuple[tuple[str, str], ...]


def ref(rule: str, output: str, **wildcards: str) -> Ref:
    """The output `output` of the job of `rule` with these wildcards."""
    return Ref(rule, output, tuple(sorted(wildcards.items())))


@dataclass(frozen=True)
class Job:
    inputs: dict[str, Ref | list[Ref]]
    settings: Entry
    plugins: list[tuple[str, str]] = field(default_factory=list)  # (kind, name): code that is loaded by name
    files: list[str] = field(default_factory=list)  # data files of the package that the code reads
    software: tuple[str, ...] = ()  # packages whose version the numbers depend on
    source: Entry | None = None  # where bytes from outside come from; what they are counts, not where they lie
    places: list[str] = field(default_factory=list)  # the settings, with dots, that only say where they lie


def fetch_data(c: Catalogue, dataset: str) -> Job:
    """One dataset; how it is augmented and normalised is no business of this job."""
    entry = c.entry("datasets", dataset)
    source = {k: v for k, v in entry.items() if k not in ("augment", "mean", "std")}
    places = [f"dataset.{key}" for key in ("path", "url") if key in source]
    return Job({}, {"dataset": source}, [("datasets", entry["use"])], source=source, places=places)


def train_endpoint(c: Catalogue, dataset: str, network: str, regime: str, seed: str) -> Job:
    """One network from one seed."""
    settings, plugins = _training(c, dataset, network, regime, "endpoint")
    return Job(
        {"data": ref("fetch_data", "data", dataset=dataset)}, settings | {"seed": int(seed)}, plugins, software=NUMERIC
    )


def import_endpoint(c: Catalogue, dataset: str, network: str, regime: str, checkpoint: str) -> Job:
    """One network from a checkpoint of the user's own."""
    model, plugins = _model(c, dataset, network, regime)
    entry = c.entry("checkpoints", checkpoint)
    return Job(
        {"data": ref("fetch_data", "data", dataset=dataset)},
        {"model": model, "checkpoint": entry},
        plugins,
        software=NUMERIC,
        source={"checkpoint": entry["file"]},
        places=["checkpoint.file"],
    )


def endpoint(place: Wildcards, end: str) -> Ref:
    """The network at one end of a pair: trained from a seed, or imported from a checkpoint."""
    if end.isdecimal():
        return ref("train_endpoint", "network", **place, seed=end)
    return ref("import_endpoint", "network", **place, checkpoint=end)


def align(c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str) -> Job:
    """The permutation of the pair's second network, its source, that fits the first, its target."""
    model, plugins = _model(c, dataset, network, regime)
    place = {"dataset": dataset, "network": network, "regime": regime}
    method = c.entry("alignments", alignment, **place)
    start = method.pop("start")
    inputs = _path_inputs(c, **place, pair=pair, alignment=start)
    if "permutation" in inputs:
        inputs["start"] = inputs.pop("permutation")
    settings: Entry = {"model": model, "attention": method.pop("attention")}
    if method.pop("augmented"):
        settings["augment"] = c.entry("datasets", dataset)["augment"]
        plugins += _uses("augmentations", settings["augment"])
    if method.pop("attacked") and (attack := c.entry("regimes", regime, **place)["attack"]):
        settings["attack"] = c.entry("attacks", attack, **place)
        plugins += _uses("attacks", [settings["attack"]])
    return Job(inputs, settings | {"method": method}, [*plugins, ("alignments", method["use"])], software=NUMERIC)


def signature(c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str) -> Job:
    """How well the units of a pair correlate, before and after alignment."""
    model, plugins = _model(c, dataset, network, regime)
    return Job(_path_inputs(c, dataset, network, regime, pair, alignment), {"model": model}, plugins, software=NUMERIC)


def train_curve(
    c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str, curve: str, curve_seed: str
) -> Job:
    """The bends of a curve between a pair, aligned or not."""
    settings, plugins = _training(c, dataset, network, regime, "curve")
    family = c.entry("curves", curve)
    return Job(
        _path_inputs(c, dataset, network, regime, pair, alignment),
        settings | {"curve": family, "seed": int(curve_seed)},
        [*plugins, ("curves", family["use"])],
        software=NUMERIC,
    )


def evaluate(
    c: Catalogue,
    dataset: str,
    network: str,
    regime: str,
    pair: str,
    alignment: str,
    curve: str,
    curve_seed: str,
    evaluation: str,
) -> Job:
    """Loss and accuracy along a curve, clean and under the attacks of the evaluation."""
    place = {"dataset": dataset, "network": network, "regime": regime}
    model, plugins = _model(c, **place, on_curve=True)
    family, protocol = c.entry("curves", curve), c.entry("evaluations", evaluation, **place)
    attacks = {name: c.entry("attacks", name, **place) for name in protocol.pop("attacks")}
    augment = c.entry("datasets", dataset)["augment"] if protocol.pop("augment") else []
    if protocol["attacked_statistics"]:
        protocol["attacked_statistics"] = c.entry("attacks", protocol["attacked_statistics"], **place)
        plugins += _uses("attacks", [protocol["attacked_statistics"]])
    inputs = _path_inputs(c, dataset, network, regime, pair, alignment)
    if c.trained(curve):
        inputs["bends"] = _bends(place, pair, alignment, curve, curve_seed)
    settings = {"model": model, "curve": family, "augment": augment, "attacks": attacks, "protocol": protocol}
    plugins += [("curves", family["use"]), *_uses("attacks", attacks.values()), *_uses("augmentations", augment)]
    return Job(inputs, settings, plugins, software=NUMERIC)


def plane(
    c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str, through: str, plane: str
) -> Job:
    """`through` is INITIAL, or <curve>/<curve seed>."""
    place = {"dataset": dataset, "network": network, "regime": regime}
    model, plugins = _model(c, **place, on_curve=True)
    protocol = c.entry("planes", plane, **place)
    windows = {kind: protocol.pop(kind) for kind in ("initial", "curve")}
    augment = c.entry("datasets", dataset)["augment"] if protocol.pop("augment") else []
    inputs = _path_inputs(c, **place, pair=pair, alignment=alignment)
    settings: Entry = {"model": model, "augment": augment, "protocol": protocol, "window": windows["initial"]}
    plugins += _uses("augmentations", augment)
    if through != INITIAL:
        curve, seed = through.split("/")
        inputs["bends"] = _bends(place, pair, alignment, curve, seed)
        settings |= {"curve": c.entry("curves", curve), "window": windows["curve"]}
        plugins += _uses("curves", [settings["curve"]])
    return Job(inputs, settings, plugins, software=NUMERIC)


def midpoint(
    c: Catalogue,
    dataset: str,
    network: str,
    regime: str,
    pair: str,
    alignment: str,
    curve: str,
    curve_seed: str,
    evaluation: str,
) -> Job:
    """How the midpoint of a trained curve correlates with both ends."""
    place = {"dataset": dataset, "network": network, "regime": regime}
    model, plugins = _model(c, **place, on_curve=True)
    family, protocol = c.entry("curves", curve), c.entry("evaluations", evaluation, **place)
    augment = c.entry("datasets", dataset)["augment"] if protocol["augment"] else []
    inputs = _path_inputs(c, **place, pair=pair, alignment=alignment)
    inputs["bends"] = _bends(place, pair, alignment, curve, curve_seed)
    settings = {"model": model, "curve": family, "augment": augment}
    settings["protocol"] = {k: protocol[k] for k in ("batch_size", "images", "seed")}
    if protocol["full_passes"]:
        settings["protocol"]["images"] = None  # the whole training set is read anyway, and there are but two points
    plugins += [*_uses("curves", [family]), *_uses("augmentations", augment)]
    return Job(inputs, settings, plugins, software=NUMERIC)


def bound(c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str) -> Job:
    """A bound on the loss of the straight line between both ends."""
    model, plugins = _model(c, dataset, network, regime, on_curve=True)
    return Job(_path_inputs(c, dataset, network, regime, pair, alignment), {"model": model}, plugins, software=NUMERIC)


def _bends(place: Wildcards, pair: str, alignment: str, curve: str, curve_seed: str) -> Ref:
    names = {"pair": pair, "alignment": alignment, "curve": curve, "curve_seed": curve_seed}
    return ref("train_curve", "bends", **place, **names)


def _path_inputs(
    c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str | None
) -> dict[str, Ref | list[Ref]]:
    """Data, both ends, and the permutation where the alignment is not `null`."""
    place = {"dataset": dataset, "network": network, "regime": regime}
    start, end = (endpoint(place, name) for name in pair.split("-"))
    inputs: dict[str, Ref | list[Ref]] = {
        "data": ref("fetch_data", "data", dataset=dataset),
        "target": start,
        "source": end,
    }
    if alignment is not None and c.entry("alignments", alignment, **place) is not None:
        inputs["permutation"] = ref("align", "permutation", **place, pair=pair, alignment=alignment)
    return inputs


def _model(
    c: Catalogue, dataset: str, network: str, regime: str, *, on_curve: bool = False
) -> tuple[Entry, list[tuple[str, str]]]:
    """What `setting.prepare` needs to build the model of a setting; `on_curve`: of a point of a curve."""
    place = {"dataset": dataset, "network": network, "regime": regime}
    entry, data = c.entry("networks", network, **place), c.entry("datasets", dataset)
    size, differing, *own = (entry.pop(key) for key in ("input_size", "on_curve", "mean", "std"))
    entry |= differing if on_curve else {}
    normalise = c.entry("regimes", regime, **place)["normalise"]
    model: Entry = {"network": entry, "input_size": size, "normalise": normalise}
    for key, mine in zip(("mean", "std"), own, strict=True):
        model[key] = (mine or data[key]) if normalise else None
    return model, [("networks", entry["use"])]


def _training(c: Catalogue, dataset: str, network: str, regime: str, kind: str) -> tuple[Entry, list[tuple[str, str]]]:
    place = {"dataset": dataset, "network": network, "regime": regime}
    model, plugins = _model(c, **place, on_curve=kind == "curve")
    entry = c.entry("regimes", regime, **place)
    attack = c.entry("attacks", entry["attack"], **place) if entry["attack"] else None
    augment = c.entry("datasets", dataset)["augment"]
    settings = {"model": model, "training": entry[kind], "attack": attack, "augment": augment}
    plugins += [("schedules", entry[kind]["schedule"]["use"]), *_uses("augmentations", augment)]
    return settings, plugins + (_uses("attacks", [attack]) if attack else [])


def _uses(home: str, entries: Any) -> list[tuple[str, str]]:
    return [(home, entry["use"]) for entry in entries]
