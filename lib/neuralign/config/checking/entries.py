"""One entry of the config at one place: overrides merged in, defaults filled in, every value checked."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from pydantic import BaseModel

from neuralign.common.errors import UserError
from neuralign.config.checking.hub_names import check_name, check_network
from neuralign.config.checking.studies import read_grids
from neuralign.config.checking.validation import Entry, Validation
from neuralign.config.metrics import OBJECTIVE, metrics_of
from neuralign.config.problems import short_repr
from neuralign.config.references import find, is_hub, is_object
from neuralign.config.schema import PLACES, PLAIN_SECTIONS, PLUGIN_SECTIONS, ForeignNetwork, Training
from neuralign.config.signatures import DATA, is_known, names, result, schema

OTHER_DATA = DATA[1]  # what plug-ins of datasets return that make no images


def _merge(raw: Any, place: Mapping[str, str]) -> Any:
    """An entry as written, with those of its `overrides` merged in, in their order, whose `when` matches the place."""
    if raw is None:
        return None
    merged = {key: value for key, value in raw.items() if key != "overrides"}
    overrides = raw.get("overrides")
    for override in overrides if isinstance(overrides, list) else ():
        when = override.get("when") if isinstance(override, Mapping) else None
        if when and isinstance(when, Mapping) and all(place.get(key) == value for key, value in when.items()):
            merged = _merge_deeply(merged, {key: value for key, value in override.items() if key != "when"})
    return merged


def _merge_deeply(base: Any, over: Any) -> Any:
    """`base` with the keys of `over`, at any depth. A mapping with `use` replaces the other: its options differ."""
    if isinstance(base, Mapping) and isinstance(over, Mapping) and "use" not in over:
        return {**base, **{key: _merge_deeply(base.get(key), value) for key, value in over.items()}}
    return over


def read_entry(section: str, name: str, place: Mapping[str, str], path: str, problems: Validation) -> Any:
    """An entry at a place, with its overrides merged in and its defaults filled in; incomplete if there are problems.

    Notes the problems in `problems`, whose sections hold the entry, as those of the key `path`. In the section
    `alignments`, null stays None and means that the networks are not aligned.
    """
    raw = _merge(problems.sections[section][name], place)
    if raw is None and section == "alignments":
        return None
    if section in PLUGIN_SECTIONS:
        entry = _read_with_plugin(section, name, raw or {}, place, path, problems)
    else:
        entry = problems.validate(PLAIN_SECTIONS[section], raw or {}, path)
        if entry:
            problems.check_names(PLAIN_SECTIONS[section], entry, path)
    match section if entry else None:
        case "datasets":
            use = entry.get("use")
            problems.note(f"{path}.augment", _augment_problem(entry, use, f"the plug-in {use} makes"))
        case "attacks":
            problems.note(path, _attack_problem(entry))
        case "checkpoints":
            problems.note(f"{path}.file", _checkpoint_problem(entry["file"]))
        case "regimes":
            for kind in ("endpoint", "curve"):
                _read_training(entry[kind], raw[kind], f"{path}.{kind}", problems)
            _read_augment(entry, path, problems)
            entry["objective"] = _read_plugin("objectives", entry["objective"], f"{path}.objective", problems)
            classifiers = OBJECTIVE["use"]
            if entry["attack"] and entry["objective"].get("use", classifiers) != classifiers:
                problems.note(f"{path}.attack", f"attacks are on classifiers, whose objective is {classifiers!r}")
        case "cohorts":
            _check_inner(entry, place, path, problems)
        case "planes":
            problems.note(f"{path}.full_passes", _full_passes_problem(entry))
        case "evaluations":
            problems.note(f"{path}.full_passes", _full_passes_problem(entry))
            _check_attacks(entry, path, problems)
        case "merges":
            _check_attacks(entry, path, problems)
            _check_repetitions(entry["repairs"], f"{path}.repairs", problems)
        case "studies":
            entry["grids"] = read_grids(entry["grids"], path, problems)
            _check_augmentations(entry["grids"], f"in {name}", problems)
            _check_objectives([grid for grid in entry["grids"] if grid], path, problems)
    return entry


def _read_with_plugin(
    section: str, name: str, raw: Entry, place: Mapping[str, str], path: str, problems: Validation
) -> Entry:
    """An entry whose keys are options of its plug-in, and keys that all entries of the section have."""
    model = PLUGIN_SECTIONS[section]
    options = {"use": name} | {key: value for key, value in raw.items() if key not in model.model_fields}
    entry = _read_plugin(section, options, path, problems, more_keys=model.model_fields)
    common = problems.validate(model, {key: value for key, value in raw.items() if key in model.model_fields}, path)
    if common.get("on_curve"):
        _read_plugin(section, options | common["on_curve"], f"{path}.on_curve", problems)
    if common:
        problems.check_names(model, common, path)
    if common.get("start"):
        _check_start(name, common, place, path, problems)
    _read_augment(common, path, problems)
    problems.note(path, _normalisation_problem(common.get("mean"), common.get("std")))
    return entry | common


def _read_training(entry: Entry, raw: Mapping[str, Any], path: str, problems: Validation) -> None:
    """Fill in the defaults of the schedule and of the optimiser, if one is named. `raw`: the training as written."""
    entry["schedule"] = _read_plugin("schedules", entry["schedule"], f"{path}.schedule", problems)
    if entry["optimiser"] is not None:
        entry["optimiser"] = _read_plugin("optimisers", entry["optimiser"], f"{path}.optimiser", problems)
        for key in ("momentum", "nesterov"):
            if key in raw:
                problems.note(
                    f"{path}.{key}",
                    f"found {short_repr(raw[key])}, a setting of the optimiser that `optimiser` replaces; remove one",
                )

    count, batch_norm = entry["gpus"], entry["batch_norm"]
    if count == 1 and batch_norm != Training.model_fields["batch_norm"].default:
        found = short_repr(batch_norm)
        problems.note(f"{path}.batch_norm", f"found {found}, which is about several `gpus`, and there is 1; remove it")
    if count > entry["batch_size"]:
        problems.note(f"{path}.gpus", f"found {count}, more than the {entry['batch_size']} images of a batch")


def _read_augment(entry: Entry, path: str, problems: Validation) -> None:
    """Fill in the defaults of the augmentations under `augment`, if there are any."""
    if entry.get("augment"):
        steps = enumerate(entry["augment"])
        entry["augment"] = [_read_plugin("augmentations", s, f"{path}.augment[{i}]", problems) for i, s in steps]


def _read_plugin(kind: str, raw: Any, path: str, problems: Validation, more_keys: Iterable[str] = ()) -> Entry:
    """`{use: ..., options}` with the defaults of the options filled in; {} if there are problems.

    `more_keys`: names of keys that the entry may have beside the options, for messages.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("use"), str):
        allowed = ", ".join(names(kind))
        problems.note(path, f"must be a mapping with `use`, one of {allowed}; found {short_repr(raw)}")
        return {}
    use = raw["use"]
    if not (is_known(kind, use) or (kind == "networks" and is_hub(use))):
        problems.note_not_allowed(f"{path}.use", "no such plug-in", use, names(kind))
        return {}
    try:
        model = _find_model(kind, use, more_keys)
    except UserError as error:
        problems.note(f"{path}.use", str(error))
        return {}
    options = {key: value for key, value in raw.items() if key != "use"}
    return {"use": use} | problems.validate(model, options, path, more_keys)


