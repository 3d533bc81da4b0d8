"""Settings of the whole process, which a training changes for everything else that runs in it.

    prepare_process(on_cpu=True)        # before the first step of a training

They change speed, memory and what is printed, and no result.
"""

from __future__ import annotations

import ctypes
import logging
import os
import warnings

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_NEVER = -1
_LARGEST = (1 << 30, 32 << 20)  # bytes; older versions of glibc take no more than the second


def prepare_process(*, on_cpu: bool) -> None:
    """Silence Lightning's hints, do not fill new memory, and on a CPU keep freed memory."""
    quiet_lightning()
    # Deterministic algorithms would have torch fill every new tensor, which takes time and tells nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if on_cpu:
        keep_heap()


def quiet_lightning() -> None:
    """No hints about worker counts and hardware; our own lines say what matters."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    # FSDP, about operations in place on views, of which there are none.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")


def keep_heap() -> None:
    """Have glibc's malloc keep the memory of freed tensors for the next ones instead of giving it back to the kernel.

    The kernel clears every page that is asked for anew: a fifth of a training step. Without effect on other C libraries, and where the
    user has set up malloc (MALLOC_..., GLIBC_TUNABLES).
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        any(library.mallopt(_M_MMAP_THRESHOLD, size) for size in _LARGEST)
