"""Recipes, and notes of origin that are checked against them."""
