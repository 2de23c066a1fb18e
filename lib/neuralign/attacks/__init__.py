"""Adversarial attacks: a plug-in is `name(predict, pixels, labels, generator, *, ...options) -> pixels`.

`predict` maps pixels in [0, 1] (n, c, h, w) to the network's outputs and has the weights closed over; an attack sees
nothing else, so the same function serves training, curves and evaluation. Weights that it closes over require no
gradients, so that an attack may call `backward()`.
"""
