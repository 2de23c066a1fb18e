"""The section of a report on merged pairs: barriers and accuracies of the mean, by alignment."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from neuralign.report.labels import SETTING, alignment_label
from neuralign.report.merges import BARRIERS, GROUP, agreement_and_barrier, costs
from neuralign.report.page.formatting import NONE, Rows, Table, groups, number, span, spread, title

FIXED = ("ends", "ensemble", "mean")  # networks that every merge has; the others are repairs


def section(
    merges: pd.DataFrame, by_pair: pd.DataFrame, contrasts: pd.DataFrame, notes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """{sentences, tables}, from the tables of `report.merges` and the notes of origin."""
    ordered = _by_barrier(merges.copy())  # a table that was read is in pieces, of which pandas warns
    sentences = [_ordering(row) for row in agreement_and_barrier(by_pair).to_dict("records")]
    tables = [_barriers(ordered, contrasts), _accuracies(ordered), _costs(ordered, costs(notes))]
    return {"sentences": sentences, "tables": tables}


def _by_barrier(merges: pd.DataFrame) -> pd.DataFrame:
    """The table with the alignments of each setting by their barrier, the lowest first, also under attack."""
    clean = merges[merges["attack"] == "clean"].set_index([*SETTING, "alignment"])["barrier"]
    keys = pd.MultiIndex.from_frame(merges[[*SETTING, "alignment"]])
    places = merges.groupby(GROUP, sort=False).ngroup()
    order = merges.assign(_place=places, _barrier=clean.reindex(keys).to_numpy())
    return order.sort_values(["_place", "_barrier"], kind="stable").drop(columns=["_place", "_barrier"])


def _ordering(row: Mapping[str, Any]) -> str:
    setting = title(SETTING, [row[key] for key in SETTING])
    end = f", 95 % t-interval {span(row)}" if pd.notna(row["ci_low"]) else f" ({row['reason']})"
    return (
        f"{setting}: the rank correlation of agreement and barrier over the alignments is "
        f"{number(row['difference'], sign=True)} on average over {row['n_pairs']} pairs{end}; it is −1 where the "
        "agreement of the parameters orders the barriers."
    )


def _barriers(merges: pd.DataFrame, contrasts: pd.DataFrame) -> Table:
    """Barriers, and by how much each differs from that of the row above."""
    clean = merges[merges["attack"] == "clean"]
    clean = clean.assign(above=clean.groupby(SETTING, sort=False)["alignment"].shift())
    differences = {
        tuple(row[key] for key in (*SETTING, "first", "second", "metric")): row for row in _both_ways(contrasts)
    }

    def rows(r: dict[str, Any]) -> Rows:
        step = differences.get((*(r[name] for name in SETTING), r["alignment"], r["above"], "barrier"))
        cells = [r["reads"], spread(r, "agreement", 3)]
        cells += [f"{spread(r, name, 3)}{_interval(r, name)}" for name in BARRIERS]
        cells.append(f"{number(step['difference'], 3, sign=True)} ({span(step, 3)})" if step else NONE)
        return [[alignment_label(r["alignment"]), *cells, number(r["n_pairs"], 0)]]

    head = ["Alignment", "Reads", "Agreement", "Barrier (nats)", "calibrated", "Less the row above", "n"]
    caption = (
        "The barrier on the straight line between both networks: how far the loss on clean test images rises at "
        "most above the line between the losses of the ends. Batch-norm statistics, also of the ends, are "
        "estimated anew on clean training images, augmented as in the training. Mean ± sample standard deviation "
        "over n pairs, in brackets the 95 % t-interval of the mean; alignments by their barrier, with the paired "
        "difference from the row above and its interval, not adjusted for their number. Calibrated: every point and "
        "both ends with the temperature that is best on the other half of the test images. Reads: what the method "
        "looks at beside the weights. Agreement: the cosine of the parameters, without those that no alignment "
        "touches, such as the biases of the outputs."
    )
    return Table(caption, head, groups(clean, SETTING, rows))


def _costs(merges: pd.DataFrame, costs: pd.DataFrame) -> Table:
    """What each alignment moves and takes, and its certificate."""
    clean = merges[merges["attack"] == "clean"].merge(costs, how="left", on=[*SETTING, "alignment"])

    def rows(r: dict[str, Any]) -> Rows:
        cells = [number(100 * r["moved"], 1), spread(r, "distance", 2), spread(r, "llfc", 3)]
        cells += [number(r["seconds"], 1), number(r["memory"], 0), f"{r['certificate']:.0e}"]
        return [[alignment_label(r["alignment"]), *cells, number(r["n_pairs"], 0)]]

    head = ["Alignment", "Units moved (%)", "Distance", "Features apart", "Seconds", "Memory (MB)", "Certificate", "n"]
    caption = (
        "What an alignment moves and takes. Distance: the L2 norm between all parameters of both networks. Features "
        "apart: one minus the cosine of the features of the middle of the line and of the mean of both networks' "
        "features, over all layers, on clean test images; the networks have the batch-norm statistics of their "
        "training, the middle new ones. Seconds, without those in which other programs ran, and memory are of the "
        "whole job, which also reads the data, traces the network and certifies the result; the certificate is the "
        "largest relative change of outputs and gradients."
    )
    return Table(caption, head, groups(clean, SETTING, rows))


def _accuracies(merges: pd.DataFrame) -> Table:
    """The accuracy of the mean as it is and after each repair, beside both networks and their ensemble."""
    models = [column.removesuffix("_accuracy") for column in merges if column.endswith("_accuracy")]
    repairs = [name for name in models if name not in FIXED]

    def rows(r: dict[str, Any]) -> Rows:
        cells = [spread(r, f"{name}_accuracy") for name in (*FIXED, *repairs)]
        cells += [spread(r, "gap_closed", 1), number(r.get("mean_ece", float("nan")), 1)]
        return [[alignment_label(r["alignment"]), *cells, number(r["n_pairs"], 0)]]

    head = ["Alignment", "Both networks (%)", "Their ensemble", "Their mean", *map(alignment_label, repairs)]
    caption = (
        "Test accuracy of the mean of both networks, as it is and after each repair, beside the networks "
        "themselves and the ensemble of their probabilities, which takes twice the time: mean ± sample standard "
        "deviation over n pairs. Batch-norm statistics of the networks, as of the repaired means, are estimated "
        "anew on clean training images, augmented as in the training; the mean as it is has the mean of those of "
        "their trainings. Under attack each network is measured on images attacked against itself; the ensemble is not "
        "attacked. Gap closed: how much of the way from the unaligned mean to both networks the mean has come, "
        "both with new batch-norm statistics if there are any. ECE: the expected calibration error of the mean as "
        "it is."
    )
    return Table(caption, [*head, "Gap closed (%)", "ECE (%)", "n"], groups(merges, GROUP, rows))


def _interval(row: Mapping[str, Any], name: str) -> str:
    low, high = (row[f"{name}_{end}"] for end in ("ci_low", "ci_high"))
    return "" if pd.isna(low) else f" ({number(low, 3)} to {number(high, 3)})"


def _both_ways(contrasts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The contrasts on clean images, each also with its two alignments exchanged."""
    for row in contrasts[contrasts["attack"] == "clean"].to_dict("records"):
        yield row
        yield row | {
            "first": row["second"],
            "second": row["first"],
            "difference": -row["difference"],
            "ci_low": -row["ci_high"],
            "ci_high": -row["ci_low"],
        }
