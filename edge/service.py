"""Being a service of systemd: what it is told, and how grave a line of its journal is.

Without systemd none of this does anything. Nothing heavy is imported here: refusals come this way too.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import TextIO

_LOG = logging.getLogger(__name__)


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
