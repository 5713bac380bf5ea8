"""Ids: kept while a face moves or hides for a moment, never shared, never used twice."""

from edge.faces.track import Tracker
from edge.types import Box

FRAME = 40_000_000


def box(x, y=100.0, size=80.0):
    return Box(x - size / 2, y - size / 2, size, size)


def ids(tracker, boxes, frame):
    return [track.id for track in tracker.update(boxes, frame * FRAME)]


def test_a_moving_face_keeps_its_id():
    tracker = Tracker()
    seen = [ids(tracker, [box(100 + 30 * frame)], frame) for frame in range(10)]
    assert seen == [[1]] * 10


def test_two_faces_that_come_near_keep_theirs():
    tracker = Tracker()
    for frame in range(20):
        found = ids(tracker, [box(100 + 5 * frame), box(400 - 5 * frame)], frame)
        assert found == [1, 2]


def test_the_order_of_detections_does_not_matter():
    tracker = Tracker()
    assert ids(tracker, [box(100), box(300)], 0) == [1, 2]
    assert ids(tracker, [box(302), box(98)], 1) == [2, 1]


def test_a_short_absence_is_bridged_and_a_long_one_is_not():
    tracker = Tracker()
    assert ids(tracker, [box(100)], 0) == [1]
    assert ids(tracker, [], 1) == []
    assert ids(tracker, [box(120)], 20) == [1]
    assert ids(tracker, [box(120)], 50) == [2]


def test_a_face_far_away_is_another_one():
    tracker = Tracker()
    assert ids(tracker, [box(100)], 0) == [1]
    assert ids(tracker, [box(500)], 1) == [2]
    assert ids(tracker, [box(102), box(501)], 2) == [1, 2]


def test_a_face_of_another_size_is_another_one():
    tracker = Tracker()
    assert ids(tracker, [box(100, size=80)], 0) == [1]
    assert ids(tracker, [box(100, size=200)], 1) == [2]


def test_forgotten_tracks_free_their_memory():
    tracker = Tracker()
    for frame in range(0, 3000, 30):
        tracker.update([box(100)], frame * FRAME)
    assert len(tracker.tracks) == 1
    assert tracker.tracks[0].id == 100
