"""What an objective measures, for tables, figures and sentences.

An objective says it in its own file, in a constant `METRICS`. That is read from the source: the jobs that make tables
and figures need no torch, and do not depend on the code of trainings.
"""

import ast
from math import inf

from neuralign.common.errors import UserError
from neuralign.common.quantities import LOSS, Metrics, Quantity
from neuralign.config.plugins import source

OBJECTIVE = {"use": "cross_entropy"}  # the default of a regime


def metrics_of(objective: str = OBJECTIVE["use"], noun: str = "images") -> Metrics:
    """What the objective of this name measures. Raises UserError if its file does not say it."""
    file = source("objectives", objective)
    assigned = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Assign)]
    value = next((node.value for node in assigned if ast.unparse(node.targets[0]) == "METRICS"), None)
    needed = f"METRICS, a tuple of {Quantity.__name__}, one of them of the name {LOSS!r}"
    if value is None:
        raise UserError(f"{file.name}: found no {needed} (docs/extending.md)")
    quantities = eval(ast.unparse(value), {"Quantity": Quantity, "LOSS": LOSS, "inf": inf})  # our own code
    metrics = Metrics(tuple(quantities), noun)
    if LOSS not in metrics.names:
        raise UserError(f"{file.name}: found {metrics.names}; needed is {needed} (docs/extending.md)")
    return metrics


CLASSIFICATION = metrics_of()  # of images
