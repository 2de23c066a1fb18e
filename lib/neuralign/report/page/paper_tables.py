"""The paper beside this study, as tables for the report: its numbers, its figures, its claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neuralign.common.quantities import Metrics
from neuralign.config.metrics import CLASSIFICATION
from neuralign.report.claims.claims import NOT_MEASURED
from neuralign.report.labels import METHODS, SETTING, alignment_label, label
from neuralign.report.page.formatting import NONE, Rows, Table, groups, number, span, spread, title

VERDICTS = ("supported", "contradicted", "not decided")
HEAD = ["Measure", "First", "Second", "Difference", "95 % t-interval", "n"]


def sections(
    published: pd.DataFrame,
    claims: pd.DataFrame,
    drawings: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    metrics: Metrics = CLASSIFICATION,
) -> dict[str, Any]:
    """What the page shows of the paper, by name.

    `claims`, `settings`, `cells`, `other_cells` and `figures` are tables or None; the others are sentences.
    `cells` are the published numbers of networks and datasets of which anything was run here, `other_cells` the rest;
    `not_measured` are the claims without evidence.

    Args:
        published: of `against_published`.
        claims: of `claims.judged`.
        drawings: the config entries of the study's figures.
        methods: the study's methods.
        metrics: what it measures.
    """
    here = (published["verdict"] != "not run").groupby([published["network"], published["dataset"]]).transform("any")
    return {
        "summary": [*([numbers_in_words(published)] if len(published) else []), claims_in_words(claims)],
        "claims": claims_table(claims),
        "not_measured": [f"{r.sentence} ({r.source})" for r in claims[claims["scope"] == "none"].itertuples()],
        "settings": settings_table(claims) if (claims["scope"] == "all settings").any() else None,
        "cells": cells_table(published[here]) if here.any() else None,
        "other_cells": cells_table(published[~here]) if not here.all() else None,
        "figures": figures_table(drawings, methods, metrics),
    }


def numbers_in_words(published: pd.DataFrame) -> str:
    """How many published numbers there are, and how many were run here, are within and are apart."""
    counts = published["verdict"].value_counts()
    within, apart, undecided = (int(counts.get(verdict, 0)) for verdict in ("within", "apart", "not decided"))
    if not (run := within + apart + undecided):
        return f"None of the {len(published)} published accuracies is of a setting that this study runs."
    words = f"Of {len(published)} published accuracies {run} were run: {within} within, {apart} apart"
    words += f", {undecided} not decided" * bool(undecided)
    return f"{words}, {len(published) - run} not run."


def claims_in_words(claims: pd.DataFrame) -> str:
    """How many claims have which verdict, by `overall`."""
    verdicts = [verdict for _, verdict in verdicts_by_claim(claims).values()]
    parts = [f"{verdicts.count(v)} {v}" for v in (*VERDICTS, "mixed", NOT_MEASURED) if v in verdicts]
    return f"Of {len(verdicts)} claims: {', '.join(parts)}."


def verdicts_by_claim(claims: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """{claim: (its sentence, its verdict by `overall`)}, in their order."""
    return {
        str(claim): (str(rows.iloc[0]["sentence"]), overall(rows))
        for claim, rows in claims.groupby("claim", sort=False)
    }


def overall(rows: pd.DataFrame) -> str:
    """One verdict for a claim: what all its summarising rows say, or "mixed"."""
    verdicts = set(_summarising(rows)["verdict"])
    return verdicts.pop() if len(verdicts) == 1 else "mixed"


def _summarising(rows: pd.DataFrame) -> pd.DataFrame:
    """For each measure of a claim the row over all settings; if there is none, the rows of its settings."""
    pooled = rows[rows["scope"] == "all settings"]
    return pd.concat([pooled, rows[(rows["scope"] != "all settings") & ~rows["measure"].isin(pooled["measure"])]])


def claims_table(claims: pd.DataFrame) -> Table:
    """A group per claim and a row per measure, over all settings with counts of verdicts, or per setting if few."""
    parts = []
    for _, of_claim in claims.groupby("claim", sort=False):
        sentence = f"{of_claim.iloc[0]['sentence']} ({of_claim.iloc[0]['source']})"
        each = of_claim[of_claim["scope"] == "setting"]
        rows = [
            [*(_measured_in_setting(row) if row["scope"] == "setting" else _measured(row)), _verdict(row, each)]
            for row in _summarising(of_claim[of_claim["scope"] != "none"]).to_dict("records")
        ]
        if rows:
            parts.append((sentence, rows))
    caption = "The claims of the paper and what was measured: mean paired difference over the pairs of a setting, or "
    caption += "over settings (each counting once), with its 95 % t-interval. A claim is supported or contradicted "
    caption += "only where the interval lies on one side of zero, or of the bound in its sentence. The intervals are "
    return Table(caption + "not adjusted for their number.", [*HEAD, "Verdict"], parts)


def _measured(row: Mapping[str, Any]) -> list[str]:
    digits = int(row["decimals"])
    unit = f" ({row['unit']})" if isinstance(row["unit"], str) and row["unit"] else ""
    attack = row["attack"] if isinstance(row["attack"], str) else ""
    under = "" if attack in ("", "clean") else f", under {attack}"
    values = [number(row[k], digits) for k in ("first", "second")]
    difference = number(row["difference"], digits, sign=True)
    measure = str(row["measure"])
    measure = f"{measure[:1].upper()}{measure[1:]}{under}{unit}"
    of = row["n_of"].replace("pairs", "pair") if row["n"] == 1 else row["n_of"]
    return [measure, *values, difference, span(row, digits), f"{row['n']:.0f} {of}"]


def _measured_in_setting(row: Mapping[str, Any]) -> list[str]:
    """The cells of `_measured`, with the setting in front."""
    measure, *cells = _measured(row)
    return [f"{title(SETTING, [row[k] for k in SETTING])}: {measure[:1].lower()}{measure[1:]}", *cells]


def _verdict(row: Mapping[str, Any], each: pd.DataFrame) -> str:
    if row["scope"] != "all settings":
        return str(row["verdict"])
    each = each[each["measure"] == row["measure"]]
    counts = each["verdict"].value_counts()
    return f"{row['verdict']}; by themselves: {', '.join(f'{v} {counts[v]}' for v in VERDICTS if v in counts)}"


def settings_table(claims: pd.DataFrame) -> Table:
    """Every claim in every setting by itself."""
    parts: dict[str, list[list[str]]] = {}
    for row in claims[claims["scope"] == "setting"].to_dict("records"):
        parts.setdefault(str(row["sentence"]), []).append([*_measured_in_setting(row), row["verdict"]])
    return Table("Every claim in every setting.", ["Setting and measure", *HEAD[1:], "Verdict"], list(parts.items()))


def cells_table(published: pd.DataFrame) -> Table:
    """Published accuracies beside ours, a group per network and dataset."""

    def rows(of_network: pd.DataFrame) -> Rows:
        table_rows = []
        for (method, _), cells in of_network.groupby(["method", "regime"], sort=False, dropna=False):
            row = [label(str(method))]
            for measure in ("mean", "min"):
                records = cells[cells["measure"] == measure].to_dict("records")
                row += _cell(records[0]) if records else [NONE] * 4
            table_rows.append([*row, number(cells["n"].iloc[0], 0)])
        return table_rows

    by = published.groupby(["network", "dataset"], sort=False)
    parts = [(f"{label(network)} on {label(dataset)}", rows(cells)) for (network, dataset), cells in by]
    each = ["Ours", "Difference", "Verdict"]
    head = ["Method", "Average: Published", *each, "Worst: Published", *each, "n"]
    caption = "Published accuracies (%) on the path beside ours: mean ± sample standard deviation, over 3 pairs where "
    caption += "published and n pairs (endpoints: networks) here. Difference: ours minus published, in brackets its "
    caption += "95 % Welch interval. Within: at most 0.5 points apart (worst: 1.0), or the interval includes zero; "
    return Table(
        caption + "apart: neither; not decided: one pair, no interval. Published numbers are rounded to 0.1.",
        head,
        parts,
    )


def _cell(row: Mapping[str, Any]) -> list[str]:
    published, verdict = spread(row, "published", 1), row["verdict"]
    if verdict == "not run":
        return [published, NONE, NONE, verdict]
    difference = number(row["difference"], sign=True)
    if pd.isna(row["ci_low"]):
        return [published, spread(row, "ours"), difference, f"{verdict}; {row['reason']}"]
    return [published, spread(row, "ours"), f"{difference} [{span(row)}]", verdict]


def figures_table(
    drawings: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Metrics = CLASSIFICATION
) -> Table:
    """Every figure of the paper and which of ours shows the same; our headline takes the place of its accuracy."""
    known = pd.read_csv(Path(__file__).with_name("figures.csv"), keep_default_na=False)
    rows = []
    for row in known.to_dict("records"):
        ours = [str(i) for i, drawing in enumerate(drawings, 1) if _shows_same(drawing, row, metrics)]
        if row["show"] == "criteria" and set(methods) <= METHODS.keys():
            ours = []  # no other criterion than the one of the main table was run
        rows.append([row["shows"], row["source"], "Figure " + ", ".join(ours) if ours else "not run"])
    score = metrics.headline
    instead = "" if score == CLASSIFICATION.headline else f", with {score.label} in place of accuracy"
    return Table(
        f"The figures of the paper and ours{instead}.", ["Figure of the paper", "Known from", "Here"], [("", rows)]
    )


def _shows_same(drawing: Mapping[str, Any], row: Mapping[str, Any], metrics: Metrics) -> bool:
    attack = "clean" if drawing.get("attack", "clean") == "clean" else "attacked"
    same = drawing.get("use") == row["use"] and row["attack"] in ("", attack)
    same &= str(drawing.get("name", "")).startswith(row["name"])
    column = metrics.headline.name if row["column"] == CLASSIFICATION.headline.name else row["column"]
    same &= column in ("", drawing.get("column", metrics.headline.name))
    return bool(same and (row["show"] in ("", "criteria") or drawing.get("show", "all") == row["show"]))


def alignment_tables(alignments: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> tuple[Table, Table] | None:
    """How many units alignments move, from `evidence.alignments`: all groups together, and each; None without any."""
    if alignments.empty:
        return None

    def share(r: dict[str, Any], name: str) -> str:
        return f"{spread(r, name, 1)} ({number(100 * r[name] / r['units'], 1)} %)"

    def cells(r: dict[str, Any]) -> list[str]:
        return [number(r["units"], 0), share(r, "moved"), share(r, "moved_from_start")]

    def all_rows(r: dict[str, Any]) -> Rows:
        objectives = [spread(r, f"objective_{when}", 4) for when in ("before", "after")]
        return [[alignment_label(r["alignment"]), *cells(r), *objectives, number(r["n_pairs"], 0)]]

    head = ["Alignment", "Units", "Moved", "Moved from its start"]
    together = alignments["group"] == "all"
    caption = "Units that an alignment puts elsewhere: from their own place, and from where the alignment started (the "
    caption += "identity, or another alignment); mean ± sample standard deviation over n pairs. For searches (PAM) the "
    caption += "objective they lower, before and after: the loss along the curve on the same training batches"
    caption += f" ({metrics.loss.unit})." if metrics.loss.unit else "."
    all_groups = Table(
        caption,
        [*head, "Objective before", "Objective after", "n"],
        groups(alignments[together], SETTING, all_rows),
    )
    by_group = groups(
        alignments[~together],
        SETTING,
        lambda r: [[f"{alignment_label(r['alignment'])}: {r['group']}", *cells(r), number(r["n_pairs"], 0)]],
    )
    return all_groups, Table("The same, group by group.", [*head, "n"], by_group)
