"""The graph of the workflow, torch-free: what each job reads, which settings it may see, and which code it runs.

Every rule of the workflow has one function here that describes one of its jobs. Snakemake's rules take their inputs
from it and `recipes.py` its keys, so what a script is given and what its staleness depends on are the same thing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from neuralign.config import Catalogue, Entry

Wildcards = dict[str, str]
PAIR = ("dataset", "network", "regime", "pair")
INITIAL = "initial"  # the plane of both ends and the aligned one


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
    plugins: list[tuple[str, str]] = field(default_factory=list)  # (folder, name): code that is loaded by name
    files: list[str] = field(default_factory=list)  # data files of the package that the code reads
    software: tuple[str, ...] = ()  # packages whose version the numbers depend on


NUMERIC = ("torch",)


def job(catalogue: Catalogue, rule: str, wildcards: Wildcards) -> Job:
    """The job of `rule` with these wildcards."""
    return RULES[rule](catalogue, **wildcards)


def fetch_data(c: Catalogue, dataset: str) -> Job:
    """One dataset; how it is augmented and normalised is no business of this job."""
    entry = c.entry("datasets", dataset)
    source = {k: v for k, v in entry.items() if k not in ("augment", "mean", "std")}
    return Job({}, {"dataset": source}, [("data", entry["use"])])


def train_endpoint(c: Catalogue, dataset: str, network: str, regime: str, seed: str) -> Job:
    """One network from one seed."""
    settings, plugins = _training(c, dataset, network, regime, "endpoint")
    return Job(
        {"data": ref("fetch_data", "data", dataset=dataset)}, settings | {"seed": int(seed)}, plugins, software=NUMERIC
    )


def align(c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str) -> Job:
    """The permutation of the pair's second network, its source, that fits the first, its target."""
    model, plugins = _model(c, dataset, network, regime)
    place = {"dataset": dataset, "network": network, "regime": regime}
    method = c.entry("alignments", alignment, **place)
    start = method.pop("start")
    inputs = _path_inputs(c, **place, pair=pair, alignment=start)
    if "permutation" in inputs:
        inputs["start"] = inputs.pop("permutation")
    settings: Entry = {"model": model}
    if method.pop("augmented"):
        settings["augment"] = c.entry("datasets", dataset)["augment"]
        plugins += _uses("augmentations", settings["augment"])
    if method.pop("attacked") and (attack := c.entry("regimes", regime, **place)["attack"]):
        settings["attack"] = c.entry("attacks", attack, **place)
        plugins += _uses("attacks", [settings["attack"]])
    return Job(inputs, settings | {"method": method}, [*plugins, ("align", method["use"])], software=NUMERIC)


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
        names = {"pair": pair, "alignment": alignment, "curve": curve, "curve_seed": curve_seed}
        inputs["bends"] = ref("train_curve", "bends", **place, **names)
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
        names = {"pair": pair, "alignment": alignment, "curve": curve, "curve_seed": seed}
        inputs["bends"] = ref("train_curve", "bends", **place, **names)
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
    names = {"pair": pair, "alignment": alignment, "curve": curve, "curve_seed": curve_seed}
    model, plugins = _model(c, **place, on_curve=True)
    family, protocol = c.entry("curves", curve), c.entry("evaluations", evaluation, **place)
    augment = c.entry("datasets", dataset)["augment"] if protocol["augment"] else []
    inputs = _path_inputs(c, **place, pair=pair, alignment=alignment)
    inputs["bends"] = ref("train_curve", "bends", **place, **names)
    settings = {"model": model, "curve": family, "augment": augment}
    settings["protocol"] = {k: protocol[k] for k in ("batch_size", "images", "seed")}
    plugins += [*_uses("curves", [family]), *_uses("augmentations", augment)]
    return Job(inputs, settings, plugins, software=NUMERIC)


def bound(c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str) -> Job:
    """A bound on the loss of the straight line between both ends."""
    model, plugins = _model(c, dataset, network, regime, on_curve=True)
    return Job(_path_inputs(c, dataset, network, regime, pair, alignment), {"model": model}, plugins, software=NUMERIC)


