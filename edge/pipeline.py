"""Frame to Result: the whole story on one page. No threads here, and no clock but the one that times the stages.

    look:    frame -> detect, follow, track -> landmarks -> quality
    answer:  -> align -> flow -> infer -> smooth -> result

The halves share nothing but what the first hands to the second, so that they may run on two threads, one frame apart;
nothing goes back. The same frames give the same results either way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge.budget import FOLLOW_LONGER, READ_HALF, READ_QUARTER, SEARCH_RARELY, SPARE, Budget
from edge.bundle import Bundle
from edge.engine import Engine
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.faces.quality import Limits, measure
from edge.faces.watch import Apart, Sighting, Watcher
from edge.smooth import Smoother, Smoothing
from edge.types import Face, FaceState, Frame, Image, Result, Tensor
from edge.window import Crops, Cutter, Windows

if TYPE_CHECKING:
    from edge.record import Facts, Recorder

STAGES = ("detect", "landmarks", "align", "flow", "infer", "smooth", "total")
"""Keys of ``Result.timings_ms``, in order; ``flow`` is there where the bundle wants motion. Those of a stage that runs
once a face are summed over the faces. ``detect`` holds following and matching; ``landmarks`` the quality too. What is
put off until a frame is answered (:meth:`Pipeline.settle`) counts in the frame after, though that need not wait for
it."""

HARDLY = 0.25
"""Weight, in the average over time, of a frame that shows a face too badly to be read."""

UNCONFIRMED_NS = 300_000_000
"""A face that the detector has not seen for longer than this is of low quality."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one frame shows: the first half's result."""

    frame: Frame
    sightings: tuple[Sighting, ...]
    """Ordered by id."""
    problems: Mapping[int, tuple[str, ...]]
    """By id, of the faces that are there."""
    spent: Mapping[str, int]
    """Nanoseconds by stage."""
    kept: Mapping[int, Mapping[str, Tensor] | None] | None = None
    """From a recording without pictures: by id, of the faces that are there, what the engine was given."""
    degraded: tuple[str, ...] = ()
    """The steps of :mod:`edge.budget` that this frame is done with."""
    grey: Image | None = None
    """The frame's picture in grey, (H, W)."""


