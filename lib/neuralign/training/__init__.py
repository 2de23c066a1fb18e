"""Training of endpoints and curves, with attacks, augmentations and schedules; batch-norm statistics."""
