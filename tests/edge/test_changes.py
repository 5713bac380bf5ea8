"""Only what changed is searched for new faces, and a newcomer always changes something."""

import cv2
import numpy as np
import pytest

from edge.faces.changes import CELL, EVERY, Changes
from edge.faces.detect import AHEAD, FaceDetector
from edge.faces.landmarks import Landmarks
from edge.faces.watch import LOOK_AROUND_NS, SEARCHES, Watcher
from edge.types import Box

FRAME_NS = 40_000_000


def noisy(grey, seed, sigma=3.0):
    return np.clip(grey + np.random.default_rng(seed).normal(0, sigma, grey.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def portrait_grey(portrait):
    return cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY)


@pytest.fixture
def scene(portrait_grey):
    """A grey room, 640x360, with a face at the left; the same face may come up at the right."""

    def paint(second=False, seed=0, shift=0, side=200, lean=0):
        picture = np.full((360, 640), 120, np.uint8)
        face = portrait_grey[20:220, 120:320]
        picture[60:260, 40 + shift : 240 + shift] = face
        if second:
            leaning = cv2.getRotationMatrix2D((100, 100), lean, 1)
            mirrored = cv2.warpAffine(face[:, ::-1], leaning, (200, 200), borderMode=cv2.BORDER_REPLICATE)
            shrunk = cv2.resize(mirrored, (side, side), interpolation=cv2.INTER_AREA)
            picture[90 : 90 + side, 620 - side : 620] = shrunk
        return noisy(picture, seed)

    return paint


def test_noise_is_no_change(scene):
    changes = Changes(60)
    assert changes.region(scene(seed=0), []) == Box(0, 0, 640, 360)
    assert [changes.region(scene(seed=seed), []) for seed in range(1, EVERY - 1)] == [None] * (EVERY - 2)
    assert changes.region(scene(seed=9), []) == Box(0, 0, 640, 360), "the whole picture in turn"


def test_who_comes_up_is_inside_the_region(scene):
    changes = Changes(60)
    changes.region(scene(), [])
    region = changes.region(scene(second=True, seed=1), [])
    assert region.x <= 420 - CELL
    assert region.y <= 90 - CELL
    assert region.x + region.width >= 620
    assert region.y + region.height >= 290 + CELL
    assert region.x > 240, "where nothing changed is left out"


def test_what_a_known_face_does_is_its_own(scene):
    known = [Box(30, 50, 230, 220)]
    changes = Changes(60)
    changes.region(scene(), known)
    assert changes.region(scene(shift=6, seed=1), known) is None
    assert changes.region(scene(shift=9, seed=2), []) is not None


def test_slow_changes_add_up(scene):
    changes, picture = Changes(60), scene()
    changes.region(picture, [])
    assert changes.region(cv2.add(picture, (3,)), []) is None
    assert changes.region(cv2.add(picture, (6,)), []) == Box(0, 0, 640, 360), "each step is too small, both are not"


def test_another_size_or_having_forgotten_searches_all(scene):
    changes = Changes(60)
    changes.region(scene(), [])
    assert changes.region(scene()[:300], []) == Box(0, 0, 640, 300)
    changes.forget()
    assert changes.region(scene()[:300], []) == Box(0, 0, 640, 300)


@pytest.mark.parametrize(
    ("side", "lean", "turns"),
    [
        pytest.param(265, 0, 2, id="a large face"),
        pytest.param(110, 0, 3, id="a small face"),
        pytest.param(110, 35, 5, id="a small face that leans"),
    ],
)
@pytest.mark.parametrize("first", range(30, 70, 8))
def test_a_newcomer_in_a_still_room_shows_in_time(scene, side, lean, turns, first):
    """Whenever it comes up: searches of several kinds take turns."""
    detector = FaceDetector()
    (newcomer,) = (one for one in detector.find(scene(second=True, side=side, lean=lean)) if one.box.x > 300)
    assert (newcomer.box.width >= 2 * detector.min_face) == (turns == 2)
    ahead = [one for one in detector.find(scene(second=True, side=side, lean=lean), filter=AHEAD) if one.box.x > 300]
    assert bool(ahead) == (turns < 5)
    watcher, there = Watcher(detector, Landmarks("5")), []
    for index in range(first + 60):
        watcher.look(scene(second=index >= first, seed=index, side=side, lean=lean), index * FRAME_NS)
        there.append(sum(one.eyes is not None for one in watcher._sightings(index * FRAME_NS)))
    assert there[first - 1] == 1
    assert there.index(2) - first <= turns * LOOK_AROUND_NS / FRAME_NS


def test_a_still_room_costs_a_part(scene):
    still = Watcher(FaceDetector(), Landmarks("5"))
    for index in range(110):
        still.look(scene(seed=index), index * FRAME_NS)
    searches = 110 * FRAME_NS // LOOK_AROUND_NS
    whole = 853 * 480
    # The first frame; of each kind of search the first, which has nothing to compare with, and one in EVERY.
    kinds = {kind: SEARCHES.count(kind) for kind in SEARCHES}
    share = sum((1 + searches * turns // len(SEARCHES) // EVERY) / times**2 for (times, _), turns in kinds.items())
    assert still.searched[1] < 1.01 * whole * (1 + share)
