"""Memory that is freed and needed again a moment later."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Names of glibc's ``mallopt``."""
_GROWTH = 64 * 2**20
"""Bytes."""


@cache
def keep_freed_memory() -> bool:
    """From now on this process keeps large blocks that it frees, for the next tensors of their size.

    The C library of Linux (glibc) gives blocks above 32 MB back to the system, so every large tensor of every step
    would be paid for with thousands of page faults: up to a quarter of a training step on the CPU. Called by whatever
    trains or predicts here; a program of your own decides for itself, since it concerns the whole process.

    Returns:
        Whether this system's C library can be told so.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_TOP_PAD, _GROWTH)])
