"""Memory that is kept: every step of a training frees its activations, and asks for as much again in the next.

The C library of Linux gives large pieces back to the system, which has to clear them anew: 6 % of a TinyTen step, 20 %
of an alignment of ResNet32 (LOG.md, 2026-11-24).
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST = 1 << 25  # bytes; glibc takes no more


def keep() -> bool:
    """Let this process keep what it frees, up to 2 GB and in pieces of up to 32 MB; False where that cannot be said."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return bool(library.mallopt(M_MMAP_THRESHOLD, LARGEST) and library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))
