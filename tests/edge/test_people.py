"""Several faces at once, and who is who: crossings, occlusions, comings and goings, with the real detector."""

import cv2
import numpy as np
import pytest

import edge
from edge.faces.track import assign
from edge.types import FaceState

FRAME_NS = 40_000_000


@pytest.fixture(scope="module")
def heads(portrait):
    """Two heads that differ: hers, and hers mirrored, darker and with other eyes and mouth than light gives them."""
    head = portrait[20:240, 114:334]
    shade = np.linspace(0.35, 1.25, head.shape[1])[None, :, None]
    other = np.clip(head[:, ::-1] * shade, 0, 255).astype(np.uint8)
    return head, other


def put(canvas, head, centre, side):
    """Paste a head; what lies outside the canvas is cut off."""
    head = cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA)
    x, y = round(centre[0] - side / 2), round(centre[1] - side / 2)
    left, top = max(0, -x), max(0, -y)
    right, bottom = min(side, canvas.shape[1] - x), min(side, canvas.shape[0] - y)
    if right > left and bottom > top:
        canvas[y + top : y + bottom, x + left : x + right] = head[top:bottom, left:right]


def run(frames):
    with edge.Recognizer() as recognizer:
        return [recognizer.process(frame, index * FRAME_NS) for index, frame in enumerate(frames)]


def visible(result):
    return [face for face in result.faces if face.visible]


def test_ten_faces_at_1280x720(portrait):
    """Of several sizes, each on its own way, for more than a second: all found in each frame, each with one id."""
    head = portrait[20:240, 114:334]
    places = [(140 + 250 * (i % 5), 190 + 330 * (i // 5), 150 + 17 * (i % 4), 2 * np.pi * i / 10) for i in range(10)]
    frames = []
    for step in range(24):
        canvas = np.full((720, 1280, 3), 96, np.uint8)
        for x, y, side, phase in places:
            put(canvas, head, (x + 25 * np.sin(phase + step / 6), y + 15 * np.cos(phase + step / 8)), side)
        frames.append(canvas)
    results = run(frames)
    assert [len(visible(result)) for result in results] == [10] * 24
    first = {face.id: face.box.centre for face in results[0].faces}
    assert set(first) == set(range(1, 11))
    for result in results:
        for face in result.faces:
            x, y = face.box.centre
            assert abs(x - first[face.id][0]) < 70
            assert abs(y - first[face.id][1]) < 50


def test_two_faces_that_cross_keep_their_ids(heads):
    """One passes in front of the other, which is hidden for a while."""
    one, other = heads
    frames, ways = [], []
    for step in range(60):
        canvas = np.full((360, 640, 3), 96, np.uint8)
        back, front = 110 + 7 * step, 530 - 7 * step
        put(canvas, other, (back, 180), 170)
        put(canvas, one, (front, 180), 190)
        frames.append(canvas)
        ways.append((back, front))
    results = run(frames)
    start = {face.id: face.box.centre[0] for face in visible(results[2])}
    assert len(start) == 2
    back, front = sorted(start, key=lambda number: start[number])
    assert {face.id for result in results for face in result.faces} == {back, front}, "nobody new came"
    assert min(len(visible(result)) for result in results) == 1, "the one behind is hidden for a while"
    for result, (x, u) in list(zip(results, ways, strict=True))[-8:]:
        where = {face.id: face.box.centre[0] for face in visible(result)}
        assert where[back] == pytest.approx(x, abs=25)
        assert where[front] == pytest.approx(u, abs=25)


@pytest.mark.parametrize(("hidden", "same"), [(20, True), (30, False)])
def test_a_face_hidden_for_a_moment_is_the_same_one_and_for_longer_a_new_one(portrait, hidden, same):
    """0.8 s and 1.2 s; it moves on meanwhile."""
    head = portrait[20:240, 114:334]
    frames = []
    for step in range(15 + hidden + 15):
        canvas = np.full((360, 640, 3), 96, np.uint8)
        if not 15 <= step < 15 + hidden:
            put(canvas, head, (150 + 4 * step, 180), 190)
        frames.append(canvas)
    results = run(frames)
    before, after = results[14].faces[0], visible(results[-1])[0]
    gone = results[15 : 15 + hidden]
    assert not any(visible(result) for result in gone)
    assert [face.state for face in gone[10].faces] == [FaceState.LOST]
    lost = gone[10].faces[0]
    assert (lost.id, lost.label, lost.confidence, lost.box) == (before.id, before.label, before.confidence, before.box)
    assert (after.id == before.id) is same
    back = next(index for index, result in enumerate(results) if index >= 15 + hidden and visible(result))
    assert back - (15 + hidden) <= 2, "sought where it should be, it is found at once"


def test_a_face_seen_but_once_is_not_missed(portrait):
    canvas = np.full((360, 640, 3), 96, np.uint8)
    put(canvas, portrait[20:240, 114:334], (300, 180), 190)
    results = run([canvas, np.full_like(canvas, 96), np.full_like(canvas, 96)])
    assert [len(result.faces) for result in results] == [1, 0, 0]


def test_the_assignment_is_the_cheapest():
    from itertools import permutations

    rng = np.random.default_rng(0)
    for _ in range(60):
        rows, columns = rng.integers(1, 6, 2).tolist()
        table = rng.integers(-5, 20, (rows, columns)).tolist()
        pairs = assign(table)
        assert len(pairs) == min(rows, columns)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        longer, shorter = max(rows, columns), min(rows, columns)
        cheapest = min(
            sum(table[i][j] if rows <= columns else table[j][i] for i, j in enumerate(order))
            for order in permutations(range(longer), shorter)
        )
        assert sum(table[i][j] for i, j in pairs) == cheapest


def test_pairs_that_can_not_be_are_never_made():
    assert assign([[None, 1.0], [None, 2.0]]) == [(0, 1)]
    assert assign([[None]]) == []
    assert assign([]) == []
    assert assign([[5.0, None], [1.0, 100.0]]) == [(0, 0), (1, 1)], "as many as may be comes first"
