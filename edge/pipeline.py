"""Frame to Result: the whole story on one page. No threads here, and no clock but the one that times the stages.

frame -> detect -> track -> landmarks -> align -> infer -> smooth -> result
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
from edge.faces.track import Tracker
from edge.preprocess import face_crop, to_tensor
from edge.smooth import Smoother, Smoothing
from edge.types import Box, Face, Frame, Result

STAGES = ("detect", "landmarks", "align", "infer", "smooth", "total")
"""Keys of ``Result.timings_ms``, in order. Those of a stage that runs once a face are summed over the faces."""

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
        self._labels = bundle.manifest.labels
        (self._input,), (self._output,) = bundle.manifest.inputs, bundle.manifest.outputs
        self._engine, self._detector, self._landmarks = engine, detector, landmarks
        self._tracker = Tracker()
        self._smoother = Smoother(bundle.manifest.temperature, bundle.manifest.abstain_below, smoothing)
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
        spent = dict.fromkeys(STAGES, 0)
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
            tensor = to_tensor(face_crop(frame.image, eyes, self._input), self._input)
            lap("align")
            logits = self._engine.run({self._input.name: tensor})[self._output.name][0]
            lap("infer")
            label, probabilities, state = self._smoother.update(track.id, logits, now)
            by_label = dict(zip(self._labels, probabilities.tolist(), strict=True))
            faces.append(Face(track.id, track.box, self._labels[label], by_label[self._labels[label]], by_label, state))
            lap("smooth")
        self._smoother.forget(now)
        spent["total"] = self._clock() - begun
        return Result(
            frame.index,
            frame.captured_ns,
            tuple(sorted(faces, key=lambda face: face.id)),
            {stage: nanoseconds / 1e6 for stage, nanoseconds in spent.items()},
        )

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
