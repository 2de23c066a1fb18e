"""Estimates of the hours, disk space and memory of a study before it is run."""
