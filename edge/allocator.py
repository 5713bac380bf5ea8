"""Memory that nobody uses any more goes back to the system.

glibc keeps what a thread frees for that thread's own later use. A camera that comes and goes leaves, with each of its
threads and each size of its pictures, room behind that the next one may not fit into: over an hour of faults a robot's
process grew by ten megabytes that held nothing (docs/soak.md).
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Hand whole free pages of all threads back. A few milliseconds at most; does nothing where the C library can't."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(ctypes.c_size_t(0))
