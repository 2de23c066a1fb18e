"""Reading what sources hold: downloads, archives, pickles, pictures."""
