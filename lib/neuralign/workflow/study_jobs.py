"""Descriptions of the jobs for a study: tables, figures and report; and the paths it consists of. Torch-free."""

from collections.abc import Iterable, Iterator
from itertools import product, starmap

from neuralign.config.catalogue import Catalogue, Entry
from neuralign.config.checking.entries import OTHER_DATA
from neuralign.config.metrics import OBJECTIVE, metrics_of
from neuralign.config.plugins import object_outside
from neuralign.config.signatures import result
from neuralign.workflow.job import Inputs, Job, Ref, Setting, describe, ref, rule
from neuralign.workflow.path_jobs import INITIAL, places
from neuralign.workflow.running.notes import entries

# keys of a run that identify its pair, its permutation and its curve; several runs can share a pair or a permutation
PAIR = (*Setting._fields, "pair")
ALIGNED = (*PAIR, "alignment")
COHORT = (*Setting._fields, "members", "cohort")  # likewise, of several networks and their permutations
CURVE = (*ALIGNED, "curve", "curve_seed")
PAGE_FILES = [  # that the page of a study is made with, beside code
    "report/page/report.html",
    "report/page/figures.csv",
    "report/interactive/views.html",
    "report/interactive/views.js",
]


@rule
def tabulate(c: Catalogue, study: str) -> Job:
    """The tables of a study."""
    runs = list(runs_of(c, study))
    return Job(
        {"evaluations": [evaluation_of(r) for r in runs]},
        {"runs": [_identify(r) for r in runs], "compared": _compared(c, study), **_measured_by(c, study)},
        files=["report/published.csv", _objective_file(c, study)],
    )


@rule
def tabulate_claims(c: Catalogue, study: str) -> Job:
    """The paper's numbers and claims beside the study's, and how many units its alignments moved."""
    runs = list(runs_of(c, study))
    histories = [(description, file) for description, file in _histories(c, runs) if file.rule == "train_curve"]
    parts = {"moved": _permutations(c, runs, "align", "moved"), "histories": histories}
    parts["signatures"] = _permutations(c, [r for r in runs if "signature" in r["measures"]], "signature", "signature")
    parts["midpoints"] = [(_identify(run), _midpoint(run)) for run in _measured(c, runs, "midpoint")]
    tables: Inputs = {name: ref("tabulate", name, study=study) for name in ("accuracy", "points", "paths")}
    if _measured(c, runs, "bound"):
        tables["theory"] = ref("tabulate_theory", "theory_paths", study=study)
    described = {name: [description for description, _ in part] for name, part in parts.items()}
    return Job(
        tables | {name: [file for _, file in part] for name, part in parts.items()},
        {"runs": described, "compared": _compared(c, study), **_measured_by(c, study)},
        files=["report/published.csv", _objective_file(c, study)],
    )


def _compared(c: Catalogue, study: str) -> list[str]:
    """The regimes whose accuracies stand beside the published ones."""
    regimes: list[str] | None = c.studies[study]["compared"]
    return ["standard"] if regimes is None else regimes


def objective_of(c: Catalogue, study: str) -> str:
    """The name of the objective of a study; its settings all have the same (`config.checking.check`)."""
    grid = c.studies[study]["grids"][0]
    setting = Setting(*(grid[key][0] for key in Setting._fields))
    name: str = setting.entry(c, "regimes", setting.regime)["objective"]["use"]
    return name


def _measured_by(c: Catalogue, study: str) -> Entry:
    """The setting `measured` of jobs: the arguments of `metrics_of` that differ from its defaults; {} if none does."""
    objective, measured = objective_of(c, study), Entry()
    if objective != OBJECTIVE["use"]:
        measured["objective"] = objective
    uses = {c.entry("datasets", name)["use"] for name in _distinct_values(c.studies[study], "dataset")}
    if any(result("datasets", use) == OTHER_DATA for use in uses):
        measured["noun"] = "examples"
    return {"measured": measured} if measured else {}


def _objective_file(c: Catalogue, study: str) -> str:
    """The file in which the objective of a study says what it measures; of one from outside, its name."""
    objective = objective_of(c, study)
    return object_outside("objectives", objective) or f"training/objectives/{objective}.py"


@rule
def tabulate_cohorts(c: Catalogue, study: str) -> Job:
    """The merged networks of a study beside their members."""
    runs = list(cohorts_of(c, study))
    return Job(
        {
            "evaluations": [_ref("evaluate_cohort", "networks_table", run, (*COHORT, "evaluation")) for run in runs],
            "alignments": [_ref("align_cohort", "facts", run, COHORT) for run in runs],
        },
        {"runs": runs, **_measured_by(c, study)},
        files=[_objective_file(c, study)],
    )


