"""The front door: threads, freshness and shutdown around the pipeline."""

from __future__ import annotations

import logging
import operator
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from edge import check
from edge.budget import Budget, ladder
from edge.bundle import DEFAULT, Bundle, packaged
from edge.camera import open_source
from edge.engine import Engine, choices, open_engine
from edge.errors import BundleError, ClosedError, OptionError, OutputError, StaleResultError
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import DEFAULT_MODEL, Landmarks
from edge.mailbox import DropPolicy, Mailbox
from edge.manifest import to_document
from edge.pipeline import Pipeline, Seen
from edge.record import Facts, Recorder
from edge.smooth import Smoothing
from edge.source import Source, SourceHealth, check_frame
from edge.types import Frame, Result

_LOG = logging.getLogger(__name__)

READ_AHEAD = 4
"""Frames decoded ahead of the pipeline when nothing may be dropped."""

LOOK_AHEAD = 2
"""Frames whose faces may be found before the network has answered for those before, when nothing may be dropped."""

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

    The first two overlap reading, finding faces and reading expressions on threads of their own, frame after frame;
    results are those of doing one after the other.

    Args:
        source: URI, path, camera number, any iterable of pictures, or a Source (see :mod:`edge.camera`); None when
            frames are handed to ``process``.
        bundle: name or path; None is the default one.
        backend: ``auto``, ``onnxruntime`` or ``tensorrt``. Only ``auto`` chooses; the others run or raise.
        precision: ``auto``, ``fp32``, ``fp16`` or ``int8``; ``auto`` is the fastest that the bundle has and that gives
            the bundle's own answers on this machine.
        landmarks: ``5`` or ``68`` (see :mod:`edge.faces.landmarks`).
        min_face: side of the smallest face to find, pixels; None is 60, and 40 for pictures.
        smoothing: how calm the output is; None is the default, and none at all for pictures.
        drop: what happens to frames when processing is slower; None waits for files and drops from cameras.
        record: folder in which to keep the run, so that :class:`edge.Replay` gives it again; it may not hold anything.
        record_private: keep no picture there, only the boxes and what the network is given.
        budget_ms: what a frame may cost, milliseconds; where it costs more, less is done, see :mod:`edge.budget`.
        spare: name or path of a bundle that reads faces where all else does not keep the budget: a smaller one with the
            same labels, that sees one face at a time. Only with ``budget_ms``, and not with ``record``.

    Raises:
        EdgeError: a source, bundle, backend or option that can't be used; every message says what to do.

    Example:
        >>> with edge.Recognizer("synthetic://?frames=20") as recognizer:
        ...     for result in recognizer:
        ...         for face in result.faces:
        ...             if face.visible and result.frame == 19:
        ...                 print(face.id, face.label, face.state.value)
        1 happy ok
    """

    def __init__(
        self,
        source: str | int | os.PathLike[str] | Iterable[object] | Source | None = None,
        *,
        bundle: str | os.PathLike[str] | None = None,
        backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto",
        precision: Literal["auto", "fp32", "fp16", "int8"] = "auto",
        landmarks: Literal["5", "68"] = DEFAULT_MODEL,
        min_face: int | None = None,
        smoothing: Smoothing | None = None,
        drop: DropPolicy | Literal["wait", "drop_oldest"] | None = None,
        record: str | os.PathLike[str] | None = None,
        record_private: bool = False,
        budget_ms: float | None = None,
        spare: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(smoothing, Smoothing | None):
            raise OptionError(f"smoothing is {smoothing!r}; expected an edge.Smoothing")
        if record_private and record is None:
            raise OptionError("record_private needs a folder to record to; give record='FOLDER' (--record FOLDER)")
        if spare is not None and budget_ms is None:
            raise OptionError("a spare bundle is for a budget that can't be kept; give budget_ms (--budget-ms) too")
        if spare is not None and record is not None:
            raise OptionError("a run with a spare bundle can't be recorded; leave out record or spare")
        self._source: Source | None = None if source is None else open_source(source)
        apart = self._source is not None and not self._source.follows
        budget: Budget | None = None
        beside = ThreadPoolExecutor(1, "edge-search", _step_back)  # its thread starts with the first search
        self._recorder: Recorder | None = None
        try:
            if budget_ms is not None and apart:
                raise OptionError("budget_ms is for frames that follow one another; for pictures leave out --budget-ms")
            self.policy, self._asked_to_wait = _policy(drop, self._source), drop is not None
            self.bundle, self.engine = open_trusted(bundle, backend, precision)
            second = None if spare is None else _spare(spare, self.bundle, backend)
            if budget_ms is not None:
                steps = ladder(streams=bool(self.bundle.manifest.streams), spare=second is not None)
                budget = Budget(budget_ms, steps)
            detector = FaceDetector(min_face if min_face is not None else 40 if apart else 60)
            marker, calm = Landmarks(landmarks), smoothing or (UNRELATED if apart else Smoothing())
            if record is not None:
                self._recorder = Recorder(
                    record,
                    Facts(
                        private=record_private,
                        source="process" if self._source is None else self._source.name,
                        fps=self.fps,
                        live=self.live,
                        apart=apart,
                        bundle=_named(bundle),
                        digest=to_document(self.bundle.manifest)["digest"],
                        backend=self.engine.backend,
                        precision=self.engine.precision,
                        landmarks=landmarks,
                        min_face=detector.min_face,
                        smoothing=calm,
                    ),
                )
            self._pipeline = Pipeline(
                self.bundle,
                self.engine,
                detector,
                marker,
                calm,
                always_search=apart,
                beside=beside,
                recorder=self._recorder,
                budget=budget,
                spare=second,
            )
        except BaseException:
            if self._source is not None:
                self._source.close()
            if self._recorder is not None:
                self._recorder.close()
            raise
        self._one_at_a_time = threading.RLock()  # a signal's handler may close in the middle of a frame
        self._running = _Running(
            self._source, [self.engine, *([] if second is None else [second])], beside, self._recorder
        )
        self._newest = _Newest()
        # Whoever forgets to close leaves no thread behind, be it that the recognizer is dropped or that Python ends.
        self._finalizer = weakref.finalize(self, self._running.close)
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
            self._begin("process")  # it may have been closed while this call waited
            now = time.monotonic_ns() if captured_ns is None else _nanoseconds(captured_ns)
            if self._last_captured_ns is not None and now < self._last_captured_ns:
                raise OptionError(
                    f"captured_ns {now} is before the last frame's {self._last_captured_ns}; it may not go back"
                )
            self._last_captured_ns = now
            if self._recorder is not None:
                picture = picture.copy()  # it is written later, when the caller may have changed it
            frame = Frame(self._next_index, now, picture, time.monotonic_ns())
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
            ClosedError: closed from elsewhere before the end of a file.
        """
        source = self._begin("iterate")
        drops = self.policy is DropPolicy.DROP_OLDEST
        # A file that may drop frames is played at its own speed: else nearly all would be dropped.
        seen = self._look(source, drops, paced=drops and not source.live)
        try:
            while (one := seen.get()) is not None:
                with self._one_at_a_time:
                    if self._use == "closed":
                        break
                    result = self._pipeline.answer(one)
                self._running.stir()
                yield one.frame, result
        finally:
            self._running.close_mailboxes()
        if self._use == "closed" and not source.live:
            # Closing is how one ends a camera's loop; of a file it must not look like the end.
            raise ClosedError(f"{source.name}: the recognizer was closed before the end")

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
        """Frames read but never answered, because newer ones had arrived."""
        by_source = 0 if self._source is None else self._source.health.dropped
        return by_source + sum(mailbox.dropped for mailbox in self._running.mailboxes)

    @property
    def health(self) -> SourceHealth | None:
        """What happened to the source so far (see :class:`edge.source.SourceHealth`); None without a source."""
        return None if self._source is None else self._source.health

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
            if self.policy is DropPolicy.WAIT and self._asked_to_wait:
                raise OptionError("latest gives the newest result and drops what is older; leave drop='wait' out")
            source = self._begin("latest")
            seen = self._look(source, True, paced=not source.live)
            self._running.start("edge-answer", _answer, seen, self._pipeline, self._newest, self._running.stir)
            self._newest.wait(START_TIMEOUT_S)
        self._begin("latest")
        result = self._newest.get()
        if result is None:
            raise StaleResultError("no result yet; the first frame is still awaited")
        age_ms = result.age_ms
        if not age_ms <= max_age_ms:  # so that NaN is refused too
            ended = ": the source has ended" if self._newest.ended else ""
            raise StaleResultError(f"newest result is {age_ms:.0f} ms old, allowed {max_age_ms:.0f} ms{ended}")
        return result

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop watching and release the source and the engine. May be called twice and from any thread.

        Raises:
            OutputError: the recording could not be kept, and nobody was told yet.
        """
        self._use = "closed"
        # A frame that is in the engine comes out of it first; one that is stuck there is not waited for long.
        alone = self._one_at_a_time.acquire(timeout=JOIN_TIMEOUT_S)
        try:
            self._finalizer()
        finally:
            if alone:
                self._one_at_a_time.release()
        if self._recorder is not None:
            self._recorder.settle()

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is on its way out already comes first.
        with suppress(OutputError) if kind is not None else nullcontext():
            self.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _look(self, source: Source, drops: bool, paced: bool) -> Mailbox[Seen]:
        """Begin to read frames and to find faces in them; what is seen comes in order."""
        # Also between the halves: a consumer that is slow gets the newest, while nobody is followed less well for it.
        policy = DropPolicy.DROP_OLDEST if drops else DropPolicy.WAIT
        frames: Mailbox[Frame] = self._running.mailbox(1 if drops else READ_AHEAD, policy)
        seen: Mailbox[Seen] = self._running.mailbox(1 if drops else LOOK_AHEAD, policy)
        self._running.start("edge-read", _read, source, frames, paced)
        self._running.start("edge-look", _look, frames, self._pipeline, seen)
        return seen

    def _begin(self, use: str) -> Source:
        """Enter a way of use, which is for good: its thread owns the pipeline's memory of the faces."""
        if self._use == "closed":
            raise ClosedError("this recognizer is closed; make a new one")
        if self._use not in (None, use) or (self._use == use == "iterate"):
            raise OptionError(f"this recognizer is already in use by {self._use!r}; make another one for {use!r}")
        if use != "process" and self._source is None:
            raise OptionError("this recognizer has no source; give one, as in edge.Recognizer('file://clip.mp4')")
        if self._use is None:  # never again, lest it open what is being closed on another thread
            self._use = use
        return self._source  # type: ignore[return-value]  # None only for process, which doesn't look


