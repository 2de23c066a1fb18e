"""Training of endpoints and curves, with attacks, augmentations and schedules; estimation of batch-norm statistics."""
