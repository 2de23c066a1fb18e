"""Tables of made-up runs, and scripts as modules, for the tests of tables, figures, claims and the page."""

import importlib.util
import sys
import types
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from neuralign.report import summary

PAIRS = ("1-2", "3-4", "5-6")
SCRIPTS = Path(__file__).parents[2] / "scripts"
RUN = {"dataset": "cifar10", "network": "tinyten", "regime": "standard", "pair": "1-2", "method": "aligned"}
PLACE = {"dataset": "cifar10", "network": "tinyten", "regime": "standard"}


def load_script(name, monkeypatch):
    """A script as a module; importing it does not run it."""
    if importlib.util.find_spec("neuralign.workflow.running.run") is None:
        monkeypatch.setitem(sys.modules, "neuralign.workflow.running.run", types.SimpleNamespace(run=lambda main: None))
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluation(accuracy, loss=None, *, t=None, distance=None, attack="clean", stored=True, images=1000):
    """The table of an evaluation with these accuracies (%) at equidistant t; `stored` adds rows of both ends."""
    accuracy = np.asarray(accuracy, dtype=float)
    t = np.linspace(0, 1, len(accuracy)) if t is None else t
    columns = {"t": t, "distance": t if distance is None else distance, "attack": attack, "statistics": "reestimated"}
    columns |= {"loss": (100 - accuracy) / 50 if loss is None else loss, "accuracy": accuracy, "images": images}
    frame = pd.DataFrame(columns)
    ends = frame.iloc[[0, -1]].assign(statistics="stored", accuracy=lambda f: f["accuracy"] - 1)
    return pd.concat([frame, ends], ignore_index=True) if stored else frame


def run(**changes):
    """The description of a path: an aligned curve of TinyTen on CIFAR-10."""
    return RUN | {"curve_seed": 1} | changes


def points(*parts):
    """One table of several (evaluation, description of its path)."""
    return pd.concat([summary.tidy(f, r, source="f.csv") for f, r in parts], ignore_index=True)


def only(table, **values):
    """The row of a table with these values, which must be the only one."""
    for key, value in values.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def study(pairs=("1-2", "3-4", "5-6"), attacks=("clean",), lift=(0.0, 1.0, 4.0)):
    """Constant ends of 90 %, a dip to 80 % unaligned and to 85 % + lift aligned."""
    parts = []
    for pair, up in zip(pairs, lift, strict=False):
        for method, dip in (("unaligned", 80), ("aligned", 85 + up)):
            frames = []
            for i, attack in enumerate(attacks):
                frames.append(evaluation(np.array([90, dip, 90]) - 40 * i, attack=attack, stored=not i))
            parts.append((pd.concat(frames, ignore_index=True), run(pair=pair, method=method)))
    return points(*parts)


def plane_frame(pairs=3, points=5, kind="curve", networks=("tinyten",)):
    t1, t2 = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.05, 1.05, points), np.linspace(-0.1, 1.5, points)))
    far = np.minimum(np.hypot(t1, t2), np.hypot(t1 - 1, t2))
    t = np.linspace(0, 1, 9)
    parts = []
    for network, i, aligned in product(networks, range(pairs), [False, True] if kind == "curve" else [True]):
        run = PLACE | {"network": network, "pair": f"{i}-{i + 1}"}
        run |= {"method": "aligned" if aligned else "unaligned"} if kind == "curve" else {"alignment": "correlation"}
        values = {"loss": 0.1 * np.exp(4 * far), "accuracy": 90 - 40 * far + i * t1, "images": 100}
        nodes = pd.DataFrame({"t1": t1, "t2": t2} | values)
        names = ["theta1", "P theta2" if aligned else "theta2", "midpoint"]
        names = names if kind == "curve" else ["theta1", "theta2", "P theta2"]
        models = pd.DataFrame({"name": names, "t": np.nan, "t1": [0, 1, 0.5 + 0.01 * i], "t2": [0, 0, 1]})
        curve = pd.DataFrame({"name": "curve", "t": t, "t1": t, "t2": 4 * t * (1 - t)})
        for part in [nodes, models, curve] if kind == "curve" else [nodes, models]:
            parts.append(part.assign(x=part["t1"] * (20 + i), y=part["t2"] * (11 + i), **run))
    return pd.concat(parts, ignore_index=True)


def moved(shares, method, alignment, before=2.0, after=1.0):
    """The tables of alignments: for every pair two groups of 10 units, of which a share moved from the start."""
    rows = [
        {"group": g, "units": 10, "moved": 5, "moved_from_start": s, "certificate": 1e-12} for s in shares for g in "ab"
    ]
    facts = {"objective_before": before, "objective_after": after}
    pairs = [p for p in PAIRS for _ in "ab"]
    return pd.DataFrame(rows).assign(**PLACE, pair=pairs, methods=method, alignment=alignment, **facts)
