"""A face between two looks of the detector: carried along, held against itself, let go when it is not there."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from edge.faces import follow
from edge.faces.detect import ALONE, STORED, FaceDetector
from edge.faces.landmarks import Landmarks
from edge.faces.upright import upright
from edge.faces.watch import BRIDGED_NS, ROUND, SETTLING, Watcher
from edge.synthetic import SyntheticSource
from edge.types import Box

FRAME_NS = 40_000_000


@pytest.fixture(scope="module")
def detector():
    return FaceDetector()


@pytest.fixture(scope="module", params=["68", "5"])
def landmarks(request):
    return Landmarks(request.param)


@pytest.fixture(scope="module")
def grey(portrait):
    return cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY)


def moved(grey, shift=(0, 0), turn=0.0, scale=1.0):
    matrix = cv2.getRotationMatrix2D((224, 118), turn, scale)
    matrix[:, 2] += shift
    return cv2.warpAffine(grey, matrix, grey.shape[::-1], borderMode=cv2.BORDER_REPLICATE), matrix


@pytest.mark.parametrize(
    ("shift", "turn", "scale"), [((0, 0), 0, 1), ((9, -5), 0, 1), ((3, 2), 4, 1.05), ((-6, 8), -3, 0.96)]
)
def test_flow_carries_the_landmarks_along(grey, detector, landmarks, shift, turn, scale):
    box = detector.find(grey)[0].box
    points = landmarks.points(grey, box)
    later, matrix = moved(grey, shift, turn, scale)
    found = follow.motion(grey, later, points, box)
    expected = points @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(follow.move_points(points, found) - expected).max() < 1.0
    x, y = follow.move_box(box, found).centre
    u, v = matrix[:, :2] @ box.centre + matrix[:, 2]
    assert abs(x - u) < 0.6
    assert abs(y - v) < 0.6


def test_a_large_face_moves_as_exactly(portrait, detector, landmarks):
    large = cv2.cvtColor(cv2.resize(portrait, None, fx=3, fy=3), cv2.COLOR_BGR2GRAY)
    box = detector.find(large)[0].box
    points = landmarks.points(large, box)
    later = np.roll(large, (9, 12), (0, 1))
    found = follow.move_points(points, follow.motion(large, later, points, box))
    assert found - points == pytest.approx(np.broadcast_to([12, 9], points.shape), abs=1.0)


def test_nothing_to_follow_is_no_motion(grey, detector, landmarks):
    box = detector.find(grey)[0].box
    points = landmarks.points(grey, box)
    noise = np.random.default_rng(0).integers(0, 256, grey.shape, dtype=np.uint8)
    found = follow.motion(grey, noise, points, box)
    if found is not None:
        eyes = follow.move_points(landmarks.eyes(points), found)
        here = follow.look(upright(grey, landmarks.eyes(points)))
        assert follow.likeness(follow.look(upright(noise, eyes)), here) < 0.3


def test_likeness_is_free_of_light_and_knows_another_place(grey, detector, landmarks):
    eyes = landmarks.eyes(landmarks.points(grey, detector.find(grey)[0].box))
    one = follow.look(upright(grey, eyes))
    assert follow.likeness(one, one) == pytest.approx(1)
    dim = cv2.convertScaleAbs(grey, alpha=0.4, beta=20)
    assert follow.likeness(one, follow.look(upright(dim, eyes))) > 0.98
    assert follow.likeness(one, follow.look(upright(grey, eyes + np.float32(60)))) < 0.4
    assert follow.likeness(follow.look(upright(np.full_like(grey, 90), eyes)), one) == pytest.approx(0)


def test_eyes_that_no_face_has():
    box = Box(100, 100, 100, 100)
    good = np.array([[130, 140], [170, 141]], np.float32)
    assert follow.plausible(good, box)
    assert not follow.plausible(good[::-1], box), "swapped"
    assert not follow.plausible(good + np.float32([0, 45]), box), "too low"
    assert not follow.plausible(np.array([[145, 140], [155, 140]], np.float32), box), "too close together"
    assert not follow.plausible(np.array([[130, 140], [150, 190]], np.float32), box), "on end"


def watch(frames, landmarks, every_ns=FRAME_NS, detector=None):
    watcher = Watcher(detector or FaceDetector(), landmarks)
    return [watcher.look(frame, index * every_ns) for index, frame in enumerate(frames)]


def there(sightings):
    return [one for one in sightings if one.eyes is not None]


def test_a_face_that_vanishes_is_gone_in_that_very_frame(grey, landmarks):
    view, _ = moved(grey)
    empty = np.full_like(view, 120)
    noise = np.random.default_rng(1).integers(90, 150, view.shape, dtype=np.uint8)
    shoulders = view.copy()
    shoulders[:300] = shoulders[300:301]
    for nothing in (empty, noise, shoulders):
        seen = watch([view] * 10 + [nothing] * 30, landmarks)
        assert all(len(there(one)) == 1 for one in seen[:10])
        assert not any(there(one) for one in seen[10:])
        assert [len(one) for one in seen[10:]] == [1] * 25 + [0] * 5, "missed for a second, then forgotten"


def test_a_face_that_leaves_slowly_leaves_no_ghost(portrait, landmarks):
    """It slides out of the picture; once less than half of it is left, nothing is reported."""
    wide = cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY)[20:300]
    seen = watch([_slid(wide, 6 * step) for step in range(70)], landmarks)
    centre = [224 - 6 * step for step in range(70)]
    for sightings, x in zip(seen, centre, strict=True):
        if x < -10:
            assert not there(sightings), f"the face's middle is at {x}"
    assert all(len(there(one)) == 1 for one, x in zip(seen, centre, strict=True) if x > 75)


def _slid(picture, by):
    return cv2.warpAffine(picture, np.float64([[1, 0, -by], [0, 1, 0]]), picture.shape[::-1], borderValue=90)


def test_a_hand_before_the_face_hides_it(grey, landmarks):
    """What covers the face is not the face, though it comes slowly and lies where the face was."""
    frames = []
    for step in range(40):
        frame = grey.copy()
        frame[max(0, 250 - 8 * step) : 260, 130:330] = 120
        frames.append(frame)
    seen = watch(frames, landmarks)
    covered = [bool(there(one)) for one in seen]
    assert all(covered[:8])
    assert not any(covered[22:])


def test_a_face_that_the_detector_misses_is_bridged_for_a_while(grey, landmarks):
    """The real detector, made blind to what is not new: likeness and landmarks keep the face, but not for ever."""

    class Blind(FaceDetector):
        def see(self, grey, box, filter=None):
            return None

        def find_near(self, grey, known, threshold=0.0, region=0.0):
            return []

    seen = watch([grey] * 40, landmarks, detector=Blind())
    bridged = [bool(there(one)) for one in seen]
    last = BRIDGED_NS // FRAME_NS
    assert all(bridged[: last + 1])
    assert not bridged[last + 2]
    assert all(one.confirmed_ns == 0 for one in there(seen[last]))


def test_landmarks_that_are_followed_lie_where_fitted_ones_do(landmarks):
    source, detector = SyntheticSource(596, 336, 25), FaceDetector()
    watcher = Watcher(detector, landmarks)
    apart = []
    for index in range(60):
        grey = cv2.cvtColor(source.picture(index / 25), cv2.COLOR_BGR2GRAY)
        (one,) = watcher.look(grey, index * FRAME_NS)
        fitted = landmarks.eyes(landmarks.points(grey, detector.find(grey)[0].box))
        apart.append(np.abs(one.eyes - fitted).max() / np.hypot(*(fitted[1] - fitted[0])))
    assert np.median(apart) < 0.05
    assert max(apart) < 0.15


def test_when_what_is_put_off_is_done_makes_no_difference(landmarks):
    source = SyntheticSource(596, 336, 25)
    late, soon = (Watcher(FaceDetector(), landmarks) for _ in range(2))
    for index in range(30):
        grey = cv2.cvtColor(source.picture(index / 25), cv2.COLOR_BGR2GRAY)
        (one,), (other,) = late.look(grey, index * FRAME_NS), soon.look(grey, index * FRAME_NS)
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_array_equal(one.eyes, other.eyes)
        assert (one.id, one.box, one.confirmed_ns) == (other.id, other.box, other.confirmed_ns)
        marked = soon.marking_ns
        soon.settle()
        again = soon.marking_ns
        soon.settle()
        assert again == soon.marking_ns, "it is done once"
        assert (again > marked) == ((index + one.id) % ROUND == 1 and index > 0)


class Off(Landmarks):
    """Landmarks that lie as far off as one says."""

    by = 0.0

    def points(self, grey, box):
        return super().points(grey, box) + np.float32(self.by)


def test_landmarks_are_fitted_after_a_frame_and_taken_up_in_the_next(grey):
    marker = Off("5")
    watcher, eyes = Watcher(FaceDetector(), marker), []
    for index in range(ROUND + 2):
        (one,) = watcher.look(grey, index * FRAME_NS)
        eyes.append(one.eyes)
        marker.by = 3.0
    due = ROUND - one.id + 1  # the picture stands still: the fit alone moves the eyes
    for before, after in pairwise(eyes[: due + 1]):
        assert np.abs(after - before).max() < 0.3
    assert eyes[due + 1] - eyes[due] == pytest.approx(SETTLING * 3, abs=0.3)


def test_a_face_whose_new_landmarks_are_none_is_gone_in_the_next_frame(grey):
    marker = Off("5")
    watcher = Watcher(FaceDetector(), marker)
    seen = []
    for index in range(2 * ROUND):
        marker.by = 70.0 if index == ROUND else 0.0
        seen.append([(one.id, one.eyes is not None) for one in watcher.look(grey, index * FRAME_NS)])
        watcher.settle()
        assert list(watcher._faces) == ([] if index == ROUND else [1])
    assert seen == [[(1, True)]] * (2 * ROUND), "sought where it was, and found"
    marker.by = 70.0
    seen = [watcher.look(grey, (2 * ROUND + index) * FRAME_NS) for index in range(ROUND + 2)]
    assert there(seen[0])
    assert not there(seen[-1])


def test_the_cost_of_a_frame_is_flat():
    """Pixels searched, which the detector's time is in proportion to: no frame costs much more than the others."""
    source, watcher = SyntheticSource(596, 336, 25), Watcher(FaceDetector(), Landmarks("5"))
    spent = []
    for index in range(80):
        before = watcher.searched[0]
        watcher.look(cv2.cvtColor(source.picture(index / 25), cv2.COLOR_BGR2GRAY), index * FRAME_NS)
        spent.append(watcher.searched[0] - before)
        if index == 0:
            first = watcher.searched[1]
    whole = 795 * 448
    assert first == pytest.approx(whole, rel=0.01)
    assert max(spent) < whole / 10
    assert np.mean(spent) < whole / 25
    beside = watcher.searched[1] / (80 / 25)
    assert beside < 1.2 * whole * 2.5, "the whole frame is searched two and a half times a second at most"


