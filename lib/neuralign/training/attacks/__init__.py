"""Adversarial attacks: a plug-in is `name(predict, pixels, labels, generator, *, ...options) -> pixels`.

`predict` maps pixels (n, c, h, w) in [0, 1] to the outputs of a network with fixed weights. As an attack sees nothing
else of the network, the same attack serves training, curves and evaluation. It differentiates with respect to the
pixels only (`torch.autograd.grad`), which gradient checkpointing with `use_reentrant=True` does not support.
"""
