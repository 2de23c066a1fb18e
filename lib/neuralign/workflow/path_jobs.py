"""Descriptions of the jobs for one path: data, endpoints, alignment, curve, and its measurements. Torch-free."""

from collections.abc import Iterable
from functools import partial

from pydantic import BaseModel

from neuralign.config.catalogue import Catalogue, Entry
from neuralign.config.metrics import OBJECTIVE
from neuralign.config.references import is_hub
from neuralign.config.schema import LATER_KEYS, Evaluation, Training
from neuralign.config.signatures import schema
from neuralign.datasets.splits import APPLIED_LATER
from neuralign.workflow.job import Inputs, Job, Ref, Setting, ref, rule

INITIAL = "initial"  # wildcard `through` of the plane of three networks: both as trained, and the second as aligned
NUMERIC = ("torch",)  # distributions whose version can change the numbers
Plugins = list[tuple[str, str]]  # (kind, name)


@rule
def fetch_data(c: Catalogue, dataset: str) -> Job:
    """One dataset. It does not depend on augmentation and normalisation, which the jobs that read it apply."""
    entry = c.entry("datasets", dataset)
    source = {k: v for k, v in entry.items() if k not in APPLIED_LATER}
    names = [f"dataset.{key}" for key in places(entry)]
    return Job({}, {"dataset": source}, [("datasets", entry["use"])], source=source, places=names)


def places(dataset: Entry) -> list[str]:
    """The keys of a dataset's entry that say where the data come from; `content` says what they are."""
    keys = ("path", "url", "checksum") if dataset["content"] else ("path", "url")
    return [key for key in keys if key in dataset]


@rule
def train_endpoint(c: Catalogue, setting: Setting, seed: str) -> Job:
    """One network from one seed."""
    settings, plugins = _training(c, setting, "endpoint")
    return Job(_data(setting), settings | {"seed": int(seed)}, plugins, software=NUMERIC)


@rule
def import_endpoint(c: Catalogue, setting: Setting, checkpoint: str) -> Job:
    """One network from a checkpoint of the user's own."""
    model, plugins = _model(c, setting)
    entry = c.entry("checkpoints", checkpoint)
    described = partial(Job, _data(setting), {"model": model, "checkpoint": entry}, software=NUMERIC)
    if is_hub(entry["file"]):  # the job downloads it, so here its name stands for its content
        return described([*plugins, ("checkpoints", entry["file"])])
    return described(plugins, source={"checkpoint": entry["file"]}, places=["checkpoint.file"])


@rule
def align(c: Catalogue, setting: Setting, pair: str, alignment: str) -> Job:
    """The permutation that aligns the second network of a pair (`source`) with the first (`target`)."""
    model, plugins = _model(c, setting)
    method = setting.entry(c, "alignments", alignment)
    inputs = _path_inputs(c, setting, pair, method.pop("start"))
    if "permutation" in inputs:
        inputs["start"] = inputs.pop("permutation")
    settings: Entry = {"model": model} | _comparison(c, setting, method, plugins)
    return Job(inputs, settings | {"method": method}, [*plugins, ("alignments", method["use"])], software=NUMERIC)


@rule
def align_cohort(c: Catalogue, setting: Setting, members: str, cohort: str) -> Job:
    """The permutations of several networks into the frame of the first."""
    model, plugins = _model(c, setting)
    method = setting.entry(c, "cohorts", cohort)
    inner = setting.entry(c, "alignments", method.pop("inner"))
    del inner["start"]  # is null
    settings: Entry = {"model": model, "members": members.split("-")} | _comparison(c, setting, inner, plugins)
    plugins += [("cohorts", method["use"]), ("alignments", inner["use"])]
    return Job(
        _cohort_inputs(setting, members), settings | {"method": method, "inner": inner}, plugins, software=NUMERIC
    )


