"""One camera, one watcher: who is second is told so, and who was first."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from edge.errors import SourceError


@contextlib.contextmanager
def claimed(source: str) -> Iterator[None]:
    """Hold a camera for as long as the block lasts.

    A Video4Linux device is locked itself (flock(2)): it may be opened twice, and only the second one's pictures would
    fail to come. A CSI camera, which has no device file of its own, is an abstract socket's name. The kernel lets go of
    both when the process ends, however it ends. Other sources may be watched by several.

    Args:
        source: as ``edge run`` takes it.

    Raises:
        SourceError: another ``edge`` watches this camera.
    """
    with contextlib.ExitStack() as held:
        device = device_of(source)
        if device is not None:
            _lock(device, held)
        elif source.startswith("csi://"):
            _bind(source.partition("?")[0], held)
        yield


def device_of(source: str) -> Path | None:
    """The Video4Linux device that a source is, or None."""
    if source.isdecimal():
        return Path(f"/dev/video{int(source)}")
    if source.startswith("v4l2://"):
        return Path(unquote(source.removeprefix("v4l2://").partition("?")[0]))
    path = Path(source)
    return path if "://" not in source and path.is_char_device() else None


def holders(device: Path) -> list[str]:
    """Who has a device open, as ``name (pid 123)``: as far as this user may see; this process is left out."""
    found = []
    with contextlib.suppress(OSError):
        wanted = device.stat()
        for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda each: int(each.name)):
            if process.name == str(os.getpid()):
                continue
            # Processes end while they are looked at, and most are another user's.
            with contextlib.suppress(OSError):
                facts = [each.stat() for each in (process / "fd").iterdir() if os.readlink(each).startswith("/dev/")]
                if any(os.path.samestat(wanted, each) for each in facts):
                    found.append(f"{(process / 'comm').read_text().strip()} (pid {process.name})")
    return found


def busy(source: str, error: SourceError) -> SourceError:
    """An error about a camera, with those who have it open where there are any."""
    device = device_of(source)
    others = holders(device) if device is not None else []
    return SourceError(f"{error}; it is open in {', '.join(others)}: stop that first") if others else error


def _lock(device: Path, held: contextlib.ExitStack) -> None:
    try:
        number = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return  # what is wrong with it is the camera's to say
    held.callback(os.close, number)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        others = ", ".join(holders(device)) or "a process of another user"
        raise SourceError(
            f"{device}: the camera is busy: another edge watches it ({others}); stop that, or choose another camera"
        ) from None
    except OSError:
        return  # a device that can't be locked is opened as it is


def _bind(name: str, held: contextlib.ExitStack) -> None:
    lock = held.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)))
    try:
        lock.bind(f"\0edge-camera-{name}")
    except OSError:
        raise SourceError(
            f"{name}: the camera is busy: another edge watches it; stop that (systemctl status edge), or choose another"
        ) from None
