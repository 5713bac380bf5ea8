"""One camera, one watcher: who is second is told so, and who was first."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from edge.errors import SourceError


@contextlib.contextmanager
def claimed(source: str) -> Iterator[None]:
    """Hold a camera for as long as the block lasts; the kernel lets go of it when the process ends, however it ends.

    A camera is held by name, as an abstract socket: a device that is itself held open keeps its number when it is
    unplugged, and comes back under another one. Such names are seen within one network namespace. Sources that are no
    camera of this machine may be watched by several.

    Args:
        source: as ``edge run`` takes it.

    Raises:
        SourceError: another ``edge`` watches this camera.
    """
    device = device_of(source)
    if device is not None:
        name = str(device.resolve())
    elif source.startswith("csi://"):
        name = source.partition("?")[0]
    else:
        yield
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as lock:
        try:
            lock.bind(_address(name))
            lock.listen()  # so that who comes second can ask who was first
        except OSError as error:
            # Where the name can't be had for another reason, the camera may still be.
            if error.errno == errno.EADDRINUSE:
                raise SourceError(
                    f"{name}: the camera is busy: another edge watches it{_first(name)}; stop that, or choose another"
                ) from None
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


def _address(name: str) -> str:
    return f"\0edge-camera-{name}"[:107]  # all that an address can hold


def _first(name: str) -> str:
    """Who holds a camera's name, in brackets, as the kernel says; nothing where it does not."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        asking.connect(_address(name))
        process, user, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f" (pid {process}, user {user})"
    return ""