@rule
def tabulate_merges(c: Catalogue, study: str) -> Job:
    """The barriers between the networks of a study's pairs, and their means, by alignment."""
    runs = list(merges_of(c, study))
    outputs = ("models", "barrier", "layers")
    return Job(
        {output: [_ref("merge", output, run, (*ALIGNED, "merge")) for run in runs] for output in outputs},
        {"runs": [_select(run, ALIGNED) for run in runs]},
    )


@rule
def tabulate_theory(c: Catalogue, study: str) -> Job:
    """Every bound of a study beside the loss of the trained curve of the same pair."""
    runs = _measured(c, runs_of(c, study), "bound")
    return Job(
        {
            "bounds": [_ref("bound", "bound", run, ALIGNED) for run in runs],
            "evaluations": [evaluation_of(run) for run in runs],
        },
        {"runs": [_identify(run) | {"alignment": run["alignment"]} for run in runs]},
    )


@rule
def plot(c: Catalogue, study: str, figure: str) -> Job:
    """One figure of a study."""
    kind, options, frames = figures(c, study)[figure]
    runs = [run for run, _ in frames]
    return Job(
        {"frames": [r for _, r in frames]},
        {"kind": kind, "options": options, "runs": runs, **_measured_by(c, study)},
        [("figures", kind)],
        files=[_objective_file(c, study)],
    )


@rule
def report(c: Catalogue, study: str) -> Job:
    """The report of a study. It reads tables, figures, and the notes of origin of all results they were made from."""
    drawings = figures(c, study)
    inputs: Inputs = {
        n: ref("tabulate", n, study=study) for n in ("accuracy", "robust", "contrasts", "paths", "points")
    }
    inputs |= {n: ref("tabulate_claims", n, study=study) for n in ("alignments", "published", "claims")}
    inputs["figures"] = [ref("plot", "png", study=study, figure=figure) for figure in drawings]
    inputs["artefacts"] = list(artefacts(c, study))
    planes = {frame: run for kind, _, frames in drawings.values() if kind == "plane" for run, frame in frames}
    inputs |= {"planes": list(planes)} if planes else {}
    if any(True for _ in cohorts_of(c, study)):
        inputs["cohorts"] = ref("tabulate_cohorts", "cohorts", study=study)
    if any(True for _ in merges_of(c, study)):
        inputs |= {n: ref("tabulate_merges", n, study=study) for n in ("merges", "merges_by_pair", "merges_contrasts")}
    entry = c.studies[study]
    settings = {"name": study, "title": entry["title"], "description": entry["description"]}
    settings["grids"] = entry.get("planned", entry["grids"])
    # only the finished part of a study has this entry (incomplete.py)
    missing = {"missing": entry["missing"]} if "missing" in entry else {}
    used = {
        "datasets": _distinct_values(entry, "dataset"),
        "networks": _distinct_values(entry, "network"),
        "regimes": _distinct_values(entry, "regime"),
        "evaluations": list(dict.fromkeys(g["evaluation"] for g in entry["grids"])),
    }
    if protocols := list(dict.fromkeys(g["plane"] for g in entry["grids"] if g["plane"])):
        used["planes"] = protocols
    settings["catalogue"] = {section: {n: c.entry(section, n) for n in names} for section, names in used.items()}
    for dataset in settings["catalogue"]["datasets"].values():
        for key in dataset.keys() & set(places(dataset)):
            del dataset[key]  # the report is the same wherever the data came from
    attacks = [r["attack"] for r in settings["catalogue"]["regimes"].values() if r["attack"]]
    attacks += [a for e in settings["catalogue"]["evaluations"].values() for a in e["attacks"]]
    settings["catalogue"]["attacks"] = {name: c.entry("attacks", name) for name in dict.fromkeys(attacks)}
    plane_runs = {"plane_runs": list(planes.values())} if planes else {}
    captions = [{"name": name, "use": kind, **options} for name, (kind, options, _) in drawings.items()]
    return Job(
        inputs,
        {"study": settings, "drawings": captions, **plane_runs, **_measured_by(c, study), **missing},
        files=[*PAGE_FILES, _objective_file(c, study)],
    )


