"""How the C library deals with memory that is freed, which on a CPU decides what every activation costs."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory instead of giving it back to the system; whether it could be told.

    Each step makes and frees the same activations and gradients. glibc maps those of many MiB anew each time, and the
    first touch of every page then costs a fault: 4 to 13 % of a step. What a step takes at its peak is now held all
    the time, as a GPU's allocator does it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, which has no such setting
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
