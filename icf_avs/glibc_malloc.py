"""How the process asks for memory: a step, or a clip, frees and takes the same hundreds of megabytes again."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt, from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed rather than hand it back to the system; False where there is no glibc.

    Pages that are given back must be cleared and mapped anew at the next step, which costs up to a fifth of it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    kept = [mallopt(TRIM_THRESHOLD, 2**31 - 1), mallopt(TOP_PAD, 2**28), mallopt(MMAP_THRESHOLD, 2**30)]
    return all(kept)
