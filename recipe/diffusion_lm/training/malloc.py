"""Memory of a process that computes on a CPU.

    keep_heap()                     # before the first step of a training

It changes how the whole process uses memory, and no result.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_NEVER = -1
_LARGEST = (1 << 30, 32 << 20)  # bytes; older versions of glibc take no more than the second


def keep_heap() -> None:
    """Have glibc's malloc keep the memory of freed tensors for the next ones instead of giving it back.

    The kernel clears every page that is asked for anew: a fifth of a training step. Without effect on other C libraries, and where the
    user has set up malloc (MALLOC_..., GLIBC_TUNABLES).
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        any(library.mallopt(_M_MMAP_THRESHOLD, size) for size in _LARGEST)
