"""Read facial expressions in real time, on a robot.

    import edge
    with edge.Recognizer("file://clip.mp4") as recognizer:
        for result in recognizer:
            for face in result.faces:
                print(face.id, face.label, face.confidence)

Importing this package loads neither OpenCV, dlib nor an inference runtime: names are fetched when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edge.errors import (
    BackendError,
    BundleError,
    ClosedError,
    EdgeError,
    FrameError,
    MissingPackageError,
    OptionError,
    OutputError,
    SourceError,
    StaleResultError,
)

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.mailbox import DropPolicy
    from edge.recognizer import Recognizer
    from edge.smooth import Smoothing
    from edge.types import Box, Face, FaceState, Frame, Result

__version__ = "0.1.0"

_LAZY = {
    "Bundle": "edge.bundle",
    "DropPolicy": "edge.mailbox",
    "Recognizer": "edge.recognizer",
    "Smoothing": "edge.smooth",
    "Box": "edge.types",
    "Face": "edge.types",
    "FaceState": "edge.types",
    "Frame": "edge.types",
    "Result": "edge.types",
}

__all__ = [
    "BackendError",
    "Box",
    "Bundle",
    "BundleError",
    "ClosedError",
    "DropPolicy",
    "EdgeError",
    "Face",
    "FaceState",
    "Frame",
    "FrameError",
    "MissingPackageError",
    "OptionError",
    "OutputError",
    "Recognizer",
    "Result",
    "Smoothing",
    "SourceError",
    "StaleResultError",
]


if not TYPE_CHECKING:  # else every misspelt name would pass for Any

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'edge' has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
