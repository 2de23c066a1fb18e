"""Plug-ins for neuralign."""
