"""The table over networks of torchvision, timm and transformers: what may be permuted, what is fixed, and the proof.

`python -m benchmarks.zoo` measures; timm and transformers are optional, and no test needs them.
"""
