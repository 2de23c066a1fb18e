"""Plug-ins that read a dataset: `name(cache, *, ...options) -> Dataset`."""
