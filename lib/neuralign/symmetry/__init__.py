"""Which permutations of neurons leave a network's function as it is, and the proof."""
