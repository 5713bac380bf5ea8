"""The value types that travel the pipeline. All are frozen; arrays and mappings in them must not be written to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""A picture: uint8, (H, W, 3), blue-green-red, 0..255, row-major."""

Points = npt.NDArray[np.float32]
"""Points: float32, (N, 2), x then y in pixels, origin at the centre of the top-left pixel."""

Tensor = npt.NDArray[Any]
"""An engine's input or output; names, shapes and dtypes are in the bundle's manifest."""


class FaceState(str, Enum):
    """How far a face's label can be trusted."""

    OK = "ok"
    """Smoothed over enough frames, and confidence is at or above the bundle's abstention threshold."""
    WARMING_UP = "warming_up"
    """Seen for too short a time: the label is the best so far and may still move."""
    UNCERTAIN = "uncertain"
    """Confidence is below the bundle's abstention threshold: treat as no statement."""
    LOW_QUALITY = "low_quality"
    """The face is there, but too small, too dark, too bright, flat, blurred or turned away to be read (``Face.reasons``
    says which): don't trust the label."""
    LOST = "lost"
    """Not in this frame. It was there up to a second ago, and is sought; box, label and confidence are as they were in
    the last frame that showed it."""


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle in pixels; it may reach over the picture's border.

    ``x`` and ``y`` are the top-left corner, ``width`` and ``height`` are positive.
    """

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle (x, y), in pixels."""
        return self.x + self.width / 2, self.y + self.height / 2

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, 0..1."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        if across <= 0 or down <= 0:
            return 0.0
        both = across * down
        return both / (self.width * self.height + other.width * other.height - both)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture from a source."""

    index: int
    """0, 1, 2, ... within the source. A gap means that frames were dropped."""
    captured_ns: int
    """Nanoseconds on the source's own clock: monotonic clock for a live camera, media time for a file."""
    image: Image = field(repr=False)
    """BGR uint8 (H, W, 3)."""
    read_ns: int = 0
    """Monotonic clock, nanoseconds, when the frame was read. Equals ``captured_ns`` for a live camera."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one frame."""

    id: int
    """Stays with the person from frame to frame; never used twice by one recognizer."""
    box: Box
    """Where the face is, in pixels of the frame."""
    label: str | None
    """The most probable expression after smoothing, one of the bundle's labels; None while a network that sees a window
    of frames has not seen enough of them: nothing is ever guessed."""
    confidence: float
    """Its calibrated, smoothed probability, 0..1; 0 without a label."""
    probabilities: Mapping[str, float]
    """Calibrated, smoothed probability by label, in the bundle's order; sums to 1. Empty without a label."""
    state: FaceState
    reasons: tuple[str, ...] = ()
    """Why the state is ``low_quality``: of ``small``, ``dark``, ``bright``, ``flat``, ``blurred``, ``turned``, and
    ``unconfirmed`` for a face that is followed while the detector no longer sees it."""

    @property
    def visible(self) -> bool:
        """Whether this frame shows the face: every state but ``lost``."""
        return self.state is not FaceState.LOST


@dataclass(frozen=True, slots=True)
class Result:
    """What was seen in one frame.

    Nothing is ever guessed: when no face is in view, ``faces`` is empty, or for up to a second holds those that just
    went, with the state ``lost``.
    """

    frame: int
    """The frame's index in its source."""
    captured_ns: int
    """When the frame was captured, in nanoseconds (see :class:`Frame`)."""
    faces: tuple[Face, ...]
    """Ordered by id."""
    timings_ms: Mapping[str, float]
    """Milliseconds by stage, in pipeline order; ``total`` is their sum. Stages of several frames may run at once."""
    read_ns: int = 0
    """Monotonic clock, nanoseconds, when the frame was read."""
    degraded: tuple[str, ...] = ()
    """What was left out to keep to a budget (see :mod:`edge.budget`)."""

    @property
    def age_ms(self) -> float:
        """Milliseconds since the frame was read."""
        return (time.monotonic_ns() - self.read_ns) / 1e6

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON types: one line of the JSONL output.

        Keys: ``frame``, ``captured_ns``, ``faces`` (``id``, ``box`` [x, y, width, height] in pixels, ``label``,
        ``confidence``, ``probabilities`` by label, ``state``, ``reasons``) and ``timings_ms`` by stage; ``degraded``, a
        list of names, where something was left out.
        """
        said: dict[str, Any] = {
            "frame": self.frame,
            "captured_ns": self.captured_ns,
            "faces": [
                {
                    "id": face.id,
                    "box": [round(v, 1) for v in (face.box.x, face.box.y, face.box.width, face.box.height)],
                    "label": face.label,
                    "confidence": round(face.confidence, 4),
                    "probabilities": {name: round(p, 4) for name, p in face.probabilities.items()},
                    "state": face.state.value,
                    "reasons": list(face.reasons),
                }
                for face in self.faces
            ],
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
        }
        return {**said, "degraded": list(self.degraded)} if self.degraded else said
