"""The permutation symmetry of any network, from recorded runs of it."""
