"""Cameras that come and go: one thread a connection, and a source that outlives it.

    camera --(thread)--> newest picture --(consumer's thread)--> frames

A :class:`Camera` is one opened device. :class:`Reconnecting` reads it on a thread of its own, so that nothing waits
unread in a device's queue, skips what is corrupt, notices a picture that stands still, and opens it again when lost.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import cv2
import numpy as np

from edge.allocator import give_back
from edge.errors import FrameError, SourceError
from edge.mailbox import DropPolicy, Mailbox
from edge.source import DEFAULT_FPS, Source, SourceHealth, SourceState, check_frame
from edge.types import Frame, Image

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
"""A lost camera is tried again after 0.1, 0.2, 0.4, 0.8, 1, 1, ... seconds."""

FROZEN_AFTER_S = 5.0
"""A picture that is the same bit for bit for this long is no live one: every real sensor has noise."""

SILENT_AFTER_S = 5.0
"""A camera that gives nothing for this long is lost."""

BURST_S = 0.008
"""A picture that comes within this time of the one before lay waiting: the fastest cameras take longer."""

MOST_CORRUPT, CORRUPT_FOR_S = 100, 5.0
"""So many corrupt pictures in a row, or corrupt ones alone for so long, and the camera is lost."""

LET_GO_S = 1.0
"""The end of an iteration waits this long for a device's thread; one that is stuck ends by itself later."""

LOSSES = (SourceError, OSError, cv2.error)
"""What a device may raise. Anything else is a mistake in a program and reaches the consumer as it is."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture, as a device gave it."""

    image: Image = field(repr=False)
    captured_ns: int
    """Monotonic clock, nanoseconds, at capture or as near to it as the device tells."""


class Camera(ABC):
    """One opened device. Opening is its constructor's job, which raises SourceError within seconds or not at all.

    ``read`` and ``close`` are called on one thread; ``interrupt`` on any.
    """

    buffered: ClassVar[bool] = False
    """Whether old pictures may wait at the moment of opening; they are read and thrown away."""

    fps: float = DEFAULT_FPS
    """Nominal frames a second."""

    @abstractmethod
    def read(self) -> Shot | None:
        """The next picture, waiting for it for some seconds at most; None if it is corrupt.

        Raises:
            SourceError: the device is lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the device."""

    def interrupt(self) -> None:  # noqa: B027 - many devices can only be waited for
        """Make a waiting ``read`` raise soon, where the device can."""


