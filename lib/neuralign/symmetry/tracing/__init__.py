"""Tracing: the permutation symmetry of any network, from recorded runs of it. Begin with `trace.py`."""
