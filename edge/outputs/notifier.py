"""The loop's signs of life, for systemd."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from edge.outputs.contract import Output
from edge.service import notify, watchdog_s
from edge.types import Frame, Result

STATUS_EVERY_S = 1.0


class Notifier(Output):
    """Tells systemd of every result (sd_notify(3), no library needed).

    ``READY=1`` goes out with the first result: what a service that needs this one waits for is faces, not a process.
    ``WATCHDOG=1`` goes out with results alone, four times in the time that systemd waits; so a loop that is stuck
    anywhere, in the camera, the network or an output, is started again. ``STATUS`` is what ``systemctl status`` shows.

    Args:
        dropped: gives the frames that were dropped so far.
        environment: where systemd says what it wants: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID.
    """

    def __init__(self, dropped: Callable[[], int] = int, environment: Mapping[str, str] = os.environ) -> None:
        self._dropped, self._environment = dropped, environment
        self._every_s = watchdog_s(environment) / 4
        self._ready = False
        self._told = self._petted = time.monotonic()
        self._results = 0
        self.send("STATUS=opened; the first result is awaited")

    def write(self, frame: Frame, result: Result) -> None:
        """One more result; a datagram now and then. One that systemd could not take is sent again with the next."""
        now, lines = time.monotonic(), []
        self._results += 1
        first, due = not self._ready, bool(self._every_s) and now - self._petted >= self._every_s
        if first:
            lines.append("READY=1")
        if due or (first and self._every_s):
            lines.append("WATCHDOG=1")
        told = first or now - self._told >= STATUS_EVERY_S
        if told:
            faces = sum(face.visible for face in result.faces)
            rate = self._results / max(1e-9, now - self._told)
            lines.append(f"STATUS={rate:.1f} results/s, faces {faces}, dropped {self._dropped()}")
        if not lines or not self.send("\n".join(lines)):
            return
        self._ready = True
        self._petted = now if "WATCHDOG=1" in lines else self._petted
        if told:
            self._told, self._results = now, 0

    def finish(self, whole: bool) -> str | None:
        """Say that it stops; may be called twice."""
        self.send("STOPPING=1\nSTATUS=" + ("ended" if whole else "stopped"))
        return None

    def send(self, state: str) -> bool:
        """See :func:`notify`."""
        return notify(state, self._environment)
