"""Figures: a plug-in is `name(frame, *, ...options) -> Figure`."""
