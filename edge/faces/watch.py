"""Which faces are in this frame, whose, and where their eyes are: detector, following, landmarks and ids joined.

A frame that shows nobody known is searched whole. A face once found is *followed*: optical flow moves its landmarks and
box; every sixth frame the detector looks at just that place, first through the one filter that saw it last, and every
sixth the landmarks are fitted anew. In each frame its small upright picture is held against the last one that the
detector confirmed; where they differ, the detector looks at once. A face that neither shows is not there: nothing is
made up.

What need not be known at once is put off until the frame's faces are told, see :meth:`Watcher.settle`: landmarks fitted
anew where nothing is in doubt, taken up in the frame after, and the search that comes next.

For faces that are new whatever changed in the frame is searched beside all this, on a thread of its own where there is
one, and now and then all of it; searches for large faces alone, or for those that look ahead, take turns with the full
one. What it finds is taken up at a set age of the frame, not when it happens to be ready, so a replay gives the same
faces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from edge.faces import follow
from edge.faces.changes import Changes
from edge.faces.detect import AHEAD, FIRST_SIGHT, GLIMPSE, STALE, Detection, FaceDetector, distinct
from edge.faces.landmarks import Landmarks
from edge.faces.track import STRANGER, Track, Tracker
from edge.faces.upright import upright
from edge.types import Box, Points

LOOK_AROUND_NS = 400_000_000
"""What changed in the frame is searched this often while somebody is known, and what was found is taken up this much
later: a new face shows after at most twice this time, or as much longer as its size has to wait, see SEARCHES."""

SEARCHES = ((2, None), (1, AHEAD), (2, None), (1, None))
"""By turns, how a search beside a known face looks: the smallest face that it sees, in multiples of the smallest that
matters, and through which of the detector's filters, None for all. Whoever comes close to the robot is large, and shows
soonest; who is small waits one search longer, or three who is turned away too. The four cost 0.53 of four full ones."""

ROUND = 6
"""Frames in a round: in the first the detector looks at a followed face, after the second its landmarks are fitted
anew. Each takes a millisecond or more, so no frame waits for both unless something is in doubt."""

CONFIRM_NS = 240_000_000
"""... and this much time at most, where frames are rare."""

STRIDE_NS = 150_000_000
"""Frames further apart than this are not joined by flow: the detector looks, and landmarks are fitted."""

DOUBTFUL = 0.80
"""Below this likeness to what was last confirmed, the detector looks at once."""

CERTAIN = 0.75
"""From this likeness on, a face that the detector does not see is still there, for BRIDGED_NS."""

SOMEBODY_ELSE = 0.45
"""A detection less like the followed face than this is not taken for it."""

ANOTHER_LIGHT = 0.25
"""... but where no other face is near, this will do: light that changes all at once changes a face's looks."""

FAINT = 0.2
"""For each point that a detection's score lies below the detector's threshold of 0, it must be this much more like. Of
1,143 places without a face, 9 score above -0.5 and 3 above -0.02; they look like no face that was there before."""

FAMILIAR = 0.4
"""From this likeness on, a faint detection where somebody is missed is that person."""

RARER = 3
"""How much more rarely new faces are sought by a watcher that is told to be sparing."""

LONGER = 9
"""Frames in a round of a watcher that is told to follow longer."""

LONGER_NS = 300_000_000
"""... and this much time at most: a face unconfirmed for longer is of low quality (:mod:`edge.pipeline`)."""

BRIDGED_NS = 1_000_000_000
"""A face is followed for this long without the detector; then it counts as gone."""

SETTLING = 0.5
"""Weight of newly fitted landmarks, and of the detector's box, against those that the flow moved here: they tremble,
the flow does not, and the flow drifts, they do not."""

SOUGHT_NS = 800_000_000
"""A face that went is sought where it should be by now for this long."""

WAITS_NS = 200_000_000
"""A face that comes up where another is missed, and is unlike it, is taken for a new one after this long."""

MISSED_NS = 200_000_000
"""A face must have been seen for this long to be missed when it goes."""

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sighting:
    """One face in one frame, or one that was there a moment ago."""

    id: int
    box: Box
    """Where it is, or where it was last seen."""
    points: Points | None
    """Landmarks, float32 (68, 2) or (5, 2); None for a face that is not there."""
    eyes: Points | None
    """float32 (2, 2), see :func:`edge.preprocess.face_crop`; None for a face that is not there."""
    picture: Grey | None
    """See :func:`edge.faces.upright.upright`; None for a face that is not there."""
    seen_ns: int
    """Capture time of the last frame in which it was seen."""
    confirmed_ns: int
    """Capture time of the last frame in which the detector saw it."""


