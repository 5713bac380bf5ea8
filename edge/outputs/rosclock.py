"""The clock of the day, by which ROS stamps are. The only place in ``edge`` that asks for it.

Everything else is measured on the monotonic clock: this one steps when somebody sets it, and then the stamps do too, as
those of every ROS node on the machine.
"""

from __future__ import annotations

import time


def now_ns() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()
