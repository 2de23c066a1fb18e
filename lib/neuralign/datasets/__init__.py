"""Datasets of images, from their source to the memory of the device."""
