"""Figures: a plug-in is `name(frame, metrics, *, ...options) -> Figure`; `frame` has one row per value."""
