"""Measurements of the speed targets: `python -m benchmarks.run` (docs/speed.md).

Each topic is a module with `measure(*, quick: bool = False, device: str = "cpu") -> list[Row]`; its rows are made by
`timing.row`. With `quick` the code runs on tiny problems, only to test that it works; its times mean nothing.
"""
