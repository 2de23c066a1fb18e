"""Alignment algorithms: a plug-in is `name(problem, *, ...options) -> permutation` (`alignment/problem.py`)."""
