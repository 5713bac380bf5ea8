"""From a network's answer for one frame to a statement about a face: calibration, averaging over time, hysteresis.

The average weighs a frame by its age in time, not by its number, so a skipped frame or another frame rate changes
little. The label moves only when another one is clearly ahead, or has been ahead for a while.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge.errors import OptionError
from edge.types import FaceState

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How calm the output is. All times are in the frames' own capture time."""

    time_constant_ms: float = 100.0
    """A frame's weight falls to 1/e in this time. 0 turns averaging off."""
    margin: float = 0.10
    """Another label takes over at once when it is this much more probable."""
    patience_ms: float = 200.0
    """... or when it has been ahead, by however little, for this long."""
    warm_up_ms: float = 200.0
    """A face is ``warming_up`` until it has been seen for this long."""

    def __post_init__(self) -> None:
        for name in ("time_constant_ms", "margin", "patience_ms", "warm_up_ms"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise OptionError(f"smoothing {name} is {value!r}; expected a number, 0 or more")


@dataclass(slots=True)
class _Memory:
    born_ns: int
    seen_ns: int
    average: Probabilities
    label: int
    ahead_since_ns: int | None = None


@dataclass(slots=True)
class Smoother:
    """Remembers each face's recent answers, apart from all others'."""

    temperature: float
    abstain_below: float
    smoothing: Smoothing = field(default_factory=Smoothing)
    forget_ns: int = 1_000_000_000
    """What was said of a face that gave no answer for longer than this counts no more."""
    _faces: dict[int, _Memory] = field(default_factory=dict)

    def update(
        self, face: int, logits: npt.NDArray[np.float32] | None, now_ns: int, weight: float = 1.0
    ) -> tuple[int, Probabilities, FaceState] | None:
        """Take in one frame's answer for one face.

        Args:
            face: its id.
            logits: float32 (K,), or None where the frame gave no new answer.
            now_ns: capture time.
            weight: of this frame against others, 0..1: less for a face that can hardly be read.

        Returns:
            Index of the label, smoothed probabilities (K,) that sum to 1, and how far to trust them; None where there
            has been no answer yet.
        """
        memory = self._faces.get(face)
        if memory is not None and now_ns - memory.seen_ns > self.forget_ns:
            del self._faces[face]
            memory = None
        if logits is None:
            if memory is None:
                return None
        elif memory is None:
            now = softmax(logits / self.temperature)
            memory = self._faces[face] = _Memory(now_ns, now_ns, now, int(now.argmax()))
        else:
            now = softmax(logits / self.temperature)
            keep = 0.0
            if self.smoothing.time_constant_ms > 0:
                keep = math.exp(-(now_ns - memory.seen_ns) / (self.smoothing.time_constant_ms * 1e6))
            keep = 1 - (1 - keep) * weight
            memory.average = keep * memory.average + (1 - keep) * now
            memory.seen_ns = now_ns
            self._choose(memory, now_ns)
        if (now_ns - memory.born_ns) < self.smoothing.warm_up_ms * 1e6:
            state = FaceState.WARMING_UP
        elif memory.average[memory.label] < self.abstain_below:
            state = FaceState.UNCERTAIN
        else:
            state = FaceState.OK
        return memory.label, memory.average, state

    def forget(self, now_ns: int) -> None:
        """Drop faces that have not been seen for ``forget_ns``."""
        self._faces = {key: one for key, one in self._faces.items() if now_ns - one.seen_ns <= self.forget_ns}

    def _choose(self, memory: _Memory, now_ns: int) -> None:
        best = int(memory.average.argmax())
        if best == memory.label:
            memory.ahead_since_ns = None
            return
        if memory.ahead_since_ns is None:
            memory.ahead_since_ns = now_ns
        lead = memory.average[best] - memory.average[memory.label]
        if lead >= self.smoothing.margin or now_ns - memory.ahead_since_ns >= self.smoothing.patience_ms * 1e6:
            memory.label, memory.ahead_since_ns = best, None


def softmax(logits: npt.NDArray[np.floating]) -> Probabilities:
    """Probabilities over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