def tabulate_theory(c: Catalogue, study: str) -> Job:
    """Every bound of a study beside the loss of the curve that was trained."""
    runs = [run for run in _runs(c, study) if c.trained(run["curve"])]
    return Job(
        {
            "bounds": [ref("bound", "bound", **{k: run[k] for k in (*PAIR, "alignment")}) for run in runs],
            "evaluations": [_evaluation(run) for run in runs],
        },
        {"runs": [_described(run) | {"alignment": run["alignment"]} for run in runs]},
    )


def tabulate(c: Catalogue, study: str) -> Job:
    """The tables of a study."""
    runs = list(_runs(c, study))
    return Job(
        {"evaluations": [_evaluation(r) for r in runs]},
        {"runs": [_described(r) for r in runs]},
        files=["published.csv"],
    )


def tabulate_claims(c: Catalogue, study: str) -> Job:
    """The paper's numbers and claims beside the study's, and how far its alignments reach."""
    runs = list(_runs(c, study))
    histories = [(about, found) for about, found in _histories(c, runs) if found.rule == "train_curve"]
    parts = {"moved": _permutations(c, runs, "align", "moved"), "histories": histories}
    parts["signatures"] = _permutations(c, runs, "signature", "signature")
    parts["midpoints"] = [(_described(run), _midpoint(run)) for run in runs if c.trained(run["curve"])]
    tables: dict[str, Ref | list[Ref]] = {n: ref("tabulate", n, study=study) for n in ("accuracy", "points", "paths")}
    if parts["midpoints"]:
        tables["theory"] = ref("tabulate_theory", "theory_paths", study=study)
    described = {name: [about for about, _ in part] for name, part in parts.items()}
    return Job(
        tables | {name: [found for _, found in part] for name, part in parts.items()},
        {"runs": described},
        files=["published.csv"],
    )


def plot(c: Catalogue, study: str, figure: str) -> Job:
    """One figure of a study."""
    kind, options, frames = figures(c, study)[figure]
    runs = [run for run, _ in frames]
    return Job(
        {"frames": [r for _, r in frames]}, {"kind": kind, "options": options, "runs": runs}, [("figures", kind)]
    )


def report(c: Catalogue, study: str) -> Job:
    """The page of a study, which reads its tables, its figures and the notes of all it depends on."""
    tables = {name: ref("tabulate", name, study=study) for name in ("accuracy", "robust", "contrasts", "paths")}
    tables |= {n: ref("tabulate_claims", n, study=study) for n in ("alignments", "published", "claims")}
    drawings = figures(c, study)
    drawn = [ref("plot", "png", study=study, figure=figure) for figure in drawings]
    inputs: dict[str, Ref | list[Ref]] = {**tables, "figures": drawn, "artefacts": list(artefacts(c, study))}
    entry = c.studies[study]
    settings = {"name": study, "title": entry["title"], "description": entry["description"], "grids": entry["grids"]}
    used = {
        "datasets": _all(entry, "dataset"),
        "networks": _all(entry, "network"),
        "regimes": _all(entry, "regime"),
        "evaluations": list(dict.fromkeys(g["evaluation"] for g in entry["grids"])),
    }
    if planes := list(dict.fromkeys(g["plane"] for g in entry["grids"] if g["plane"])):
        used["planes"] = planes
    settings["catalogue"] = {section: {n: c.entry(section, n) for n in names} for section, names in used.items()}
    attacks = [r["attack"] for r in settings["catalogue"]["regimes"].values() if r["attack"]]
    attacks += [a for e in settings["catalogue"]["evaluations"].values() for a in e["attacks"]]
    settings["catalogue"]["attacks"] = {name: c.entry("attacks", name) for name in dict.fromkeys(attacks)}
    captions = [{"name": name, "use": kind, **options} for name, (kind, options, _) in drawings.items()]
    return Job(inputs, {"study": settings, "drawings": captions}, files=["report.html", "figures.csv"])


RULES: dict[str, Callable[..., Job]] = {
    rule.__name__: rule
    for rule in (
        fetch_data,
        train_endpoint,
        align,
        signature,
        train_curve,
        evaluate,
        midpoint,
        bound,
        plane,
        tabulate,
        tabulate_claims,
        tabulate_theory,
        plot,
        report,
    )
}


