"""Families of curves: a plug-in is `name(t, *, ...options) -> weights of the control points` (`curves/curve.py`)."""
