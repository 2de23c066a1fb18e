"""Checks of the config: of a whole config in `check`, of one entry in `entries`."""
