"""Files that a program made for itself on this machine, and that nobody else can have written.

A TensorRT plan is executable code, and so is a compiled kernel: one that somebody else put there would run with this
process' rights. So the folder must be this user's own, up to the root nobody else may be able to replace it, and a file
is looked at through the descriptor that it is then read from.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from edge.errors import BackendError

VARIABLES = ("EDGE_CACHE", "CACHE_DIRECTORY")
"""Environment variables that name the cache: one's own choice, then what systemd gives a service."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """Where this machine's own files lie.

    ``EDGE_CACHE``, the cache that systemd gives a service, or ``edge-emotion`` in the user's cache folder.
    """
    for name in VARIABLES:
        # systemd separates several by colons.
        if given := os.environ.get(name, "").split(":")[0]:
            return Path(given)
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "edge-emotion"


def own_folder(folder: Path) -> Path:
    """A folder of the cache, made where it is not there yet, that this process alone may write.

    Args:
        folder: to be made, with its parents, for this user alone.

    Returns:
        Its real path.

    Raises:
        BackendError: it can't be made or written, or somebody else could put files there.
    """
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    except OSError as error:
        raise BackendError(
            f"{folder}: the cache can't be made ({error.strerror}); set EDGE_CACHE to a folder of your own"
        ) from error
    if problem := distrust(folder):
        raise BackendError(f"{problem}; set EDGE_CACHE to a folder of your own")
    real = folder.resolve()
    if not os.access(real, os.W_OK | os.X_OK):
        raise BackendError(f"{folder}: the cache can't be written here; set EDGE_CACHE to a folder of your own")
    return real


def distrust(folder: Path) -> str | None:
    """Why files in a folder may be somebody else's work, in words, or None.

    The folder must be this user's and written by nobody else; no folder above it may let others replace it.
    """
    own, real = os.geteuid(), folder.resolve()
    try:
        facts = real.stat()
        if not stat.S_ISDIR(facts.st_mode):
            return f"{folder} is no folder"
        if facts.st_uid != own:
            return f"{folder} belongs to user {facts.st_uid} and this process is user {own}: its files are not trusted"
        if facts.st_mode & OTHERS_WRITE:
            return f"{folder} can be written by others: its files are not trusted; type: chmod go-w {folder}"
        for above in real.parents:
            facts = above.stat()
            if facts.st_uid not in (0, own):
                return f"{above} belongs to user {facts.st_uid}, who could replace {folder}: it is not trusted"
            # In a sticky folder, such as /tmp, nobody can rename what is another's.
            if facts.st_mode & OTHERS_WRITE and not facts.st_mode & stat.S_ISVTX:
                return f"{above} can be written by others, who could replace {folder}; type: chmod go-w {above}"
    except OSError as error:
        return f"{folder} can't be looked at ({error.strerror})"
    return None


def read_own(path: Path) -> bytes:
    """The contents of a file of the cache.

    Raises:
        FileNotFoundError: there is none.
        BackendError: it is no plain file of this user's, others may write it, or it can't be read.
    """
    if not path.parent.exists():
        raise FileNotFoundError(path)
    if problem := distrust(path.parent):
        raise BackendError(problem)
    try:
        # Not through a link: whoever made one would choose the file. Nor waiting for a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BackendError(f"{path}: can't be read ({error.strerror}); type: rm {path}") from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & OTHERS_WRITE:
            raise BackendError(
                f"{path}: not a file that this user alone may write, so it is not trusted; type: rm {path}"
            )
        try:
            return file.read()
        except OSError as error:
            raise BackendError(f"{path}: can't be read ({error.strerror}); type: rm {path}") from error


def write_own(path: Path, data: bytes | memoryview) -> None:
    """Write a file of the cache so that its name stands for the whole of it, also after a power cut.

    Args:
        path: in a folder from :func:`own_folder`.
        data: its contents.

    Raises:
        BackendError: there is no room, or the folder can't be written.
    """
    partial = None
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, path)
        partial = None
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise BackendError(
            f"{path}: can't be written ({error.strerror}); make room, or set EDGE_CACHE to another folder"
        ) from error
    finally:
        if partial is not None and os.path.exists(partial):
            os.unlink(partial)
