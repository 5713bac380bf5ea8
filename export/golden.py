"""Golden vectors: inputs with the outputs they must give, made with ``edge``'s own preprocessing."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import nn

from edge.bundle import InputSpec
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.preprocess import face_crop, to_tensor
from edge.source import read_picture
from edge.synthetic import FACE, PORTRAIT
from edge.types import Image, Points, Tensor
from export.to_onnx import ExportError

SIDE = 192
"""Side of the golden pictures, pixels."""


def golden_vectors(network: nn.Module, spec: InputSpec, labels: tuple[str, ...]) -> dict[str, Tensor]:
    """Vectors at both levels: pixels to tensor, tensor to logits (see :class:`edge.bundle.Bundle`).

    Faces come from the public-domain portrait that ships with the package: as it is, turned and darkened, and small.
    ``noise`` is no face at all: it reaches values that faces don't.

    Args:
        network: in evaluation mode.
        spec: its input.
        labels: in the order of its logits.
    """
    vectors: dict[str, Tensor] = {"labels": np.array(labels)}
    for case, (picture, eyes) in _cases().items():
        tensor = to_tensor(face_crop(picture, eyes, spec), spec)
        with torch.inference_mode():
            logits = network(torch.from_numpy(tensor)).numpy()
        vectors[f"picture/{case}"] = picture
        vectors[f"eyes/{case}"] = eyes
        vectors[f"tensor/{case}"] = tensor
        vectors[f"logits/{case}"] = logits.astype(np.float32)
    vectors["no_face"] = _view(angle=0.0, zoom=1.0, centre=(SIDE / 2, 512 - SIDE / 2), light=1.0)
    return vectors


def _cases() -> Mapping[str, tuple[Image, Points]]:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    cases = {"noise": (noise, np.array([[70.0, 80.0], [120.0, 84.0]], np.float32))}
    detector, landmarks = FaceDetector(40), Landmarks("68")
    for name, angle, zoom, light in (("portrait", 0, 1.0, 1.0), ("turned", 12, 1.3, 0.5), ("small", -6, 0.6, 1.1)):
        picture = _view(angle, zoom, FACE, light)
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.uint8)
        found = detector.find(grey)
        if not found:
            raise ExportError(f"no face is found in the golden picture {name!r}; is dlib installed as it should be?")
        cases[name] = (picture, landmarks.eyes(landmarks.points(grey, found[0].box)))
    return cases


def _view(angle: float, zoom: float, centre: tuple[float, float], light: float) -> Image:
    matrix = np.asarray(cv2.getRotationMatrix2D(centre, angle, zoom), np.float64)
    matrix[:, 2] += (SIDE / 2 - centre[0], SIDE / 2 - centre[1])
    view = cv2.warpAffine(read_picture(PORTRAIT), matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.convertScaleAbs(view, alpha=light), np.uint8)