def _find_model(kind: str, use: str, common_keys: Iterable[str]) -> type[BaseModel]:
    """The model of the options of a plug-in. Raises UserError for one from outside that does not fit its kind.

    `common_keys`: keys that all entries of the section have, which no option may be called.
    """
    if kind == "networks" and is_hub(use):
        check_network(use)
        return ForeignNetwork
    if kind == "networks" and is_object(use):
        find(use)  # does not import it, so whether the callable takes these options is only known when it is called
        return ForeignNetwork
    model = schema(kind, use)
    if taken := sorted(model.model_fields.keys() & {"use", "overrides", *common_keys}):
        raise UserError(f"{use}: its option {taken[0]!r} has the name of a key of all {kind}; it needs another name")
    if kind == "objectives":
        metrics_of(use)
    return model


def _checkpoint_problem(file: str) -> str | None:
    """What is wrong with the name of a checkpoint of a hub; whether files exist shows when jobs are planned."""
    try:
        if is_hub(file):
            check_name(file)
    except UserError as error:
        return str(error)
    return None


def _check_start(name: str, entry: Entry, place: Mapping[str, str], path: str, problems: Validation) -> None:
    """Note a problem if `start` has another `attention`, or if following `start` leads in a circle."""
    start = entry["start"]
    alignments = {k: _merge(v, place) for k, v in problems.sections["alignments"].items() if isinstance(v, Mapping)}
    if start in alignments and alignments[start].get("attention", False) != entry["attention"]:
        attention = short_repr(entry["attention"])
        problems.note(f"{path}.attention", f"found {attention}; it must be the same as that of {start}, its start")
    chain = [name]
    while isinstance(start, str) and start not in chain:
        chain.append(start)
        start = alignments.get(start, {}).get("start")
    if start in chain:
        problems.note(f"{path}.start", f"leads in a circle: {' -> '.join([*chain, start])}")