def artefacts(c: Catalogue, study: str) -> Iterator[Ref]:
    """The first output of every job that a study's tables depend on, each once."""
    seen: set[Ref] = set()
    waiting: list[Ref] = [_evaluation(run) for run in _runs(c, study)]
    waiting += [r for _, _, frames in figures(c, study).values() for _, r in frames]
    while waiting:
        found = waiting.pop(0)
        if found in seen:
            continue
        seen.add(found)
        if found.output not in ("history", "marks"):
            yield found
        for needed in job(c, found.rule, dict(found.wildcards)).inputs.values():
            waiting += needed if isinstance(needed, list) else [needed]


def figures(c: Catalogue, study: str) -> dict[str, tuple[str, Entry, list[tuple[Entry, Ref]]]]:
    """{figure: (plug-in, its options, [(description, CSV)])} of a study, in the order of the report."""
    out: dict[str, tuple[str, Entry, list[tuple[Entry, Ref]]]] = {}
    for regime in _all(c.studies[study], "regime"):
        runs = [run for run in _runs(c, study) if run["regime"] == regime]
        paths = [(_described(run), _evaluation(run)) for run in runs]
        attacks = list(dict.fromkeys(a for r in runs for a in c.entry("evaluations", r["evaluation"])["attacks"]))
        out[f"accuracy_{regime}"] = ("path", {"column": "accuracy"}, paths)
        out[f"curves_{regime}"] = ("path", {"column": "accuracy", "show": "curves"}, paths)
        out[f"loss_{regime}"] = ("path", {"column": "loss"}, paths)
        for attack in attacks:
            for column in ("accuracy", "loss"):
                options = {"column": column, "attack": attack, "beside_clean": True}
                out[f"{column}_{regime}_{attack}"] = ("path", options, paths)
        signatures = list(_signatures(c, runs))
        if signatures:
            out[f"signature_{regime}"] = ("signature", {}, signatures)
        midpoints = [(_described(run), _midpoint(run)) for run in runs if c.trained(run["curve"])]
        if midpoints:
            out[f"midpoint_{regime}"] = ("midpoint", {}, midpoints)
        for dataset, kind, frames in _planes(c, runs):
            for column in ("accuracy", "loss"):
                out[f"plane_{kind}_{column}_{dataset}_{regime}"] = ("plane", {"column": column}, frames)
        out[f"training_{regime}"] = ("training", {}, list(_histories(c, runs)))
    if any(c.trained(run["curve"]) for run in _runs(c, study)):
        out["theory"] = ("theory", {}, [({}, ref("tabulate_theory", "theory_paths", study=study))])
    return out


def _all(study: Entry, key: str) -> list[str]:
    return list(dict.fromkeys(value for grid in study["grids"] for value in grid[key]))


def _runs(c: Catalogue, study: str) -> Iterator[Entry]:
    """Every evaluated curve of a study: dataset, network, regime, pair, curve_seed, method, evaluation, ..."""
    for grid in c.studies[study]["grids"]:
        for dataset in grid["dataset"]:
            for network in grid["network"]:
                for regime in grid["regime"]:
                    for method in grid["method"]:
                        how = c.entry("methods", method, dataset=dataset, network=network, regime=regime)
                        for pair, seed in zip(grid["pair"], grid["curve_seed"], strict=True):
                            place = {"dataset": dataset, "network": network, "regime": regime, "pair": pair}
                            seed = seed if c.trained(how["curve"]) else 0  # a segment draws nothing: one job for all
                            yield {
                                **place,
                                "method": method,
                                **how,
                                "curve_seed": seed,
                                "evaluation": grid["evaluation"],
                                "plane": grid["plane"],
                            }


def _described(run: Entry) -> Entry:
    return {key: run[key] for key in (*PAIR, "method", "curve_seed")}


def _evaluation(run: Entry) -> Ref:
    keys = (*PAIR, "alignment", "curve", "curve_seed", "evaluation")
    return ref("evaluate", "points", **{key: str(run[key]) for key in keys})


