"""dlib's frontal face detector: histograms of oriented gradients under a sliding window (King 2009).

The detector slides a window of 80 pixels, so a picture is resized until the smallest face that matters fills it.
Around a face that is already known only a small region is searched, at the size that suits that face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge.errors import MissingPackageError, OptionError
from edge.types import Box

WINDOW = 80
"""Side, in pixels, of the smallest face that the detector can see."""

REGION = 2.2
"""Side of the region searched around a known face, as a multiple of the face's."""

COMFORTABLE = 104
"""Size, in pixels, to which a known face is brought: it may shrink by a fifth, or grow, and still be seen."""

FIRST_SIGHT = 0.2
"""Score from which a face counts that was not known before. At the detector's own threshold of 0 it also takes folds of
cloth for faces; on 22 faces of 36 to 108 pixels in crowded photographs the lowest score is 0.31. A known face is
followed down to 0."""

STALE = 3.2
"""... around one seen some frames ago."""

TIGHT = 1.5
"""Side of the region in which a face that is followed is looked at again, as a multiple of the face's."""

TIGHTER = 1.3
"""... when one filter looks for it first, the one that saw it last."""

SNUG = 88
"""Size, in pixels, to which it is brought for that: less than COMFORTABLE, since its size is known well."""

GLIMPSE = -0.5
"""Score down to which a followed face is taken for seen where it should be, if it also looks as it did."""

SAME_FACE = 0.4
"""Two detections that overlap more than this (intersection over union) are one face."""

STORED = Path(__file__).parent / "frontal.svm"
"""What ``dlib.get_frontal_face_detector().save`` writes: five filters, trained by dlib's author (King 2009), for heads
that look ahead, to either side, and lean to either."""

AHEAD = 0
"""The first of them."""

ALONE = tuple(STORED.with_name(f"frontal-{number}.svm") for number in range(5))
"""Each of those filters by itself, for pictures no smaller than its window; a test makes them from STORED again."""

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Detection:
    """A face found."""

    box: Box
    score: float
    """The detector's margin; 0 is its threshold, 2 is a clear face."""
    filter: int = 0
    """Which of the detector's filters saw it best, see STORED."""