def _check_objectives(grids: list[Entry], path: str, problems: Validation) -> None:
    """Note a problem if settings of a study have different objectives, or a grid asks for a bound that does not hold.

    Objectives that are not as they should be are left to the check of the regimes.
    """
    first_regime: dict[str, str] = {}  # objective -> the first regime that has it
    for grid in grids:
        for values in product(*(grid[key] for key in PLACES)):
            place = dict(zip(PLACES, values, strict=True))
            raw = problems.sections["regimes"].get(place["regime"])
            objective = _merge(raw, place).get("objective", OBJECTIVE) if isinstance(raw, Mapping) else None
            if isinstance(objective, Mapping) and isinstance(use := objective.get("use"), str):
                first_regime.setdefault(use, place["regime"])
    if len(first_regime) > 1:
        each = " and ".join(f"{use!r} (of {regime})" for use, regime in first_regime.items())
        problems.note(f"{path}.grids", f"found the objectives {each}; a study has one, because its tables compare")
    for use in first_regime.keys() - {OBJECTIVE["use"]}:
        if any("bound" in grid["measures"] for grid in grids):
            text = f"found the measure 'bound', which holds for the objective {OBJECTIVE['use']!r} alone, not {use!r}"
            problems.note(f"{path}.grids", text)
        if any(grid.get("merge") for grid in grids):
            text = f"found `merge`, whose table is for the objective {OBJECTIVE['use']!r} alone, not {use!r}"
            problems.note(f"{path}.grids", text)


def _check_attacks(entry: Entry, path: str, problems: Validation) -> None:
    """Note a problem for each of `attacks` that occurs before, or is the name of clean images."""
    for i, attack in enumerate(entry["attacks"]):
        if attack == "clean":
            problems.note(f"{path}.attacks[{i}]", "'clean' is always measured; name only attacks")
    _check_repetitions(entry["attacks"], f"{path}.attacks", problems)


def _check_repetitions(names: list[str], path: str, problems: Validation) -> None:
    """Note a problem for each of the names that occurs before."""
    for i, name in enumerate(names):
        if name in names[:i]:
            problems.note(f"{path}[{i}]", f"is {name!r}, which occurs before")


def _check_inner(entry: Entry, place: Mapping[str, str], path: str, problems: Validation) -> None:
    """Note a problem if the alignment of two networks is null, or starts at another."""
    name = str(entry.get("inner"))
    raw = problems.sections["alignments"].get(name, {})  # if there is no such entry, that is noted already
    if raw is None:
        problems.note(f"{path}.inner", f"found {name!r}, which is null; a method is needed")
    elif isinstance(raw, Mapping) and (start := _merge(raw, place).get("start")) is not None:
        problems.note(f"{path}.inner", f"found {name!r}, which starts at {short_repr(start)}; one without is needed")


def _attack_problem(entry: Entry) -> str | None:
    """Steps longer than eps are allowed (a single step of 1.25 eps is usual), but not longer than 2 eps.

    A longer step leaves the ball of radius eps from every point of it, so it acts like a step of 2 eps.
    """
    eps, step = entry.get("eps"), entry.get("step")
    if eps is None or step is None or step <= 2 * eps:
        return None
    return f"found step {step:g} and eps {eps:g}: the step must be at most 2 eps"


def _normalisation_problem(mean: list[float] | None, std: list[float] | None) -> str | None:
    """Mean and standard deviation must both be set, with one number per channel, or neither."""
    if (mean is None) == (std is None) and (mean is None or std is None or len(mean) == len(std) > 0):
        return None
    lengths = " and ".join("none" if values is None else f"{len(values)}" for values in (mean, std))
    return f"`mean` and `std` must both have one number for each channel, or neither be set; found {lengths}"


def _check_augmentations(grids: list[Entry], where: str, problems: Validation) -> None:
    """Note each regime that augments a dataset without images in a grid. Entries with other problems are left out."""
    for grid in filter(None, grids):
        for setting in product(*(grid[key] for key in PLACES)):
            place = dict(zip(PLACES, setting, strict=True))
            dataset, regime = (problems.sections[f"{key}s"].get(place[key]) for key in ("dataset", "regime"))
            if isinstance(regime, Mapping) and isinstance(dataset or {}, Mapping):
                use = (dataset or {}).get("use", place["dataset"])
                problem = _augment_problem(_merge(regime, place), use, f"{place['dataset']}, {where}, holds")
                problems.note(f"regimes.{place['regime']}.augment", problem)


def _augment_problem(entry: Entry, use: Any, origin: str) -> str | None:
    """Augmentations are of images, so an entry must have none if the plug-in `use` of its dataset makes other data.

    `origin`: where the message says these come from.
    """
    augment = entry.get("augment")
    has_images = not isinstance(use, str) or result("datasets", use) != OTHER_DATA
    if has_images or not augment or not isinstance(augment, list):
        return None
    names = ", ".join(str(step["use"]) for step in augment if isinstance(step, Mapping) and "use" in step)
    return f"found {names or short_repr(augment)}, which vary images; {origin} other data, so [] is needed"


def _full_passes_problem(entry: Entry) -> str | None:
    """`full_passes` needs `images`, whose estimates it corrects, and cannot be more than `points`."""
    full_passes = entry["full_passes"]
    if full_passes is not None and entry["images"] is None:
        return f"found {full_passes}: needs `images`; without it every point has a full pass already"
    if full_passes is not None and full_passes > entry["points"]:
        return f"found {full_passes}: must be at most points, {entry['points']}"
    return None
