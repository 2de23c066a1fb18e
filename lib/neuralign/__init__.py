"""Neuron alignment and mode connectivity for any PyTorch network.

The packages, in the order in which they build on each other: common, config, datasets, networks, symmetry, curves,
training, alignment, evaluation, report, workflow, cli. `api` has the calls for programs of your own.
"""
