"""Golden vectors: inputs with the outputs they must give, made with ``edge``'s own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from edge.bundle import Manifest
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.source import read_picture
from edge.synthetic import FACE, PORTRAIT
from edge.types import Image, Points, Tensor
from edge.window import Cutter
from export.errors import ExportError

SIDE = 192
"""Side of the golden pictures, pixels."""

STILLS = (("portrait", 0.0, 1.0, 1.0), ("turned", 12.0, 1.3, 0.5), ("small", -6.0, 0.6, 1.1))
"""Name, angle in degrees, zoom and light of each case with a face, for a network that sees one."""

MOVING = (("moving", 9.0, 1.15, 0.8),)
"""The same for a network that sees a window: where the face, upright and as it is at first, ends up."""


def golden_vectors(manifest: Manifest, answer: Callable[[Mapping[str, Tensor]], Tensor]) -> dict[str, Tensor]:
    """Vectors at both levels: pixels to tensors, tensors to logits (see :class:`edge.bundle.Bundle`).

    Faces come from the public-domain portrait that ships with the package: as it is, turned and darkened, small, or
    moving from one to the other. ``noise`` is no face at all: it reaches values that faces don't.

    Args:
        manifest: what the network eats.
        answer: the network itself: the inputs of the graph ``window`` by name -> logits (1, K).

    Raises:
        ExportError: the detector finds no face where there is one.
    """
    cutter = Cutter(manifest)
    vectors: dict[str, Tensor] = {"labels": np.array(manifest.labels)}
    for case, (pictures, eyes) in _cases(1 if manifest.window is None else manifest.window.length).items():
        tensors = cutter.window(zip(pictures, eyes, strict=True))
        vectors[f"picture/{case}"], vectors[f"eyes/{case}"] = pictures, eyes
        vectors |= {f"tensor/{case}/{name}": tensor for name, tensor in tensors.items()}
        vectors[f"logits/{case}"] = answer(tensors).astype(np.float32)
    vectors["no_face"] = _view(angle=0.0, zoom=1.0, centre=(SIDE / 2, 512 - SIDE / 2), light=1.0)
    return vectors


def _cases(length: int) -> Mapping[str, tuple[Image, Points]]:
    """Pictures uint8 (T, H, W, 3) and eyes float32 (T, 2, 2) by case."""
    noise = np.random.default_rng(0).integers(0, 256, (length, SIDE, SIDE, 3), dtype=np.uint8)
    cases = {"noise": (noise, np.tile(np.array([[70.0, 80.0], [120.0, 84.0]], np.float32), (length, 1, 1)))}
    detector, landmarks = FaceDetector(40), Landmarks()
    for name, angle, zoom, light in STILLS if length == 1 else MOVING:
        shares = np.linspace(0, 1, length) if length > 1 else np.ones(1)
        views = [_view(angle * s, 1 + (zoom - 1) * s, FACE, 1 + (light - 1) * s) for s in shares]
        cases[name] = np.stack(views), np.stack([_eyes(view, detector, landmarks, name) for view in views])
    return cases


def _eyes(picture: Image, detector: FaceDetector, landmarks: Landmarks, name: str) -> Points:
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.uint8)
    found = detector.find(grey)
    if not found:
        raise ExportError(f"no face is found in the golden picture {name!r}; is dlib installed as it should be?")
    return landmarks.eyes(landmarks.points(grey, found[0].box))


def _view(angle: float, zoom: float, centre: tuple[float, float], light: float) -> Image:
    matrix = np.asarray(cv2.getRotationMatrix2D(centre, angle, zoom), np.float64)
    matrix[:, 2] += (SIDE / 2 - centre[0], SIDE / 2 - centre[1])
    view = cv2.warpAffine(read_picture(PORTRAIT), matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.convertScaleAbs(view, alpha=light), np.uint8)
