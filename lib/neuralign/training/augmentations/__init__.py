"""Augmentations: a plug-in is `name(batch, *, ...options) -> Motion or Tint` (`training/augmentation.py`)."""
