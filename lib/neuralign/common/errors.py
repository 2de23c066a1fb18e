"""What a user gave and the library cannot use."""


class Refused(ValueError):
    """Names what was found and what is allowed, in a message that needs no traceback."""