def open_trusted(
    bundle: str | os.PathLike[str] | None, backend: str = "auto", precision: str = "auto"
) -> tuple[Bundle, Engine]:
    """A bundle and an engine of it, both found to give its golden answers here.

    Raises:
        EdgeError: a bundle, backend or precision that can't be used.
    """
    opened = Bundle.open(bundle)
    check.require(opened, check.check_preprocessing(opened))
    return opened, _trusted(opened, backend, precision)


def _spare(name: str | os.PathLike[str], main: Bundle, backend: str) -> Engine:
    """The engine of a bundle that may stand in for another."""
    bundle, engine = open_trusted(name, backend)
    facts = bundle.manifest
    if facts.labels != main.manifest.labels or facts.streams or facts.window is not None:
        engine.close()
        kind = "windows" if facts.streams or facts.window is not None else f"labels {', '.join(facts.labels)}"
        raise OptionError(
            f"{bundle.where} has {kind}; a spare bundle sees one face at a time and has the labels of "
            f"{main.where}: {', '.join(main.manifest.labels)}"
        )
    return engine


def _named(bundle: str | os.PathLike[str] | None) -> str:
    """A bundle as it can be opened from any folder."""
    if bundle is None or (isinstance(bundle, str) and bundle in packaged()):
        return str(bundle or DEFAULT)
    return str(Path(bundle).absolute())


