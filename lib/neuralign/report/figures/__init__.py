"""Figures: a plug-in is `name(frame, *, ...options) -> Figure`, where `frame` has one row per value."""
