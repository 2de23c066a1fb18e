"""The report of a study: one HTML page that holds everything it shows and can be read without this repository."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from neuralign.common.quantities import Metrics, Quantity
from neuralign.config.metrics import CLASSIFICATION
from neuralign.report.interactive.embedding import embed
from neuralign.report.interactive.view import View
from neuralign.report.labels import SETTING, label
from neuralign.report.page import findings
from neuralign.report.page.formatting import NONE, Rows, Table, capital, groups, listed, number, span, spread
from neuralign.report.page.pictures import TOPICS_OF_VIEWS, main_picture, picture_rows, pictures


def render(
    accuracy: pd.DataFrame,
    robust: pd.DataFrame,
    contrasts: pd.DataFrame,
    paths: pd.DataFrame,
    *,
    drawn: Sequence[tuple[bytes, Mapping[str, Any]]],
    notes: Sequence[Mapping[str, Any]],
    study: Mapping[str, Any],
    metrics: Metrics = CLASSIFICATION,
    alignments: tuple[Table, Table] | None = None,
    paper: Mapping[str, Any] | None = None,
    cohorts: pd.DataFrame | None = None,
    merges: Mapping[str, Any] | None = None,
    missing: Mapping[str, Any] | None = None,
    views: Sequence[View] = (),
) -> str:
    """The page as HTML, one file that loads nothing.

    Args:
        accuracy, robust, contrasts, paths: the tables of `report.summary`.
        drawn: the figures as (PNG, the config entry it was drawn with).
        notes: what was recorded beside each result: rule, wildcards, key, seconds, versions.
        study: the config of the study.
        metrics: what it measures.
        alignments: of `paper_tables.alignment_tables`, or None.
        paper: of `paper_tables.sections`, or None.
        cohorts: the table of `report.summary.cohorts`, or None.
        merges: of `merge_tables.section`, or None.
        missing: of `workflow.incomplete.finished_part`; what an unfinished study lacks stands at the top of the page.
        views: interactive ones. On a screen they stand for the figures of the same topic, if the reader's browser can
            run them; printed, the figures are there.
    """
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = pictures(drawn, metrics)
    main_figure = main_picture(shown)
    return environment.from_string(template).render(
        title=("Incomplete: " if missing else "") + (study.get("title") or study.get("name", "Study")),
        missing=missing_table(missing) if missing else None,
        paths=missing["paths"] if missing else None,
        description=study.get("description", ""),
        metrics=metrics,
        score_names=capital(listed(q.label for q in metrics.scores)),
        all_higher=all(q.higher_is_better for q in metrics.scores),
        in_units=f", in {metrics.loss.unit}" if metrics.loss.meaning and metrics.loss.unit else "",
        statistics_matter=statistics_matter(accuracy, metrics),
        facts=facts(accuracy, paths, metrics),
        overview=findings.overview(contrasts, metrics),
        findings=findings.sentences(contrasts, metrics),
        main_picture=main_figure,
        main=main_table(accuracy, metrics),
        robust=robust_tables(robust) if len(robust) else None,
        contrasts=contrast_table(contrasts, metrics) if len(contrasts) else None,
        alignments=alignments,
        paper=paper,
        cohorts=None if cohorts is None else cohort_table(cohorts, metrics),
        merges=merges,
        individual=individual_table(paths, metrics),
        views=embed(views) if views else None,
        interactive={topic for view in views for topic in TOPICS_OF_VIEWS[view.name]},
        picture_rows=picture_rows([picture for picture in shown if picture is not main_figure]),
        settings=sections(study),
        times=time_table(notes),
        origin=origin(notes),
        results=results_table(notes),
    )


def cohort_table(cohorts: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> Table:
    """The mean of several networks, before and after alignment, beside the networks themselves."""

    head, columns = ["Alignment"], dict[str, int]()  # {column: decimals}
    for quantity in metrics.quantities:
        compared = {"aligned": capital(quantity.headed(after="of the mean")), "unaligned": "unaligned"}
        compared |= {"members": "networks"} | ({"best": "best network"} if quantity == metrics.headline else {})
        head += compared.values()
        columns |= {f"{which}_{quantity.name}": quantity.decimals for which in compared}
    head += ["Agreement before", "after"]
    columns |= {"agreement_before": 3, "agreement": 3}

    def rows(r: dict[str, Any]) -> Rows:
        name = f"{label(r['cohort'])}, networks {r['members']}"
        return [[name, *(number(r[column], decimals) for column, decimals in columns.items())]]

    caption = (
        "The mean of several networks, aligned with each other or as they are, beside the networks themselves, with "
    )
    caption += "batch-norm statistics estimated anew. The agreement is 1 if all networks are alike."
    return Table(caption, head, groups(cohorts, [*SETTING, "attack"], rows))


def missing_table(missing: Mapping[str, Any]) -> Table:
    """The unfinished jobs that a study waits for, each with its state."""

    def row(job: Mapping[str, Any]) -> list[str]:
        return [
            f"{job['rule']}: {', '.join(f'{k} {v}' for k, v in job['wildcards'].items())}",
            job["why"],
            str(job["paths"]),
        ]

    head = ["Job", "State", "Paths that need it, or are measured by it"]
    return Table(
        "The unfinished jobs that the missing paths wait for.", head, [("", [row(job) for job in missing["jobs"]])]
    )


def facts(accuracy: pd.DataFrame, paths: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> dict[str, str]:
    """What was run, in words: {"Datasets": "CIFAR-10, CIFAR-100", ...}."""

    def words(values: Iterable[Any]) -> str:
        return ", ".join(label(str(value)) for value in dict.fromkeys(values))

    seeds = paths["curve_seed"][~paths["method"].str.startswith("linear_")].dropna()
    attacks = {"Attacks on them": words(paths["attack"].replace("clean", "none (clean)"))}
    return {
        "Datasets": words(paths["dataset"]),
        "Networks": words(paths["network"]),
        "Training regimes": words(paths["regime"]),
        "Pairs of endpoints (their seeds)": words(paths["pair"]),
        "Seeds of the trained curves": words(f"{seed:g}" for seed in sorted(seeds)) or "no curve was trained",
        "Points evaluated on a path": words(sorted(paths["n_points"])),
        f"Test {metrics.noun}": words(f"{n:,}" for n in sorted(accuracy["images"])),
    } | (attacks if metrics.noun == "images" else {})


def sections(study: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the study by section, without its name, title and description."""
    flat = dict(study) | study.get("settings", {}) | study.get("catalogue", {})
    return {k: v for k, v in flat.items() if k not in ("name", "title", "description", "settings", "catalogue")}