def _trusted(bundle: Bundle, backend: str, precision: str) -> Engine:
    """An engine that gives the bundle's own answers here; of ``auto``'s choices the first that does."""
    tries = choices(bundle, backend, precision)
    for tried in tries:
        engine = open_engine(bundle, *tried)
        try:
            check.require(bundle, check.check_engine(bundle, engine, brief=True))
        except BundleError as error:
            engine.close()
            if tried == tries[-1]:
                raise
            _LOG.warning("%s %s is not used: %s", engine.backend, engine.precision, error)
            continue
        return engine
    raise AssertionError("a bundle has a precision")


class _Running:
    """What must be stopped. It knows nothing of the recognizer, so that one that is dropped can be collected."""

    def __init__(
        self, source: Source | None, engines: Sequence[Engine], beside: Executor, recorder: Recorder | None
    ) -> None:
        self._source, self._engines, self._beside, self._recorder = source, engines, beside, recorder
        self._threads: list[threading.Thread] = []
        self.stop = threading.Event()
        self.mailboxes: list[Mailbox[Any]] = []

    def mailbox(self, capacity: int, policy: DropPolicy) -> Mailbox[Any]:
        self.mailboxes.append(Mailbox(capacity, policy))
        return self.mailboxes[-1]

    def close_mailboxes(self) -> None:
        for mailbox in self.mailboxes:
            mailbox.close()

    def stir(self) -> None:
        for mailbox in self.mailboxes:
            mailbox.stir()

    def start(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(name=name, target=target, args=(self.stop, *arguments), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        self.stop.set()
        self.close_mailboxes()
        # First the source: a thread that waits in it for a frame is let go by that.
        if self._source is not None:
            self._source.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_TIMEOUT_S)
        self._beside.shutdown()
        if self._recorder is not None:
            self._recorder.close()
        for engine in self._engines:
            engine.close()


def _step_back() -> None:
    """Let other threads go first: the search for new faces is not wanted before a set time, each frame is at once."""
    # Linux has a priority for each thread; where there is only the process' own, it stays.
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + 5)


