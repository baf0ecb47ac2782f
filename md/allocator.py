"""Memory that is freed is kept for the next evaluation, instead of going back to the system.

A batch allocates and frees the same large tensors at every step. As it comes, the C library of
Linux gives such memory back at once, and to get it anew the system clears it page by page: of an
evaluation of 32 slabs by the shipped model that was a third.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library for the rest of the process; False where it is another than GNU's.

    The process holds what it needed most until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # Older versions take no more than 32 MiB; a tensor larger than that comes and goes as before.
    for size in (2**30, 2**25):
        if mallopt(_M_MMAP_THRESHOLD, size):
            return bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
    return False
