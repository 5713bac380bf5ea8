"""A camera that fails by script: for the soak, and for the tests of what survives it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edge.errors import SourceError
from edge.sources.live import Camera, Reconnecting, Shot
from edge.synthetic import SyntheticSource
from edge.types import Image

STILL = -1
"""Number of the picture that a frozen camera shows."""


@dataclass(frozen=True)
class _Step:
    kind: str
    count: int = 1
    size: tuple[int, int] = (0, 0)
    error: BaseException | None = None


class Script:
    """What a camera does, step by step, through all its connections.

    Times are scripted: pictures are 1/fps apart, whatever the real clock does, unless ``real`` is set.

    Args:
        fps: frames a second of ``captured_ns``.
        every_s: real seconds between pictures; the consumer of a faster camera drops.
        real: whether ``captured_ns`` is the real monotonic clock, as ``Recognizer.latest`` wants it.
        size: width and height of the pictures.
        picture: makes picture ``number`` of a size, BGR uint8 (H, W, 3); None is eight views of a face, in turns.
        more: called when no step is left, to add some; a camera without steps goes on as a good one.
        hold: called before each good picture but those of a burst: may wait for the consumer.
    """

    def __init__(
        self,
        fps: float = 25,
        every_s: float = 0.004,
        real: bool = False,
        size: tuple[int, int] = (320, 240),
        *,
        picture: Callable[[int, tuple[int, int]], Image] | None = None,
        more: Callable[[Script], None] | None = None,
        hold: Callable[[], None] | None = None,
    ) -> None:
        self.fps, self.every_s, self.real, self.size = fps, every_s, real, size
        self.hold = hold
        self.opened = self.closed = 0
        self.openings: list[float] = []
        """Monotonic seconds of each attempt to open, refused ones among them."""
        self.unplugged = threading.Event()
        self.release = threading.Event()
        """Set it to free a camera that hangs."""
        self.taken = 0
        """Pictures given, corrupt ones among them."""
        self._steps: deque[_Step] = deque()
        self._more = more
        self._picture = picture or _pictures()

    # -- the script ---------------------------------------------------------------------------------------------------

    def frames(self, count: int) -> Script:
        """Good pictures."""
        return self._add(_Step("frames", count))

    def burst(self, count: int) -> Script:
        """Good pictures that nothing holds back: faster than any consumer."""
        return self._add(_Step("burst", count))

    def freeze(self, count: int) -> Script:
        """The same picture again and again."""
        return self._add(_Step("freeze", count))

    def corrupt(self, count: int) -> Script:
        """Pictures that can't be decoded."""
        return self._add(_Step("corrupt", count))

    def resize(self, width: int, height: int) -> Script:
        """Pictures of another size from here on."""
        return self._add(_Step("resize", size=(width, height)))

    def lose(self, refusals: int = 0) -> Script:
        """Unplugged; the next ``refusals`` attempts to open it fail."""
        self._add(_Step("lose", error=SourceError("cam: stopped; is it still plugged in?")))
        return self._add(_Step("refuse", refusals)) if refusals else self

    def fail(self, error: BaseException) -> Script:
        """Reading raises this."""
        return self._add(_Step("fail", error=error))

    def hang(self) -> Script:
        """Says nothing until it is interrupted or released."""
        return self._add(_Step("hang"))

    def stick(self) -> Script:
        """Says nothing until it is released: a driver that does not even react to closing."""
        return self._add(_Step("stick"))

    def _add(self, step: _Step) -> Script:
        if step.count > 0:
            self._steps.append(step)
        return self

    # -- playing it ---------------------------------------------------------------------------------------------------

    def open(self) -> Camera:
        """Connect, or raise SourceError as the script says."""
        self.openings.append(time.monotonic())
        if self.unplugged.is_set():
            raise SourceError("cam: no such camera")
        if self._steps and self._steps[0].kind == "refuse":
            self.next()
            raise SourceError("cam: no such camera")
        self.opened += 1
        return _FaultyCamera(self)

    def source(self, **options: float) -> Reconnecting:
        """The camera as a source; ``options`` are those of :class:`Reconnecting`."""
        return Reconnecting("cam", self.open, **options)

    def next(self) -> _Step:
        """The next single step."""
        if not self._steps and self._more is not None:
            self._more(self)
        if not self._steps:
            # Once the script is through, a camera goes on as a good one does.
            return _Step("frames")
        step = self._steps.popleft()
        if step.count > 1:
            self._steps.appendleft(replace(step, count=step.count - 1))
        return step

    def picture(self, number: int) -> Image:
        """Picture ``number`` in the present size."""
        return self._picture(number, self.size)


class _FaultyCamera(Camera):
    def __init__(self, script: Script) -> None:
        self._script, self.fps = script, script.fps
        self._interrupted = threading.Event()

    def read(self) -> Shot | None:
        script = self._script
        step = script.next()
        while step.kind == "resize":
            script.size = step.size
            step = script.next()
        if script.unplugged.is_set():
            raise SourceError("cam: stopped; is it still plugged in?")
        if step.kind in ("lose", "fail"):
            assert step.error is not None
            raise step.error
        while step.kind in ("hang", "stick") and not script.release.wait(0.005):
            if step.kind == "hang" and self._interrupted.is_set():
                raise SourceError("cam: interrupted")
        if script.every_s:
            time.sleep(script.every_s)
        if script.hold is not None and step.kind == "frames":
            script.hold()
        captured_ns = time.monotonic_ns() if script.real else round(script.taken * 1e9 / script.fps)
        script.taken += 1
        if step.kind == "corrupt":
            return None
        return Shot(script.picture(STILL if step.kind == "freeze" else script.taken), captured_ns)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._script.closed += 1


def noisy(image: Image, number: int) -> Image:
    """Change the picture's first column as a sensor's noise would: each number gives another one."""
    image[:, 0, 0] = np.frombuffer(np.random.default_rng(number + 1).bytes(image.shape[0]), np.uint8)
    return image


def _pictures() -> Callable[[int, tuple[int, int]], Image]:
    """The synthetic camera's pictures with a sensor's noise; made once for each size, since they take time."""
    kept: dict[tuple[int, int], list[Image]] = {}

    def picture(number: int, size: tuple[int, int]) -> Image:
        if size not in kept:
            camera = SyntheticSource(*size)
            kept[size] = [camera.picture(index / 30) for index in range(8)]
        return noisy(kept[size][number % 8].copy(), number)

    return picture
