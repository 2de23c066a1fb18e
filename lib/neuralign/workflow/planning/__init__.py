"""Hours, disk and memory of a study before anything starts."""
