"""Freed memory is kept for the next step, where the C library would give it back and fetch it again page by page."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`."""


@cache
def keep_freed() -> bool:
    """Ask glibc to keep what is freed, once for the process; return whether there was a glibc to ask.

    A private step keeps output gradients to its end. Under glibc's defaults their memory comes fresh from the operating
    system in every step, page by page, which a step on the CPU feels. The largest size of the process stays as it
    was; what it once had, it keeps until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_MAX, 0))
