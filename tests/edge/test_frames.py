"""Arrays that are not pictures are refused, each with a line that says why."""

import numpy as np
import pytest

import edge
from edge.source import check_frame


@pytest.fixture(scope="module")
def recognizer():
    with edge.Recognizer() as recognizer:
        yield recognizer


BAD = {
    "1x1": (np.zeros((1, 1, 3), np.uint8), "frame is 1x1 pixels; expected 16x16 or larger"),
    "four channels": (np.zeros((64, 64, 4), np.uint8), "frame has 4 channels; .*COLOR_BGRA2BGR"),
    "grey": (np.zeros((64, 64), np.uint8), r"frame is grey, shape \(64, 64\); .*COLOR_GRAY2BGR"),
    "grey with an axis": (np.zeros((64, 64, 1), np.uint8), "frame is grey"),
    "float": (np.full((64, 64, 3), 200, np.float32), r"frame has dtype float32; .* frame\.astype\('uint8'\)$"),
    "float from 0 to 1": (np.ones((64, 64, 3), np.float32), r"dtype float32; .* \(255 \* frame\)\.astype\('uint8'\)$"),
    "16 bits": (np.zeros((64, 64, 3), np.uint16), r"frame has dtype uint16; .* \(frame >> 8\)\.astype\('uint8'\)$"),
    "empty": (np.zeros((0, 64, 3), np.uint8), r"frame is empty, shape \(0, 64, 3\)"),
    "channels first": (np.zeros((3, 64, 64), np.uint8), r"frame has shape \(3, 64, 64\); expected a BGR picture"),
    "batch": (np.zeros((1, 64, 64, 3), np.uint8), "frame has shape"),
    "not an array": ([[1, 2], [3, 4]], "frame is a list"),
    "nothing": (None, "frame is a NoneType"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_refused(name, recognizer):
    array, message = BAD[name]
    with pytest.raises(edge.FrameError, match=message) as caught:
        recognizer.process(array)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_good_arrays_pass(portrait):
    assert check_frame(portrait) is portrait
    view = portrait[::2, ::-1]
    assert check_frame(view) is view


def test_a_view_that_is_not_contiguous_gives_the_same_faces(portrait, recognizer):
    mirrored = recognizer.process(portrait[:, ::-1])
    copied = recognizer.process(np.ascontiguousarray(portrait[:, ::-1]))
    assert len(mirrored.faces) == len(copied.faces) == 1
    assert mirrored.faces[0].box.iou(copied.faces[0].box) > 0.7