@dataclass(slots=True)
class _Face:
    """A face that is followed."""

    id: int
    box: Box
    points: Points
    eyes: Points
    confirmed_ns: int
    picture: Grey
    """As it is in this frame, upright."""
    look: follow.Look
    """As the detector last confirmed it."""
    filter: int
    """Which of the detector's filters saw it then."""
    alike: float = 1.0
    """How like that it was in this frame."""
    unfitted: bool = False
    """Whether its landmarks are to be fitted anew in this frame, once its faces are told."""


class Apart:
    """For pictures that do not follow one another: each is searched whole, and nobody is known from one to the next.

    Args:
        detector: finds faces.
        landmarks: marks their eyes.
    """

    def __init__(self, detector: FaceDetector, landmarks: Landmarks) -> None:
        self._detector, self._landmarks = detector, landmarks
        self._next = 1
        self.marking_ns = 0
        """Nanoseconds that landmarks took so far."""

    def look(self, grey: Grey, now_ns: int) -> list[Sighting]:
        """The faces of one picture, best first.

        Args:
            grey: uint8 (H, W).
            now_ns: capture time.
        """
        sightings = []
        found = self._detector.find(grey)
        begun = time.perf_counter_ns()
        for detection in found:
            points = self._landmarks.points(grey, detection.box)
            eyes = self._landmarks.eyes(points)
            picture = upright(grey, eyes)
            sightings.append(Sighting(self._next, detection.box, points, eyes, picture, now_ns, now_ns))
            self._next += 1
        self.marking_ns += time.perf_counter_ns() - begun
        return sightings

    def settle(self) -> None:
        """Nothing is put off here."""


