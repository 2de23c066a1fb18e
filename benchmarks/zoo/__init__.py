"""The table of networks of torchvision, timm and transformers: what may be permuted, what is fixed, and checks of it.

`python -m benchmarks.zoo` measures; timm and transformers are optional, and no test needs them.
"""