def artefacts(c: Catalogue, study: str) -> Iterator[Ref]:
    """The outputs that a study's tables and figures depend on, directly or not, but histories and marks; each once."""
    seen: set[Ref] = set()
    pending: list[Ref] = [evaluation_of(run) for run in runs_of(c, study)]
    pending += [r for _, _, frames in figures(c, study).values() for _, r in frames]
    if any(True for _ in cohorts_of(c, study)):
        pending += entries(tabulate_cohorts(c, study).inputs)
    if any(True for _ in merges_of(c, study)):
        pending += entries(tabulate_merges(c, study).inputs)
    while pending:
        file = pending.pop(0)
        if file in seen:
            continue
        seen.add(file)
        if file.output not in ("history", "marks"):
            yield file
        pending += entries(describe(c, file.rule, dict(file.wildcards)).inputs)


def figures(c: Catalogue, study: str) -> dict[str, tuple[str, Entry, list[tuple[Entry, Ref]]]]:
    """{figure: (plug-in, its options, [(keys of the run, its CSV table)])} of a study, in the order of the report."""
    drawings: dict[str, tuple[str, Entry, list[tuple[Entry, Ref]]]] = {}
    metrics = metrics_of(objective_of(c, study))
    headline, columns = metrics.headline.name, [metrics.headline.name, metrics.loss.name]
    for regime in _distinct_values(c.studies[study], "regime"):
        runs = [run for run in runs_of(c, study) if run["regime"] == regime]
        paths = [(_identify(run), evaluation_of(run)) for run in runs]
        attacks = list(dict.fromkeys(a for r in runs for a in c.entry("evaluations", r["evaluation"])["attacks"]))
        drawings[f"{headline}_{regime}"] = ("path", {"column": headline}, paths)
        if any(c.trained(run["curve"]) for run in runs):
            drawings[f"curves_{regime}"] = ("path", {"column": headline, "show": "curves"}, paths)
        for column in metrics.names[1:]:
            drawings[f"{column}_{regime}"] = ("path", {"column": column}, paths)
        for attack in attacks:
            for column in columns:
                options = {"column": column, "attack": attack, "beside_clean": True}
                drawings[f"{column}_{regime}_{attack}"] = ("path", options, paths)
        signatures = list(_signatures(c, runs))
        if signatures:
            drawings[f"signature_{regime}"] = ("signature", {}, signatures)
        midpoints = [(_identify(run), _midpoint(run)) for run in _measured(c, runs, "midpoint")]
        if midpoints:
            drawings[f"midpoint_{regime}"] = ("midpoint", {}, midpoints)
        for dataset, kind, frames in _planes(c, runs):
            for column in columns:
                drawings[f"plane_{kind}_{column}_{dataset}_{regime}"] = ("plane", {"column": column}, frames)
        drawings[f"training_{regime}"] = ("training", {}, list(_histories(c, runs)))
    if _measured(c, runs_of(c, study), "bound"):
        drawings["theory"] = ("theory", {}, [({}, ref("tabulate_theory", "theory_paths", study=study))])
    return drawings


def _distinct_values(study: Entry, key: str) -> list[str]:
    """The values of a key in the grids of a study, each once."""
    return list(dict.fromkeys(value for grid in study["grids"] for value in grid[key]))


def runs_of(c: Catalogue, study: str) -> Iterator[Entry]:
    """The runs of a study, one for each evaluated path: dataset, network, regime, pair, curve_seed, method, ..."""
    for grid in c.studies[study]["grids"]:
        for setting in starmap(Setting, product(*(grid[name] for name in Setting._fields))):
            for method in grid["method"]:
                path = setting.entry(c, "methods", method)
                for pair, seed in zip(grid["pair"], grid["curve_seed"], strict=True):
                    # an untrained curve has no randomness, so it has one job for all seeds
                    curve_seed = seed if c.trained(path["curve"]) else 0
                    run = setting._asdict() | {"pair": pair, "method": method, **path, "curve_seed": curve_seed}
                    measured = {key: grid[key] for key in ("evaluation", "plane", "measures")}
                    yield run | measured | {"merge": grid.get("merge")}


def cohorts_of(c: Catalogue, study: str) -> Iterator[Entry]:
    """The merged networks of a study, each once: dataset, network, regime, members, cohort, evaluation."""
    seen: set[tuple[str, ...]] = set()
    for grid in c.studies[study]["grids"]:
        lists = [*(grid[name] for name in Setting._fields), grid.get("members", []), grid.get("cohort", [])]
        for values in product(*lists, [grid["evaluation"]]):
            if values not in seen:
                seen.add(values)
                yield dict(zip((*COHORT, "evaluation"), values, strict=True))


