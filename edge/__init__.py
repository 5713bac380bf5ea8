"""Read facial expressions in real time, on a robot.

    import edge
    with edge.Recognizer("file://clip.mp4") as recognizer:
        for result in recognizer:
            for face in result.faces:
                print(face.id, face.label, face.confidence)

Importing this package loads neither OpenCV, dlib nor an inference runtime: names are fetched when they are first used.

Each public name in an example (tests run them):

One picture, one call: :func:`recognize` gives a :class:`Result` of :class:`Face` s, each with a :class:`Box`, a label
and a :class:`FaceState`.

    >>> from edge.synthetic import PORTRAIT
    >>> result = edge.recognize(PORTRAIT)
    >>> isinstance(result, edge.Result), [isinstance(face, edge.Face) for face in result.faces]
    (True, [True])
    >>> face = result.faces[0]
    >>> face.label, face.state is edge.FaceState.OK, face.visible
    ('happy', True, True)
    >>> isinstance(face.box, edge.Box), edge.Box(x=0, y=0, width=10, height=10).iou(edge.Box(0, 0, 10, 5))
    (True, 0.5)

Frames of one's own, calmer or not (:class:`Smoothing`), with another bundle (:class:`Bundle`) or the newest frames of a
file instead of all (:class:`DropPolicy`).

    >>> calm = edge.Smoothing(time_constant_ms=300)
    >>> with edge.Recognizer(smoothing=calm) as recognizer:
    ...     recognizer.process(np.zeros((48, 64, 3), np.uint8), captured_ns=0).faces
    ()
    >>> edge.Bundle.open().manifest.labels
    ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
    >>> with edge.Recognizer("synthetic://", drop=edge.DropPolicy.DROP_OLDEST) as recognizer:
    ...     recognizer.policy.value
    'drop_oldest'

A :class:`Source` of one's own gives :class:`Frame` s; :class:`SourceHealth` counts what happened to it, and
:class:`SourceState` is what it does.

    >>> class Black(edge.Source):
    ...     def __iter__(self):
    ...         yield edge.Frame(index=0, captured_ns=0, image=np.zeros((48, 64, 3), np.uint8))
    >>> with edge.Recognizer(Black("black", fps=25)) as recognizer:
    ...     [result.frame for result in recognizer]
    [0]
    >>> recognizer.health == edge.SourceHealth(state=edge.SourceState.CONNECTING)
    True

A run that was recorded is had again with :class:`Replay`; see there.

Everything that goes wrong on purpose is an :class:`EdgeError`, told in one line.

    >>> def told(error, *call, **options):
    ...     try:
    ...         call[0](*call[1:], **options)
    ...     except error as one:
    ...         return isinstance(one, edge.EdgeError) and str(one).isprintable()
    >>> told(edge.OptionError, edge.Recognizer, min_face=1)
    True
    >>> told(edge.SourceError, edge.Recognizer, "no such clip.mp4")
    True
    >>> told(edge.BundleError, edge.Recognizer, bundle="no such bundle")
    True
    >>> told(edge.BackendError, edge.Recognizer, backend="tensorrt")
    True
    >>> told(edge.FrameError, edge.recognize, np.zeros((48, 64)))
    True
    >>> told(edge.ClosedError, recognizer.process, np.zeros((48, 64, 3), np.uint8))
    True
    >>> with edge.Recognizer("synthetic://?frames=2") as recognizer:
    ...     told(edge.StaleResultError, recognizer.latest, max_age_ms=0)
    True
    >>> issubclass(edge.MissingPackageError, ImportError)  # says what to install
    True
    >>> issubclass(edge.OutputError, edge.EdgeError)  # says that a disk is full
    True
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
