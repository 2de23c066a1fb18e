"""The graph of the workflow, torch-free: every rule with the function that describes one of its jobs.

Snakemake's rules take their inputs from it and `recipes.py` its keys, so what a script is given and what its staleness
depends on are the same thing.
"""

from collections.abc import Callable, Iterator

from neuralign.config.catalogue import Catalogue
from neuralign.workflow.path_jobs import (
    Job,
    Ref,
    Wildcards,
    align,
    bound,
    evaluate,
    fetch_data,
    import_endpoint,
    midpoint,
    plane,
    ref,
    signature,
    train_curve,
    train_endpoint,
)
from neuralign.workflow.running.notes import entries
from neuralign.workflow.study_jobs import (
    evaluation_of,
    every,
    figures,
    plot,
    runs_of,
    tabulate,
    tabulate_claims,
    tabulate_theory,
)

__all__ = ["RULES", "Job", "Ref", "Wildcards", "artefacts", "figures", "job", "jobs", "ref", "report"]


def report(c: Catalogue, study: str) -> Job:
    """The page of a study, which reads its tables, its figures and the notes of all it depends on."""
    tables = {name: ref("tabulate", name, study=study) for name in ("accuracy", "robust", "contrasts", "paths")}
    tables |= {n: ref("tabulate_claims", n, study=study) for n in ("alignments", "published", "claims")}
    drawings = figures(c, study)
    drawn = [ref("plot", "png", study=study, figure=figure) for figure in drawings]
    inputs: dict[str, Ref | list[Ref]] = {**tables, "figures": drawn, "artefacts": list(artefacts(c, study))}
    entry = c.studies[study]
    settings = {"name": study, "title": entry["title"], "description": entry["description"]}
    settings["grids"] = entry.get("planned", entry["grids"])
    missing = {k: entry[k] for k in ("missing",) if k in entry}  # of a study that is not finished (incomplete.py)
    used = {
        "datasets": every(entry, "dataset"),
        "networks": every(entry, "network"),
        "regimes": every(entry, "regime"),
        "evaluations": list(dict.fromkeys(g["evaluation"] for g in entry["grids"])),
    }
    if planes := list(dict.fromkeys(g["plane"] for g in entry["grids"] if g["plane"])):
        used["planes"] = planes
    settings["catalogue"] = {section: {n: c.entry(section, n) for n in names} for section, names in used.items()}
    attacks = [r["attack"] for r in settings["catalogue"]["regimes"].values() if r["attack"]]
    attacks += [a for e in settings["catalogue"]["evaluations"].values() for a in e["attacks"]]
    settings["catalogue"]["attacks"] = {name: c.entry("attacks", name) for name in dict.fromkeys(attacks)}
    captions = [{"name": name, "use": kind, **options} for name, (kind, options, _) in drawings.items()]
    return Job(
        inputs,
        {"study": settings, "drawings": captions} | missing,
        files=["report/page/report.html", "report/page/figures.csv"],
    )


RULES: dict[str, Callable[..., Job]] = {
    rule.__name__: rule
    for rule in (
        fetch_data,
        train_endpoint,
        import_endpoint,
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


def job(catalogue: Catalogue, rule: str, wildcards: Wildcards) -> Job:
    """The job of `rule` with these wildcards."""
    return RULES[rule](catalogue, **wildcards)


def jobs(c: Catalogue, study: str) -> Iterator[tuple[str, Wildcards, Job]]:
    """Every job behind the report of a study, once."""
    waiting, seen = [ref("report", "html", study=study)], set()
    while waiting:
        needed = waiting.pop()
        if (needed.rule, needed.wildcards) in seen:
            continue
        seen.add((needed.rule, needed.wildcards))
        wildcards = dict(needed.wildcards)
        found = job(c, needed.rule, wildcards)
        yield needed.rule, wildcards, found
        waiting += entries(found.inputs)


def artefacts(c: Catalogue, study: str) -> Iterator[Ref]:
    """The first output of every job that a study's tables depend on, each once."""
    seen: set[Ref] = set()
    waiting: list[Ref] = [evaluation_of(run) for run in runs_of(c, study)]
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
