"""Adversarial attacks: a plug-in is `name(predict, pixels, labels, generator, *, ...options) -> pixels`.

`predict` maps pixels (n, c, h, w) in [0, 1] to the outputs of a network with fixed weights. An attack sees nothing else
of the network, so it can be used in training, on curves and in evaluation. It differentiates with respect to the pixels
only (`torch.autograd.grad`), which gradient checkpointing with `use_reentrant=True` does not support.
"""
