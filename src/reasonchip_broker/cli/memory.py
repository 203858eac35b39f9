"""What a broker's process asks of its memory: nobody stops to tidy it up."""

import ctypes
import gc

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
"""Parameters of glibc's `mallopt` (malloc.h)."""

KEPT_BYTES = 64 * 1024 * 1024
"""How much freed memory at the end of the heap the process keeps."""

MAPPED_BYTES = 4 * 1024 * 1024
"""What is at least this large is mapped by itself, and goes back to the system as soon as it is freed."""


def settle_memory() -> None:
    """No cyclic collection: with a million jobs it would stop the loop for half a second and find nothing: jobs have no cycles.

    And little is given back to the system: by default a read of a large payload, freed a moment later, is given back and asked for
    again each time, and the system fills each page with zeros.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    # Where another C library does the work there is no such function, and nothing is lost.
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(_TRIM_THRESHOLD, KEPT_BYTES)
        adjust(_MMAP_THRESHOLD, MAPPED_BYTES)
