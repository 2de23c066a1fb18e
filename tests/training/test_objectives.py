"""What objectives measure is what they say that they measure; and the objective of the documentation."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from workflow_project import REPOSITORY

from neuralign.common.errors import UserError
from neuralign.common.files import PACKAGE
from neuralign.common.quantities import LOSS
from neuralign.config import metrics
from neuralign.config.metrics import metrics_of
from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins

DRAWS = torch.Generator().manual_seed(0)
CASES: dict[str, tuple[Tensor, Tensor]] = {  # outputs and targets of four examples
    "cross_entropy": (torch.randn(4, 3, generator=DRAWS), torch.tensor([0, 1, 2, 0])),
    "next_token": (torch.randn(4, 6, 3, generator=DRAWS), torch.randint(3, (4, 6), generator=DRAWS)),
    "squared_error": (torch.randn(4, 1, generator=DRAWS), torch.randn(4, 1, generator=DRAWS)),
}
EXAMPLE = """
import numpy as np, torch
import neuralign as na
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import read_config
from neuralign.config.metrics import metrics_of
from neuralign.workflow.study_jobs import figures, tabulate

c = Catalogue(read_config(["config.yaml", "mine.yaml"]))
assert tabulate(c, "demo_regression").settings["measured"]["objective"] == "absolute_error"
assert list(figures(c, "demo_regression"))[:3] == ["near_regression", "curves_regression", "loss_regression"]
assert metrics_of("absolute_error").headline.headed("Worst") == "Worst share of near misses (%)"
net = torch.nn.Linear(2, 1)
x, y = torch.randn(8, 2), torch.zeros(8, 1)
measured = na.evaluate(net, net.state_dict(), [(x, y)], loss="absolute_error")
distance = net(x).abs().detach()
near = 100 * (distance < 0.5).double().mean()
assert np.isclose(measured["loss"], distance.mean()) and np.isclose(measured["near"], near)
"""


@pytest.mark.parametrize("name", plugins("objectives"))
def test_an_objective_describes_what_it_measures(name: str) -> None:
    objective, (outputs, targets) = plugin("objectives", {"use": name})(), CASES[name]
    totals = {key: float(m.values(outputs, targets).double().sum()) for key, m in objective.metrics.items()}
    measured, described = objective.report(totals, len(outputs)), metrics_of(name)
    assert sorted(described.names) == sorted(measured)
    assert measured[LOSS] == pytest.approx(float(objective.loss(outputs, targets)), rel=1e-5)
    for quantity in described.quantities:
        low, high = quantity.possible
        assert low <= measured[quantity.name] <= high
        assert (quantity.unit == "%") >= (quantity.name in objective.percent), "a metric in percent has this unit"
    assert described.loss.function and not described.loss.higher_is_better


def test_the_objective_of_the_documentation_is_one_file_and_one_line_of_the_config(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "extending.md").read_text()
    section = page.partition("\n## A loss with its metrics\n")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    shutil.copytree(PACKAGE, tmp_path / "lib" / "neuralign", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "scripts").mkdir()
    (tmp_path / "lib" / "neuralign" / "training" / "objectives" / "absolute_error.py").write_text(code)
    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    (tmp_path / "mine.yaml").write_text("regimes: {regression: {objective: {use: absolute_error}}}")
    environment = {"PYTHONPATH": str(tmp_path / "lib"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", EXAMPLE], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x = 1",
            r"mine.py: found no METRICS, a tuple of Quantity, one of them of the name 'loss' \(docs/extending.md\)",
        ),
        ('METRICS = (Quantity("r", "r"),)', r"mine.py: found \['r'\]; needed is METRICS, a tuple of Quantity, one of"),
    ],
)
def test_an_objective_that_does_not_describe_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setattr(metrics, "source", lambda kind, use: tmp_path / f"{use}.py")
    with pytest.raises(UserError, match=message):
        metrics_of("mine")
