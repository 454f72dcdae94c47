"""How a worker that does the same thing again and again holds its memory."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of parameters, see mallopt(3)."""
KEPT = 1 << 29
"""At most so many free bytes are held at the end of the heap for the next photo."""
LARGEST = 1 << 28
"""Larger arrays come from the system and go back to it, as those of one huge photo should."""
LARGEST_EVERYWHERE = 1 << 25
"""The most that old versions of glibc take for that."""


def keep_freed_memory() -> None:
    """Let this process use memory again that it has freed, rather than give it back and ask for it anew.

    By default glibc maps each large array by itself and unmaps it when it is freed, so that the system clears all the
    pages again for the next one: a tenth of the time of a fit. What a process holds at most hardly changes. Does
    nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter is None:  # another C library
        return
    # one without the other would make it worse: setting either ends the growth of both by themselves
    if set_parameter(_MMAP_THRESHOLD, LARGEST) or set_parameter(_MMAP_THRESHOLD, LARGEST_EVERYWHERE):
        set_parameter(_TRIM_THRESHOLD, KEPT)
