"""The command line: what it prints, what it writes, what it returns, and how it refuses."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from workflow_project import REPOSITORY

import neuralign
from neuralign.cli import COMMANDS, main
from neuralign.cli.commands import explain
from neuralign.cli.commands.list import KINDS
from neuralign.cli.configs import absolute_paths
from neuralign.cli.devices import on_device
from neuralign.cli.interface.application import load_command
from neuralign.cli.interface.options import ExampleOptions, NetworkOptions
from neuralign.cli.interface.parsers import ExampleInput
from neuralign.common.files import PACKAGE
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import read_config
from neuralign.config.references import load
from neuralign.networks import setup
from neuralign.symmetry.explain import perturbed_state
from neuralign.symmetry.permutations import fingerprint, permute, random
from neuralign.symmetry.tracing.trace import trace
from neuralign.workflow.running.run_lock import exclusive

NETS = """
import torch
from torch import nn

def Net(num_classes=4, in_channels=3, width=6):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.Tanh(), nn.Conv2d(width, 5, 3), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, num_classes))

class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=3)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        assert x.shape[-1] == 9, "9 pixels are needed"
        x = self.stem(x).flatten(2).mT
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))

class Ordered(nn.Module):
    # nothing of it may be permuted: cumsum depends on the order of the units
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(243, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.first(x.flatten(1)).cumsum(1))

class Bare(nn.Module):
    # without parameters
    def forward(self, x):
        return x.mean((2, 3)).repeat(1, 2)[:, :4]

class Tied(nn.Module):
    # a tied tensor, buffers without units, and an unused layer
    def __init__(self):
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
        self.head.weight, self.unused = self.words.weight, nn.Linear(9, 3)
        self.register_buffer("table", torch.ones(1, 5))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        return self.head(torch.relu(self.layer(self.words(x))) + self.table.sum()).mean(1)

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(9, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, tokens, mask, scale=1.0):
        assert tokens.dtype == torch.int64 and tokens.min() >= 2, "tokens are whole numbers from 2"
        words = self.words(tokens) * mask[..., None]
        return self.head(torch.relu(self.layer(words.mean(1)))) * scale

class Leaving(nn.Module):
    def __init__(self):
        raise SystemExit(3)

class Secretive(nn.Module):
    def forward(self, x):
        return (x for _ in range(2))

class Shuffled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a network, two checkpoints and data; B is A with its units in another order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("nets.py").write_text(NETS)
    draws = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (6, 3, 3, 3), "0.bias": (6,), "1.weight": (6,), "1.bias": (6,), "1.running_mean": (6,)}
    shapes |= {"1.running_var": (6,), "3.weight": (5, 6, 3, 3), "3.bias": (5,), "7.weight": (4, 5), "7.bias": (4,)}
    a = {n: torch.randn(s, generator=draws) for n, s in shapes.items()}
    a["1.running_var"], first, second = a["1.running_var"].exp(), [2, 0, 1, 5, 3, 4], [4, 3, 0, 1, 2]
    b = {n: t[first] for n, t in a.items() if n[0] in "01"}
    b |= {"3.weight": a["3.weight"][second][:, first], "3.bias": a["3.bias"][second]}
    b |= {"7.weight": a["7.weight"][:, second], "7.bias": a["7.bias"]}
    save_file({n: t.contiguous() for n, t in a.items()}, "a.safetensors")
    torch.save({"epoch": 1, "model": {f"module.{n}": t for n, t in b.items()}}, "b.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 9, 9), np.uint8)
    labels = np.arange(60) % 4
    np.savez("mine.npz", x_train=pixels[:40], y_train=labels[:40], x_test=pixels[40:], y_test=labels[40:])
    return a


def run(capsys, *arguments, status=0):
    """Standard output of a command that must return `status` and say nothing on standard error."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments):
    """The one line that a refused command prints on standard error."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"neuralign {arguments[0]}: error: ")
    return err


# ---- help, version, misuse


def shell(*arguments, stdout=subprocess.PIPE):
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PATH": os.environ["PATH"]}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


def imports(*commands):
    """The top-level packages that a process has imported after it has run these commands, lists of arguments."""
    program = "import sys\nfrom neuralign.cli import main\n"
    program += f"for arguments in {commands}:\n assert main(arguments) < 2\n"
    program += "print('imported:', *{name.split('.')[0] for name in sys.modules})"
    done = shell("-c", program)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("imported: ")[1].split())


def test_an_error_without_a_message_is_named_by_its_class(monkeypatch, capsys):
    def time_out(folder):
        raise TimeoutError

    monkeypatch.setattr("neuralign.cli.commands.show.show", time_out)
    assert main(["show", "results/studies/demo"]) == 2
    assert capsys.readouterr().err == "neuralign show: error: TimeoutError\n"


def parsed(command, arguments):
    """The values of the arguments and options of a command."""
    return load_command(command).make_context(command, arguments).params


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_exactly_the_commands_and_the_folder_has_a_file_for_each(capsys, arguments):
    assert main(arguments) == 0
    listed = re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.M)
    assert listed == list(COMMANDS)
    files = {path.stem for path in (PACKAGE / "cli" / "commands").glob("*.py")}
    assert files - {"__init__"} == set(COMMANDS)


NUMERIC = {
    *("N", "RATE", "DECAY", "POINTS", "LEVEL...", "W,W", "R,G,B", "C,H,W", "LOW,HIGH[,LOW,HIGH]"),
    *("[NAME=]N,...[:VALUES]", "PLACE"),
}


def numeric_options():
    """(command, arguments that it needs, option) of all options of numbers, by their metavar."""
    for name in COMMANDS:
        parameters = load_command(name).params
        needed = [[p.opts[0], "x"] if p.param_type_name == "option" else ["x"] for p in parameters if p.required]
        for parameter in parameters:
            if parameter.metavar in NUMERIC:
                yield name, [word for words in needed for word in words], parameter.opts[-1]