def merges_of(c: Catalogue, study: str) -> Iterator[Entry]:
    """The pairs of a study that are merged, for each alignment once."""
    seen: set[Ref] = set()
    for run in (run for run in runs_of(c, study) if run["merge"] is not None):
        file = _ref("merge", "models", run, (*ALIGNED, "merge"))
        if file not in seen:
            seen.add(file)
            yield run


def _measured(c: Catalogue, runs: Iterable[Entry], measure: str) -> list[Entry]:
    """The runs with a trained curve whose grid asks for a measure."""
    return [run for run in runs if measure in run["measures"] and c.trained(run["curve"])]


def _identify(run: Entry) -> Entry:
    """The keys of a run that distinguish it from the others of a study."""
    return _select(run, (*PAIR, "method", "curve_seed"))


def _select(run: Entry, keys: Iterable[str]) -> Entry:
    return {key: run[key] for key in keys}


def _ref(rule: str, output: str, run: Entry, keys: Iterable[str]) -> Ref:
    """A reference to an output of `rule` whose wildcards are these keys of a run."""
    return ref(rule, output, **{key: str(run[key]) for key in keys})


def evaluation_of(run: Entry) -> Ref:
    """The evaluation of a run."""
    return _ref("evaluate", "points", run, (*CURVE, "evaluation"))


def _midpoint(run: Entry) -> Ref:
    return _ref("midpoint", "midpoint", run, (*CURVE, "evaluation"))


def _signatures(c: Catalogue, runs: list[Entry]) -> list[tuple[Entry, Ref]]:
    """(keys, signature) of each permutation whose grid asks for it, once."""
    measured = [run for run in runs if "signature" in run["measures"] and _is_aligned(c, run)]
    files = {_ref("signature", "signature", run, ALIGNED): _select(run, ALIGNED) for run in measured}
    return [(description, file) for file, description in files.items()]


def _permutations(c: Catalogue, runs: list[Entry], rule: str, output: str) -> list[tuple[Entry, Ref]]:
    """(keys, output of `rule`) of each permutation, once; key `methods`: the methods that use it, with commas."""
    methods: dict[Ref, dict[str, None]] = {}
    descriptions: dict[Ref, Entry] = {}
    for run in (run for run in runs if _is_aligned(c, run)):
        file = _ref(rule, output, run, ALIGNED)
        descriptions[file] = _select(run, ALIGNED)
        methods.setdefault(file, {})[run["method"]] = None
    return [(description | {"methods": ",".join(methods[file])}, file) for file, description in descriptions.items()]


def _is_aligned(c: Catalogue, run: Entry) -> bool:
    """Whether a run has an alignment that is not `null` in the config."""
    return c.entry("alignments", run["alignment"]) is not None


def _planes(c: Catalogue, runs: list[Entry]) -> Iterator[tuple[str, str, list[tuple[Entry, Ref]]]]:
    """(dataset, INITIAL or "curve", frames) of the planes that the grids ask for; frames are grids and marks."""
    frames: dict[tuple[str, str], dict[Ref, Entry]] = {}
    for run in (r for r in runs if r["plane"] is not None):
        aligned = _select(run, ALIGNED)
        planes = []
        if _is_aligned(c, run):
            planes.append((INITIAL, INITIAL, aligned))
        if c.trained(run["curve"]):
            planes.append(("curve", f"{run['curve']}/{run['curve_seed']}", _identify(run)))
        for kind, through, description in planes:
            for output in ("grid", "marks"):
                file = ref("plane", output, **aligned, through=through, plane=run["plane"])
                frames.setdefault((run["dataset"], kind), {}).setdefault(file, description)
    for (dataset, kind), files in sorted(frames.items(), key=lambda item: item[0][1] != INITIAL):
        yield dataset, kind, [(description, file) for file, description in files.items()]


def _histories(c: Catalogue, runs: list[Entry]) -> Iterator[tuple[Entry, Ref]]:
    """(keys, history) of every training of a study: the endpoints, each once, and the curves."""
    seen = set()
    for run in runs:
        for seed in filter(str.isdecimal, run["pair"].split("-")):  # an imported checkpoint has no history
            file = ref("train_endpoint", "history", **_select(run, Setting._fields), seed=seed)
            if file not in seen:
                seen.add(file)
                yield _select(run, PAIR) | {"method": "endpoints", "seed": int(seed)}, file
        if c.trained(run["curve"]):
            yield _identify(run), _ref("train_curve", "history", run, CURVE)
