"""A run kept on disk, so that it can be had again: what was seen, under which settings, and what was answered.

    manifest.json   the run's settings, versions and bundle; when it was closed in order, its counts
    frames.jsonl    one line a frame, in order: index, capture time, and where its contents are
    frames/*.png    the frames themselves, lossless
    results.jsonl   one line a result, as ``edge run --jsonl`` writes it
    tensors.bin     of a private recording, in place of ``frames``: what the engine was given, deflated

A frame's contents are written before its line, and its line before its result, so a recording that was killed, or that
filled the disk, is whole up to its last whole line. :mod:`edge.replay` reads it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np

from edge.device import describe, version
from edge.errors import OptionError, OutputError
from edge.faces.quality import Limits
from edge.mailbox import DropPolicy, Mailbox
from edge.outputs.jsonl import line
from edge.smooth import Smoothing
from edge.types import Frame, Image, Result, Tensor

if TYPE_CHECKING:
    from edge.pipeline import Seen

SCHEMA = 1
"""Version of the format that this version writes and reads."""

MANIFEST, FRAMES, RESULTS, TENSORS, PICTURES = "manifest.json", "frames.jsonl", "results.jsonl", "tensors.bin", "frames"

BACKLOG = 16
"""Frames and results that may wait for the disk; then the loop waits, and a camera's older frames are dropped."""

ENCODERS = 4
"""Threads that compress frames, at most, and at most half the cores: one does about 140 frames of 640x480 a second."""

DECIDING = ("edge", "numpy", "opencv", "dlib", "face_recognition_models", "onnxruntime")
"""Packages whose version may change a result."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything but the frames that decides a run's results, and where it was made."""

    private: bool
    source: str
    """As messages call it: without user, password and query."""
    fps: float
    live: bool
    apart: bool
    """Whether the pictures do not follow one another."""
    bundle: str
    """Name of a packaged bundle, or a path."""
    digest: str
    """The bundle's (:func:`edge.manifest.digest`)."""
    backend: str
    """The one that ran, never ``auto``; so too ``precision``."""
    precision: str
    landmarks: str
    min_face: int
    smoothing: Smoothing = field(default_factory=Smoothing)
    limits: Limits = field(default_factory=Limits)
    versions: Mapping[str, str | None] = field(default_factory=lambda: versions())
    processor: str = field(default_factory=lambda: describe().processor)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Facts:
        """Of the JSON object that ``asdict`` gives.

        Raises:
            KeyError, TypeError, ValueError: something is missing, unknown or garbled.
        """
        facts = dict(document)
        return cls(
            **{**facts, "smoothing": Smoothing(**facts["smoothing"]), "limits": Limits(**facts["limits"])},
        )


def versions() -> dict[str, str | None]:
    """Version by package, of those that may change a result."""
    from edge import __version__

    return {name: __version__ if name == "edge" else version(name) for name in DECIDING}


