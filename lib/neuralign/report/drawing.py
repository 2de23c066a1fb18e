"""What all figures share: the look of each method, the grid of panels, averages over replicates, legends, saving.

The figures are the plug-ins of `figures/`, `name(frame, metrics, *, ...options) -> Figure`: `frame` has one row per
value, `metrics` says what the values are.
"""

from contextlib import AbstractContextManager
from typing import Any
from zlib import crc32

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from neuralign.common.files import atomic
from neuralign.report.labels import SETTING, label, rank

# Okabe and Ito's colours, safe for colour-blind readers: cool is aligned, warm is unaligned. In grey, the marker and
# the line tell them apart: solid is a trained curve, dashed a straight line, dash-dotted a PAM curve.
LOOKS: dict[str, dict[str, Any]] = {
    "endpoints": {"color": "#444444", "marker": "D", "linestyle": ":"},
    "linear_unaligned": {"color": "#E69F00", "marker": "^", "linestyle": "--", "markerfacecolor": "white"},
    "linear_aligned": {"color": "#56B4E9", "marker": "o", "linestyle": "--", "markerfacecolor": "white"},
    "unaligned": {"color": "#D55E00", "marker": "^", "linestyle": "-"},
    "pam_unaligned": {"color": "#CC79A7", "marker": "v", "linestyle": "-."},
    "pam_aligned": {"color": "#009E73", "marker": "s", "linestyle": "-."},
    "aligned": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
}
# of methods that are not listed, by a hash of their names
COLOURS = (
    *("#7A5C00", "#5B3A8C", "#8C1C3A", "#1C6B5A", "#777777", "#B8860B"),
    *("#1F4E9E", "#C23B6B", "#4C8C1C", "#00A3A3", "#A0522D", "#2D2D2D"),
)
MARKERS = ("P", "X", "p", "h", "<", ">", "d", "*")
LINES: tuple[Any, ...] = ((0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (3, 1, 1, 1)))
# metadata of a format that would differ from run to run
UNDATED: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
LEGEND_ROWS = 5  # of a legend that the height of a sheet has room for
LEGEND_ROW = 0.165  # inches
LONGEST = 24  # characters; of a longer name of a layer the last ones are shown, by which layers differ
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


def style() -> AbstractContextManager[None]:
    """A context manager that sets the common style; the global settings of matplotlib are restored afterwards."""
    return matplotlib.rc_context(STYLE)


