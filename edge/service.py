"""Being a service of systemd: it is told that the loop lives, by the loop itself, and the journal how grave a line is.

Without systemd none of this does anything.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from edge.outputs.contract import Output
from edge.types import Frame, Result

STATUS_EVERY_S = 1.0

_LOG = logging.getLogger(__name__)


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


def asked_for(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody wants to be notified."""
    return bool(environment.get("NOTIFY_SOCKET"))


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send assignments, one a line, to systemd's socket.

    Returns:
        Whether they were sent. A service is not ended because nobody listens.
    """
    name = environment.get("NOTIFY_SOCKET", "")
    if name[:1] not in ("/", "@"):
        return False
    # '@' stands for the zero byte of Linux's abstract names.
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.sendto(state.encode(), address)
    except OSError as error:
        _LOG.debug("NOTIFY_SOCKET %s: %s", name, error.strerror)
        return False
    return True


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds after which systemd takes this process for stuck; 0 if it does not watch it."""
    microseconds, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or (process and process != str(os.getpid())):
        return 0.0
    return int(microseconds) / 1e6


def in_journal(stream: TextIO | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to a stream goes to the journal: JOURNAL_STREAM names its device and inode."""
    try:
        if stream is None:
            return False
        facts = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def graded(message: str, level: int, stream: TextIO | None, environment: Mapping[str, str] = os.environ) -> str:
    """A message as a stream should get it: in the journal, each line with its gravity (sd-daemon(3)).

    Args:
        message: one line or several.
        level: of Python's logging.
        stream: where it goes.
        environment: see :func:`in_journal`.
    """
    if not in_journal(stream, environment):
        return message
    return "\n".join(f"<{_gravity(level)}>{line}" for line in message.splitlines())


def log_to(stream: TextIO | None) -> None:
    """Where a stream is the journal, log to it with gravities, and also what is merely worth knowing."""
    if stream is None or not in_journal(stream):
        return
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Graded(stream))
    logger = logging.getLogger("edge")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


class _Graded(logging.Formatter):
    def __init__(self, stream: TextIO) -> None:
        super().__init__("%(message)s")
        self._stream = stream

    def format(self, record: logging.LogRecord) -> str:
        return graded(super().format(record), record.levelno, self._stream)


def _gravity(level: int) -> int:
    """The number for syslog: 3 error, 4 warning, 6 information, 7 debugging."""
    if level >= logging.ERROR:
        return 3
    return 4 if level >= logging.WARNING else 6 if level >= logging.INFO else 7
