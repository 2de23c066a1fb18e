"""Recipes, which say what results depend on, and checks of results and their notes of origin."""
