"""Repairs of merged networks: a plug-in is `name(merge, *, ...options) -> state` (`merging/merge.py`)."""
