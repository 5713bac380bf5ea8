"""Calm where nothing happens, quick where something does, silent in doubt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.smooth import Smoother, Smoothing, softmax
from edge.types import FaceState

FRAME = 40_000_000


def logits(*values):
    return np.array(values, np.float32)


def run(smoother, sequence, start=0, face=1):
    return [smoother.update(face, value, (start + i) * FRAME) for i, value in enumerate(sequence)]


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=9))
def test_softmax_is_a_distribution(values):
    found = softmax(np.array(values, np.float32))
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0
    assert found[np.array(values, np.float32).argmax()] == found.max()


def test_the_first_frame_is_itself():
    label, probabilities, state = Smoother(2.0, 0.3).update(1, logits(0, 2, 4), 0)
    assert label == 2
    assert probabilities == pytest.approx(softmax(logits(0, 1, 2)))
    assert state is FaceState.WARMING_UP


def test_flicker_is_held_back():
    smoother = Smoother(1.0, 0.0)
    run(smoother, [logits(3, 0)] * 20)
    shown = run(smoother, [logits(0, 0.5), logits(3, 0)] * 20, start=20)
    assert {label for label, _, _ in shown} == {0}
    plain = Smoother(1.0, 0.0, Smoothing(time_constant_ms=0, margin=0, patience_ms=0))
    flicker = [label for label, _, _ in run(plain, [logits(0, 0.5), logits(3, 0)] * 20)]
    assert flicker.count(1) == 20


def test_a_change_shows_within_300_ms():
    smoother = Smoother(1.0, 0.0)
    run(smoother, [logits(4, 0, 0)] * 50)
    changed = [label for label, _, _ in run(smoother, [logits(0, 0, 4)] * 50, start=50)]
    assert changed.index(2) * FRAME < 300_000_000


def test_frames_weigh_by_time_not_by_number():
    ends = []
    for step in (1, 4):
        smoother = Smoother(1.0, 0.0)
        smoother.update(1, logits(3, 0), 0)
        for frame in range(step, 21, step):
            _, probabilities, _ = smoother.update(1, logits(0, 3), frame * 10_000_000)
        ends.append(probabilities)
    assert ends[0] == pytest.approx(ends[1])
    assert ends[0][0] > 0.3, "200 ms in, the past still weighs a third"


def test_doubt_is_said():
    smoother = Smoother(1.0, 0.6)
    states = [state for _, _, state in run(smoother, [logits(0.2, 0, 0)] * 10)]
    assert states[0] is FaceState.WARMING_UP
    assert states[-1] is FaceState.UNCERTAIN
    states = [state for _, _, state in run(smoother, [logits(5, 0, 0)] * 30, start=10)]
    assert states[-1] is FaceState.OK


def test_faces_do_not_mix():
    smoother = Smoother(1.0, 0.0)
    for frame in range(10):
        assert smoother.update(1, logits(5, 0), frame * FRAME)[0] == 0
        assert smoother.update(2, logits(0, 5), frame * FRAME)[0] == 1


def test_after_a_long_absence_a_face_starts_anew():
    smoother = Smoother(1.0, 0.0)
    run(smoother, [logits(5, 0)] * 10)
    label, _, state = smoother.update(1, logits(0, 5), 100 * FRAME)
    assert (label, state) == (1, FaceState.WARMING_UP)
    smoother.forget(1000 * FRAME)
    assert not smoother._faces
