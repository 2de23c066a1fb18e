"""Curves in weight space, and what a network is at a point of one."""
