"""Faces that can't be read are said to be so, and why; those that can are not."""

import cv2
import numpy as np
import pytest

import edge
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.faces.quality import Limits, Quality, measure
from edge.faces.upright import upright
from edge.types import FaceState

CLEAR = Quality(40, 120, 50, 0.1, 0.05)


@pytest.fixture(scope="module", params=["68", "5"])
def look(request, portrait):
    """Measures a changed portrait at the place of the clear one's face."""
    landmarks = Landmarks(request.param)
    box = FaceDetector().find(cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY))[0].box

    def quality(change):
        points = landmarks.points(cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY), box)
        eyes = landmarks.eyes(points)
        return measure(upright(cv2.cvtColor(change(portrait), cv2.COLOR_BGR2GRAY), eyes), points, eyes)

    return quality


def blurred(sigma):
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma)


def dimmed(gain):
    return lambda image: cv2.convertScaleAbs(image, alpha=gain)


def flattened(gain):
    return lambda image: cv2.convertScaleAbs(image, alpha=gain, beta=110)


def shaken(pixels):
    return lambda image: cv2.blur(image, (pixels, 1))


def problems(quality):
    return quality.problems(Limits())


def test_the_portrait_can_be_read(look):
    assert problems(look(lambda image: image)) == ()


@pytest.mark.parametrize(
    ("change", "fine", "bad", "name"),
    [
        (blurred, (1, 2), (4, 6, 9), "blurred"),
        (shaken, (5, 9), (25, 35), "blurred"),
        (dimmed, (0.6, 0.3, 0.2), (0.09, 0.05), "dark"),
        (flattened, (0.5, 0.25), (0.1, 0.05), "flat"),
    ],
)
def test_step_by_step_it_can_not(look, change, fine, bad, name):
    for step in fine:
        assert problems(look(change(step))) == (), step
    for step in bad:
        assert name in problems(look(change(step))), step


def test_sharpness_falls_with_blur_and_not_with_light(look):
    steps = [look(blurred(sigma)).sharpness for sigma in (0.5, 1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)
    assert look(dimmed(0.5)).sharpness == pytest.approx(look(lambda image: image).sharpness, rel=0.05)


def test_each_limit_alone():
    from dataclasses import replace

    assert CLEAR.problems(Limits()) == ()
    for field, value, name in [
        ("eyes_apart", 8, "small"),
        ("mean", 10, "dark"),
        ("mean", 230, "bright"),
        ("contrast", 5, "flat"),
        ("sharpness", 0.005, "blurred"),
        ("turn", 0.5, "turned"),
    ]:
        assert replace(CLEAR, **{field: value}).problems(Limits()) == (name,)


def test_a_nose_off_the_middle_is_a_head_turned_away(portrait):
    """The same points, with the nose moved along the eyes' line, in a frame that is turned."""
    grey = cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY)
    points = np.array([[260, 106], [238, 106], [186, 108], [208, 108], [223, 140]], np.float32)
    eyes = np.array([[197, 108], [249, 106]], np.float32)
    picture = upright(grey, eyes)
    straight = measure(picture, points, eyes)
    assert straight.turn < 0.05
    points[4] += np.float32(0.4) * (eyes[1] - eyes[0])
    assert measure(picture, points, eyes).turn == pytest.approx(straight.turn + 0.4, abs=0.05)


def test_a_face_that_gets_blurred_says_so_and_keeps_its_label(portrait):
    with edge.Recognizer() as recognizer:
        faces = []
        for frame in range(60):
            image = portrait if frame < 20 or frame >= 40 else cv2.GaussianBlur(portrait, (0, 0), 5)
            faces += recognizer.process(image, frame * 40_000_000).faces
    assert len(faces) == 60
    assert {face.id for face in faces} == {1}
    assert {face.state for face in faces[10:20]} == {FaceState.OK}
    assert {face.state for face in faces[20:40]} == {FaceState.LOW_QUALITY}
    assert all("blurred" in face.reasons for face in faces[20:40])
    assert faces[22].reasons == ("blurred",)
    assert faces[39].reasons == ("blurred", "unconfirmed"), "the detector no longer sees it"
    assert {face.label for face in faces} == {"happy"}, "what can hardly be read hardly counts"
    assert {face.state for face in faces[42:]} == {FaceState.OK}
    assert all(face.visible for face in faces)


def test_reasons_are_in_the_line_of_json(portrait):
    with edge.Recognizer() as recognizer:
        dark = recognizer.process(cv2.convertScaleAbs(portrait, alpha=0.09)).to_dict()
    (face,) = dark["faces"]
    assert face["state"] == "low_quality"
    assert face["reasons"] == ["dark", "flat"]
