"""What the speed targets are measured with: `python -m benchmarks.run` (docs/speed.md).

Each topic is a module with `measure(*, quick: bool = False, device: str = "cpu") -> list[Row]`; its rows come from
`timing.row`. `quick` measures the same on tiny problems, to see that it runs; its times mean nothing.
"""