class FaceDetector:
    """Finds frontal faces.

    Args:
        min_face: side in pixels of the smallest face to find in a whole frame, 20 or more. Time grows with its
            inverse square: 40 costs four times what 80 does.

    Raises:
        OptionError: ``min_face`` out of range.
        MissingPackageError: dlib is not installed.
    """

    def __init__(self, min_face: int = 60) -> None:
        if not isinstance(min_face, int) or min_face < 20:
            raise OptionError(f"min_face is {min_face!r}; expected a whole number of pixels, 20 or more")
        self._detector = _frontal()
        self._alone: dict[int, Any] = {}
        self.min_face = min_face
        self._scale = WINDOW / min_face
        self.searched = 0
        """Pixels searched so far, at the sizes searched: what time is spent in proportion to."""

    def twin(self) -> FaceDetector:
        """Another one like this: each may be used on one thread at a time."""
        return FaceDetector(self.min_face)

    def find(self, grey: Grey, region: Box | None = None, times: int = 1, filter: int | None = None) -> list[Detection]:
        """All faces in a frame, best first.

        Args:
            grey: uint8 (H, W).
            region: in whole pixels, inside the frame: nothing else is looked at; None is all of it.
            times: faces from ``times * min_face`` on are enough; time falls with its square.
            filter: look through this one alone, see STORED, in 0.6 of the time; None is through all.
        """
        left, top = (0, 0) if region is None else (int(region.x), int(region.y))
        if region is not None:
            grey = grey[top : top + int(region.height), left : left + int(region.width)]
        return distinct(self._search(grey, self._scale / times, left, top, FIRST_SIGHT, filter))

    def find_near(
        self, grey: Grey, known: Sequence[Box], threshold: float = 0.0, region: float = REGION
    ) -> list[Detection]:
        """The faces near known ones, best first; everything else in the frame is not looked at.

        Args:
            grey: uint8 (H, W).
            known: where the faces were in the frame before.
            threshold: score from which a face counts.
            region: side of what is searched around each, as a multiple of the face's.
        """
        found: list[Detection] = []
        for box in known:
            found += self._around(grey, box, region, COMFORTABLE, threshold)
        return distinct(found)

    def see(self, grey: Grey, box: Box, filter: int | None = None) -> Detection | None:
        """The face that should be just here, if it is: the detection that overlaps the box most.

        Args:
            grey: uint8 (H, W).
            box: where it should be.
            filter: which saw it last: a head turns little from one look to the next, so this one looks first, by
                itself, which takes 0.3 of the time. Where it sees nothing all five look; None is that at once.

        Returns:
            A detection whose score is GLIMPSE or more and that overlaps the box by SAME_FACE or more; or None.
        """
        if filter is not None and self._through(filter) is not self._detector:
            seen = _best(self._around(grey, box, TIGHTER, SNUG, 0.0, filter), box)
            if seen is not None:
                return seen
        return _best(self._around(grey, box, TIGHT, SNUG, GLIMPSE), box)

    def _through(self, filter: int | None) -> Any:
        """The detector with one filter, read when first wanted; with all for None, or where dlib can't read that."""
        if filter is None:
            return self._detector
        if filter not in self._alone:
            self._alone[filter] = _stored(ALONE[filter]) or self._detector
        return self._alone[filter]

    def _around(
        self, grey: Grey, box: Box, region: float, size: float, threshold: float, filter: int | None = None
    ) -> list[Detection]:
        height, width = grey.shape
        side = max(box.width, box.height)
        across, down = box.centre
        left, top = max(0, int(across - region * side / 2)), max(0, int(down - region * side / 2))
        right = min(width, int(across + region * side / 2) + 1)
        bottom = min(height, int(down + region * side / 2) + 1)
        if right <= left or bottom <= top:
            return []
        return self._search(grey[top:bottom, left:right], size / side, left, top, threshold, filter)

    def _search(
        self, grey: Grey, scale: float, left: int, top: int, threshold: float, filter: int | None = None
    ) -> list[Detection]:
        if scale != 1:
            # Down to half the size two neighbours see every pixel, in a sixth of the time that areas take.
            smoothing = cv2.INTER_LINEAR if scale >= 0.5 else cv2.INTER_AREA
            size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
            grey = np.asarray(cv2.resize(grey, size, interpolation=smoothing), np.uint8)
        self.searched += grey.size
        detector = self._through(filter)
        boxes, scores, filters = detector.run(np.ascontiguousarray(grey), 0, threshold)
        # One alone counts itself as the first.
        base = filter if filter is not None and detector is not self._detector else 0
        return [
            Detection(
                Box(left + box.left() / scale, top + box.top() / scale, box.width() / scale, box.height() / scale),
                score,
                base + number,
            )
            for box, score, number in zip(boxes, scores, filters, strict=True)
        ]


def _best(found: Sequence[Detection], box: Box) -> Detection | None:
    """The one that overlaps a box most, if that is enough to be the same face."""
    best = max(found, key=lambda one: box.iou(one.box), default=None)
    return best if best is not None and box.iou(best.box) >= SAME_FACE else None


def _frontal() -> Any:
    """The frontal face detector of dlib, from a file of it: dlib itself takes 0.3 s to make one, this 1 ms."""
    found = _stored(STORED)
    if found is not None:
        return found
    import dlib

    return dlib.get_frontal_face_detector()


def _stored(path: Path) -> Any:
    """A detector from a file, or None: they were stored by dlib 20, and another may not read them."""
    try:
        import dlib
    except ImportError as error:
        raise MissingPackageError("face detection needs dlib; type: pip install dlib-bin") from error
    try:
        return dlib.fhog_object_detector(str(path))
    except RuntimeError:
        return None


def distinct(found: list[Detection]) -> list[Detection]:
    """The detections without those that overlap a better one, best first."""
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda one: -one.score):
        if all(detection.box.iou(other.box) <= SAME_FACE for other in kept):
            kept.append(detection)
    return kept
