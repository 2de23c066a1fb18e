"""Figures that a reader can turn, zoom and ask for numbers, for HTML pages that load no other file."""
