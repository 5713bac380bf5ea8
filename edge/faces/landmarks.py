"""Facial landmarks by an ensemble of regression trees (Kazemi and Sullivan 2014), with dlib's two published models.

``5``, the default: eye corners and nose. ``68``: 300-W's points, ten times the size, every byte of which dlib reads
before the first result; their training data is for non-commercial use. Alignment needs the eyes alone, which both have;
docs/loop.md compares the two.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge.errors import MissingPackageError, OptionError
from edge.types import Box, Points

# Model file, and the points whose mean is the centre of the eye on the picture's left and on its right.
_MODELS: dict[str, tuple[str, tuple[slice, slice]]] = {
    "5": ("shape_predictor_5_face_landmarks.dat", (slice(2, 4), slice(0, 2))),
    "68": ("shape_predictor_68_face_landmarks.dat", (slice(36, 42), slice(42, 48))),
}
MODELS = tuple(_MODELS)
DEFAULT_MODEL: Literal["5"] = "5"


def model_path(model: str) -> Path:
    """Where a model's file is.

    Raises:
        OptionError: unknown model.
        MissingPackageError: the package that carries it is not installed, or lacks the file.
    """
    if model not in _MODELS:
        raise OptionError(f"landmarks {model!r} is unknown; expected one of {', '.join(MODELS)}")
    # The package is only located: importing it needs pkg_resources, which newer setuptools no longer ship.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise MissingPackageError("landmark models are not installed; type: pip install face_recognition_models")
    path = Path(spec.origin).parent / "models" / _MODELS[model][0]
    if not path.is_file():
        raise MissingPackageError(
            f"{path.name} is missing; type: pip install --force-reinstall face_recognition_models"
        )
    return path


class Landmarks:
    """Marks the eyes of a face.

    Args:
        model: ``5`` or ``68``.

    Raises:
        OptionError: unknown model.
        MissingPackageError: dlib or the model is not installed.
    """

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        path = model_path(model)
        try:
            import dlib
        except ImportError as error:
            raise MissingPackageError("landmarks need dlib; type: pip install dlib-bin") from error
        self._rectangle = dlib.rectangle
        self._predictor = dlib.shape_predictor(str(path))
        self._eyes = _MODELS[model][1]

    def points(self, grey: npt.NDArray[np.uint8], box: Box) -> Points:
        """All landmarks of the face in a box.

        Args:
            grey: uint8 (H, W).
            box: from the detector.

        Returns:
            float32 (68, 2) or (5, 2), x then y in pixels.
        """
        left, top = round(box.x), round(box.y)
        shape = self._predictor(
            grey, self._rectangle(left, top, left + round(box.width) - 1, top + round(box.height) - 1)
        )
        return np.array([(point.x, point.y) for point in shape.parts()], np.float32)

    def eyes(self, points: Points) -> Points:
        """Centres of the eye on the picture's left and on its right: float32 (2, 2)."""
        left, right = self._eyes
        return np.stack([points[left].mean(axis=0), points[right].mean(axis=0)])
