"""Networks of the user's code: found without importing, built with the arguments they accept, digested with imports."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from neuralign.common.files import PACKAGE
from neuralign.config.references import ObjectError, find, load
from neuralign.networks.foreign_networks import NetworkError, construct
from neuralign.networks.model import build, check_outputs
from neuralign.workflow.provenance.code_digests import external_code

NET = """
import helper
from torch import nn

class Net(nn.Module):
    def __init__(self, n_classes, in_channels, width=4):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, width, 3), nn.Linear(width, n_classes)

    def forward(self, x):
        return self.head(helper.pooled(self.conv(x).relu()))

class Fixed(Net):
    def __init__(self):
        super().__init__(10, 3)

def anything(**options):
    return nn.Linear(2, options["num_classes"])

def broken(num_classes):
    raise ValueError("no such width")

def nothing():
    return 5

ready, number = Fixed(), 5
"""
HELPER = "def pooled(x):\n    return x.mean((2, 3))\n"


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A working directory with code of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("helper", "mine", "mine.nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("nets.py").write_text(NET)
    Path("helper.py").write_text(HELPER)
    yield
    for name in ("helper", "mine", "mine.nets"):
        sys.modules.pop(name, None)


def test_planning_finds_a_network_of_torchvision_without_importing_it():
    code = (
        "import sys; from neuralign.workflow.provenance.code_digests import external_code; "
        "from neuralign.config.references import find; "
        "find('torchvision.models:resnet18'); print(external_code('torchvision.models:resnet18').keys()); "
        "assert not {'torch', 'torchvision'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "dict_keys(['torchvision'])\n", done.stderr


@pytest.mark.parametrize(
    "name, message",
    [
        ("nets.py:Nett", "nets.py:Nett: nets.py does not define 'Nett'; did you mean 'Net'? (found: Net, Fixed,"),
        ("nots.py:Net", "no such file as"),
        ("torchvison.models:resnet18", "no module 'torchvison.models' on sys.path or in"),
        ("torchvision.modls:resnet18", "no module 'torchvision.modls'"),
        ("torchvision.models.resnet:resnt18", "did you mean 'resnet18'?"),
        ("nets.py:", "`package.module:name` or `folder/file.py:name` is needed"),
        ("my-nets:Net", "a module is named like package.module"),
    ],
)
def test_an_object_that_cannot_be_found_is_refused_by_name(name, message):
    with pytest.raises(ObjectError) as error:
        find(name)
    assert message in str(error.value)


def test_a_file_that_does_not_parse_is_refused_in_one_line():
    Path("nets.py").write_text("def Net(:\n")
    with pytest.raises(ObjectError, match="nets.py: invalid syntax"):
        find("nets.py:Net")


@pytest.mark.parametrize(
    "statement, message",
    [("raise RuntimeError('no licence')", "RuntimeError: no licence"), ("exit(2)", "SystemExit: 2")],
)
def test_an_error_while_importing_is_reported_in_one_line(statement, message):
    Path("helper.py").write_text(statement)
    with pytest.raises(ObjectError, match=f"nets.py:Net: cannot be imported: {message}"):
        load("nets.py:Net")


def test_a_module_in_the_working_directory_is_found():
    Path("mine").mkdir()
    for name, text in {
        "__init__.py": "",
        "nets.py": "from . import other\nNet = dict\n",
        "other.py": "x = 1\n",
    }.items():
        Path("mine", name).write_text(text)
    assert load("mine.nets:Net") is dict
    assert external_code("mine.nets:Net").keys() == {"mine/__init__.py", "mine/nets.py", "mine/other.py"}


@pytest.mark.parametrize("channels, classes", [(3, 5), (1, 10)])
def test_classes_and_channels_go_to_the_parameters_of_these_names(channels, classes):
    net = construct("nets.py:Net", {}, classes, channels)
    assert net(torch.zeros(2, channels, 8, 8)).shape == (2, classes) and net.conv.out_channels == 4
    assert construct("nets.py:Net", {"width": 6, "n_classes": 7}, classes, channels).head.out_features == 7
    assert construct("nets.py:anything", {}, classes, channels).out_features == classes


def test_a_module_in_place_of_a_callable_is_copied():
    first, second = (construct("nets.py:ready", {}, 10, 3) for _ in range(2))
    assert isinstance(first, nn.Module) and first is not second
    with pytest.raises(NetworkError, match="takes no options; found {'width': 2}"):
        construct("nets.py:ready", {"width": 2}, 10, 3)


def test_a_callable_without_a_signature_is_refused():
    with pytest.raises(NetworkError, match="collections:deque: called with no options: ValueError: no signature found"):
        construct("collections:deque", {}, 10, 3)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("Net", {"depth": 3}, r"called with .*'depth': 3.*unexpected keyword argument 'depth'"),
        ("broken", {}, "called with {'num_classes': 10}: ValueError: no such width"),
        ("nothing", {}, "returned int; a torch.nn.Module is needed"),
        ("number", {}, "found int; a callable"),
    ],
)
def test_a_callable_that_returns_no_network_is_refused(name, options, message):
    with pytest.raises(NetworkError, match=message):
        construct(f"nets.py:{name}", options, 10, 3)


@pytest.mark.parametrize(
    "name, shape, message",
    [
        (
            "Fixed",
            (1, 3, 8, 8),
            r"returns \(1, 10\) for an input of shape .*; logits \(1, 5\) are needed, one for each",
        ),
        ("Fixed", (1, 1, 8, 8), r"does not take an input of shape \(1, 1, 8, 8\): .*to have 3 channels"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(name, shape, message):
    model = build({"use": f"nets.py:{name}"}, classes=5, channels=shape[1])
    with pytest.raises(NetworkError, match=message):
        check_outputs(model, torch.zeros(shape), 5)
    check_outputs(build({"use": "nets.py:Net"}, classes=5, channels=shape[1]), torch.zeros(shape), 5)


def test_the_digest_covers_what_the_file_imports_beside_it_and_ignores_comments():
    assert external_code("nets.py:Net").keys() == {"nets.py", "helper.py"}
    digests = {}
    for name, helper in {
        "as it is": HELPER,
        "commented": f"# pools\n{HELPER}",
        "other": HELPER.replace("mean", "sum"),
    }.items():
        folder = Path(name)
        folder.mkdir()
        (folder / "nets.py").write_text(NET)
        (folder / "helper.py").write_text(helper)
        digests[name] = external_code(f"{name}/nets.py:Net")
    assert digests["as it is"] == digests["commented"] == external_code("nets.py:Net") != digests["other"]