def pauses() -> Iterator[float]:
    """Seconds to wait before each attempt to open a lost camera again."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


class Reconnecting(Source):
    """A live source around a camera that may be unplugged and come back.

    The first opening, and what goes wrong before the first frame, is an error at once: a wrong device must be said. A
    camera that is lost later is opened again and again, at most a second after the attempt before. Indices grow on, and
    ``captured_ns`` shows the gap. Lost and back are logged once each (logger ``edge.sources.live``).

    A picture that stays the same bit for bit (every sixteenth row is compared) for ``frozen_after_s`` makes the camera
    count as lost. It is opened again, and the standing picture is not handed on any more until it changes. Switch that
    off for a picture that may stand still in truth: a screen, a drawing, a black-level clip with the lens covered.

    Args:
        name: as messages call it.
        open_camera: opens the device; called on this thread once, and on another for each attempt later.
        frozen_after_s: seconds; 0 never takes a picture for frozen.
        give_up_s: seconds without a frame after which a lost camera is an error; 0 never gives up.
        silent_after_s: seconds without any picture after which a camera is lost.

    Raises:
        SourceError: the device can't be opened.
    """

    live = True

    def __init__(
        self,
        name: str,
        open_camera: Callable[[], Camera],
        *,
        frozen_after_s: float = FROZEN_AFTER_S,
        give_up_s: float = 0.0,
        silent_after_s: float = SILENT_AFTER_S,
    ) -> None:
        self._open = open_camera
        self._still = _Stillness(frozen_after_s)
        self._give_up_s, self._silent_after_s = give_up_s, silent_after_s
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._link: _Link | None = None
        self._past = _Past()
        try:
            self._camera: Camera | None = open_camera()
        except (OSError, cv2.error) as error:
            raise SourceError(f"{name}: can't be opened ({_reason(error)}); choose another source") from error
        super().__init__(name, self._camera.fps)

    @property
    def health(self) -> SourceHealth:
        """See :class:`~edge.source.Source`."""
        with self._lock:
            past, link = self._past, self._link
            corrupt, dropped = past.corrupt, past.dropped
            if link is not None:
                corrupt, dropped = corrupt + link.corrupt, dropped + link.mailbox.dropped
            return replace(self._health, corrupt=corrupt, dropped=dropped)

    def __iter__(self) -> Iterator[Frame]:
        """The newest frames, until :meth:`close`.

        Raises:
            SourceError: nothing came before the first frame was there, or the camera stayed away for ``give_up_s``.
        """
        try:
            waits, lost_ns = pauses(), 0
            while not self._closed.is_set():
                before = self._health.frames
                failure = yield from self._connection(lost_ns)
                if failure is None:
                    return
                if not isinstance(failure, LOSSES):
                    raise failure
                if not self._health.frames:
                    raise _told(self.name, failure)
                if self._health.frames > before:
                    waits, lost_ns = pauses(), time.monotonic_ns()
                    _LOG.warning("%s: lost (%s); trying again", self.name, _reason(failure))
                self._health = replace(self._health, state=SourceState.WAITING, last_error=_reason(failure))
                self._refuse_long_absence(lost_ns)
                self._pause(next(waits), lost_ns)
        finally:
            self._release()
            self._ended()

    def close(self) -> None:
        """Let go of the camera; whoever waits for a frame is let go at once."""
        self._closed.set()
        with self._lock:
            link, camera, self._camera = self._link, self._camera, None
        if link is not None:
            link.stop()
        if camera is not None:
            camera.close()  # nobody ever read from it
            self._ended()

    # -- inside: all on the consumer's thread -------------------------------------------------------------------------

    def _connection(self, lost_ns: int) -> Generator[Frame, None, BaseException | None]:
        """Frames of one connection; returns why it ended, None when closed."""
        with self._lock:
            camera, self._camera = self._camera, None
            if self._closed.is_set():
                return None
            link = self._link = _Link(camera or self._open, self._still)
        link.start()
        lost = lost_ns != 0
        while True:
            try:
                item = link.mailbox.get(0.25)
            except queue.Empty:
                if link.silent_s() > self._silent_after_s:
                    return SourceError(f"no picture for {self._silent_after_s:g} s")
                if lost:
                    self._refuse_long_absence(lost_ns)
                continue
            except _FrozenError as error:
                self._health = replace(self._health, frozen=self._health.frozen + 1)
                return error
            except BaseException as error:
                return error
            if item is None:
                return None
            number, shot = item
            if lost:
                lost = False
                self._health = replace(self._health, reconnects=self._health.reconnects + 1)
                _LOG.warning("%s: back after %.1f s", self.name, (time.monotonic_ns() - lost_ns) / 1e9)
            self._handed_on()
            yield Frame(self._past.taken + number, shot.captured_ns, shot.image, shot.captured_ns)

    def _pause(self, seconds: float, lost_ns: int) -> None:
        """Wait, and until the device's thread has let go: a camera can be opened once only."""
        link = self._link
        if link is not None:
            link.stop()
        self._closed.wait(seconds)
        while link is not None and link.alive and not self._closed.wait(0.02):
            self._refuse_long_absence(lost_ns)
        self._remember()
        give_back()  # the next connection has a thread, and so an allocator's pool, of its own

    def _refuse_long_absence(self, lost_ns: int) -> None:
        away_s = (time.monotonic_ns() - lost_ns) / 1e9
        if self._give_up_s and away_s > self._give_up_s:
            raise SourceError(
                f"{self.name}: gone for {away_s:.0f} s ({self._health.last_error}); plug it in and start again"
            )

    def _release(self) -> None:
        link = self._link
        if link is not None:
            link.stop()
            if link.alive:
                link.join(LET_GO_S)
        self._remember()

    def _remember(self) -> None:
        """Add a connection that is over to what is past."""
        with self._lock:
            link, self._link = self._link, None
            if link is not None:
                self._past.taken += link.taken
                self._past.corrupt += link.corrupt
                self._past.dropped += link.mailbox.dropped


@dataclass(slots=True)
class _Past:
    """Sums over the connections that are over."""

    taken: int = 0
    corrupt: int = 0
    dropped: int = 0


