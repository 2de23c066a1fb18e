"""Reading what sources hold: downloads, pictures."""