@pytest.mark.parametrize(("command", "needed", "option"), list(numeric_options()))
@pytest.mark.parametrize("value", ["nan", "-inf", "much", ""])
def test_an_option_that_takes_numbers_refuses_other_values_before_any_work(capsys, command, needed, option, value):
    if option == "--point":  # of which the suffix of --output is checked before
        needed = [word if word != "x" else "x.pt" for word in needed]
    message = refused(capsys, command, *needed, f"{option}={value}")
    assert re.search(rf"error: (-\w/)?{option}: found '{value}'[;,] ", message), message


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_that_parse(command, capsys):
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "\nExamples\n" in printed and "--json" in printed
    examples = import_module(f"neuralign.cli.commands.{command}").EXAMPLES
    assert examples
    for example in examples:
        program, name, *arguments = shlex.split(example, comments=True)
        assert (program, name) == ("neuralign", command) and parsed(command, arguments)
        assert example in printed


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_fits_any_terminal_and_has_no_frames_and_no_colours_in_a_pipe(monkeypatch, capsys, columns, command):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([command, "--help"]) == 0
    text, _, _ = capsys.readouterr().out.partition("\nExamples\n")  # which are not wrapped, to be copied
    assert max(map(len, text.splitlines())) <= min(columns, 120)
    assert text.isascii() and "\x1b" not in text and not re.search(r" $", text, re.M)