class Pipeline:
    """Keeps what must be remembered between frames, which must come in order of capture.

    :meth:`look` may be called from one thread and :meth:`answer` from another.

    Args:
        bundle: opened and verified.
        engine: of that bundle.
        detector: finds faces; None where :meth:`answer` alone is called, with what a recording kept.
        landmarks: marks their eyes; None likewise.
        smoothing: how calm the output is.
        always_search: for pictures that do not follow one another: search the whole of each, and know nobody again.
        limits: of the quality from which a face can be read.
        beside: runs the search for new faces; None runs it in line.
        recorder: is told of every frame and result.
        budget: what a frame may cost; None is whatever it costs.
        spare: of another bundle with the same labels, that sees one face at a time; reads where the budget says so.
        clock: nanoseconds, for timings alone.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        detector: FaceDetector | None,
        landmarks: Landmarks | None,
        smoothing: Smoothing,
        *,
        always_search: bool = False,
        limits: Limits | None = None,
        beside: Executor | None = None,
        recorder: Recorder | None = None,
        budget: Budget | None = None,
        spare: Engine | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        manifest = bundle.manifest
        self._labels = manifest.labels
        self._limits = limits or Limits()
        # A recording keeps what the engine was given, and a spare engine reads the same crops: both want them here.
        self._windows = Windows(engine, gpu=recorder is None and spare is None and detector is not None)
        self._spare = None if spare is None else Windows(spare)
        # The smoother knows one temperature: the spare network's logits are brought to it.
        self._evened = 1.0 if spare is None else manifest.temperature / spare.manifest.temperature
        if detector is not None and landmarks is not None:
            self.watcher = Apart(detector, landmarks) if always_search else Watcher(detector, landmarks, beside)
        else:
            self._windows.cutter = _Kept(manifest)
        self._stages = tuple(stage for stage in STAGES if stage != "flow" or self._windows.cutter.moves)
        self._smoother = Smoother(manifest.temperature, manifest.abstain_below, smoothing)
        if manifest.window is not None:
            # What was said of a face ends with the window that it was said from.
            self._smoother.forget_ns = round(manifest.window.gap_ms * 1e6)
        self._clock = clock
        self._said: dict[int, Face] = {}
        self._recorder, self._budget = recorder, budget
        self._streams = bool(manifest.streams)
        self._turn = 0
        self._settled_ns = self._marked_ns = 0
        self._looked, self._answered = -1, -1
        self.fed: dict[int, Mapping[str, Tensor] | None] = {}
        """What the engine was given in the last answer, by id; None for a face whose window took no image."""

    @classmethod
    def again(cls, facts: Facts, bundle: Bundle, engine: Engine) -> Pipeline:
        """The pipeline of a recorded run, without its threads; of a private one the second half alone.

        Args:
            facts: of that run.
            bundle: opened and verified.
            engine: of that bundle.
        """
        return cls(
            bundle,
            engine,
            None if facts.private else FaceDetector(facts.min_face),
            None if facts.private else Landmarks(facts.landmarks),
            facts.smoothing,
            always_search=facts.apart,
            limits=facts.limits,
        )

    def process(self, frame: Frame) -> Result:
        """Everything about one frame.

        Args:
            frame: checked by :func:`edge.source.check_frame`.
        """
        return self.answer(self.look(frame))

    def look(self, frame: Frame, degraded: tuple[str, ...] | None = None) -> Seen:
        """The first half: who is there, where, and how well to be seen.

        Args:
            frame: the next one.
            degraded: steps to do it with, as recorded; None is what the budget says.
        """
        begun = self._clock()
        settled, self._settled_ns = self._settled_ns, 0
        if degraded is None:
            degraded = self._budget.steps if self._budget is not None else ()
        if isinstance(self.watcher, Watcher):
            self.watcher.sparing = SEARCH_RARELY in degraded
            self.watcher.longer = FOLLOW_LONGER in degraded
        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), np.uint8)
        sightings = self.watcher.look(grey, frame.captured_ns)
        found = self._clock()
        problems: dict[int, tuple[str, ...]] = {}
        for one in sightings:
            if one.points is not None and one.eyes is not None and one.picture is not None:
                wrong = measure(one.picture, one.points, one.eyes).problems(self._limits)
                late = frame.captured_ns - one.confirmed_ns > UNCONFIRMED_NS
                problems[one.id] = (*wrong, "unconfirmed") if late else wrong
        marking, self._marked_ns = self.watcher.marking_ns - self._marked_ns, self.watcher.marking_ns
        spent = {"detect": settled + found - begun - marking, "landmarks": self._clock() - found + marking}
        seen = Seen(frame, tuple(sightings), problems, spent, degraded=degraded, grey=grey)
        self._looked = frame.index
        if self._recorder is not None:
            self._recorder.looked(frame, degraded)
        return seen

    def settle(self) -> None:
        """What the first half has put off until its last frame is answered; the next look does it where nobody has.

        On the thread of :meth:`look`; the results are the same whenever it is called.
        """
        begun = self._clock()
        self.watcher.settle()
        self._settled_ns += self._clock() - begun

    @property
    def idle(self) -> bool:
        """Whether every frame that was looked at is answered (or, where frames are dropped, the last one)."""
        return self._answered == self._looked

    def answer(self, seen: Seen) -> Result:
        """The second half: what the network says of each face, smoothed over time."""
        frame, now = seen.frame, seen.frame.captured_ns
        spent = dict.fromkeys(self._stages, 0) | dict(seen.spent)
        last = self._clock()

        def lap(stage: str) -> None:
            nonlocal last
            passed, last = self._clock() - last, self._clock()
            spent[stage] += passed

        faces = []
        self.fed = {}
        self._turn += 1
        for one in seen.sightings:
            if one.id not in seen.problems:
                if (before := self._said.get(one.id)) is not None:
                    faces.append(replace(before, state=FaceState.LOST, reasons=()))
                continue
            if self._rests(one.id, seen.degraded):
                self.fed[one.id] = None
                faces.append(self._face(one, None, seen.problems[one.id], now))
                lap("smooth")
                continue
            spare = self._spare if SPARE in seen.degraded else None
            windows = spare or self._windows
            crops = self._crops(seen, one, windows)
            lap("align")
            tensors = windows.advance(one.id, crops, now)
            self.fed[one.id] = tensors
            lap("flow" if "flow" in spent else "align")
            logits = None if tensors is None else windows.answer(one.id, tensors)
            if spare is not None and logits is not None:
                logits = logits * np.float32(self._evened)
            lap("infer")
            faces.append(self._face(one, logits, seen.problems[one.id], now))
            lap("smooth")
        self._windows.forget(now)
        self._smoother.forget(now)
        self._said = {face.id: face for face in faces}
        lap("smooth")
        spent["total"] = sum(spent.values())
        timings = {stage: nanoseconds / 1e6 for stage, nanoseconds in spent.items()}
        result = Result(frame.index, now, tuple(faces), timings, frame.read_ns, seen.degraded)
        if self._budget is not None:
            self._budget.spend(timings["total"])
        self._answered = frame.index
        if self._recorder is not None:
            self._recorder.answered(seen, self.fed, result)
        return result

    def _rests(self, face: int, degraded: tuple[str, ...]) -> bool:
        """Whether what was said of a face stands for a frame: not of one that is new, or was away."""
        before = self._said.get(face)
        if self._streams or before is None or before.label is None or not before.visible:
            return False
        every = 4 if READ_QUARTER in degraded else 2 if READ_HALF in degraded else 1
        return (self._turn + face) % every != 0

    def _crops(self, seen: Seen, one: Sighting, windows: Windows) -> Crops:
        if seen.kept is not None:
            return seen.kept[one.id] or {}
        assert one.eyes is not None
        return windows.cutter.cut(seen.frame.image, one.eyes, seen.grey)

    def _face(self, one: Sighting, logits: np.ndarray | None, problems: tuple[str, ...], now: int) -> Face:
        said = self._smoother.update(one.id, logits, now, HARDLY if problems else 1.0)
        label, confidence, by_label, state = None, 0.0, dict[str, float](), FaceState.WARMING_UP
        if said is not None:
            best, probabilities, state = said
            by_label = dict(zip(self._labels, probabilities.tolist(), strict=True))
            label = self._labels[best]
            confidence = by_label[label]
        if problems:
            state = FaceState.LOW_QUALITY
        return Face(one.id, one.box, label, confidence, by_label, state, problems)


class _Kept(Cutter):
    """Where a recording kept what the engine was given, that stands in for the crops that it was made from."""

    def tensors(self, crops: Crops, before: Crops | None) -> dict[str, Tensor]:
        """The recorded tensors."""
        return dict(crops)
