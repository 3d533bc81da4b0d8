"""Process-wide settings for training: logging, memory initialisation and malloc.

    prepare_process(on_cpu=True)        # before the first step of a training

They affect speed, memory use and printed messages, but no result.
"""

from __future__ import annotations

import ctypes
import logging
import os
import warnings

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # constants of malloc.h
_NEVER = -1
_LARGEST = (1 << 30, 32 << 20)  # bytes; older versions of glibc accept only the second


def prepare_process(*, on_cpu: bool) -> None:
    """Silence Lightning's hints, leave new tensors uninitialised, and on a CPU keep freed memory."""
    quiet_lightning()
    # With deterministic algorithms torch would fill every new tensor, which takes time and is of no use here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if on_cpu:
        keep_heap()


def quiet_lightning() -> None:
    """Suppress Lightning's hints about worker counts and hardware."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    # FSDP warns about in-place operations on views, which training does not use.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")


def keep_heap() -> None:
    """Make glibc's malloc keep the memory of freed tensors instead of returning it to the kernel.

    Otherwise the kernel clears every newly allocated page, which takes a fifth of a training step. Without effect on
    other C libraries, and if the user has configured malloc (MALLOC_..., GLIBC_TUNABLES).
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        any(library.mallopt(_M_MMAP_THRESHOLD, size) for size in _LARGEST)
