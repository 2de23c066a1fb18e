"""Objectives: a plug-in is `name(*, ...options) -> Objective` (`training/objective.py`)."""
