"""Neuron alignment: the permutation of one network's neurons that makes it most similar to another network."""