class Watcher:
    """For frames in order of capture; keeps what must be remembered between them. One thread at a time.

    Args:
        detector: finds faces.
        landmarks: marks their eyes.
        beside: runs the search for new faces; None runs it at once, here.
    """

    def __init__(self, detector: FaceDetector, landmarks: Landmarks, beside: Executor | None = None) -> None:
        self._detector, self._landmarks, self.beside = detector, landmarks, beside
        # Whole frames are searched by one detector, whoever asks: it keeps room for the largest picture it has seen.
        self._wholes = detector.twin()
        # Each kind of search knows what the picture was like when it last looked.
        self._changes = {kind: Changes(kind[0] * detector.min_face) for kind in SEARCHES}
        self._tracker = Tracker()
        self._faces: dict[int, _Face] = {}
        self._confirmed: dict[int, int] = {}
        self._before: Grey | None = None
        self._before_ns = 0
        self._count = 0
        self._search: _Search | None = None
        self._searches = 0
        self._unlike_ns: int | None = None
        self._rested = 0
        self.sparing = False
        """Whether to seek new faces more rarely, see ``RARER``."""
        self.longer = False
        """Whether to follow longer from one look of the detector to the next, ``LONGER`` in place of ``ROUND``."""
        self.marking_ns = 0
        """Nanoseconds that landmarks took so far."""

    @property
    def searched(self) -> tuple[int, int]:
        """Pixels searched so far: around known places, and in whole frames (or what changed of them)."""
        return self._detector.searched, self._wholes.searched

    def look(self, grey: Grey, now_ns: int) -> list[Sighting]:
        """The faces of one frame, and those missed since a moment ago.

        Args:
            grey: uint8 (H, W); it is kept until the next frame, so it may not be written to.
            now_ns: capture time, not before the last frame's.
        """
        self.settle()
        if self._before is not None and self._before.shape != grey.shape:
            # Another picture size is another view: what lay where says nothing.
            self._faces.clear()
            self._before = None
            self._drop_search()
        joined = self._before is not None and now_ns - self._before_ns <= STRIDE_NS
        faces = [face for face in self._faces.values() if self._still_there(face, grey, now_ns, joined)]
        faces = _each_once(faces)
        new = self._newcomers(grey, now_ns, faces)
        tracks = self._tracker.update(
            [face.box for face in (*faces, *new)],
            now_ns,
            claims=[*(face.id for face in faces), *(None for _ in new)],
            looks=[*(face.look if _alone(face, faces) else None for face in faces), *(face.look for face in new)],
        )
        for face, track in zip((*faces, *new), tracks, strict=True):
            face.id = track.id
        self._faces = {face.id: face for face in sorted((*faces, *new), key=lambda face: face.id)}
        self._before, self._before_ns, self._count = grey, now_ns, self._count + 1
        return self._sightings(now_ns)

    def settle(self) -> None:
        """Do what was put off until the last frame's faces were told; :meth:`look` does it first where nobody has.

        When it is done makes no difference to what is found. Landmarks take a few milliseconds, in which dlib holds
        Python's lock: whoever waits for this frame's result should have it before.
        """
        if self._search is not None:
            self._search.start()
        for face in list(self._faces.values()):
            if face.unfitted and self._before is not None:
                self._refit(face, self._before)

    # -- faces that are known -----------------------------------------------------------------------------------------

    def _still_there(self, face: _Face, grey: Grey, now_ns: int, joined: bool) -> bool:
        """Bring a face up to this frame; whether it is in it."""
        moved = None
        if joined and self._before is not None:
            moved = follow.motion(self._before, grey, face.points, face.box)
        points, eyes, box = face.points, face.eyes, face.box
        alike, picture = -1.0, face.picture
        if moved is not None:
            points, eyes = follow.move_points(points, moved), follow.move_points(eyes, moved)
            box = follow.move_box(box, moved)
        alone = _alone(face, list(self._faces.values()))
        if moved is not None or (joined and alone):
            # Where the flow says nothing, as when the picture blurs all at once, the face may be where it was.
            picture = upright(grey, eyes)
            alike = follow.likeness(follow.look(picture), face.look)
        turn = self._count + face.id
        found: Detection | None = None
        turns, most = (LONGER, LONGER_NS) if self.longer else (ROUND, CONFIRM_NS)
        since = now_ns - face.confirmed_ns
        # A look that rare frames or a doubt brought forward is not followed by another at once.
        due = since >= most or (turn % turns == 0 and 2 * since >= most)
        doubtful = alike < DOUBTFUL
        if due or doubtful:
            found = self._detector.see(grey, box, face.filter)
            # What the detector no longer sees beside another face is most likely hidden by it.
            if found is None and (not alone or alike < CERTAIN or since > BRIDGED_NS):
                return False
        if found is not None:
            box = found.box if doubtful else follow.between(box, found.box, SETTLING)
        if doubtful:
            points = self._mark(grey, box)
            eyes = self._landmarks.eyes(points)
            picture = upright(grey, eyes)
        if not follow.plausible(eyes, box):
            return False
        face.unfitted = turn % turns == 1 and not doubtful
        if found is not None:
            seen = follow.look(picture)
            alike = follow.likeness(seen, face.look)
            if not _same(found, alike, ANOTHER_LIGHT if alone else SOMEBODY_ELSE):
                return False
            face.look, face.filter, face.confirmed_ns = seen, found.filter, now_ns
        face.alike = alike
        face.box, face.points, face.eyes, face.picture = box, points, eyes, picture
        return True

    def _refit(self, face: _Face, grey: Grey) -> None:
        """Fit a followed face's landmarks anew in the frame that it was last seen in."""
        face.unfitted = False
        points = face.points + np.float32(SETTLING) * (self._mark(grey, face.box) - face.points)
        eyes = self._landmarks.eyes(points)
        if follow.plausible(eyes, face.box):
            face.points, face.eyes = points, eyes
        else:
            del self._faces[face.id]

    def _mark(self, grey: Grey, box: Box) -> Points:
        begun = time.perf_counter_ns()
        points = self._landmarks.points(grey, box)
        self.marking_ns += time.perf_counter_ns() - begun
        return points

    # -- faces that are new -------------------------------------------------------------------------------------------

    def _newcomers(self, grey: Grey, now_ns: int, faces: Sequence[_Face]) -> list[_Face]:
        """Faces in this frame that are not followed."""
        if self.sparing and not faces and not self._tracker.tracks:
            self._rested = (self._rested + 1) % RARER
            if self._rested:
                self._drop_search()
                return []
        known = [face.box for face in faces]
        here = {face.id for face in faces}
        missed = [t for t in self._tracker.tracks if t.id not in here and now_ns - t.seen_ns <= SOUGHT_NS]
        found: list[Detection] = []
        faint: follow.Look | None = None
        if not known and not missed:
            self._drop_search()
            found = self._wholes.find(grey)
        else:
            found = self._searched(grey, now_ns, known)
            if missed:
                # One a frame: what a frame costs must not grow with how many went.
                track = missed[self._count % len(missed)]
                faint = track.look
                found += self._detector.find_near(grey, [track.expected(now_ns)], GLIMPSE)
        new = []
        for detection in distinct(found):
            if any(_one(detection.box, box) for box in known):
                continue
            points = self._mark(grey, detection.box)
            eyes = self._landmarks.eyes(points)
            if not follow.plausible(eyes, detection.box):
                continue
            picture = upright(grey, eyes)
            seen = follow.look(picture)
            # A faint detection counts only as somebody who was here.
            if detection.score < 0 and (faint is None or not _same(detection, follow.likeness(seen, faint), FAMILIAR)):
                continue
            new.append(_Face(0, detection.box, points, eyes, now_ns, picture, seen, detection.filter))
        return self._without_unlike(new, missed, now_ns)

    def _without_unlike(self, new: list[_Face], missed: Sequence[Track], now_ns: int) -> list[_Face]:
        """Who comes up where somebody is missed, and does not look so, may be half hidden still: let it wait a bit."""
        unlike = []
        for face in new:
            near = [track for track in missed if track.look is not None and track.may_be(face.box, now_ns)]
            if near and all(
                follow.likeness(face.look, track.look) < STRANGER for track in near if track.look is not None
            ):
                unlike.append(face)
        if not unlike:
            self._unlike_ns = None
            return new
        self._unlike_ns = now_ns if self._unlike_ns is None else self._unlike_ns
        return (
            new
            if now_ns - self._unlike_ns >= WAITS_NS
            else [face for face in new if not any(face is one for one in unlike)]
        )

    def _searched(self, grey: Grey, now_ns: int, known: Sequence[Box]) -> list[Detection]:
        """What the search of the whole frame found, when it is time to take that up; then the next one begins."""
        found: list[Detection] = []
        search = self._search
        if search is not None:
            if now_ns - search.begun_ns < (RARER * LOOK_AROUND_NS if self.sparing else LOOK_AROUND_NS):
                return []
            for detection in search.result():
                if any(_one(detection.box, box) for box in (*search.known, *known)):
                    continue
                # It was there a moment ago, and may have moved; what counts is this frame.
                near = self._detector.find_near(grey, [detection.box], region=STALE)
                found += [one for one in near if one.score >= FIRST_SIGHT]
        kind = SEARCHES[self._searches % len(SEARCHES)]
        self._searches += 1
        region = self._changes[kind].region(grey, known)
        find = partial(self._wholes.find, grey, region, *kind) if region is not None else list
        self._search = _Search(find, self.beside, now_ns, list(known))
        return found

    def _drop_search(self) -> None:
        """Its outcome is of no use any more; what it searched counts as not searched."""
        if self._search is not None:
            self._search.drop()
            self._search = None
        for changes in self._changes.values():
            changes.forget()

    # -- what is told -------------------------------------------------------------------------------------------------

    def _sightings(self, now_ns: int) -> list[Sighting]:
        sightings = []
        confirmed = {}
        for track in sorted(self._tracker.tracks, key=lambda track: track.id):
            face = self._faces.get(track.id)
            if face is not None:
                sightings.append(
                    Sighting(face.id, face.box, face.points, face.eyes, face.picture, now_ns, face.confirmed_ns)
                )
                confirmed[face.id] = face.confirmed_ns
            elif track.seen_ns - track.born_ns >= MISSED_NS:
                last = self._confirmed.get(track.id, track.seen_ns)
                sightings.append(Sighting(track.id, track.box, None, None, None, track.seen_ns, last))
                confirmed[track.id] = last
        self._confirmed = confirmed
        return sightings


