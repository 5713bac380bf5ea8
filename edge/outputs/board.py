"""The newest result, where the loop leaves it and clients find it: the loop never waits for any of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edge.outputs.jsonl import line
from edge.types import Result

QUEUE = 64
"""Messages that one client may leave unread, about two seconds; then it loses the oldest."""

MAX_CLIENTS = 16
"""More than this many would slow the robot down; the next one is refused."""

START_S = 30.0
"""The first result may take this long: models load, cameras warm up."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the loop is alive, and if not, why."""

    alive: bool
    reason: str
    """``ok``, ``starting``, or what is wrong."""
    age_s: float | None
    """Seconds since the newest result's frame was read; None before the first."""


class Feed:
    """One client's queue. Its owner reads it on the server's thread; :attr:`lost` counts what it was too slow for."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=QUEUE)
        self.lost = 0


class Board:
    """Results come in on the loop's thread; the server's thread reads them. It never sees a frame's pixels.

    Args:
        counters: gives the loop's own counters (see :data:`edge.outputs.metrics.COUNTERS`).
        trouble: gives what is wrong with the source at this moment, or None.
        stale_s: a result older than this means that the loop is not alive, seconds.
        clock: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        counters: Callable[[], Mapping[str, int]] = dict,
        trouble: Callable[[], str | None] = lambda: None,
        stale_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters, self.trouble, self.stale_s, self._clock = counters, trouble, stale_s, clock
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._waking = False
        self._feeds: set[Feed] = set()
        self._waiting = 0
        self._lost = 0
        self._born = clock()
        self._newest: Result | None = None
        self._size = (0, 0)
        self._read_at = self._latency_s = 0.0
        self._written: deque[float] = deque(maxlen=256)
        self._frames = 0
        self.ended: str | None = None
        """Why there will be no more results; None while there will."""

    # -- the loop's thread --------------------------------------------------------------------------------------------

    def publish(self, result: Result, size: tuple[int, int], read_s: float | None = None) -> None:
        """Leave a result. Never waits for a client, never raises because of one.

        Args:
            result: the newest.
            size: width and height of its frame, pixels.
            read_s: when the frame was read, seconds on ``clock``; None is now.
        """
        with self._lock:
            now = self._clock()
            self._newest, self._size = result, size
            self._read_at = now if read_s is None else min(read_s, now)
            self._latency_s = now - self._read_at
            self._written.append(now)
            self._frames += 1
            if self._feeds:
                text = line(result)
                for feed in self._feeds:
                    if len(feed.lines) == QUEUE:
                        feed.lost += 1
                        self._lost += 1
                    feed.lines.append(text)
        self._wake()

    def end(self, reason: str) -> None:
        """There will be no more results."""
        with self._lock:
            self.ended = self.ended or reason
        self._wake()

    def _wake(self) -> None:
        # One call at most lies in the server's queue, however slow the server is.
        with self._lock:
            if self._loop is None or self._waking or not (self._feeds or self._waiting):
                return
            self._waking = True
            # A server that has stopped has nobody to wake.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._woken)

    # -- the server's thread ------------------------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The server's event loop runs."""
        with self._lock:
            self._loop = loop

    def _woken(self) -> None:
        with self._lock:
            self._waking = False
            changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self, timeout: float, happened: Callable[[], bool]) -> bool:
        """Wait until something has happened, looking after each result; whether it has."""
        deadline = self._clock() + timeout
        with self._lock:
            self._waiting += 1
        try:
            while True:
                event = self._changed
                if happened():
                    return True
                left = deadline - self._clock()
                if left <= 0 or self.ended is not None:
                    return False
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(event.wait(), left)
        finally:
            with self._lock:
                self._waiting -= 1

    def join(self) -> Feed | None:
        """A new client's queue, which starts with the newest result; None when there are too many clients."""
        with self._lock:
            if len(self._feeds) >= MAX_CLIENTS:
                return None
            feed = Feed()
            if self._newest is not None:
                feed.lines.append(line(self._newest))
            self._feeds.add(feed)
            return feed

    def leave(self, feed: Feed) -> None:
        """The client is gone."""
        with self._lock:
            self._feeds.discard(feed)

    def take(self, feed: Feed) -> list[str]:
        """What the client has not read yet, oldest first."""
        with self._lock:
            lines = list(feed.lines)
            feed.lines.clear()
            return lines

    # -- any thread ---------------------------------------------------------------------------------------------------

    def age_s(self) -> float | None:
        """Seconds since the newest result's frame was read; None before the first."""
        with self._lock:
            return None if self._newest is None else max(0.0, self._clock() - self._read_at)

    def clients(self) -> tuple[int, int]:
        """How many there are, and the messages that slow ones lost."""
        with self._lock:
            return len(self._feeds), self._lost

    @property
    def ready(self) -> bool:
        """Whether there was a result."""
        return self._newest is not None

    def health(self) -> Health:
        """Whether the loop is alive."""
        age = self.age_s()
        if self.ended is not None:
            return Health(False, self.ended, age)
        trouble = self.trouble()
        if trouble is not None:
            return Health(False, trouble, age)
        if age is None:
            waited = self._clock() - self._born
            if waited > START_S:
                return Health(False, f"no result within {START_S:.0f} s of the start", None)
            return Health(True, "starting", None)
        if age > self.stale_s:
            return Health(False, f"the newest result is {age:.1f} s old; expected one within {self.stale_s:g} s", age)
        return Health(True, "ok", age)

    def status(self) -> dict[str, Any]:
        """What the page shows beside the results, as plain JSON types."""
        health = self.health()
        with self._lock:
            now = self._clock()
            recent = [moment for moment in self._written if now - moment <= 2.0]
            lost = self._lost
        # The first of them only marks where counting begins.
        fps = (len(recent) - 1) / (now - recent[0]) if len(recent) > 1 and now > recent[0] else 0.0
        return {
            "alive": health.alive,
            "reason": health.reason,
            "trouble": self.trouble(),
            "age_ms": None if health.age_s is None else round(health.age_s * 1e3, 1),
            "latency_ms": round(self._latency_s * 1e3, 1),
            "fps": round(fps, 1),
            "frames": self._frames,
            "captured_ns": None if self._newest is None else self._newest.captured_ns,
            "width": self._size[0],
            "height": self._size[1],
            "counters": dict(self.counters()),
            "lost": lost,
        }
