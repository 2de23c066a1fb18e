"""Which permutation of its neurons brings one network close to another."""
