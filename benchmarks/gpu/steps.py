"""The step of every kind of training: its time, images per second, synchronisations, memory, and a lower bound."""

import warnings
from collections.abc import Callable

import torch

from benchmarks.gpu import paper
from benchmarks.gpu.floor import Speeds, measured_speeds, work_of
from benchmarks.gpu.memory import peak, release
from benchmarks.gpu.result import Result
from benchmarks.gpu.trainings import Kind, kinds, recording, seconds_per_step


def measure(result: Result, device: str, quick: bool) -> None:
    """Steps of every network, kind and precision, recorded as a CUDA graph and not."""
    c = paper.catalogue(quick)
    lengths, repeats = ((1, 2), 1) if quick else ((32, 96), 5)  # whole blocks of augmentation
    speeds = measured_speeds(device, quick=quick)
    result.number("copy of a large tensor", [speeds.bytes / 1e12], "TB/s read and written")
    for precision, flops in speeds.flops.items():
        result.number(f"large matrix product, {precision}", [flops / 1e12], "TFLOP/s", "TF32 on a GPU for float32")
    for network, title in paper.networks(quick).items():
        with result.part(title):
            for kind in kinds(c, network, device):
                for precision in kind.precisions[-1:] if quick else kind.precisions:
                    what = f"{title}, {kind.name}, {precision}"
                    with result.part(what):
                        timed = _time(result, what, kind, precision, lengths, repeats, device)
                        _bound(result, what, kind, precision, lengths, speeds, timed)


def _time(
    result: Result, what: str, kind: Kind, precision: str, lengths: tuple[int, int], repeats: int, device: str
) -> dict[str, list[float]]:
    """{recorded or not: seconds of a step in each round}; also memory and synchronisations."""
    steps, timed = kind.epoch(precision), {}
    note = f"batches of {kind.batch_size}, epochs of {lengths[0]} and {lengths[1]} steps"
    for way, wanted in (("not recorded", False), ("recorded", True)):
        with recording(wanted):
            timed[way] = seconds_per_step(steps, lengths, repeats, device)
            release(device)
            steps(lengths[0])()
            tensors, reserved = peak(device)
            waits = [synchronisations(steps(length), device) for length in lengths]
        result.number(f"{what}, {way}: time", [s * 1e3 for s in timed[way]], "ms a step", note)
        result.number(f"{what}, {way}: speed", [kind.batch_size / s for s in timed[way]], "images/s", note)
        result.number(f"{what}, {way}: memory", [tensors], "MiB", f"of tensors; {reserved:.0f} MiB reserved")
        per_step = (waits[1] - waits[0]) / (lengths[1] - lengths[0])
        result.check(f"{what}, {way}: synchronisations a step", per_step <= 0, found=per_step, allowed=0)
    return timed


def _bound(
    result: Result,
    what: str,
    kind: Kind,
    precision: str,
    lengths: tuple[int, int],
    speeds: Speeds,
    timed: dict[str, list[float]],
) -> None:
    """What a step computes and moves, a lower bound on its time, and how far above that the `timed` steps are."""
    with recording(False):
        short, long = (work_of(kind.epoch(precision)(length)) for length in lengths)
    work = long.per_step(short, lengths[1] - lengths[0])
    bound = speeds.seconds(work, precision)
    result.number(f"{what}: operations", [work.operations], "a step", "that are no views")
    result.number(f"{what}: arithmetic", [work.flops / 1e9], "GFLOP a step", "products and convolutions")
    result.number(f"{what}: traffic", [work.bytes / 1e6], "MB a step", "if every operation goes to memory, no cache")
    result.number(f"{what}: lower bound", [bound * 1e3], "ms a step", "by arithmetic and traffic at the speeds above")
    for way, seconds in timed.items():
        result.number(f"{what}, {way}: time over the lower bound", [s / bound for s in seconds], "", "")


def synchronisations(action: Callable[[], object], device: str) -> int:
    """Number of operations in `action` that synchronise with the GPU, as PyTorch reports them; 0 on a CPU."""
    if device == "cpu":
        action()
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught)
