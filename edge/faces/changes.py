"""Which part of the picture to search for new faces: who was not there a moment ago has changed it.

A small copy of the picture is kept as it was when each part was last searched. Where nothing differs from that, a
search would find what it found then. Slow changes add up until they count, since what is not searched keeps its copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edge.types import Box

CELL = 8
"""Side of a cell, pixels: the smallest face covers fifty. A sensor's noise of 5 grey levels is 0.6 in their means."""

CHANGED = 4.0
"""Grey levels by which a cell differs that has changed."""

MARGIN = 1.0
"""What is searched reaches this many smallest faces beyond what changed: of a face that turned to the camera, hair and
neck may be as they were."""

MOSTLY = 0.7
"""Where more of the picture than this would be searched, all of it is."""

EVERY = 5
"""One search in so many is of the whole picture, whatever changed."""

Grey = npt.NDArray[np.uint8]


class Changes:
    """Knows what the picture was like when it was searched. One thread at a time.

    Args:
        min_face: side of the smallest face that is sought, pixels.
    """

    def __init__(self, min_face: int) -> None:
        self._margin = MARGIN * min_face
        self._searched: npt.NDArray[np.float32] | None = None
        self._count = 0

    def region(self, grey: Grey, known: Sequence[Box]) -> Box | None:
        """Where to search now; this counts as searched.

        Args:
            grey: uint8 (H, W).
            known: faces that are followed: what changes inside them is theirs.

        Returns:
            A box in whole pixels, inside the picture; None where nothing changed.
        """
        height, width = grey.shape
        whole = Box(0.0, 0.0, float(width), float(height))
        size = math.ceil(width / CELL), math.ceil(height / CELL)
        cells = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        self._count += 1
        if self._searched is None or self._searched.shape != cells.shape or self._count % EVERY == 0:
            self._searched = cells
            return whole
        changed = np.abs(cells - self._searched) > CHANGED
        across, down = size[0] / width, size[1] / height
        for box in known:
            changed[
                max(0, math.ceil(box.y * down)) : max(0, int((box.y + box.height) * down)),
                max(0, math.ceil(box.x * across)) : max(0, int((box.x + box.width) * across)),
            ] = False
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        if not len(rows):
            return None
        left = max(0, math.floor(columns[0] / across - self._margin))
        top = max(0, math.floor(rows[0] / down - self._margin))
        right = min(width, math.ceil((columns[-1] + 1) / across + self._margin))
        bottom = min(height, math.ceil((rows[-1] + 1) / down + self._margin))
        if (right - left) * (bottom - top) > MOSTLY * width * height:
            self._searched = cells
            return whole
        part = np.s_[math.ceil(top * down) : int(bottom * down), math.ceil(left * across) : int(right * across)]
        self._searched[part] = cells[part]
        return Box(float(left), float(top), float(right - left), float(bottom - top))

    def forget(self) -> None:
        """The next search is of the whole picture."""
        self._searched = None