@rule
def evaluate_cohort(c: Catalogue, setting: Setting, members: str, cohort: str, evaluation: str) -> Job:
    """Loss and accuracy of several networks and of their mean, clean and under the attacks of the evaluation."""
    settings, plugins = _evaluation(c, setting, evaluation)
    settings["members"] = members.split("-")
    inputs = _cohort_inputs(setting, members)
    inputs["permutations"] = ref("align_cohort", "permutations", setting, members=members, cohort=cohort)
    return Job(inputs, settings, plugins, software=NUMERIC)


@rule
def merge(c: Catalogue, setting: Setting, pair: str, alignment: str, merge: str) -> Job:
    """The mean of a pair, as it is and repaired, and the barrier between its ends."""
    model, plugins = _model(c, setting, on_curve=True)
    protocol = setting.entry(c, "merges", merge)
    repairs = {name: c.entry("repairs", name) for name in protocol.pop("repairs")}
    attacks = {name: setting.entry(c, "attacks", name) for name in protocol.pop("attacks")}
    augment = _augment(c, setting)
    plugins += [*_uses("repairs", repairs.values()), *_uses("attacks", attacks.values())]
    plugins += _uses("augmentations", augment)
    settings = {"model": model, "protocol": protocol, "repairs": repairs, "attacks": attacks, "augment": augment}
    return Job(_path_inputs(c, setting, pair, alignment), settings, plugins, software=NUMERIC)


@rule
def signature(c: Catalogue, setting: Setting, pair: str, alignment: str) -> Job:
    """How well the units of a pair correlate, before and after alignment."""
    model, plugins = _model(c, setting)
    return Job(_path_inputs(c, setting, pair, alignment), {"model": model}, plugins, software=NUMERIC)


@rule
def train_curve(c: Catalogue, setting: Setting, pair: str, alignment: str, curve: str, curve_seed: str) -> Job:
    """The bends of a curve between a pair, aligned or not."""
    settings, plugins = _training(c, setting, "curve")
    family = c.entry("curves", curve)
    return Job(
        _path_inputs(c, setting, pair, alignment),
        settings | {"curve": family, "seed": int(curve_seed)},
        [*plugins, ("curves", family["use"])],
        software=NUMERIC,
    )


@rule
def evaluate(
    c: Catalogue, setting: Setting, pair: str, alignment: str, curve: str, curve_seed: str, evaluation: str
) -> Job:
    """The objective's metrics along a curve, clean and under the attacks of the evaluation."""
    settings, plugins = _evaluation(c, setting, evaluation)
    family = c.entry("curves", curve)
    inputs = _path_inputs(c, setting, pair, alignment)
    if c.trained(curve):
        inputs["bends"] = _bends(setting, pair, alignment, curve, curve_seed)
    return Job(inputs, settings | {"curve": family}, [*plugins, ("curves", family["use"])], software=NUMERIC)


@rule
def plane(c: Catalogue, setting: Setting, pair: str, alignment: str, through: str, plane: str) -> Job:
    """The objective's metrics on a plane. `through` is INITIAL, or <curve>/<curve seed>."""
    model, plugins = _model(c, setting, on_curve=True)
    protocol = setting.entry(c, "planes", plane)
    windows = {kind: protocol.pop(kind) for kind in ("initial", "curve")}
    augment = _augment(c, setting) if protocol.pop("augment") else []
    inputs = _path_inputs(c, setting, pair, alignment)
    settings: Entry = {"model": model, "augment": augment, "protocol": protocol, "window": windows["initial"]}
    plugins += _uses("augmentations", augment)
    if through != INITIAL:
        curve, curve_seed = through.split("/")
        inputs["bends"] = _bends(setting, pair, alignment, curve, curve_seed)
        settings |= {"curve": c.entry("curves", curve), "window": windows["curve"]}
        plugins += _uses("curves", [settings["curve"]])
    _add_objective(c, setting, settings, plugins)
    return Job(inputs, settings, plugins, software=NUMERIC)


