"""Alignment algorithms: a plug-in is `name(problem, *, ...options) -> {group: (n,)}` (`alignment/problem.py`)."""
