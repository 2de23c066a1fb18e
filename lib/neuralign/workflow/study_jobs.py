"""What a study consists of: its paths, its figures, and the jobs that make its tables. Torch-free."""

from collections.abc import Iterable, Iterator

from neuralign.config.catalogue import Catalogue, Entry
from neuralign.workflow.path_jobs import INITIAL, PAIR, Job, Ref, ref


def tabulate(c: Catalogue, study: str) -> Job:
    """The tables of a study."""
    runs = list(runs_of(c, study))
    return Job(
        {"evaluations": [evaluation_of(r) for r in runs]},
        {"runs": [_described(r) for r in runs]},
        files=["report/published.csv"],
    )


def tabulate_claims(c: Catalogue, study: str) -> Job:
    """The paper's numbers and claims beside the study's, and how far its alignments reach."""
    runs = list(runs_of(c, study))
    histories = [(about, found) for about, found in _histories(c, runs) if found.rule == "train_curve"]
    parts = {"moved": _permutations(c, runs, "align", "moved"), "histories": histories}
    parts["signatures"] = _permutations(c, [r for r in runs if "signature" in r["measures"]], "signature", "signature")
    parts["midpoints"] = [(_described(run), _midpoint(run)) for run in _measured(c, runs, "midpoint")]
    tables: dict[str, Ref | list[Ref]] = {n: ref("tabulate", n, study=study) for n in ("accuracy", "points", "paths")}
    if _measured(c, runs, "bound"):
        tables["theory"] = ref("tabulate_theory", "theory_paths", study=study)
    described = {name: [about for about, _ in part] for name, part in parts.items()}
    return Job(
        tables | {name: [found for _, found in part] for name, part in parts.items()},
        {"runs": described},
        files=["report/published.csv"],
    )


def tabulate_theory(c: Catalogue, study: str) -> Job:
    """Every bound of a study beside the loss of the curve that was trained."""
    runs = _measured(c, runs_of(c, study), "bound")
    return Job(
        {
            "bounds": [ref("bound", "bound", **{k: run[k] for k in (*PAIR, "alignment")}) for run in runs],
            "evaluations": [evaluation_of(run) for run in runs],
        },
        {"runs": [_described(run) | {"alignment": run["alignment"]} for run in runs]},
    )


def plot(c: Catalogue, study: str, figure: str) -> Job:
    """One figure of a study."""
    kind, options, frames = figures(c, study)[figure]
    runs = [run for run, _ in frames]
    return Job(
        {"frames": [r for _, r in frames]}, {"kind": kind, "options": options, "runs": runs}, [("figures", kind)]
    )


def figures(c: Catalogue, study: str) -> dict[str, tuple[str, Entry, list[tuple[Entry, Ref]]]]:
    """{figure: (plug-in, its options, [(description, CSV)])} of a study, in the order of the report."""
    out: dict[str, tuple[str, Entry, list[tuple[Entry, Ref]]]] = {}
    for regime in every(c.studies[study], "regime"):
        runs = [run for run in runs_of(c, study) if run["regime"] == regime]
        paths = [(_described(run), evaluation_of(run)) for run in runs]
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
        midpoints = [(_described(run), _midpoint(run)) for run in _measured(c, runs, "midpoint")]
        if midpoints:
            out[f"midpoint_{regime}"] = ("midpoint", {}, midpoints)
        for dataset, kind, frames in _planes(c, runs):
            for column in ("accuracy", "loss"):
                out[f"plane_{kind}_{column}_{dataset}_{regime}"] = ("plane", {"column": column}, frames)
        out[f"training_{regime}"] = ("training", {}, list(_histories(c, runs)))
    if _measured(c, runs_of(c, study), "bound"):
        out["theory"] = ("theory", {}, [({}, ref("tabulate_theory", "theory_paths", study=study))])
    return out


def every(study: Entry, key: str) -> list[str]:
    """All values of a key in the grids of a study, each once."""
    return list(dict.fromkeys(value for grid in study["grids"] for value in grid[key]))


def runs_of(c: Catalogue, study: str) -> Iterator[Entry]:
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
                                "measures": grid["measures"],
                            }


def _measured(c: Catalogue, runs: Iterable[Entry], measure: str) -> list[Entry]:
    """The runs with a trained curve whose grid asks for a measure."""
    return [run for run in runs if measure in run["measures"] and c.trained(run["curve"])]


def _described(run: Entry) -> Entry:
    return {key: run[key] for key in (*PAIR, "method", "curve_seed")}


def evaluation_of(run: Entry) -> Ref:
    """The evaluation of one path of a study."""
    return _of_path(run, "evaluate", "points")


def _midpoint(run: Entry) -> Ref:
    return _of_path(run, "midpoint", "midpoint")


def _of_path(run: Entry, rule: str, output: str) -> Ref:
    keys = (*PAIR, "alignment", "curve", "curve_seed", "evaluation")
    return ref(rule, output, **{key: str(run[key]) for key in keys})


def _signatures(c: Catalogue, runs: list[Entry]) -> Iterator[tuple[Entry, Ref]]:
    seen = set()
    for run in runs:
        found = ref("signature", "signature", **{k: run[k] for k in (*PAIR, "alignment")})
        wanted = "signature" in run["measures"] and c.entry("alignments", run["alignment"]) is not None
        if wanted and found not in seen:
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
        for seed in filter(str.isdecimal, run["pair"].split("-")):  # a checkpoint of the user's own has no history
            place = {k: run[k] for k in ("dataset", "network", "regime")}
            found = ref("train_endpoint", "history", **place, seed=seed)
            if found not in seen:
                seen.add(found)
                yield {**place, "pair": run["pair"], "method": "endpoints", "seed": int(seed)}, found
        if c.trained(run["curve"]):
            keys = (*PAIR, "alignment", "curve", "curve_seed")
            yield _described(run), ref("train_curve", "history", **{k: str(run[k]) for k in keys})