class Recorder:
    """Writes a recording. A thread of its own writes; others compress frames.

    Args:
        folder: made here; one that is there must be empty.
        facts: of the run. With ``private`` no picture is kept: only what the engine was given, and the boxes.

    Raises:
        OptionError: the folder can't be made, or holds something.
    """

    def __init__(self, folder: str | os.PathLike[str], facts: Facts) -> None:
        self.folder, self.facts = Path(folder), facts
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise OptionError(f"{folder}: is not empty, and a recording never writes over anything; choose another")
            if not facts.private:
                (self.folder / PICTURES).mkdir()
            self._files = {name: (self.folder / name).open("wb") for name in (FRAMES, RESULTS)}
            if facts.private:
                self._files[TENSORS] = (self.folder / TENSORS).open("wb")
            self._manifest(None)
        except (OSError, ValueError) as error:
            if isinstance(error, OptionError):
                raise
            reason = error.strerror if isinstance(error, OSError) else error
            raise OptionError(f"{folder}: can't be recorded to ({reason}); choose another folder") from error
        self._tasks: Mailbox[Callable[[], None]] = Mailbox(BACKLOG, DropPolicy.WAIT)
        self._encoders = ThreadPoolExecutor(
            max(1, min(ENCODERS, (os.cpu_count() or 1) // 2)), thread_name_prefix="edge-encode"
        )
        self._failure: OutputError | None = None
        self._told = self._closed = False
        self._closing = Lock()
        self._count = self._answered = self._bytes = self._missing = 0
        self._last: int | None = None
        self._writer = Thread(target=self._write, name="edge-record", daemon=True)
        self._writer.start()

    def looked(self, frame: Frame, degraded: tuple[str, ...] = ()) -> None:
        """A frame that was searched for faces, whether or not it will be answered; the picture may not change later.

        Args:
            frame: as it was searched.
            degraded: the steps of :mod:`edge.budget` that it was done with.

        Raises:
            OutputError: the recording can't go on, as on a full disk.
        """
        if self.facts.private or self._closed:
            return
        try:
            encoded = self._encoders.submit(_encode, frame.image)
        except RuntimeError:  # closed a moment ago
            return
        self._put(lambda: self._frame(frame, degraded, encoded))

    def answered(self, seen: Seen, fed: Mapping[int, Mapping[str, Tensor] | None], result: Result) -> None:
        """A frame's result; after :meth:`looked` of that frame.

        Args:
            seen: what the frame shows.
            fed: by id, of the faces that are there, what the engine was given; None where that was nothing.
            result: what came of it.

        Raises:
            OutputError: the recording can't go on, as on a full disk.
        """
        if self._closed:
            return
        if self.facts.private:
            self._put(lambda: self._seen(seen, fed))
        self._put(lambda: self._result(result))

    def close(self) -> None:
        """Write what waits, and the counts. Never raises: :meth:`settle` does. May be called twice."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._tasks.end()
            self._writer.join()
            self._encoders.shutdown()
            for file in self._files.values():
                try:
                    file.close()
                except OSError as error:
                    self._failed(error)
            if self._failure is None:
                try:
                    self._manifest(
                        {
                            "frames": self._count,
                            "results": self._answered,
                            "missing": self._missing,
                            "bytes": self._bytes,
                        }
                    )
                except OSError as error:
                    self._failed(error)

    def settle(self) -> None:
        """After :meth:`close`: say if something could not be written and nobody was told yet.

        Raises:
            OutputError: so it is.
        """
        if self._failure is not None and not self._told:
            self._told = True
            raise self._failure

    # -- on the thread that writes ------------------------------------------------------------------------------------

    def _write(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                task()
        except Exception as error:
            self._failed(error)
        finally:
            self._tasks.close()

    def _frame(self, frame: Frame, degraded: tuple[str, ...], encoded: Future[bytes]) -> None:
        data = encoded.result()
        path = self.folder / PICTURES / f"{self._count:08d}.png"
        try:
            path.write_bytes(data)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._index(frame, degraded, len(data), {"bytes": len(data), "crc32": zlib.crc32(data)})

    def _seen(self, seen: Seen, fed: Mapping[int, Mapping[str, Tensor] | None]) -> None:
        faces, size = [], 0
        for one in seen.sightings:
            given = fed.get(one.id)
            kept = None if given is None else {name: self._tensor(tensor) for name, tensor in given.items()}
            size += sum(entry["bytes"] for entry in (kept or {}).values())
            faces.append(
                {
                    "id": one.id,
                    "box": [float(v) for v in (one.box.x, one.box.y, one.box.width, one.box.height)],
                    "seen_ns": one.seen_ns,
                    "confirmed_ns": one.confirmed_ns,
                    # None for a face that is not there.
                    "problems": None if one.id not in seen.problems else list(seen.problems[one.id]),
                    "tensors": kept,
                }
            )
        self._index(seen.frame, seen.degraded, size, {"faces": faces})

    def _tensor(self, tensor: Tensor) -> dict[str, Any]:
        file = self._files[TENSORS]
        data = zlib.compress(np.ascontiguousarray(tensor).tobytes(), 1)
        at = file.tell()
        _append(file, data)
        return {
            "at": at,
            "bytes": len(data),
            "crc32": zlib.crc32(data),
            "shape": list(tensor.shape),
            "dtype": tensor.dtype.name,
        }

    def _index(self, frame: Frame, degraded: tuple[str, ...], size: int, contents: Mapping[str, Any]) -> None:
        entry = {"frame": frame.index, "captured_ns": frame.captured_ns, **contents}
        if degraded:
            entry["degraded"] = list(degraded)
        _append(self._files[FRAMES], json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        if self._last is not None:
            self._missing += max(0, frame.index - self._last - 1)
        self._last, self._count, self._bytes = frame.index, self._count + 1, self._bytes + size

    def _result(self, result: Result) -> None:
        _append(self._files[RESULTS], line(result).encode() + b"\n")
        self._answered += 1

    # -- inside -------------------------------------------------------------------------------------------------------

    def _put(self, task: Callable[[], None]) -> None:
        if not self._tasks.put(task) and self._failure is not None:
            self._told = True
            raise self._failure

    def _failed(self, error: Exception) -> None:
        if self._failure is None:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            self._failure = OutputError(
                f"{self.folder}: the recording ends after {self._count} frames ({reason}), which can be replayed; "
                "make room, and record to another folder"
            )

    def _manifest(self, ended: Mapping[str, int] | None) -> None:
        document = {"schema": SCHEMA, "run": asdict(self.facts), "ended": ended}
        staging = self.folder / f"{MANIFEST}.partial"
        staging.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        os.replace(staging, self.folder / MANIFEST)


def _encode(image: Image) -> bytes:
    # OpenCV's own choice of level and filter: a fifth more bytes than its best here, in half the time.
    return bytes(cv2.imencode(".png", image)[1])


def _append(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    # So that it outlives the process, however that ends.
    file.flush()
