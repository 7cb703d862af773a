"""Large blocks of memory are kept between two batches, not given back and asked for again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def keep_blocks() -> bool:
    """Let this process keep what it frees; say whether the C library can (glibc).

    Else each layer's output is mapped anew, and the kernel zeroes it page by page: of a convolutional tower's time on a
    processor that is three quarters. For a process that encodes and ends: it needs more memory, at a batch of 64 photos
    of 224 x 224 some 2.7 GB instead of 1.8.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, another system
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 26))
    done = [mallopt(what, value) for what, value in settings]
    return all(done)
