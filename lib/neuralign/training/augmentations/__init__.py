"""Augmentations: a plug-in is `name(batch, *, ...options) -> pixels` (`training/augmentation.py`)."""
