"""Alignments of several networks: `name(cohort, *, ...options) -> ({group: (n,)}, ...)`, one for each network, of which
the first is the identity (`alignment/common_frame/cohort.py`)."""
