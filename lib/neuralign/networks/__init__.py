"""Networks: how one is called with given weights, its tensors, checkpoints of other people."""
