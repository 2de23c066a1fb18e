"""The check of a whole config (`check.check`), and of one entry at a time (`entries.read_entry`)."""