@rule
def midpoint(
    c: Catalogue, setting: Setting, pair: str, alignment: str, curve: str, curve_seed: str, evaluation: str
) -> Job:
    """The correlation of the units of a trained curve's midpoint with those of both ends."""
    model, plugins = _model(c, setting, on_curve=True)
    family, protocol = c.entry("curves", curve), setting.entry(c, "evaluations", evaluation)
    augment = _augment(c, setting) if protocol["augment"] else []
    inputs = _path_inputs(c, setting, pair, alignment)
    inputs["bends"] = _bends(setting, pair, alignment, curve, curve_seed)
    # where the evaluation corrects its estimates by passes over all training images, both midpoints take such a pass
    images = None if protocol["full_passes"] else protocol["images"]
    estimate = {"batch_size": protocol["batch_size"], "images": images, "seed": protocol["seed"]}
    settings = {"model": model, "curve": family, "augment": augment, "protocol": estimate}
    plugins += [*_uses("curves", [family]), *_uses("augmentations", augment)]
    return Job(inputs, settings, plugins, software=NUMERIC)


@rule
def bound(c: Catalogue, setting: Setting, pair: str, alignment: str) -> Job:
    """A bound on the loss along the straight line between both ends."""
    model, plugins = _model(c, setting, on_curve=True)
    return Job(_path_inputs(c, setting, pair, alignment), {"model": model}, plugins, software=NUMERIC)


def endpoint(setting: Setting, end: str) -> Ref:
    """The network at one end of a pair: trained, if `end` is a seed; imported, if it is the name of a checkpoint."""
    if end.isdecimal():
        return ref("train_endpoint", "network", setting, seed=end)
    return ref("import_endpoint", "network", setting, checkpoint=end)


def _bends(setting: Setting, pair: str, alignment: str, curve: str, curve_seed: str) -> Ref:
    return ref("train_curve", "bends", setting, pair=pair, alignment=alignment, curve=curve, curve_seed=curve_seed)


def _data(setting: Setting) -> Inputs:
    return {"data": ref("fetch_data", "data", dataset=setting.dataset)}


def _path_inputs(c: Catalogue, setting: Setting, pair: str, alignment: str | None) -> Inputs:
    """The inputs of a job on a path: data, both ends, and the permutation unless the alignment is `null`."""
    target, source = (endpoint(setting, end) for end in pair.split("-"))
    inputs = _data(setting) | {"target": target, "source": source}
    if alignment is not None and setting.entry(c, "alignments", alignment) is not None:
        inputs["permutation"] = ref("align", "permutation", setting, pair=pair, alignment=alignment)
    return inputs


def _cohort_inputs(setting: Setting, members: str) -> Inputs:
    """The inputs of a job on several networks."""
    return _data(setting) | {"networks": [endpoint(setting, member) for member in members.split("-")]}


def _model(c: Catalogue, setting: Setting, *, on_curve: bool = False) -> tuple[Entry, Plugins]:
    """(the settings `model` of a job, the plug-ins it needs). With `on_curve`, for networks along a curve, which the
    config can give other options than endpoints.
    """
    entry, data = setting.entry(c, "networks", setting.network), c.entry("datasets", setting.dataset)
    size, options_on_curve, mean, std = (entry.pop(key) for key in ("input_size", "on_curve", "mean", "std"))
    entry |= options_on_curve if on_curve else {}
    normalise = setting.entry(c, "regimes", setting.regime)["normalise"]
    model: Entry = {"network": entry, "input_size": size, "normalise": normalise}
    if is_hub(entry["use"]):  # what the hub says comes before what the dataset says; the job asks the hub
        data = {"mean": None, "std": None}
    model["mean"] = (mean or data["mean"]) if normalise else None
    model["std"] = (std or data["std"]) if normalise else None
    return model, [("networks", entry["use"])]


