"""Near-identical pictures: found by a perceptual hash, so that none is on both sides of a split."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def difference_hash(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """A 64-bit perceptual hash: is each cell of an 8x9 thumbnail brighter than its right neighbour?

    Args:
        pixels: (N, H, W) uint8.

    Returns:
        (N,) uint64. Near-identical pictures have equal hashes.
    """
    bits = np.empty((len(pixels), 64), bool)
    for i, picture in enumerate(pixels):
        small = cv2.resize(picture, (9, 8), interpolation=cv2.INTER_AREA)
        bits[i] = (small[:, 1:] > small[:, :-1]).ravel()
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def twins(
    pixels: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8], difference: float = 4.0
) -> npt.NDArray[np.bool_]:
    """Which pictures have a near-identical one among the others: equal hash, mean difference under some grey levels.

    Args:
        pixels: (N, H, W) uint8.
        others: (M, H, W) uint8.
        difference: grey levels.

    Returns:
        (N,) bool.
    """
    places: dict[int, list[int]] = {}
    for i, value in enumerate(difference_hash(others)):
        places.setdefault(int(value), []).append(i)
    found = np.zeros(len(pixels), bool)
    for i, value in enumerate(difference_hash(pixels)):
        for j in places.get(int(value), ()):
            if np.abs(pixels[i].astype(int) - others[j]).mean() < difference:
                found[i] = True
                break
    return found
