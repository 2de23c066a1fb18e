"""Curves in weight space, and the network at any of their points."""
