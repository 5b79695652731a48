"""Allocator settings of glibc. Each training step or clip frees and reallocates the same hundreds of megabytes."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt, from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory instead of returning it to the system. Returns False where there is no glibc.

    Returned pages must be cleared and mapped again at the next step, which takes up to a fifth of the step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    kept = [mallopt(TRIM_THRESHOLD, 2**31 - 1), mallopt(TOP_PAD, 2**28), mallopt(MMAP_THRESHOLD, 2**30)]
    return all(kept)
