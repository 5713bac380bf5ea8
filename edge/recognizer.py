"""The front door: threads, freshness and shutdown around the pipeline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

import numpy as np

from edge import check
from edge.bundle import Bundle
from edge.camera import open_source
from edge.engine import open_engine
from edge.errors import ClosedError, OptionError, StaleResultError
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.mailbox import DropPolicy, Mailbox
from edge.pipeline import Pipeline
from edge.smooth import Smoothing
from edge.source import Source, check_frame
from edge.types import Frame, Result

READ_AHEAD = 4
"""Frames decoded ahead of the pipeline when nothing may be dropped."""

START_TIMEOUT_S = 10.0
"""The first call of ``latest`` waits this long for a first result."""

UNRELATED = Smoothing(time_constant_ms=0, margin=0, patience_ms=0, warm_up_ms=0)
"""For pictures that do not follow one another each answer stands alone."""

JOIN_TIMEOUT_S = 2.0
"""``close`` waits this long for a thread that is stuck in a device."""


class Recognizer:
    """Watches faces.

    Three ways to use it, one at a time: iterate over a source (every frame of a file, the newest of a camera), ask for
    the ``latest`` result in a control loop, or hand over frames with ``process``.

    Args:
        source: URI, path or camera number (see :mod:`edge.camera`); None when frames are handed to ``process``.
        bundle: name or path; None is the default one.
        backend: ``auto``, ``onnxruntime`` or ``tensorrt``. Only ``auto`` chooses; the others run or raise.
        precision: ``auto``, ``fp32``, ``fp16`` or ``int8``.
        landmarks: ``68`` or ``5`` (see :mod:`edge.faces.landmarks`).
        min_face: side of the smallest face to find, pixels; None is 60, and 40 for pictures.
        smoothing: how calm the output is; None is the default, and none at all for pictures.
        drop: what happens to frames when processing is slower; None waits for files and drops from cameras.

    Raises:
        EdgeError: a source, bundle, backend or option that can't be used; every message says what to do.

    Example:
        >>> with edge.Recognizer("file://clip.mp4") as recognizer:  # doctest: +SKIP
        ...     for result in recognizer:
        ...         for face in result.faces:
        ...             print(face.id, face.label, face.confidence)
    """

    def __init__(
        self,
        source: str | int | os.PathLike[str] | None = None,
        *,
        bundle: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        precision: str = "auto",
        landmarks: str = "68",
        min_face: int | None = None,
        smoothing: Smoothing | None = None,
        drop: DropPolicy | str | None = None,
    ) -> None:
        self._source: Source | None = None if source is None else open_source(source)
        apart = self._source is not None and not self._source.follows
        try:
            self.policy = _policy(drop, self._source)
            self.bundle = Bundle.open(bundle)
            self.engine = open_engine(self.bundle, backend, precision)
            check.require(self.bundle, check.check_preprocessing(self.bundle))
            check.require(self.bundle, check.check_engine(self.bundle, self.engine))
            self._pipeline = Pipeline(
                self.bundle,
                self.engine,
                FaceDetector(min_face if min_face is not None else 40 if apart else 60),
                Landmarks(landmarks),
                smoothing or (UNRELATED if apart else Smoothing()),
                always_search=apart,
            )
        except BaseException:
            if self._source is not None:
                self._source.close()
            raise
        self._one_at_a_time = threading.Lock()
        self._mailbox: Mailbox[Frame] | None = None
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._newest = _Newest()
        self._use: str | None = None
        self._next_index = 0
        self._last_captured_ns: int | None = None

    # -- one frame at a time ------------------------------------------------------------------------------------------

    def process(self, image: np.ndarray, captured_ns: int | None = None) -> Result:
        """Recognise the faces in one frame of a stream; frames of one recognizer are taken to follow one another.

        May be called from several threads: calls wait for each other.

        Args:
            image: BGR uint8 (H, W, 3), at least 16x16.
            captured_ns: when it was captured, nanoseconds on any clock that never goes back; None is now.

        Raises:
            FrameError: not such an array.
            OptionError: ``captured_ns`` is before the last frame's, or the recognizer is in another use.
            ClosedError: after ``close``.
        """
        picture = check_frame(image)
        self._begin("process")
        with self._one_at_a_time:
            now = time.monotonic_ns() if captured_ns is None else captured_ns
            if self._last_captured_ns is not None and now < self._last_captured_ns:
                raise OptionError(
                    f"captured_ns {now} is before the last frame's {self._last_captured_ns}; it may not go back"
                )
            self._last_captured_ns = now
            frame = Frame(self._next_index, now, picture, now)
            self._next_index += 1
            return self._pipeline.process(frame)

    # -- every frame of a source --------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Result]:
        """Results in order: one a frame for a file, the newest frames for a camera."""
        return (result for _, result in self.with_frames())

    def with_frames(self) -> Iterator[tuple[Frame, Result]]:
        """Like iterating, with the frame that each result is about.

        Raises:
            SourceError: the source can't be read any further; results up to then have been given.
        """
        source = self._begin("iterate")
        mailbox: Mailbox[Frame] = Mailbox(READ_AHEAD if self.policy is DropPolicy.WAIT else 1, self.policy)
        self._mailbox = mailbox
        self._spawn("edge-read", self._read, source, mailbox, False)
        try:
            while (frame := mailbox.get()) is not None:
                yield frame, self._pipeline.process(frame)
        finally:
            mailbox.close()

    @property
    def live(self) -> bool:
        """Whether the source is a camera."""
        return self._source is not None and self._source.live

    @property
    def fps(self) -> float:
        """The source's nominal frames a second; 0 without a source."""
        return 0.0 if self._source is None else self._source.fps

    @property
    def dropped(self) -> int:
        """Frames read but never processed, because newer ones had arrived."""
        return 0 if self._mailbox is None else self._mailbox.dropped

    # -- the newest result, for a control loop ------------------------------------------------------------------------

    def latest(self, max_age_ms: float = 100.0) -> Result:
        """The newest result, never an old one.

        The first call starts watching in the background and waits for the first result; later calls don't wait.
        A file is played at its own speed, as a camera would have delivered it.

        Args:
            max_age_ms: how long ago the frame may have been captured, milliseconds.

        Raises:
            StaleResultError: no result is that fresh.
            EdgeError: what stopped the watching, for example an unplugged camera.
        """
        if self._use != "latest":
            source = self._begin("latest")
            mailbox: Mailbox[Frame] = Mailbox(1, DropPolicy.DROP_OLDEST)
            self._mailbox = mailbox
            self._spawn("edge-read", self._read, source, mailbox, not source.live)
            self._spawn("edge-watch", self._watch, mailbox)
            self._newest.wait(START_TIMEOUT_S)
        self._begin("latest")
        result, read_ns = self._newest.get()
        if result is None:
            raise StaleResultError("no result yet; the first frame is still awaited")
        age_ms = (time.monotonic_ns() - read_ns) / 1e6
        if age_ms > max_age_ms:
            ended = ": the source has ended" if self._newest.ended else ""
            raise StaleResultError(f"newest result is {age_ms:.0f} ms old, allowed {max_age_ms:.0f} ms{ended}")
        return result

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop watching and release the source and the engine. May be called twice and from any thread."""
        self._use = "closed"
        self._stop.set()
        if self._mailbox is not None:
            self._mailbox.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_TIMEOUT_S)
        if self._source is not None:
            self._source.close()
        self.engine.close()

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, use: str) -> Source:
        """Enter a way of use, which is for good: its thread owns the pipeline's memory of the faces."""
        if self._use == "closed":
            raise ClosedError("this recognizer is closed; make a new one")
        if self._use not in (None, use) or (self._use == use == "iterate"):
            raise OptionError(f"this recognizer is already in use by {self._use!r}; make another one for {use!r}")
        if use != "process" and self._source is None:
            raise OptionError("this recognizer has no source; give one, as in edge.Recognizer('file://clip.mp4')")
        self._use = use
        return self._source  # type: ignore[return-value]  # None only for process, which doesn't look

    def _spawn(self, name: str, target: object, *arguments: object) -> None:
        thread = threading.Thread(name=name, target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _read(self, source: Source, mailbox: Mailbox[Frame], paced: bool) -> None:
        try:
            begun = time.monotonic_ns()
            for frame in source:
                image = check_frame(frame.image)
                if paced:
                    if self._stop.wait(max(0, begun + frame.captured_ns - time.monotonic_ns()) / 1e9):
                        break
                    frame = replace(frame, image=image, read_ns=time.monotonic_ns())
                if not mailbox.put(frame):
                    break
        except BaseException as error:
            mailbox.end(error)
        else:
            mailbox.end()

    def _watch(self, mailbox: Mailbox[Frame]) -> None:
        try:
            while (frame := mailbox.get()) is not None:
                self._newest.put(self._pipeline.process(frame), frame.read_ns)
        except BaseException as error:
            self._newest.end(error)
        else:
            self._newest.end(None)


class _Newest:
    """The newest result, and what ended the stream of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._result: Result | None = None
        self._read_ns = 0
        self._failure: BaseException | None = None
        self.ended = False

    def put(self, result: Result, read_ns: int) -> None:
        with self._changed:
            self._result, self._read_ns = result, read_ns
            self._changed.notify_all()

    def end(self, failure: BaseException | None) -> None:
        with self._changed:
            self._failure, self.ended = failure, True
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._result is not None or self.ended, seconds)

    def get(self) -> tuple[Result | None, int]:
        with self._changed:
            if self._failure is not None:
                raise self._failure
            return self._result, self._read_ns


def _policy(drop: DropPolicy | str | None, source: Source | None) -> DropPolicy:
    if drop is None:
        return DropPolicy.DROP_OLDEST if source is not None and source.live else DropPolicy.WAIT
    with suppress(ValueError):
        return DropPolicy(drop)
    raise OptionError(f"drop {drop!r} is unknown; expected one of {', '.join(policy.value for policy in DropPolicy)}")
