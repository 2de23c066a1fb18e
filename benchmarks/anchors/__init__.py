"""Numbers that others have published, computed again."""
