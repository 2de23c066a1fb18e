"""Weight matching of two language models of the size of GPT-2 XL in little memory: seconds, and the largest memory.

    python -m benchmarks.scale --width 1600 --depth 48 --folder FOLDER

writes two files of random weights to the folder, of which the second is the first with noise, permuted at random: the
residual stream, the heads of every attention, the channels within heads, and the units of every perceptron. It then
aligns the second with the first, and writes the mean of both, in a process of its own each, and prints one JSON object
with the shares of units that were put back, seconds, and the largest resident memory in GB. That includes what is
mapped from the files, which the system may take back.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from neuralign.alignment import ascent
from neuralign.alignment.agreement import Agreement
from neuralign.alignment.algorithms.weights import weights
from neuralign.alignment.birkhoff import assign
from neuralign.alignment.problem import Problem
from neuralign.alignment.recovery import recovered
from neuralign.common.seeding import stream
from neuralign.common.tensors import ComputedState, TensorFile, load_tensors, save_tensors, save_when_computed
from neuralign.datasets.arrays import Arrays
from neuralign.networks.architectures.gpt import gpt
from neuralign.networks.model import Model, parameters
from neuralign.networks.states import mean_state
from neuralign.symmetry import permutations
from neuralign.symmetry.permutations import PermutationSpec, permute_when_read
from neuralign.symmetry.tracing.trace import Trace, trace

HEADS, CONTEXT = 25, 1024
SMALL = {"vocabulary": 11, "context": 7, "width": 6, "heads": 3, "channels": 2, "units": 24}  # all sizes differ
FILES = ("target", "source", "planted", "aligned", "merged")


def main() -> None:
    """Run one step if it is named, else all of them, each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=1600, help="of the residual stream, a multiple of 25")
    parser.add_argument("--depth", type=int, default=48, help="number of blocks")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--noise", type=float, default=0.2, help="in standard deviations of the weights")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="do not delete the files")
    parser.add_argument("step", nargs="?", choices=list(STEPS))
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    result = {k: getattr(options, k) for k in ("width", "depth", "vocabulary", "noise", "dtype")}
    result["threads"] = torch.get_num_threads()
    for step in STEPS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale", *sys.argv[1:], step], stdout=subprocess.PIPE, check=True
        )
        result |= {f"{step}_{key}": value for key, value in json.loads(done.stdout).items()}
    if not options.keep:
        for name in FILES:
            path_of(options, name).unlink()
    print(json.dumps(result))


def path_of(options: argparse.Namespace, name: str) -> Path:
    """The file of a network or a permutation."""
    return Path(options.folder, f"{name}.safetensors")


def language_model(options: argparse.Namespace) -> tuple[nn.Module, Trace]:
    """The network, without numbers, and its symmetry: that of a narrow network of the same depth, with other sizes."""
    narrow = gpt(SMALL["vocabulary"], SMALL["context"], width=SMALL["width"], depth=options.depth, heads=SMALL["heads"])
    symmetry = trace(narrow, torch.zeros(2, SMALL["context"], dtype=torch.int64), attention=True)
    width = options.width
    sizes = {"vocabulary": options.vocabulary, "context": CONTEXT, "width": width, "heads": HEADS}
    sizes |= {"channels": width // HEADS, "units": 4 * width}
    replaced = {small: sizes[name] for name, small in SMALL.items()}
    spec = symmetry.spec
    spec = PermutationSpec(spec.axes, {group: replaced[n] for group, n in spec.sizes.items()}, spec.fixed)
    with torch.device("meta"):
        network = gpt(options.vocabulary, CONTEXT, width=width, depth=options.depth, heads=HEADS)
    return network, replace(symmetry, spec=spec)


def write(options: argparse.Namespace) -> dict[str, Any]:
    """Write both networks and the planted permutation."""
    network, symmetry = language_model(options)
    shapes = {name: p.shape for name, p in parameters(network).items()}
    dtype = getattr(torch, options.dtype)

    def draw(kind: str) -> Callable[[str], Tensor]:
        return lambda name: torch.randn(shapes[name], generator=stream(0, kind, name)).to(dtype)

    def draw_noisy_copy(name: str) -> Tensor:
        return draw("weights")(name).add_(draw("noise")(name), alpha=options.noise)

    planted = permutations.random(symmetry.spec, stream(0, "planted"))
    save_tensors(planted, path_of(options, "planted"))
    save_when_computed(ComputedState(shapes, draw("weights")), path_of(options, "target"))
    noisy = ComputedState(shapes, draw_noisy_copy)
    save_when_computed(permute_when_read(symmetry.spec, planted, noisy), path_of(options, "source"))
    return {"parameters": sum(shape.numel() for shape in shapes.values())} | _used()


def align(options: argparse.Namespace) -> dict[str, Any]:
    """Align the source with the target by weight matching."""
    network, symmetry = language_model(options)
    states = [TensorFile(path_of(options, name)) for name in ("target", "source")]
    nothing = Arrays(torch.zeros(1, CONTEXT, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))  # is not read
    problem = Problem(Model(network, None, None), symmetry, *states, nothing)
    assign(torch.eye(2))  # imports scipy
    start = perf_counter()
    with timed(ascent, "assign") as assigning, timed(Agreement, "score") as scoring:
        permutation = weights(problem, begin="barycentre", order="graph")
    seconds = perf_counter() - start
    save_tensors(permutation, path_of(options, "aligned"))
    shares = recovered(load_tensors(str(path_of(options, "planted"))), permutation)
    facts = {k: problem.facts[k] for k in ("agreement_before", "agreement", "steps")}
    facts |= {"least_recovered": min(shares.values()), "groups": len(shares), "seconds": round(seconds, 2)}
    facts |= {"score_seconds": round(sum(scoring), 2), "assign_seconds": round(sum(assigning), 2)}
    return facts | {"longest_assign_seconds": round(max(assigning), 2)} | _used()


def merge(options: argparse.Namespace) -> dict[str, Any]:
    """Write the mean of the target and the aligned source."""
    _, symmetry = language_model(options)
    target, source = (TensorFile(path_of(options, name)) for name in ("target", "source"))
    start = perf_counter()
    aligned = permute_when_read(symmetry.spec, load_tensors(str(path_of(options, "aligned"))), source)

    def mean(name: str) -> Tensor:
        return mean_state([{name: target[name]}, {name: aligned[name]}])[name]

    save_when_computed(ComputedState(list(target), mean), path_of(options, "merged"))
    return {"seconds": round(perf_counter() - start, 2)} | _used()


STEPS = {"write": write, "align": align, "merge": merge}


@contextmanager
def timed(owner: Any, name: str) -> Iterator[list[float]]:
    """A block in which the calls of a function are timed, in seconds each."""
    function, seconds = getattr(owner, name), list[float]()

    def run(*arguments: Any, **options: Any) -> Any:
        start = perf_counter()
        result = function(*arguments, **options)
        seconds.append(perf_counter() - start)
        print(f"{name} {len(seconds)}: {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
        return result

    with mock.patch.object(owner, name, run):
        yield seconds


def _used() -> Mapping[str, float]:
    """The largest resident memory of this process so far in GB, and its seconds on all cores."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1)}


if __name__ == "__main__":
    main()
