"""What is drawn and counted."""

import numpy as np

from edge.outputs.overlay import draw
from edge.outputs.summary import Summary
from edge.outputs.video import _fit
from edge.types import Box, Face, FaceState, Frame, Result


def result(*faces, frame=0):
    return Result(frame, 0, faces, {"detect": 2.0, "total": 4.0})


def face(number, x, y, size=100.0, state=FaceState.OK):
    return Face(number, Box(x, y, size, size), "happy", 0.9, {"happy": 0.9, "sad": 0.1}, state)


def test_drawing_leaves_the_frame_alone_and_survives_the_border():
    image = np.full((360, 640, 3), 128, np.uint8)
    faces = [face(1, -50, -50), face(2, 600, 330), face(3, 200, 100), face(4, 250, 120, state=FaceState.UNCERTAIN)]
    drawn = draw(image, result(*faces))
    assert (image == 128).all()
    assert drawn.shape == image.shape
    assert (drawn != 128).any()
    # Face 3's box is drawn in its state's colour.
    assert tuple(drawn[150, 200]) != (128, 128, 128)


def test_an_empty_result_is_said():
    image = np.full((360, 640, 3), 128, np.uint8)
    drawn = draw(image, result())
    assert (drawn[40:] == 128).all()
    assert (drawn[:40] != 128).any()


def test_the_summary_counts():
    summary = Summary()
    assert summary.finish(True) is None
    image = np.zeros((32, 32, 3), np.uint8)
    for index in range(4):
        faces = (face(1, 0, 0), face(2, 200, 0)) if index < 3 else ()
        summary.write(Frame(index, 0, image), result(*faces, frame=index))
    text = summary.finish(True)
    assert text is not None
    assert "frames  4, a face in 3 (75%)" in text
    assert "faces   2" in text
    assert "happy 6" in text
    assert "detect         2.00     2.00" in text


def test_frames_of_another_size_are_fitted():
    wide = np.full((100, 400, 3), 255, np.uint8)
    fitted = _fit(wide, (200, 200))
    assert fitted.shape == (200, 200, 3)
    assert (fitted[75:125] == 255).all()
    assert (fitted[:70] == 0).all()
    assert _fit(np.zeros((101, 201, 3), np.uint8), (200, 100)).shape == (100, 200, 3)
