"""What an objective measures, for tables, figures and sentences.

An objective says it in its own file, in a constant `METRICS`. That is read from the source: the jobs that make tables
and figures need no torch, and do not depend on the code of trainings.
"""

import ast
from math import inf

from neuralign.common.errors import UserError, first_line
from neuralign.common.quantities import LOSS, Metrics, Quantity
from neuralign.config.plugins import source
from neuralign.config.references import tree

OBJECTIVE = {"use": "cross_entropy"}  # the default of a regime


def metrics_of(objective: str = OBJECTIVE["use"], noun: str = "images") -> Metrics:
    """What this objective measures. Raises UserError if its file does not say it."""
    file = source("objectives", objective)
    assigned = [node for node in tree(file).body if isinstance(node, ast.Assign)]
    value = next((node.value for node in assigned if ast.unparse(node.targets[0]) == "METRICS"), None)
    needed = f"METRICS, a tuple of {Quantity.__name__}, one of them of the name {LOSS!r}"
    if value is None:
        raise UserError(f"{file.name}: found no {needed} (docs/extending.md)")
    try:
        quantities = eval(ast.unparse(value), {"Quantity": Quantity, "LOSS": LOSS, "inf": inf})
        metrics = Metrics(tuple(quantities), noun)
        names = metrics.names
    except Exception as error:  # code from outside, which may name anything
        problem = f"{type(error).__name__}: {first_line(str(error))}"
        raise UserError(f"{file}, line {value.lineno}: {problem}; needed is {needed}, of constants alone") from error
    if LOSS not in names:
        raise UserError(f"{file.name}: found {names}; needed is {needed} (docs/extending.md)")
    return metrics


CLASSIFICATION = metrics_of()  # of images