def _midpoint(run: Entry) -> Ref:
    keys = (*PAIR, "alignment", "curve", "curve_seed", "evaluation")
    return ref("midpoint", "midpoint", **{key: str(run[key]) for key in keys})


def _signatures(c: Catalogue, runs: list[Entry]) -> Iterator[tuple[Entry, Ref]]:
    seen = set()
    for run in runs:
        found = ref("signature", "signature", **{k: run[k] for k in (*PAIR, "alignment")})
        if c.entry("alignments", run["alignment"]) is not None and found not in seen:
            seen.add(found)
            yield {k: run[k] for k in (*PAIR, "alignment")}, found


def _permutations(c: Catalogue, runs: list[Entry], rule: str, output: str) -> list[tuple[Entry, Ref]]:
    """An output of `rule` for each permutation, with the `methods` whose paths go to it, separated by commas."""
    users: dict[Ref, tuple[Entry, list[str]]] = {}
    for run in runs:
        if c.entry("alignments", run["alignment"]) is not None:
            place = {k: run[k] for k in (*PAIR, "alignment")}
            users.setdefault(ref(rule, output, **place), (place, []))[1].append(run["method"])
    return [(place | {"methods": ",".join(dict.fromkeys(names))}, found) for found, (place, names) in users.items()]


def _planes(c: Catalogue, runs: list[Entry]) -> Iterator[tuple[str, str, list[tuple[Entry, Ref]]]]:
    """(dataset, INITIAL or "curve", frames) of the planes that are asked for: two frames each, grid and marks."""
    found: dict[tuple[str, str], dict[Ref, Entry]] = {}
    for run in (r for r in runs if r["plane"] is not None):
        place = {k: run[k] for k in (*PAIR, "alignment")}
        planes = []
        if c.entry("alignments", run["alignment"]) is not None:
            planes.append((INITIAL, INITIAL, place))
        if c.trained(run["curve"]):
            planes.append(("curve", f"{run['curve']}/{run['curve_seed']}", _described(run)))
        for kind, through, description in planes:
            for output in ("grid", "marks"):
                file = ref("plane", output, **place, through=through, plane=run["plane"])
                found.setdefault((run["dataset"], kind), {}).setdefault(file, description)
    for (dataset, kind), frames in sorted(found.items(), key=lambda f: f[0][1] != INITIAL):
        yield dataset, kind, [(description, file) for file, description in frames.items()]


def _histories(c: Catalogue, runs: list[Entry]) -> Iterator[tuple[Entry, Ref]]:
    seen = set()
    for run in runs:
        for seed in run["pair"].split("-"):
            place = {k: run[k] for k in ("dataset", "network", "regime")}
            found = ref("train_endpoint", "history", **place, seed=seed)
            if found not in seen:
                seen.add(found)
                yield {**place, "pair": run["pair"], "method": "endpoints", "seed": int(seed)}, found
        if c.trained(run["curve"]):
            keys = (*PAIR, "alignment", "curve", "curve_seed")
            yield _described(run), ref("train_curve", "history", **{k: str(run[k]) for k in keys})


def _ends(dataset: str, network: str, regime: str, pair: str) -> list[Ref]:
    place = {"dataset": dataset, "network": network, "regime": regime}
    return [ref("train_endpoint", "network", **place, seed=seed) for seed in pair.split("-")]


def _path_inputs(
    c: Catalogue, dataset: str, network: str, regime: str, pair: str, alignment: str | None
) -> dict[str, Ref | list[Ref]]:
    """Data, both ends, and the permutation where the alignment is not `null`."""
    place = {"dataset": dataset, "network": network, "regime": regime}
    start, end = _ends(**place, pair=pair)
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
    size, differing = entry.pop("input_size"), entry.pop("on_curve")
    entry |= differing if on_curve else {}
    normalise = c.entry("regimes", regime, **place)["normalise"]
    mean, std = (data["mean"], data["std"]) if normalise else (None, None)
    model = {"network": entry, "input_size": size, "normalise": normalise, "mean": mean, "std": std}
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