def test_rare_frames_are_each_confirmed(grey, landmarks):
    """At two frames a second nothing is joined by flow: the detector sees each face in each frame."""
    seen = watch([grey] * 6, landmarks, every_ns=500_000_000)
    assert all(one.confirmed_ns == index * 500_000_000 for index, row in enumerate(seen) for one in there(row))
    assert {one.id for row in seen for one in there(row)} == {1}


def test_another_picture_size_is_another_view(grey, landmarks):
    seen = watch([grey, grey, grey[:300], grey[:300]], landmarks)
    assert [len(there(one)) for one in seen] == [1, 1, 1, 1]


def test_a_twin_finds_the_same(grey, detector):
    twin = detector.twin()
    assert twin.find(grey) == detector.find(grey)
    assert twin._detector is not detector._detector


def test_the_stored_detector_is_dlibs_own(grey, detector, tmp_path):
    import dlib

    own = dlib.get_frontal_face_detector()
    own.save(str(tmp_path / "own.svm"))
    assert (tmp_path / "own.svm").read_bytes() == STORED.read_bytes()
    boxes, scores, _ = own.run(grey, 0, 0.0)
    found, again, _ = detector._detector.run(grey, 0, 0.0)
    assert (list(boxes), list(scores)) == (list(found), list(again))


