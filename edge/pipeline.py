"""Frame to Result: the whole story on one page. No threads here, and no clock but the one that times the stages.

frame -> detect -> track -> landmarks -> align -> flow -> infer -> smooth -> result
"""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np

from edge.bundle import Bundle
from edge.engine import Engine
from edge.faces.detect import Detection, FaceDetector, Grey, distinct
from edge.faces.landmarks import Landmarks
from edge.faces.track import Track, Tracker
from edge.smooth import Probabilities, Smoother, Smoothing
from edge.types import Box, Face, FaceState, Frame, Result
from edge.window import Windows

STAGES = ("detect", "landmarks", "align", "flow", "infer", "smooth", "total")
"""Keys of ``Result.timings_ms``, in order; ``flow`` is there where the bundle wants motion. Those of a stage that runs
once a face are summed over the faces."""

LOOK_AROUND_NS = 500_000_000
"""The whole frame is searched at least this often; between, only the regions around known faces are."""


class Pipeline:
    """Keeps what must be remembered between frames. Frames must come in order of capture, from one thread at a time.

    Args:
        bundle: opened and verified.
        engine: of that bundle.
        detector: finds faces.
        landmarks: marks their eyes.
        smoothing: how calm the output is.
        always_search: for pictures that do not follow one another: search the whole of each, and know nobody again.
        clock: nanoseconds, for timings alone.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        detector: FaceDetector,
        landmarks: Landmarks,
        smoothing: Smoothing,
        *,
        always_search: bool = False,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        manifest = bundle.manifest
        self._labels = manifest.labels
        self._detector, self._landmarks = detector, landmarks
        self._tracker = Tracker()
        self._windows = Windows(engine)
        self._stages = tuple(stage for stage in STAGES if stage != "flow" or self._windows.cutter.moves)
        self._smoother = Smoother(manifest.temperature, manifest.abstain_below, smoothing)
        if manifest.window is not None:
            # What was said of a face ends with the window that it was said from.
            self._smoother.forget_ns = round(manifest.window.gap_ms * 1e6)
        self._always_search = always_search
        self._clock = clock
        self._known: list[Box] = []
        self._searched_ns: int | None = None

    def process(self, frame: Frame) -> Result:
        """Everything about one frame.

        Args:
            frame: checked by :func:`edge.source.check_frame`.
        """
        now = frame.captured_ns
        spent = dict.fromkeys(self._stages, 0)
        begun = last = self._clock()

        def lap(stage: str) -> None:
            nonlocal last
            spent[stage] += self._clock() - last
            last = self._clock()

        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), np.uint8)
        boxes = self._find(grey, now)
        if self._always_search:
            self._tracker.tracks.clear()  # another picture, other people
        tracks = self._tracker.update(boxes, now)
        self._known = [track.box for track in self._tracker.tracks]
        lap("detect")
        faces = []
        for track in tracks:
            eyes = self._landmarks.eyes(self._landmarks.points(grey, track.box))
            lap("landmarks")
            crops = self._windows.cutter.cut(frame.image, eyes)
            lap("align")
            tensors = self._windows.advance(track.id, crops, now)
            lap("flow" if "flow" in spent else "align")
            logits = None if tensors is None else self._windows.answer(track.id, tensors)
            lap("infer")
            faces.append(self._face(track, self._smoother.update(track.id, logits, now)))
            lap("smooth")
        self._windows.forget(now)
        self._smoother.forget(now)
        spent["total"] = self._clock() - begun
        return Result(
            frame.index,
            frame.captured_ns,
            tuple(sorted(faces, key=lambda face: face.id)),
            {stage: nanoseconds / 1e6 for stage, nanoseconds in spent.items()},
        )

    def _face(self, track: Track, said: tuple[int, Probabilities, FaceState] | None) -> Face:
        if said is None:
            return Face(track.id, track.box, None, 0.0, {}, FaceState.WARMING_UP)
        label, probabilities, state = said
        by_label = dict(zip(self._labels, probabilities.tolist(), strict=True))
        return Face(track.id, track.box, self._labels[label], by_label[self._labels[label]], by_label, state)

    def _find(self, grey: Grey, now: int) -> list[Box]:
        """Near the known faces where that will do; everywhere at times, and whenever a known face is not found."""
        due = self._searched_ns is None or now - self._searched_ns >= LOOK_AROUND_NS
        near: list[Detection] = []
        if self._known and not self._always_search:
            near = self._detector.find_near(grey, self._known)
            if len(near) >= len(self._known) and not due:
                return [detection.box for detection in near]
        self._searched_ns = now
        # A face that was known a moment ago is believed at a lower score than a new one.
        return [detection.box for detection in distinct(near + self._detector.find(grey))]
