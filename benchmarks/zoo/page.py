"""The table as a page of Markdown: one part for each library."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from benchmarks.zoo.independent import TOLERANCE

ENOUGH, ENOUGH_OF_ATTENTION = 0.8, 0.5  # targets for the share of parameters that may be permuted

Row = dict[str, Any]
# heading -> the cell of a row; columns with only empty cells are left out
COLUMNS: dict[str, Callable[[Row], str]] = {
    "network": lambda row: row["network"] + ("" if row["certified"] else " **refused**"),
    "parameters (million)": lambda row: f"{row['parameters'] / 1e6:{'.1f' if row['parameters'] > 5e4 else '.3f'}}",
    "groups": lambda row: f"{row['groups']:.0f}",
    "permutable": lambda row: f"{row['permutable']:.3f}",
    "fixed": lambda row: f"{row['fixed']:.0f}",
    "most frequent reason": lambda row: _text(row["reason"]),
    "outputs": lambda row: f"{row['outputs']:.0e}",
    "gradients": lambda row: f"{row['gradients']:.0e}",
    "tracing (s)": lambda row: f"{row['seconds']:.2f}",
    "recovered": lambda row: _number(row["recovered"], ".3f"),
    "with attention": lambda row: ", ".join(
        filter(None, (_number(row["attention"], ".3f"), _number(row["attention_error"], ".0e")))
    ),
    "check, evaluation": lambda row: _checked(row["evaluation"]),
    "check, training": lambda row: _checked(row["training"]),
    "noticed": lambda row: _number(row["noticed"], ".1f"),
    "all (s)": lambda row: _number(row["whole_seconds"], ".1f"),
}

MEANINGS = """\
- groups: sets of channels that may be permuted; permutable: the share of parameters that one of
  them moves.
- fixed: axes of tensors that stay, besides the images' channels and the classes; and the commonest
  reason.
- outputs, gradients: what a random permutation of all groups changed, in float64, as a share of
  their size.
- recovered: the share of units that activation correlation on 96 random images puts in their place,
  where the network is compared with itself permuted, with noise of 0.001 of each matrix' deviation
  (networks of torchvision up to 51 million parameters).
- with attention: permutable, and the larger error, where heads and channels of attentions move too
  (networks up to 100 million parameters).
- check: an independent one, without the library's certificate: a random permutation of all groups,
  those of attentions among them, loaded into a fresh network by `load_state_dict`, which is called
  on three new inputs in float64; the largest change of an output, in training mode (dropout off)
  also of a buffer, as a share of the largest.
- noticed: of ten tensors left in the old order, one at a time, the share with which the check
  fails, as it should; but for tensors that no output depends on, such as biases of keys.
- all: seconds for the row, without the import of the libraries.
"""


def page(rows: pd.DataFrame, names_of: dict[str, list[str]]) -> str:
    """The page. `names_of`: all networks of each library; those without a row are listed as not measured."""
    lines = ["# Networks of torchvision, timm and transformers", ""]
    lines += ["As initialised, traced on two random inputs (`python -m benchmarks.zoo`; times on a busy machine).", ""]
    lines += MEANINGS.splitlines()
    for library, names in names_of.items():
        measured = rows[rows.library == library]
        if len(measured):
            lines += ["", f"## {library}", "", *_summary(library, measured, names), "", *_table(measured)]
    return "\n".join(lines) + "\n"


def _summary(library: str, rows: pd.DataFrame, names: list[str]) -> list[str]:
    """How many networks were measured, how many are certified, and which are not."""
    done = rows[rows.failure.isna()]
    pairs = sorted(set(zip(rows.version, rows.torch, strict=True)))
    versions = ", ".join(f"{library} {version} with torch {torch}" for version, torch in pairs)
    good = done[done.certified.astype(bool)]
    attentive = good.attention.notna() | good.reason.fillna("").str.contains("attention")
    least = attentive.map({True: ENOUGH_OF_ATTENTION, False: ENOUGH})
    lines = [f"{len(rows)} networks of {versions}. Certified: {len(good)}; of these"]
    free = int((good.permutable >= least).sum())
    lines.append(f"at least {ENOUGH} (attention: {ENOUGH_OF_ATTENTION}) permutable: {free}.")
    checked = done[done.evaluation.notna()]
    if len(checked):
        wrong = checked[~((checked.evaluation <= TOLERANCE) & (checked.training <= TOLERANCE))]
        lines.append(f"Independent check: {len(checked) - len(wrong)} of {len(checked)} within {TOLERANCE:.0e}.")
        lines += [f"**Contradicted**: {', '.join(wrong.network)}."] * bool(len(wrong))
    left = sorted(set(names) - set(rows.network))
    lines += [f"Not measured: {', '.join(left)}."] * bool(left)
    lines += [""] * bool(len(rows) > len(done))
    lines += [f"- {row.network}: not examined: {row.failure}" for row in rows[rows.failure.notna()].itertuples()]
    return lines


def _table(rows: pd.DataFrame) -> list[str]:
    done = rows[rows.failure.isna()].sort_values("network").to_dict("records")
    cells = {heading: [cell(row) for row in done] for heading, cell in COLUMNS.items()}
    kept = {heading: column for heading, column in cells.items() if any(column)}
    lines = [list(kept), ["---"] * len(kept), *map(list, zip(*kept.values(), strict=True))]
    return ["|" + "|".join(line) + "|" if line[0] == "---" else "| " + " | ".join(line) + " |" for line in lines]


def _checked(gap: float) -> str:
    return _number(gap, ".0e") + (" **!**" if gap > TOLERANCE else "")


def _number(value: float, how: str) -> str:
    return "" if pd.isna(value) else f"{value:{how}}"


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
