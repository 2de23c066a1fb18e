"""The measurements on a GPU: `python -m benchmarks.gpu [section ...] --out FOLDER` (docs/speed.md).

Each section is a module with `measure(result: Result, device: str, quick: bool) -> None`, which adds its numbers and
checks to `result`. With `quick` the same lines run on tiny problems; the times then mean nothing.
"""
