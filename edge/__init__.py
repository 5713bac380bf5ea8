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
import os
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
    from edge.once import recognize
    from edge.recognizer import Recognizer
    from edge.replay import Replay
    from edge.smooth import Smoothing
    from edge.source import Source, SourceHealth, SourceState
    from edge.types import Box, Face, FaceState, Frame, Result

__version__ = "0.1.0"

# Newer ONNX Runtimes keep a device id and a log of their use under the user's home, unless this is said before they are
# imported: a robot's camera software writes nothing that it wasn't asked to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_LAZY = {
    "Bundle": "edge.bundle",
    "DropPolicy": "edge.mailbox",
    "Recognizer": "edge.recognizer",
    "Replay": "edge.replay",
    "recognize": "edge.once",
    "Smoothing": "edge.smooth",
    "Source": "edge.source",
    "SourceHealth": "edge.source",
    "SourceState": "edge.source",
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
    "Replay",
    "Result",
    "Smoothing",
    "Source",
    "SourceError",
    "SourceHealth",
    "SourceState",
    "StaleResultError",
    "recognize",
]


if not TYPE_CHECKING:  # else every misspelt name would pass for Any

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'edge' has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
