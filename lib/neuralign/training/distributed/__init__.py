"""Training of one model by several processes, one for each device, each of which computes a part of every batch."""
