"""Neuron alignment and mode connectivity for any PyTorch network.

Start with `symmetry` (what a permutation of neurons is), `curves` and `training`; `align` holds the alignment methods.
"""
