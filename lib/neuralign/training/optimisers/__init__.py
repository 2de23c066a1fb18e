"""Optimisers: a plug-in is `name(*, ...options) -> Optimiser`, see `optimiser.py`."""