def _training(c: Catalogue, setting: Setting, kind: str) -> tuple[Entry, Plugins]:
    """(the settings of a training but its seed, the plug-ins it needs); `kind` is "endpoint" or "curve"."""
    model, plugins = _model(c, setting, on_curve=kind == "curve")
    regime = setting.entry(c, "regimes", setting.regime)
    attack = setting.entry(c, "attacks", regime["attack"]) if regime["attack"] else None
    augment = _augment(c, setting)
    training = _without_later_defaults(regime[kind], Training)
    settings = {"model": model, "training": training, "attack": attack, "augment": augment}
    if "gpus" in training:
        settings["gpus"] = training.pop("gpus")  # processes that the job starts
    plugins += [("schedules", training["schedule"]["use"]), *_uses("augmentations", augment)]
    plugins += _uses("optimisers", [training["optimiser"]] if "optimiser" in training else [])
    _add_objective(c, setting, settings, plugins)
    return settings, plugins + (_uses("attacks", [attack]) if attack else [])


def _comparison(c: Catalogue, setting: Setting, method: Entry, plugins: Plugins) -> Entry:
    """What an alignment compares networks on, from keys of its entry, which it loses; adds the plug-ins needed."""
    settings: Entry = {"attention": method.pop("attention")}
    if method.pop("augmented"):
        settings["augment"] = _augment(c, setting)
        plugins += _uses("augmentations", settings["augment"])
    if method.pop("attacked") and (attack := setting.entry(c, "regimes", setting.regime)["attack"]):
        settings["attack"] = setting.entry(c, "attacks", attack)
        plugins += _uses("attacks", [settings["attack"]])
    _add_objective(c, setting, settings, plugins)
    return settings


def _evaluation(c: Catalogue, setting: Setting, evaluation: str) -> tuple[Entry, Plugins]:
    """(the settings of an evaluation of networks, the plug-ins it needs)."""
    model, plugins = _model(c, setting, on_curve=True)
    protocol = _without_later_defaults(setting.entry(c, "evaluations", evaluation), Evaluation)
    attacks = {name: setting.entry(c, "attacks", name) for name in protocol.pop("attacks")}
    augment = _augment(c, setting) if protocol.pop("augment") else []
    if protocol["attacked_statistics"]:
        protocol["attacked_statistics"] = setting.entry(c, "attacks", protocol["attacked_statistics"])
        plugins += _uses("attacks", [protocol["attacked_statistics"]])
    settings = {"model": model, "augment": augment, "attacks": attacks, "protocol": protocol}
    plugins += [*_uses("attacks", attacks.values()), *_uses("augmentations", augment)]
    _add_objective(c, setting, settings, plugins)
    return settings, plugins


def _without_later_defaults(entry: Entry, section: type[BaseModel]) -> Entry:
    """The entry without those of LATER_KEYS that have the default of their section."""
    return {k: v for k, v in entry.items() if k not in LATER_KEYS or v != section.model_fields[k].default}


def _add_objective(c: Catalogue, setting: Setting, settings: Entry, plugins: Plugins) -> None:
    """Add the regime's objective to settings and plug-ins, unless it is the default, which the scripts take then."""
    objective = setting.entry(c, "regimes", setting.regime)["objective"]
    if objective != OBJECTIVE | schema("objectives", OBJECTIVE["use"])().model_dump():
        settings["objective"] = objective
        plugins += _uses("objectives", [objective])


def _augment(c: Catalogue, setting: Setting) -> list[Entry]:
    """The augmentations of the regime, or else of the dataset."""
    of_regime: list[Entry] | None = setting.entry(c, "regimes", setting.regime)["augment"]
    of_dataset: list[Entry] = c.entry("datasets", setting.dataset)["augment"]
    return of_dataset if of_regime is None else of_regime


def _uses(kind: str, entries: Iterable[Entry]) -> Plugins:
    """The plug-ins of config entries, all of one kind."""
    return [(kind, entry["use"]) for entry in entries]
