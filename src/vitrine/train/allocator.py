"""Memory that training frees is kept for its next step, on Linux with glibc."""

from __future__ import annotations

import ctypes
import platform

# <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to keep large freed blocks instead of giving them back to the kernel; whether it was told.

    A training step allocates and frees the same activations every time. By default glibc maps each large block anew,
    and the kernel zeroes its pages: about a tenth of a small model's step (``benchmarks/train.py --allocator``). The
    process keeps its peak memory until it ends; results do not change. Elsewhere than on glibc this does nothing.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MOST), (_M_TOP_PAD, 64 << 20))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)
