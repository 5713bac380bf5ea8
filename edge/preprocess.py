"""From a face in a frame to the tensor that the network eats. ``train`` uses these very functions.

Two steps, so that training data which comes as crops can enter at the second:
``face_crop`` (frame and eyes to uint8 crop) and ``to_tensor`` (uint8 crop to tensor).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from edge.bundle import InputSpec, Normalisation
from edge.faces.align import align
from edge.types import Image, Points, Tensor


def face_crop(image: Image, eyes: Points, spec: InputSpec) -> Image:
    """The aligned crop in the input's colour and size.

    Args:
        image: BGR uint8 (H, W, 3); for a ``grey`` input (H, W) as well, whose crop is the same but for rounding and
            takes a third of the time.
        eyes: float32 (2, 2), the eye on the picture's left and the one on its right, x then y in pixels.
        spec: the bundle's input.

    Returns:
        uint8 (height, width) for ``grey``, else (height, width, 3).
    """
    crop = align(image, eyes, spec.alignment, spec.width, spec.height, spec.interpolation)
    if spec.colour == "grey" and crop.ndim == 2:
        return crop
    if spec.colour == "grey":
        return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.uint8)
    if spec.colour == "rgb":
        return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB), np.uint8)
    return crop


def crop_specs(inputs: Sequence[InputSpec]) -> dict[str, InputSpec]:
    """How each input's face is cut, by its name: motion is between grey crops of the flow's own size and alignment."""
    return {one.name: replace(one, colour="grey") if one.kind == "flow" else one for one in inputs}


def to_tensor(crop: Image, spec: InputSpec) -> Tensor:
    """The network's input for one crop.

    Args:
        crop: uint8, (height, width) for ``grey``, else (height, width, 3).
        spec: the bundle's input.

    Returns:
        float32 of ``spec.shape``, C-contiguous.
    """
    planes = crop[None] if crop.ndim == 2 else crop.transpose(2, 0, 1)
    return normalise(planes[None], spec.normalisation)


def normalise(pixels: npt.NDArray[np.generic], how: Normalisation) -> npt.NDArray[np.float32]:
    """Grey levels to the network's numbers, for any number of pictures at once.

    Args:
        pixels: (N, C, H, W), any real dtype, 0..255.
        how: see :class:`edge.bundle.Normalisation`.

    Returns:
        float32 (N, C, H, W), C-contiguous.
    """
    values = np.ascontiguousarray(pixels, dtype=np.float32)
    if how.kind == "fixed":
        mean = np.asarray(how.mean, np.float32)[:, None, None]
        std = np.asarray(how.std, np.float32)[:, None, None]
        return np.asarray((values - mean) / std, np.float32)
    mean = values.mean(axis=(1, 2, 3), keepdims=True)
    std = values.std(axis=(1, 2, 3), keepdims=True)
    return np.asarray((values - mean) / np.maximum(std, np.float32(how.min_std)), np.float32)