def test_the_help_shows_defaults_also_zero(capsys):
    assert main(["landscape", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--seed N seed of the random directions (default: 0)" in text
    assert "--points N points of the grid in each direction (default: 21)" in text and "--no-normalise NETWORK" in text


def test_a_narrow_terminal_leaves_space_for_the_texts(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["landscape", "--help"]) == 0
    assert "\n  --json            print one JSON\n" in capsys.readouterr().out


def documented_commands():
    """All lines of documentation pages and of the Makefile that run `neuralign`."""
    root = PACKAGE.parents[1]
    pages = [root / "README.md", root / "Makefile", *sorted((root / "docs").glob("**/*.md"))]
    lines = [line for page in pages for line in page.read_text().splitlines()]
    return [
        match[1] for line in lines if (match := re.match(r"(?:\t+@?\$\(BIN\)/)?(neuralign .*?)( +#.*|; \\)?$", line))
    ]


@pytest.mark.parametrize("line", documented_commands())
def test_commands_in_the_documentation_and_makefile_parse(line):
    _, command, *arguments = shlex.split(line)
    assert parsed(command, arguments)


def test_the_version_is_that_of_the_project(capsys):
    version = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert neuralign.__version__ == version
    assert shell("-m", "neuralign", "--version").stdout == f"neuralign {version}\n"


def test_without_a_checkout_the_version_is_that_of_the_installed_package(monkeypatch, tmp_path):
    monkeypatch.setattr(neuralign, "__file__", str(tmp_path / "site-packages" / "neuralign" / "__init__.py"))
    monkeypatch.setattr("importlib.metadata.version", {"neuralign": "9.8.7"}.__getitem__)
    assert neuralign.__version__ == "9.8.7"


def test_the_commands_run_from_a_copy_of_the_code_that_has_no_version(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "lib" / "neuralign", ignore=shutil.ignore_patterns("__pycache__"))
    program = f"import sys; sys.path.insert(0, {str(tmp_path / 'lib')!r})\n"
    program += "from neuralign.cli import main; main(['show', '-h'])"
    done = shell("-c", program)
    assert done.returncode == 0 and done.stdout.startswith("Usage: neuralign show"), done.stderr


def test_the_package_has_no_other_attributes_and_a_marker_of_types():
    with pytest.raises(AttributeError, match="module 'neuralign' has no attribute 'version'"):
        _ = neuralign.version
    assert (PACKAGE / "py.typed").is_file()


def test_help_and_version_import_no_library():
    assert not {"torch", "numpy", "pydantic", "yaml"} & imports([], ["--help"], ["--version"])


def test_show_imports_no_library_of_numbers():
    study = Path("results", "studies", "one")
    (study / "tables").mkdir(parents=True)
    (study / "tables" / "accuracy.csv").write_text(ACCURACIES)
    assert not {"torch", "numpy", "yaml"} & imports(["show", "--help"], ["show", str(study)])


def test_the_help_of_commands_plan_and_verify_import_no_torch(tmp_path):
    result = {"rule": "x", "artefact": "results/x.csv"}
    Path("results").mkdir()
    Path("results", "x.csv.json").write_text(json.dumps(result))
    commands = [[command, "--help"] for command in COMMANDS]
    assert not {"torch", "pandas", "scipy"} & imports(*commands, ["plan", "paper"], ["verify", "results"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explian"], "neuralign: error: COMMAND: found 'explian'; did you mean 'explain'? (allowed: init, plan, "),
        (["--verison"], "neuralign: error: no such option as --verison; did you mean '--version'?"),
        (
            ["explain", "nets.py:Net", "--inputs", "1"],
            "neuralign explain: error: no such option as --inputs; did you mean '--input'? (see neuralign explain --h",
        ),
        (["explain", "nets.py:Net", "--input", "3"], "neuralign explain: error: --input: found '3', a shape such as 1"),
        (
            ["trace", "nets.py:Net", "--input", "tokens=1,16:int64"],
            "neuralign trace: error: --input: found 'tokens=1,16:int64', an input such as 1,3,64,64, "
            "tokens=1,16:0..999 or mask=1,16:bool is needed",
        ),
        (["explain", "nets.py:Net", "--input", "2,4:9..5"], "neuralign explain: error: --input: found '2,4:9..5', an"),
        (
            ["connect", "nets.py:Net", "a.pt", "b.pt", "--data", "x.npz", "--cores", "zero"],
            "neuralign connect: error: --cores: found 'zero', a whole number from 1 or `all` is needed",
        ),
        (
            ["connect", "nets.py:Net", "a.pt", "b.pt", "--data", "x.npz", "--lr", "fast"],
            "neuralign connect: error: --lr: found 'fast'; needed is a number, above 0",
        ),
        (
            ["merge", "nets.py:Net", "a.pt", "--weights", "half"],
            "neuralign merge: error: --weights: found 'half'; needed is a number, at least 0; commas separate several",
        ),
        (
            ["doctor", "nets.py:Net", "--input", "3,32"],
            "neuralign doctor: error: --input: found '3,32', channels,height,width are needed, such as 3,32,32",
        ),
        (["verify"], "neuralign verify: error: the following arguments are required: FOLDER (see neuralign verify -"),
        (["apply"], "neuralign apply: error: the following arguments are required: PERMUTATION, TENSORS, -o/--output"),
        (["show", "one", "two"], "neuralign show: error: unrecognized arguments: two (see neuralign show --help)"),
        (["plan", "--results"], "neuralign plan: error: --results: a value is needed (see neuralign plan --help)"),
        (["plan", "--json=yes"], "neuralign plan: error: --json: takes no value (see neuralign plan --help)"),
        (["plan", "--conf", "a.yaml"], "neuralign plan: error: no such option as --conf; did you mean '--configfile'?"),
        (
            ["connect", "nets.py:Net", "a.pt", "b.pt", "--data", "x.npz", "--out", "--dry-run"],
            "neuralign connect: error: --out: a value is needed; found --dry-run (see neuralign connect --help)",
        ),
        (["run", "--configfile", "--", "demo"], "neuralign run: error: --configfile: a value is needed; found -- (see"),
        (["show", "nowhere"], "neuralign show: error: nowhere: has no tables/accuracy.csv; the folder of a"),
    ],
)
def test_misuse_has_status_2_and_one_line(arguments, message):
    done = shell("-m", "neuralign", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_what_a_network_prints_is_none_of_the_json(capsys):
    Path("loud.py").write_text(NETS + "print('the data are read')\n")
    assert main(["explain", "./loud.py:Net", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["certified"] and err == "the data are read\n"


def test_output_that_cannot_be_written_is_an_error_of_one_line():
    with Path("/dev/full").open("w") as full:
        done = shell("-m", "neuralign", "list", "curves", stdout=full)
    message = "neuralign list: error: standard output: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_configfile_may_be_repeated_or_have_several_files():
    together = parsed("plan", ["--configfile", "a.yaml", "b.yaml", "--json"])
    apart = parsed("plan", ["--configfile", "a.yaml", "--configfile=b.yaml", "--json"])
    assert together["configfile"] == apart["configfile"] == [Path("a.yaml"), Path("b.yaml")] and together["as_json"]


def test_values_of_an_option_end_at_the_next_option():
    values = parsed("doctor", ["x", "--noise", "0", "1e-2", ".5", "--methods", "transport"])
    assert values["noise"] == [0, 0.01, 0.5] and values["methods"] == ["transport"]
    values = parsed("run", ["--configfile", "a.yaml", "--", "demo", "--workflow-profile", "x"])
    assert values["study"] == "demo" and list(values["options"]) == ["--workflow-profile", "x"]


def test_a_command_is_a_function_of_its_options():
    network = NetworkOptions("nets.py:Net", option=["width=8"])
    status, facts, text = explain.run(network, ExampleOptions(input=[ExampleInput([2, 3, 9, 9])]))
    assert status == 0 and sorted(facts["groups"].values()) == [5, 8] and "8 units" in text


# ---- show

ACCURACIES = """\
dataset,network,regime,method,accuracy_mean,accuracy_mean_std,accuracy_min,accuracy_min_std,n_pairs
digits,tiny,plain,aligned,97.456,0.5,96.0,,3
digits,tiny,plain,endpoints,98.0,,,,1
"""


def test_show_prints_the_main_table_and_where_the_report_is(capsys):
    Path("one", "tables").mkdir(parents=True)
    Path("one", "tables", "accuracy.csv").write_text(ACCURACIES)
    assert run(capsys, "show", "one").splitlines() == [
        "dataset  network  regime  method     mean on path %  min on path %  pairs",
        "digits   tiny     plain   aligned    97.46 ± 0.50    96.00          3",
        "digits   tiny     plain   endpoints  98.00                          1",
        "",
        "report: one/report.html",
    ]
    facts = json.loads(run(capsys, "show", "one", "--json"))
    assert facts["report"] == "one/report.html" and facts["table"][1]["accuracy_mean"] == "98.0"


# ---- explain


def test_explain_prints_json_and_text(capsys):
    facts = json.loads(run(capsys, "explain", "nets.py:Net", "--input", "1,3,9,9", "--json"))
    assert sorted(facts["groups"].values()) == [5, 6] and facts["certified"] is True
    assert facts["max_error"] < 1e-12 and 0 < facts["permutable_fraction"] < 1 and facts["seconds"] > 0
    assert {f["axis"] for f in facts["frozen"]} >= {"7.weight[0]", "0.weight[1]"}
    assert all(f["reason"] for f in facts["frozen"])
    text = run(capsys, "explain", "./nets.py:Net", "--option", "width=8", "--input", "2,3,9,9")
    assert "8 units" in text and "2 groups" in text and "leaves the function as it is" in text


@pytest.mark.parametrize(
    "inputs",
    [
        ["--input", "tokens=2,4:2..8", "--input", "mask=2,4:0..1"],
        ["--input", "mask=2,4:bool", "--input", "scale=2,1", "--input", "tokens=2,4:2..8"],
        ["--input", "2,4:2..8", "--input", "2,4"],
    ],
)
def test_explain_takes_several_inputs_by_name_or_position(capsys, inputs):
    facts = json.loads(run(capsys, "explain", "nets.py:Reader", *inputs, "--json"))
    assert sorted(facts["groups"].values()) == [5, 6] and facts["certified"] is True and facts["batch_sizes"] == [2, 1]


def test_tokens_are_short_for_a_range(capsys):
    tied = ("explain", "nets.py:Tied", "--json", "--input")
    facts = [json.loads(run(capsys, *tied, *more)) for more in (["2,5", "--tokens", "7"], ["2,5:0..6"])]
    for one in facts:
        del one["seconds"]
    assert facts[0] == facts[1] and facts[0]["certified"] is True


def test_explain_knows_networks_of_the_config(capsys):
    facts = json.loads(run(capsys, "explain", "tinyten", "--option", "width=2", "--input", "1,1,16,16", "--json"))
    assert len(facts["groups"]) == 8


@pytest.mark.parametrize("inputs", [["--input", "2,6", "--tokens", "50"], ["--input", "2,6:0..49"]])
def test_a_language_model_of_the_config_has_an_output_for_each_token(capsys, inputs):
    options = ["--option", "width=8", "--option", "depth=1", "--option", "heads=2", "--json"]
    facts = json.loads(run(capsys, "explain", "gpt", *options, *inputs))
    assert facts["certified"] is True and facts["groups"]


def test_explain_has_status_1_if_the_certificate_does_not_hold(capsys, monkeypatch):
    monkeypatch.setattr("neuralign.symmetry.certificate.Certificate.holds", False)
    assert (
        json.loads(run(capsys, "explain", "nets.py:Net", "--input", "1,3,9,9", "--json", status=1))["certified"]
        is False
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nets.py:Nett"], "did you mean 'Net'?"),
        (["nets.py:Leaving"], "nets.py:Leaving: called with no options: SystemExit: 3"),
        (["nets.py:Secretive", "--input", "1,3,9,9"], "the network returns a generator; tensors, or tuples"),
        (
            ["tinytenn"],
            "folder/file.py:name, a name of a hub or a network of the config is needed (tiny",
        ),
        (["nets.py:Net", "--option", "depth=3"], "unexpected keyword argument 'depth'"),
        (["nets.py:Net", "--option", "width"], "--option: found 'width', NAME=VALUE is needed"),
        (["nets.py:Attentive", "--input", "1,3,7,7"], "input of shape (1, 3, 7, 7): AssertionError: 9 pixels"),
        (["nets.py:Net", "--input", "1,3,2,2"], "the network does not take an input of shape (1, 3, 2, 2)"),
        (["tinyten", "--option", "widht=3"], "unknown key 'widht'; did you mean 'width'?"),
        (["nets.py:Net", "--configfile", "nowhere.yaml"], "--configfile: no such file as nowhere.yaml"),
        (
            ["nets.py:Reader", "--input", "tokens=2,4:2..8", "--input", "2,4"],
            "--input: found tokens, one without a name; either every input or none has a name, and each another",
        ),
        (["nets.py:Reader", "--input", "mask=2,4", "--input", "mask=2,4"], "--input: found mask, mask; either every"),
        (
            ["nets.py:Reader", "--input", "2,4:2..8", "--input", "3,4"],
            "inputs: found (2, 4), (3, 4); the first dimension of every tensor has to count the examples",
        ),
        (
            ["nets.py:Reader", "--input", "tokens=2,4:0..8", "--input", "mask=2,4"],
            "the network does not take an input of shape tokens (2, 4), mask (2, 4): AssertionError: tokens are whole",
        ),
        (
            ["nets.py:Reader", "--input", "tokens=2,4", "--tokens", "9"],
            "--tokens: it is for one --input of a shape alone; write NAME=N,...:0..999 instead",
        ),
    ],
)
def test_explain_refuses_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, "explain", *arguments)


NOTHING = "Nothing of this network may be permuted: "
CUMSUM = NOTHING + "first.weight[0] and 1 more, because aten::cumsum depends on its order; "


def test_explain_says_in_one_line_why_nothing_may_be_permuted(capsys):
    text = run(capsys, "explain", "nets.py:Ordered", "--input", "1,3,9,9")
    assert text.startswith(CUMSUM) and text.count("\n") == 1
    facts = json.loads(run(capsys, "explain", "nets.py:Ordered", "--input", "1,3,9,9", "--json"))
    assert facts["groups"] == {} and facts["certified"] is True and facts["permutable_fraction"] == 0
    text = run(capsys, "explain", "nets.py:Bare", "--input", "1,3,9,9")
    assert text == NOTHING + "no axis of its parameters has several units.\n"


# ---- trace


def code_of_the_page():
    """The function `permuted(spec, permutation, arrays)` that docs/command-line.md gives to other programs."""
    page = (PACKAGE.parents[1] / "docs" / "command-line.md").read_text()
    section = page.partition("\n## trace\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    assert "torch" not in code and "neuralign" not in code
    names = {}
    exec(code, names)
    return names["permuted"]


@pytest.mark.parametrize(
    ("network", "example", "attention"),
    [
        ("nets.py:Net", (1, 3, 9, 9), False),
        ("nets.py:Attentive", (1, 3, 9, 9), True),
        ("nets.py:Attentive", (1, 3, 9, 9), False),
        ("nets.py:Tied", (2, 5), False),
        ("nets.py:Ordered", (1, 3, 9, 9), False),
        ("torchvision.models:shufflenet_v2_x0_5", (1, 3, 32, 32), False),
    ],
)
def test_the_documented_code_permutes_a_network_by_the_file_of_trace(capsys, network, example, attention):
    more = [*(["--attention"] if attention else []), *(["--tokens", "7"] if "Tied" in network else [])]
    shape = ",".join(map(str, example))
    run(capsys, "trace", network, "--input", shape, "--out", "spec.json", *more)
    data = json.loads(Path("spec.json").read_text())
    model = load(network)()
    inputs = torch.randint(7, example) if "Tied" in network else torch.rand(example)
    symmetry = trace(model, inputs, attention=attention)
    assert data["groups"] == {group: symmetry.spec.sizes[group] for group in symmetry.spec.free}
    assert data["symmetry"] == fingerprint(symmetry.spec)
    permutation = random(symmetry.spec, torch.Generator().manual_seed(3))
    state = perturbed_state(model, 4)
    expected = permute(symmetry.spec, permutation, state)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    permuted = code_of_the_page()(data, {name: index.numpy() for name, index in permutation.items()}, arrays)
    assert permuted.keys() == expected.keys()
    assert all(np.array_equal(permuted[name], tensor.numpy()) for name, tensor in expected.items())


def test_every_axis_has_a_free_group_or_a_reason(capsys):
    rows = list(csv.DictReader(run(capsys, "trace", "nets.py:Net", "--input", "1,3,9,9").splitlines()))
    assert all(row["group"] or row["frozen"] for row in rows)
    first, inner = (
        row["group"] for row in rows if (row["tensor"], row["axis"]) in (("0.weight", "0"), ("3.weight", "0"))
    )
    by_axis = {(row["tensor"], row["axis"]): row for row in rows}
    assert by_axis["3.weight", "1"] == {
        "tensor": "3.weight",
        "axis": "1",
        "size": "6",
        "group": first,
        "units": "6",
        "blocks": json.dumps([[first]]),
        "frozen": "",
    }
    assert by_axis["7.weight", "1"]["group"] == inner and by_axis["1.running_var", "0"]["group"] == first
    assert by_axis["0.weight", "1"]["frozen"] == "it is the network's input"
    assert by_axis["7.bias", "0"]["frozen"] == "it is the network's output"
    assert by_axis["0.weight", "2"]["frozen"].startswith("its positions are those of a kernel")


def test_an_axis_of_several_groups_has_a_row_for_each_and_says_what_it_is_made_of(capsys):
    arguments = ["trace", "nets.py:Attentive", "--input", "1,3,9,9"]
    text = run(capsys, *arguments, "--attention", "--out", "spec.csv")
    assert re.fullmatch(r"5 free groups, 8 tensors: spec.csv\n", text)
    with Path("spec.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["tensor"], row["axis"]) == ("attend.in_proj_weight", "0")]
    blocks = json.loads(rows[0]["blocks"])
    assert len(blocks) == 3 and {row["group"] for row in rows} == {name for block in blocks for name in block}
    assert {row["units"] for row in rows} == {"2", "4"} and {row["size"] for row in rows} == {"24"}
    facts = json.loads(run(capsys, *arguments, "--json"))
    axis = facts["tensors"]["attend.in_proj_weight"][0]
    assert axis == {"size": 24, "blocks": [[24]], "frozen": axis["frozen"]} and "on request only" in axis["frozen"]
    assert facts["attention"] is False and facts["input"] == [1, 3, 9, 9]


def test_trace_without_weights_finds_the_same_symmetry(capsys):
    arguments = ["trace", "nets.py:Net", "--input", "1,3,9,9", "--json"]
    assert json.loads(run(capsys, *arguments, "--meta")) == json.loads(run(capsys, *arguments))


def test_trace_writes_the_shapes_of_all_inputs(capsys):
    by_name = ["--input", "tokens=2,4:2..8", "--input", "mask=2,4:bool"]
    by_position = ["--input", "2,4:2..8", "--input", "2,4:bool"]
    facts = [json.loads(run(capsys, "trace", "nets.py:Reader", *how, "--json")) for how in (by_name, by_position)]
    assert facts[0].pop("input") == {"tokens": [2, 4], "mask": [2, 4]}
    assert facts[1].pop("input") == [[2, 4], [2, 4]]
    assert facts[0] == facts[1] and sorted(facts[0]["groups"].values()) == [5, 6]


def test_buffers_tied_names_and_unreached_tensors_have_their_reasons(capsys):
    facts = json.loads(run(capsys, "trace", "nets.py:Tied", "--input", "2,5", "--tokens", "7", "--json"))
    tensors = facts["tensors"]
    assert tensors["words.weight"] == tensors["head.weight"], "one tensor of two names"
    assert tensors["words.weight"][0]["frozen"] == "aten::embedding in layer 'words' indexes it by position"
    assert [axis["frozen"] for axis in tensors["table"]] == ["it has one position only", tensors["table"][1]["frozen"]]
    assert tensors["table"][1]["frozen"].startswith("its positions are those")
    assert tensors["unused.weight"][0]["frozen"] == "no run used the tensor" and "unused.weight" in facts["unreached"]
    assert tensors["steps"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nets.py:Net", "--out", "spec.yaml"], "--out: found spec.yaml; .json or .csv is needed"),
        (["nets.py:Net", "--input", "1,3,2,2"], "the network does not take an input of shape (1, 3, 2, 2)"),
        (["nets.py:Nett"], "did you mean 'Net'?"),
    ],
)
def test_trace_refuses_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, "trace", *arguments)


# ---- align


def test_align_finds_the_planted_permutation_and_keeps_the_names_of_the_file(capsys, folder):
    arguments = ["nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz", "-o", "out.safetensors"]
    facts = json.loads(run(capsys, "align", *arguments, "--permutation", "p.safetensors", "--json"))
    aligned = load_file("out.safetensors")
    assert aligned.keys() == {f"module.{name}" for name in folder}
    assert all(torch.equal(aligned[f"module.{name}"], tensor) for name, tensor in folder.items())
    assert facts["certificate"] < 1e-12 and sorted(g["moved"] for g in facts["groups"].values()) == [5, 6]
    with safe_open("p.safetensors", "pt") as file:
        stored_facts = json.loads(file.metadata()["facts"])
        assert stored_facts["certificate"] == facts["certificate"] and stored_facts["source"]["file"] == "b.pt"
        assert sorted(len(file.get_tensor(n)) for n in file.keys()) == [5, 6]  # noqa: SIM118 (not a dict)


def test_align_writes_torch_files_too_and_says_what_moved(capsys, folder):
    text = run(capsys, "align", "nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz", "-o", "out.pt")
    assert "11 of 11 units moved in 2 groups" in text and "certified" in text
    assert torch.equal(torch.load("out.pt", weights_only=True)["module.3.bias"], folder["3.bias"])


@pytest.mark.parametrize("method", ["correlation", "transport"])
def test_align_writes_b_unchanged_if_nothing_may_be_permuted(capsys, method):
    network = load("nets.py:Ordered")
    torch.save(network().state_dict(), "first.pt")
    b = {name: tensor.half() for name, tensor in network().state_dict().items()}
    torch.save({"model": b}, "second.pt")
    files = ["nets.py:Ordered", "first.pt", "second.pt", "--data", "mine.npz", "--method", method]
    text = run(capsys, "align", *files, "-o", "out.pt", "--permutation", "p.safetensors")
    assert text.startswith(CUMSUM) and text.count("\n") == 3
    assert "So B needs no permutation." in text
    aligned = torch.load("out.pt", weights_only=True)
    assert aligned.keys() == b.keys()
    assert all(torch.equal(aligned[n], t) and aligned[n].dtype == t.dtype for n, t in b.items())
    facts = json.loads(run(capsys, "align", *files, "--json"))
    assert facts["groups"] == {} and facts["certificate"] == 0 and facts["why"].startswith(CUMSUM)
    with safe_open("p.safetensors", "pt") as file:
        assert list(file.keys()) == [] and json.loads(file.metadata()["facts"])["certificate"] == 0


def test_align_reads_shards_and_writes_one_file_of_the_same_numbers(capsys, folder):
    """The shards are float64, which conversion to the network's float32 would change."""
    precise = {n: t.double() + 1e-9 for n, t in folder.items()}
    names = list(precise)
    Path("shards").mkdir()
    parts = {"m-00001-of-00002.safetensors": names[:5], "m-00002-of-00002.safetensors": names[5:]}
    for shard, tensors in parts.items():
        save_file({n: precise[n] for n in tensors}, Path("shards", shard))
    index = {"weight_map": {n: shard for shard, tensors in parts.items() for n in tensors}}
    Path("shards", "m.safetensors.index.json").write_text(json.dumps(index))
    arguments = ["nets.py:Net", "b.pt", "shards", "--data", "mine.npz", "-o", "out.safetensors", "--json"]
    facts = json.loads(run(capsys, "align", *arguments))
    assert facts["source"]["file"] == "shards" and len(facts["source"]["shards"]) == 3
    aligned = load_file("out.safetensors")
    assert aligned.keys() == precise.keys()
    assert all(torch.equal(aligned[n].sort(0).values, t.sort(0).values) for n, t in precise.items() if n[0] in "01")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a.safetensors", "c.pt"], "c.pt: no such file"),
        (["a.safetensors", "."], "checkpoints; name one of a.safetensors, b.pt"),
        (["a.safetensors", "pointer.pt"], "pointer.pt: is a pointer of Git LFS, not the file that it stands for"),
        (["a.safetensors", "a.safetensors"], "A and B are the same file"),
        (["a.safetensors", "nets.py"], "nets.py: neither a safetensors file nor one of torch.save, or damaged"),
        (["a.safetensors", "b.pt", "--option", "num_classes=7"], "logits (1, 4) are needed, one for each class"),
        (
            ["a.safetensors", "b.pt", "--option", "width=7"],
            "different shape: 0.weight is [6, 3, 3, 3], in the network [7",
        ),
        (["a.safetensors", "b.pt", "--inside", "ema"], "contains no tensor of the network inside 'ema'"),
        (
            ["a.safetensors", "b.pt", "--method", "corelation"],
            "--method: found 'corelation'; did you mean 'correlation'? (allowed: random, correlation, ",
        ),
        (["a.safetensors", "b.pt", "-o", "/dev/null/out.pt"], "/dev/null is no folder that can be written to"),
        (["a.safetensors", "b.pt", "-o", "out.h5"], "--output: found out.h5; .safetensors, .pt or .pth is needed"),
        (
            ["a.safetensors", "b.pt", "--data", "mine.zip"],
            "--data: found 'mine.zip'; a folder, a .npz file or a dataset",
        ),
    ],
)
def test_align_refuses_in_one_line(capsys, arguments, message):
    Path("pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    assert message in refused(capsys, "align", "nets.py:Net", "--data", "mine.npz", *arguments)
    assert not Path("out.h5").exists()


def test_heads_are_permuted_on_request(capsys):
    explain = ("explain", "nets.py:Attentive", "--input", "1,3,9,9", "--json")
    without, with_attention = (json.loads(run(capsys, *explain, *more)) for more in ((), ("--attention",)))
    heads = with_attention["groups"].keys() - without["groups"].keys()
    assert {group.rpartition("]")[2] for group in heads} == {":blocks", ":within"}
    network = load("nets.py:Attentive")()
    example = torch.rand(2, 3, 9, 9)
    spec = trace(network, example, attention=True).spec
    a = perturbed_state(network, 1)
    planted = random(spec, torch.Generator().manual_seed(2))
    save_file(a, "heads_a.safetensors")
    save_file({n: t.contiguous() for n, t in permute(spec, planted, a).items()}, "heads_b.safetensors")
    files = ["nets.py:Attentive", "heads_a.safetensors", "heads_b.safetensors", "--data", "mine.npz"]
    facts = json.loads(run(capsys, "align", *files, "-o", "out.safetensors", "--attention", "--json"))
    assert facts["groups"].keys() >= heads
    assert all(torch.equal(load_file("out.safetensors")[name], tensor) for name, tensor in a.items())
    facts = json.loads(run(capsys, "align", *files, "--json"))
    assert not heads & facts["groups"].keys()


@pytest.mark.parametrize(
    "arguments",
    [
        ["align", "nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz"],
        ["doctor", "nets.py:Net", "--data", "mine.npz", "--methods", "correlation", "--noise", "0", "--seeds", "1"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_compute_on_a_gpu_hold_a_slot_of_it(capsys, monkeypatch, arguments):
    held, placed = [], []

    @contextmanager
    def lease(gpus):
        held.append(gpus)
        yield
        held.pop()

    monkeypatch.setattr("neuralign.cli.devices.lease", lease)
    monkeypatch.setattr(setup, "device", lambda: placed.append(list(held)) or torch.device("cpu"))
    run(capsys, *arguments)
    assert placed and all(gpus == [1] for gpus in placed) and not held


DEVICES = {
    "align": ["nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz"],
    "connect": ["nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz"],
    "merge": ["nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz"],
    "doctor": ["nets.py:Net", "--data", "mine.npz"],
    "compare": ["nets.py:Net", "a.safetensors", "b.pt", "--input", "2,3,9,9"],
}


@pytest.mark.parametrize("command", DEVICES)
@pytest.mark.parametrize(
    ("device", "visible", "message"),
    [
        ("gpu", "", "--device: found 'gpu', cpu, cuda or cuda:N is needed"),
        ("cuda", "", "--device: found 'cuda', and no GPU is visible here; `cpu` is allowed"),
        ("cuda:2", "3,5", "--device: found 'cuda:2', and there is no such GPU (allowed: cpu, cuda:0, cuda:1)"),
    ],
)
def test_a_device_that_is_not_there_is_refused(capsys, monkeypatch, command, device, visible, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert message in refused(capsys, command, *DEVICES[command], "--device", device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible and not Path("connected").exists()


@pytest.mark.parametrize(("device", "slots", "visible"), [("cpu", 0, ""), ("cuda:1", 1, "5"), ("cuda", 1, "3,5")])
def test_a_device_is_the_only_one_that_is_visible(monkeypatch, device, slots, visible):
    held = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("neuralign.cli.devices.lease", lambda gpus: held.append(gpus) or nullcontext())
    monkeypatch.setattr(setup, "device", lambda: torch.device("cuda"))
    with on_device(device):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible and held == [slots]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU")
def test_a_gpu_that_torch_cannot_use_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    message = refused(capsys, "align", *DEVICES["align"], "--device", "cuda")
    assert "CUDA_VISIBLE_DEVICES names the GPU 0, which torch" in message and "cannot use: " in message


def test_without_data_a_gpu_is_refused(capsys):
    for command, arguments in {"merge": ["a.safetensors", "b.pt"], "doctor": []}.items():
        message = refused(capsys, command, "nets.py:Net", *arguments, "--device", "cuda")
        assert "--device: found 'cuda'; without --data all is computed on the CPU" in message


# ---- list


@pytest.mark.parametrize("kind", KINDS)
def test_list_says_of_everything_what_it_is(capsys, kind):
    Path("more.yaml").write_text("checkpoints: {a: {file: a.safetensors}, b: {file: b.pt}}\n")  # the default has none
    lines = run(capsys, "list", kind, "--configfile", "more.yaml").splitlines()
    rows = json.loads(run(capsys, "list", kind, "--configfile", "more.yaml", "--json"))[kind]
    assert [line.split()[0] for line in lines] == ["name", *(row["name"] for row in rows)] and len(rows) > 1
    assert all(row["settings"] if "settings" in row else row["what"] for row in rows)


def test_list_has_the_plug_ins_options_and_jobs(capsys):
    networks = {row["name"]: row for row in json.loads(run(capsys, "list", "networks", "--json"))["networks"]}
    assert networks["resnet32"]["plug-in"] == "resnet" and networks["resnet32"]["options"] == {"depth": 32}
    studies = {row["name"]: row for row in json.loads(run(capsys, "list", "studies", "--json"))["studies"]}
    assert studies["demo"]["jobs"] > 50 and studies["demo"]["what"] == "Neuron alignment on handwritten digits"
    Path("more.yaml").write_text("networks: {mine: {use: 'nets.py:Net', options: {width: 8}}}\n")
    text = run(capsys, "list", "networks", "--configfile", "more.yaml")
    assert re.search(r"^mine +\S*nets.py:Net +options=\S.* +the object \S*nets.py:Net$", text, re.M)


def test_list_has_every_section_of_the_config_and_its_settings(capsys):
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    assert {*KINDS} == {*config, "checkpoints", "metrics"} - {"default_study"}
    training = "{epochs: 3, batch_size: 8, lr: 0.5}"
    regime = f"{{normalise: false, attack: null, endpoint: {training}, curve: {training}}}"
    Path("more.yaml").write_text(f"regimes: {{mine: {regime}}}\n")
    text, settings = run(capsys, "list", "regimes", "--configfile", "more.yaml"), "(epochs=3 batch_size=8 lr=0.5)"
    assert f" normalise=false attack=null endpoint={settings} curve={settings}\n" in text
    assert re.search(r"^linear_sinkhorn +alignment=sinkhorn curve=linear$", run(capsys, "list", "methods"), re.M)


def test_list_refuses_other_kinds(capsys):
    message = "KIND: found 'study'; did you mean 'studies'? (allowed: datasets, networks, attacks, alignments, cohorts,"
    assert message in refused(capsys, "list", "study")


# ---- doctor


def test_doctor_recovers_all_units_without_noise_and_fewer_with_noise(capsys):
    arguments = ["nets.py:Net", "--input", "3,9,9", "--methods", "correlation", "--noise", "0", "30", "--seeds", "2"]
    facts = json.loads(run(capsys, "doctor", *arguments, "--images", "32", "--json"))
    overall = {row["noise"]: row for row in facts["rows"] if row["group"] == ""}
    assert overall[0]["recovered"] == 1 and overall[0]["n"] == 2 and overall[30]["recovered"] < 0.9
    assert facts["breaks"] == {"correlation": 30} and facts["images"] == "32 random images"
    text = run(capsys, "doctor", *arguments, "--images", "32")
    assert "1.000 ± 0.000" in text and "correlation: breaks at noise 30" in text and "n = 2 planted" in text


def test_doctor_uses_the_data_and_weights_of_its_options(capsys):
    arguments = ["nets.py:Net", "--data", "mine.npz", "--checkpoint", "b.pt", "--methods", "transport", "--noise", "0"]
    facts = json.loads(run(capsys, "doctor", *arguments, "--seeds", "1", "--json"))
    assert facts["images"] == "40 images of mine.npz" and facts["weights"] == "b.pt"
    assert facts["breaks"] == {"transport": None}


def test_doctor_says_that_nothing_may_be_permuted(capsys):
    for more in (["--input", "3,9,9"], ["--data", "mine.npz"]):
        arguments = ["nets.py:Ordered", *more, "--images", "8", "--seeds", "1", "--methods", "correlation"]
        text = run(capsys, "doctor", *arguments)
        assert text.startswith(CUMSUM) and text.endswith("So there is no permutation to recover.\n")
        assert text.count("\n") == 1
        facts = json.loads(run(capsys, "doctor", *arguments, "--json"))
        assert facts["rows"] == [] and facts["breaks"] == {} and facts["why"].startswith(CUMSUM)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nets.py:Net", "--input", "3,2,2"], "the network does not take an input of shape (2, 3, 2, 2)"),
        (["nets.py:Net", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such file"),
        (
            ["nets.py:Net", "--images", "99999999"],
            "--images: found 99999999 random images of 3,32,32, which are 3.1e+11 numbers; at most 1e+09 are allowed",
        ),
    ],
)
def test_doctor_refuses_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, "doctor", "--images", "8", *arguments, "--seeds", "1")


@pytest.mark.parametrize("level", ["nan", "-1", "inf", "much"])
def test_noise_must_be_a_number_from_0(capsys, level):
    assert f"--noise: found '{level}'; needed is a number, at least 0" in refused(
        capsys, "doctor", "nets.py:Net", f"--noise={level}"
    )


def test_doctor_refuses_two_kinds_of_images(capsys):
    assert "--input is the shape of random" in refused(
        capsys, "doctor", "nets.py:Net", "--data", "mine.npz", "--input", "3,9,9"
    )


# ---- connect (real runs: test_foreign_networks.py)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a.safetensors"], "CHECKPOINT: found 1; pairs are needed"),
        (["a.safetensors", "a.safetensors"], "a pair is two different seeds or checkpoints"),
        (["a.safetensors", "b.pt", "--points", "1"], "--points: found '1'; needed is a whole number, from 2 to 10,001"),
        (
            ["a.safetensors", "b.pt", "--method", "corelation"],
            "--method: found 'corelation'; did you mean 'correlation'? (allowed: ",
        ),
    ],
)
def test_connect_refuses_in_one_line_and_writes_nothing(capsys, arguments, message):
    assert message in refused(capsys, "connect", "nets.py:Net", *arguments, "--data", "mine.npz")
    assert not Path("connected").exists()


def test_connect_finds_the_files_that_the_config_names_by_relative_paths(monkeypatch):
    Path("own.yaml").write_text(
        """
        networks: {mine: {use: "./nets.py:Net"}, elsewhere: {use: "neuralign.api:align"}}
        datasets: {mine: {use: npz, path: mine.npz}}
        checkpoints: {first: {file: a.safetensors}, later: {file: later.pt}, far: {file: "hf-hub:org/name"}}
        regimes: {mine: {endpoint: {epochs: 1, batch_size: 8, lr: 0.1}, curve: {epochs: 1, batch_size: 8, lr: 0.1}}}
        """
    )
    monkeypatch.setattr("neuralign.cli.workflow_runs.start", lambda *_: 0)
    arguments = ["mine", "a.safetensors", "b.pt", "--data", "mine", "--configfile", "own.yaml", "--dry-run"]
    assert main(["connect", *arguments, "--out", "far/away"]) == 0
    monkeypatch.chdir("far/away")
    c = Catalogue(read_config([REPOSITORY / "config.yaml", Path("../../own.yaml"), Path("connect.yaml")]))
    here = str(Path("../..").resolve())
    assert c.entry("networks", "mine")["use"] == f"{here}/nets.py:Net"
    assert c.entry("datasets", "mine")["path"] == f"{here}/mine.npz"
    files = {name: c.entry("checkpoints", name)["file"] for name in ("first", "later", "far")}
    assert files == {"first": f"{here}/a.safetensors", "later": "later.pt", "far": "hf-hub:org/name"}
    assert c.entry("networks", "elsewhere")["use"] == "neuralign.api:align"


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ([], ["--quiet", "host", "rules", "--logger", "neuralign", "--cores", "all"]),
        (["--verbose"], ["--quiet", "host", "--cores", "all"]),
        (["--dry-run"], ["--quiet", "host", "--dry-run", "--cores", "all"]),
    ],
)
def test_connect_has_the_view_of_run_and_only_json_on_standard_output(capsys, monkeypatch, option, options):
    commands = []
    monkeypatch.setattr("neuralign.cli.workflow_runs.start", lambda command, *_: commands.append(command) or 1)
    arguments = ["nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz"]
    assert main(["connect", *arguments, *option, "--json"]) == 1
    assert commands[0][commands[0].index("--quiet") :] == options
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert out.count("\n") == 1 and facts["status"] == 1 and "--dry-run" not in facts["command"]
    assert main(["connect", *arguments, *option]) == 1
    assert capsys.readouterr().out.startswith("failed; the messages above say where, with paths in connected\nto run ")
    introduction = "Study connect: Curves between checkpoints of nets.py:Net. Its jobs write to connected/results/,"
    assert err == "" if "--dry-run" in option else " ".join(err.split()).startswith(introduction)


def test_paths_in_lists_and_overrides_are_made_absolute_with_their_list():
    config = {"regimes": {"x": {"augment": [{"use": "flip"}, {"use": "nets.py:f"}], "lr": 1}}, "default_study": "x"}
    config["datasets"] = {"d": {"overrides": [{"when": {"regime": "x"}, "path": "mine.npz"}]}}
    here = Path.cwd()
    assert absolute_paths(config) == {
        "regimes": {"x": {"augment": [{"use": "flip"}, {"use": f"{here}/nets.py:f"}]}},
        "datasets": {"d": {"overrides": [{"when": {"regime": "x"}, "path": f"{here}/mine.npz"}]}},
    }


def connected_network(network):
    """What the config of a dry run of `connect` in another folder says that NETWORK is."""
    assert main(["connect", network, "a.safetensors", "b.pt", "--data", "mine.npz", "--dry-run", "--out", "far"]) == 0
    ((_, entry),) = read_config([Path("far/connect.yaml")])["networks"].items()
    return entry["use"]


def test_connect_finds_a_module_of_the_working_directory_in_its_folder(capsys, monkeypatch):
    monkeypatch.setattr("neuralign.cli.workflow_runs.start", lambda *_: 0)
    assert connected_network("nets:Net") == f"{Path.cwd()}/nets.py:Net"
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])  # by `python -m neuralign`
    assert connected_network("nets:Net") == f"{Path.cwd()}/nets.py:Net"


def test_connect_refuses_a_package_that_no_job_finds(capsys, monkeypatch):
    monkeypatch.setattr("neuralign.cli.workflow_runs.start", lambda *_: 0)
    Path("package").mkdir()
    Path("package", "__init__.py").write_text("")
    shutil.copy("nets.py", "package/nets.py")
    message = (
        "package.nets:Net: its package is found in the working directory only, and the jobs run in another folder; "
        f"install the package, or have {Path.cwd()} in PYTHONPATH"
    )
    arguments = ["package.nets:Net", "a.safetensors", "b.pt", "--data", "mine.npz"]
    assert message in refused(capsys, "connect", *arguments) and not Path("connected").exists()
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path.cwd())])  # as PYTHONPATH does
    assert connected_network("package.nets:Net") == "package.nets:Net"


def test_connect_is_refused_while_another_run_works_in_its_folder(capsys):
    with exclusive(Path("connected")):
        text = refused(capsys, "connect", "nets.py:Net", "a.safetensors", "b.pt", "--data", "mine.npz")
    assert "another run is at work in connected (results/.running there is locked); wait for it, or end it" in text
    assert not Path("connected", "connect.yaml").exists()