def _read(stop: threading.Event, source: Source, mailbox: Mailbox[Frame], paced: bool) -> None:
    """A thread: frames from the source into the mailbox, at the source's own speed where ``paced``."""
    try:
        start_ns: int | None = None
        for frame in source:
            check_frame(frame.image)
            if paced:
                # Media time may begin anywhere.
                start_ns = time.monotonic_ns() - frame.captured_ns if start_ns is None else start_ns
                if stop.wait(max(0, start_ns + frame.captured_ns - time.monotonic_ns()) / 1e9):
                    break
                frame = replace(frame, read_ns=time.monotonic_ns())
            if not mailbox.put(frame):
                break
    except BaseException as error:
        mailbox.end(error)
    else:
        mailbox.end()


def _look(stop: threading.Event, frames: Mailbox[Frame], pipeline: Pipeline, seen: Mailbox[Seen]) -> None:
    """A thread: the faces in each frame."""
    try:
        while (frame := frames.get()) is not None:
            if not seen.put(pipeline.look(frame)):
                break
            # What a frame puts off waits for its answer, but makes no other frame wait.
            frames.wait(lambda: pipeline.idle)
            pipeline.settle()
    except BaseException as error:
        seen.end(error)
    else:
        seen.end()
    finally:
        frames.close()


def _answer(
    stop: threading.Event, seen: Mailbox[Seen], pipeline: Pipeline, newest: _Newest, stir: Callable[[], None]
) -> None:
    """A thread: the newest frame's result."""
    try:
        while (one := seen.get()) is not None:
            newest.put(pipeline.answer(one))
            stir()
    except BaseException as error:
        newest.end(error)
    else:
        newest.end(None)
    finally:
        seen.close()


class _Newest:
    """The newest result, and what ended the stream of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._result: Result | None = None
        self._failure: BaseException | None = None
        self.ended = False

    def put(self, result: Result) -> None:
        with self._changed:
            self._result = result
            self._changed.notify_all()

    def end(self, failure: BaseException | None) -> None:
        with self._changed:
            self._failure, self.ended = failure, True
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._result is not None or self.ended, seconds)

    def get(self) -> Result | None:
        with self._changed:
            if self._failure is not None:
                # Each raise would add its frames to the same exception's traceback, call after call.
                raise self._failure.with_traceback(None)
            return self._result


def _nanoseconds(value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise OptionError(f"captured_ns is {value!r}; expected whole nanoseconds, an int") from error


def _policy(drop: DropPolicy | str | None, source: Source | None) -> DropPolicy:
    if drop is None:
        return DropPolicy.DROP_OLDEST if source is not None and source.live else DropPolicy.WAIT
    with suppress(ValueError):
        return DropPolicy(drop)
    raise OptionError(f"drop {drop!r} is unknown; expected one of {', '.join(policy.value for policy in DropPolicy)}")
