"""Adversarial attacks: a plug-in is `name(predict, pixels, labels, generator, *, ...options) -> pixels`.

`predict` maps pixels in [0, 1] (n, c, h, w) to the network's outputs and has the weights closed over; an attack sees
nothing else, so the same function serves training, curves and evaluation. Gradients are taken with respect to the
pixels alone (`torch.autograd.grad`), which gradient checkpointing with `use_reentrant=True` refuses.
"""