class _FrozenError(SourceError):
    """The picture stands still."""


class _Link:
    """One connection: a thread that opens the camera if need be, reads it, and keeps the newest picture."""

    def __init__(self, camera: Camera | Callable[[], Camera], still: _Stillness) -> None:
        self.mailbox: Mailbox[tuple[int, Shot]] = Mailbox(1, DropPolicy.DROP_OLDEST)
        self.taken = 0
        """Pictures that the camera gave, corrupt ones among them."""
        self.corrupt = 0
        self._still = still
        self._camera: Camera | None = camera if isinstance(camera, Camera) else None
        self._open = camera if not isinstance(camera, Camera) else None
        self._heard_ns: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(name="edge-camera", target=self._run, daemon=True)
        self.start = self._thread.start
        self.join = self._thread.join

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def silent_s(self) -> float:
        """Seconds since the last picture, or since opening; 0 while it is being opened, which has its own limit."""
        return 0.0 if self._heard_ns is None else (time.monotonic_ns() - self._heard_ns) / 1e9

    def stop(self) -> None:
        self._stop.set()
        self.mailbox.close()
        if self._camera is not None:
            self._camera.interrupt()

    def _run(self) -> None:
        try:
            camera = self._camera
            if camera is None and self._open is not None:
                camera = self._camera = self._open()
            assert camera is not None
            try:
                self._pump(camera)
            finally:
                camera.close()
        except BaseException as error:
            self.mailbox.end(error)
        else:
            self.mailbox.end()

    def _pump(self, camera: Camera) -> None:
        self._heard_ns = time.monotonic_ns()
        self._still.opened()
        bad, good_ns = 0, time.monotonic_ns()
        drained = not camera.buffered
        while not self._stop.is_set():
            shot, drained = camera.read() if drained else self._drain(camera), True
            self._heard_ns = now = time.monotonic_ns()
            number, self.taken = self.taken, self.taken + 1
            try:
                if shot is not None:
                    check_frame(shot.image)
            except FrameError:
                shot = None
            if shot is None:
                self.corrupt, bad = self.corrupt + 1, bad + 1
                if bad >= MOST_CORRUPT or (bad > 1 and now - good_ns > CORRUPT_FOR_S * 1e9):
                    raise SourceError(f"{bad} corrupt pictures in a row")
                continue
            bad, good_ns = 0, now
            if self._still.moves(shot) and not self.mailbox.put((number, shot)):
                return

    def _drain(self, camera: Camera) -> Shot | None:
        """Read what waited since the device was opened, which comes faster than a camera can take pictures."""
        begun = time.monotonic()
        while True:
            asked = time.monotonic()
            shot = camera.read()
            now = time.monotonic()
            if now - asked > min(BURST_S, 0.5 / camera.fps) or now - begun > 1.0 or self._stop.is_set():
                return shot


class _Stillness:
    """Whether pictures change. Kept from one connection to the next; used by one thread at a time."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._rows: Image | None = None
        self._since_ns: int | None = None
        self._frozen = False

    def opened(self) -> None:
        """A new connection: the standing picture, if it still stands, gets its time anew."""
        self._since_ns = None

    def moves(self, shot: Shot) -> bool:
        """Whether to hand a picture on.

        Raises:
            _FrozenError: it has been the same for too long.
        """
        if not self._after_s:
            return True
        rows = shot.image[::16]
        if self._rows is None or not np.array_equal(rows, self._rows):
            # A copy, since the consumer may draw on what it was given.
            self._rows, self._since_ns, self._frozen = rows.copy(), shot.captured_ns, False
            return True
        if self._since_ns is None:
            self._since_ns = shot.captured_ns
        if shot.captured_ns - self._since_ns > self._after_s * 1e9:
            self._frozen = True
            raise _FrozenError(f"the picture has not changed for {self._after_s:g} s")
        return not self._frozen


def _reason(error: BaseException) -> str:
    """Why, in a few words on one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def _told(name: str, error: BaseException) -> SourceError:
    reason = _reason(error)
    if isinstance(error, SourceError) and reason.startswith(name):
        return error
    return SourceError(f"{name}: gives no picture ({reason}); is it the right camera, and is nobody else using it?")