class _Search:
    """A search of a whole frame, put off until :meth:`start`."""

    def __init__(
        self, find: Callable[[], list[Detection]], beside: Executor | None, begun_ns: int, known: list[Box]
    ) -> None:
        self.begun_ns, self.known = begun_ns, known
        self._find, self._beside = find, beside
        self._future: Future[list[Detection]] | None = None

    def start(self) -> None:
        """Begin, if it has not begun; with nobody beside, it is over when this returns."""
        if self._future is not None:
            return
        if self._beside is not None:
            self._future = self._beside.submit(self._find)
            return
        self._future = Future()
        self._future.set_result(self._find())

    def result(self) -> list[Detection]:
        assert self._future is not None, "not started"
        return self._future.result()

    def drop(self) -> None:
        """Not wanted any more; afterwards it no longer runs."""
        if self._future is not None and not self._future.cancel():
            self._future.result()


def _same(found: Detection, alike: float, least: float) -> bool:
    """Whether a detection where a face should be, and so much like it, is that face."""
    return alike >= least + FAINT * max(0.0, -found.score)


def _one(box: Box, other: Box) -> bool:
    """Whether two boxes are of one face: they overlap, or one's middle lies well within the other."""
    if box.iou(other) > 0.3:
        return True
    (x, y), (u, v) = box.centre, other.centre
    return max(abs(x - u), abs(y - v)) < 0.25 * max(box.width, other.width)


def _alone(face: _Face, faces: Sequence[_Face]) -> bool:
    """Whether no other face comes near that could hide part of this one."""
    (x, y), reach = face.box.centre, 1.5 * face.box.width
    others = (other.box.centre for other in faces if other is not face)
    return not any(abs(x - u) < reach and abs(y - v) < reach for u, v in others)


def _each_once(faces: list[_Face]) -> list[_Face]:
    """Of faces that came to lie on one another, the one most like itself, then the elder: the other is hidden."""
    kept: list[_Face] = []
    for face in sorted(faces, key=lambda face: (-face.alike, face.id)):
        if not any(_one(face.box, other.box) for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda face: face.id)