def look(method: str) -> dict[str, Any]:
    """Colour, marker and line style of a method, the same in every figure.

    Those of an unlisted one follow from a hash of its name; its straight line, `linear_<name>`, has the same colour and
    marker, but is dashed and has a white marker, as the listed lines have.
    """
    if method in LOOKS:
        return {"markeredgewidth": 0.8} | LOOKS[method]
    name = method.removeprefix("linear_")
    digits = crc32(name.encode())
    looks: dict[str, Any] = {
        "markeredgewidth": 0.8,
        "color": COLOURS[digits // len(MARKERS) % len(COLOURS)],
        "marker": MARKERS[digits % len(MARKERS)],
    }
    if name != method:
        return looks | {"linestyle": "--", "markerfacecolor": "white"}
    return looks | {"linestyle": LINES[digits // (len(COLOURS) * len(MARKERS)) % len(LINES)]}


def sheet(rows: int, columns: int, *, width: float = 2.7, height: float = 2.0, **options: Any) -> tuple[Figure, Any]:
    """A figure and its (rows, columns) array of panels, each `width` x `height` inches; `options` of `subplots`."""
    figure = Figure(figsize=(max(width * columns, 4.2), height * rows + 0.75), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def replicates(frame: pd.DataFrame) -> pd.Series:
    """The replicate of each row, over which figures average: its seed (endpoints), else its pair, else its run."""
    columns = [frame[c].astype("string") for c in ("seed", "pair", "run") if c in frame]
    if not columns:
        raise ValueError(f"a column 'seed', 'pair' or 'run' is needed to average over; the columns are {list(frame)}")
    names = columns[0]
    for column in columns[1:]:
        names = names.fillna(column)
    return names


def over_replicates(frame: pd.DataFrame, by: str, values: list[str]) -> pd.DataFrame:
    """Mean and `_sd` (ddof 1) over replicates of the columns `values`, and their number n, for each value of `by`."""
    each = frame.assign(replicate=replicates(frame)).groupby([by, "replicate"])[values].mean()
    groups = each.groupby(by)
    return groups.mean().join(groups.std(ddof=1).add_suffix("_sd")).assign(n=groups.size())


def draw(axes: Axes, table: pd.DataFrame, column: str, *, markers: int = 9, **looks: Any) -> None:
    """Draw a line of means with a band of one sample standard deviation, from a table of `over_replicates`.

    A line has about `markers` markers. They are shifted from line to line, so that lines that coincide can be told
    apart. With one replicate there is no band.
    """
    every = max(1, (len(table) - 1) // max(1, markers - 1))
    axes.plot(table.index, table[column], markevery=(len(axes.lines) * max(1, every // 4) % every, every), **looks)
    spread = table[f"{column}_sd"]
    if spread.notna().any():
        low, high = table[column] - spread, table[column] + spread
        axes.fill_between(table.index, low, high, color=looks["color"], alpha=0.18, linewidth=0)


def make_logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at its ticks: "20" and not 2 × 10¹."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False))
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def layer_names(rows: pd.DataFrame) -> pd.Series:
    """The names of layers, indexed by `order` (depth): the group of units, which is named after its first module.

    The column `layer`, where activations are read, is not shown: it may be an operation without a name of its own
    ("relu_3"). Units that are read at several depths, as on a residual stream, are numbered: "conv1 (2 of 3)".
    """
    groups = rows.drop_duplicates("order").sort_values("order").set_index("order")["group"]
    count, number = groups.groupby(groups).transform("size"), groups.groupby(groups).cumcount() + 1
    return groups.where(count == 1, groups + " (" + number.astype(str) + " of " + count.astype(str) + ")")


def name_layers(axes: Axes, names: pd.Series, labels: int) -> None:
    """Label the x axis with `layer_names`, by at most `labels` tick labels."""
    every = -(-len(names) // max(labels, 1))
    shown = range(0, len(names), every)
    texts = [name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}" for name in names.iloc[shown]]
    upright = len(texts) > 6 or max(map(len, texts)) > 9
    axes.set_xticks(list(shown), texts, rotation=90 if upright else 0, fontsize=6 if upright else 7)
    axes.set_xlim(-0.5, len(names) - 0.5)


def methods_of(frame: pd.DataFrame) -> list[str]:
    """The methods of the rows, in the order of `labels.rank`."""
    return sorted(frame["method"].unique(), key=rank)


def legend(figure: Figure, entries: list[tuple[str, dict[str, Any]]]) -> None:
    """Add one legend below the panels, from (label, look). A long one makes the figure higher, not the panels lower."""
    handles = [Line2D([], [], label=text, **looks) for text, looks in entries]
    widest = 0.44 + 0.055 * max(len(text) for text, _ in entries)  # inches
    fitting = max(1, min(len(handles), int(figure.get_figwidth() / widest)))
    rows = -(-len(handles) // fitting)
    if rows > LEGEND_ROWS:
        figure.set_figheight(figure.get_figheight() + (rows - LEGEND_ROWS) * LEGEND_ROW)
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // rows))


def method_entries(frame: pd.DataFrame, *, unit: str = "pair") -> list[tuple[str, dict[str, Any]]]:
    """Legend entries (label, look) of the methods of the rows, with the number of replicates, called `unit`."""
    return [(f"{label(m)} ({counted(frame[frame['method'] == m], unit)})", look(m)) for m in methods_of(frame)]


def counted(frame: pd.DataFrame, unit: str) -> str:
    """The number of replicates as text: "n = 3 pairs", or "n = 2 to 3 pairs" if settings differ."""
    counts = frame.assign(replicate=replicates(frame)).groupby(SETTING)["replicate"].nunique()
    low, high = counts.min(), counts.max()
    return f"n = {low if low == high else f'{low} to {high}'} {unit}{'s' if high > 1 else ''}"


def present(frame: pd.DataFrame, columns: list[str]) -> list[tuple]:
    """The combinations of values of these columns, in order of appearance."""
    return list(frame[columns].drop_duplicates().itertuples(index=False, name=None))


def settings(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, rows) of each setting, in order of appearance."""
    parts = frame.groupby(SETTING, sort=False)
    return [(", ".join(map(label, (network, dataset, regime))), rows) for (dataset, network, regime), rows in parts]


def where(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows that have these values."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def save(figure: Figure, png: str, pdf: str) -> None:
    """Write the figure in both formats, atomically and without dates: the same drawing gives the same bytes."""
    for kind, path in (("png", png), ("pdf", pdf)):
        with atomic(path) as temporary:
            write(figure, temporary, kind)


def write(figure: Figure, file: Any, kind: str) -> None:
    """Write the figure as "png", "pdf" or "svg" to a path or a stream, without dates."""
    with style(), matplotlib.rc_context({"svg.hashsalt": "neuralign"}):
        figure.savefig(file, format=kind, dpi=170, metadata=UNDATED[kind])