def test_each_filter_alone_is_a_part_of_the_stored_detector():
    """dlib writes a number as a byte that says how many follow; a filter is 3,101 times two, after rows and columns."""
    stored = STORED.read_bytes()
    header = 52

    def past(numbers: int, place: int) -> int:
        for _ in range(numbers):
            place += 1 + (stored[place] & 0x7F)
        return place

    assert past(18, 0) == header - 2
    assert stored[header - 2 : header] == bytes((1, 5)), "five filters follow"
    smallest = bytes((1, 64, 1, 64)), bytes((1, 80, 1, 80))
    place = header
    for alone in ALONE:
        end = past(2 + 2 * 3101, place)
        begun = stored[: header - 1].replace(*smallest, 1) + bytes((1,))
        assert alone.read_bytes() == begun + stored[place:end]
        place = end
    assert place == len(stored)


def test_one_filter_sees_what_all_would(grey, detector):
    """Where it sees nothing, all look: a face that has turned is seen by another filter."""
    (whole,) = detector.find(grey)
    for number in (None, *range(5)):
        for shift, grown in ((0, 1.0), (5, 0.92), (-5, 1.08)):
            (x, y), side = whole.box.centre, grown * whole.box.width
            box = Box(x + shift - side / 2, y - side / 2, side, side)
            seen = detector.see(grey, box, number)
            assert seen is not None
            assert seen.score > 0
            if number in (None, whole.filter):
                assert seen.filter == whole.filter
                assert seen.box.iou(whole.box) > 0.7
    before = detector.searched
    detector.see(grey, whole.box, whole.filter)
    quick, before = detector.searched - before, detector.searched
    detector.see(grey, whole.box)
    assert quick < 0.8 * (detector.searched - before)
    assert detector.see(np.full_like(grey, 128), whole.box, whole.filter) is None


@pytest.mark.parametrize(("turn", "number"), [(0, 0), (25, 3), (-25, 4)])
def test_one_filter_alone_names_itself_as_it_does_among_all(grey, detector, turn, number):
    leaning, _ = moved(grey, turn=turn)
    assert [one.filter for one in detector.find(leaning)] == [number]
    assert detector.find(leaning, filter=number) == detector.find(leaning)
    assert [other for other in range(5) if detector.find(leaning, filter=other)] == [number]