def main_table(accuracy: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> Table:
    """Mean ± sd along each kind of path, with the published values beside it where there are any."""
    sources = sorted(set(accuracy["published_source"].dropna()))
    columns: dict[str, tuple[str, int]] = {}  # column of the table -> heading, decimals
    for q in metrics.scores:
        for words, column, published in (("Average", q.mean, "published_mean"), ("Worst", q.worst, "published_min")):
            columns[column] = q.headed(words), q.decimals
            if sources and q == metrics.headline:
                columns[published] = "published", 1
    loss = metrics.loss
    columns |= {column: (heading, loss.decimals) for column, heading in _of_loss(loss).items()}
    columns["length"] = "Length", 1
    stored = {q.mean: f"stored_{q.name}" for q in metrics.scores}
    has_statistics = statistics_matter(accuracy, metrics)

    def rows(r: dict[str, Any]) -> Rows:
        row = [label(r["method"]), *(spread(r, name, digits) for name, (_, digits) in columns.items()), _count(r)]
        if r["method"] != "endpoints" or not has_statistics or pd.isna(r[f"stored_{metrics.headline.name}_mean"]):
            return [row]
        cells = [
            spread(r, f"{stored[name]}_mean", digits, std=f"{stored[name]}_std") if name in stored else NONE
            for name, (_, digits) in columns.items()
        ]
        return [
            ["Endpoints, re-estimated statistics", *row[1:]],
            ["Endpoints, stored statistics", *cells, row[-1]],
        ]

    caption = f"Test {listed(q.label for q in {**dict.fromkeys(metrics.scores), loss: None})} along the path"
    caption += ", on clean images" if metrics.noun == "images" else ""
    caption += ": mean ± sample standard deviation over n pairs (endpoints: over n networks)."
    caption += "".join(f" Published: {source}." for source in sources)
    head = ["Method", *(heading for heading, _ in columns.values()), "n"]
    return Table(caption, head, groups(accuracy, SETTING, rows))


def statistics_matter(accuracy: pd.DataFrame, metrics: Metrics) -> bool:
    """Whether re-estimated statistics give other results than stored ones; they do not without batch norm."""
    ends = accuracy[accuracy["method"] == "endpoints"]
    return any((ends[q.mean] != ends[f"stored_{q.name}_mean"]).any() for q in metrics.scores)


def _of_loss(loss: Quantity) -> dict[str, str]:
    """{column of the tables of paths: heading} of the loss."""
    return {
        loss.mean: loss.headed("Average"),
        loss.worst: loss.headed("Largest"),
        loss.barrier: capital(loss.headed(after="barrier")),
    }


def _count(r: Mapping[str, Any]) -> str:
    """What a mean is over: pairs, and in the rows of endpoints networks."""
    return f"{r['n_pairs'] if pd.isna(ends := r.get('n_endpoints')) else ends:.0f}"


def robust_tables(robust: pd.DataFrame) -> tuple[Table, Table]:
    """Under attack: averages along the path; and the worst and the best point of it, each with the clean accuracy."""

    def averages(r: dict[str, Any]) -> Rows:
        cells = [spread(r, f"{name}_mean") for name in ("accuracy", "clean")]
        cells += [spread(r, f"loss_{name}", 3) for name in ("mean", "barrier")]
        return [[label(r["method"]), *cells, _count(r)]]

    def extremes(r: dict[str, Any]) -> Rows:
        cells = [spread(r, f"{end}_{name}") for end in ("worst", "best") for name in ("accuracy", "t", "clean")]
        return [] if r["method"] == "endpoints" else [[label(r["method"]), *cells, _count(r)]]

    by = [*SETTING, "attack"]
    caption = "Under attack: mean ± sample standard deviation over n pairs (endpoints: over n networks). An attack can "
    caption += "only show that an image is not robust, so every robust accuracy is an upper limit, and attacks of "
    caption += "few steps, as in training, are the furthest from the truth: of several the strongest counts. "
    caption += "With restarts an image is right only if it is right in every one."
    head = ["Method", "Average robust accuracy (%)", "Average clean accuracy (%)", "Average robust loss (nats)"]
    average = Table(caption, [*head, "Robust loss barrier (nats)", "n"], groups(robust, by, averages))
    columns = [[f"{end} robust accuracy (%)", "at t", "Clean accuracy there (%)"] for end in ("Worst", "Best")]
    caption = "The worst and the best robust accuracy on the path, the t where it is, and the clean accuracy there: "
    caption += "mean ± sample standard deviation over n pairs."
    extreme = Table(caption, ["Method", *columns[0], *columns[1], "n"], groups(robust, by, extremes))
    return average, extreme


def contrast_table(contrasts: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> Table:
    """Paired differences with their intervals."""
    loss = metrics.loss
    names: dict[str, tuple[str, str, int]] = {}  # metric -> (name, unit, decimals)
    for q in dict.fromkeys([*metrics.scores, loss]):
        names[q.mean] = f"average {q.label}", q.unit, q.decimals
        names[q.worst] = f"worst {q.label}", q.unit, q.decimals
    names[loss.barrier] = f"{loss.label} barrier", loss.unit, loss.decimals

    def rows(r: dict[str, Any]) -> Rows:
        name, unit, digits = names[r["metric"]]
        values = [number(r[k], digits) for k in ("method_mean", "baseline_mean")]
        contrast, sd = f"{label(r['method'])} − {label(r['baseline'])}", number(r["difference_std"], digits)
        row = [f"{contrast}: {name}", unit, *values, number(r["difference"], digits, sign=True), sd, span(r, digits)]
        return [[*row, _count(r)]]

    head = ["Contrast and measure", "Unit", "First", "Second", "Difference", "sd", "95 % t-interval", "n"]
    caption = "Paired differences, first minus second method, over the n pairs that have both: the means of both "
    caption += "methods, and mean, sample standard deviation and interval of the differences. The intervals are not "
    return Table(
        caption + "adjusted for their number.", head, groups(contrasts, [*SETTING, "attack"], rows, noun=metrics.noun)
    )


def individual_table(paths: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> Table:
    """One row per path."""
    columns: dict[str, tuple[str, int]] = {}  # column of the table -> heading, decimals
    for q in metrics.scores:
        columns |= {q.mean: (q.headed("Average"), q.decimals), q.worst: (q.headed("Worst"), q.decimals)}
        columns[f"{q.worst}_t"] = "at t", 3
    for column, heading in _of_loss(metrics.loss).items():
        columns[column] = heading, metrics.loss.decimals
        if column == metrics.loss.worst:
            columns[f"{column}_t"] = "at t", 3
    columns["length"] = "Length", 1

    def rows(r: dict[str, Any]) -> Rows:
        seed = NONE if pd.isna(r["curve_seed"]) else f"{r['curve_seed']:g}"
        values = [number(r[name], digits) for name, (_, digits) in columns.items()]
        return [[f"{label(r['method'])}, pair {r['pair']}", seed, *values]]

    head = ["Path", "Curve seed", *(heading for heading, _ in columns.values())]
    return Table("Each path by itself.", head, groups(paths, [*SETTING, "attack"], rows, noun=metrics.noun))


def time_table(notes: Sequence[Mapping[str, Any]]) -> Table:
    """Seconds per rule, from the notes that record them, one for each job."""
    recorded = pd.DataFrame(notes, columns=["rule", "seconds"]).fillna({"rule": "unknown"}).dropna()
    seconds = recorded.astype({"seconds": float}).groupby("rule")["seconds"]
    times = seconds.agg(["count", "sum", "median", "min", "max"])
    rows = [
        [str(rule), str(n), number(total, 1), number(median, 1), f"{number(least, 1)} to {number(most, 1)}"]
        for rule, n, total, median, least, most in times.itertuples()
    ]
    head = ["Rule", "Results", "Total (s)", "Median (s)", "Shortest to longest (s)"]
    return Table("Time per rule of the workflow.", head, [("", rows)])


def origin(notes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Where the results come from, over all notes: commits, versions, devices, processors, dates."""

    def all_of(key: str) -> list[str]:
        return sorted({str(note[key]) for note in notes if note.get(key)})

    changed = sum(bool(note.get("dirty") or note.get("modified")) for note in notes)
    versions = {f"{name} {version}" for note in notes for name, version in (note.get("versions") or {}).items()}
    started = all_of("started")
    texts = {
        "Commit": ", ".join(all_of("commit")) + (f" ({changed} results with uncommitted changes)" if changed else ""),
        "Versions": ", ".join(sorted(versions)),
        "Devices": ", ".join(all_of("device")),
        "Processors": ", ".join(all_of("processor")),
        "Computed": " to ".join(dict.fromkeys(started[:1] + started[-1:])),
    }
    return {name: text or "not recorded" for name, text in texts.items()}


def results_table(notes: Sequence[Mapping[str, Any]]) -> Table:
    """Every result with the key of what it was made from."""

    def row(note: Mapping[str, Any]) -> list[str]:
        place = [str(v) if k in SETTING else f"{k} {v}" for k, v in (note.get("wildcards") or {}).items()]
        place += [f"{k} seed {v}" for k, v in (note.get("seeds") or {}).items()]
        cells = [", ".join(place) or NONE, str(note.get("device") or NONE)]
        return [*cells, number(note.get("seconds", float("nan")), 1), str(note.get("key") or NONE)]

    parts: dict[str, Rows] = {}
    for note in notes:
        parts.setdefault(str(note.get("rule", "unknown")), []).append(row(note))
    return Table("Results and their keys.", ["Result", "Device", "Seconds", "Key"], sorted(parts.items()))
