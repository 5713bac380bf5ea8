"""The crop: eyes where the bundle wants them, no aliasing, and one normalisation for training and running."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle import Alignment, Bundle, Normalisation
from edge.faces.align import align, similarity
from edge.preprocess import face_crop, normalise, to_tensor

TEMPLATE = Alignment((0.3, 0.4), (0.7, 0.4))


@given(x=st.floats(-500, 500), y=st.floats(-500, 500), distance=st.floats(5, 400), angle=st.floats(-math.pi, math.pi))
def test_the_similarity_puts_the_eyes_where_they_belong(x, y, distance, angle):
    step = np.array([math.cos(angle), math.sin(angle)]) * distance
    eyes = np.array([[x, y], [x + step[0], y + step[1]]], np.float64)
    matrix = similarity(eyes, TEMPLATE, 48, 64)
    placed = eyes @ matrix[:, :2].T + matrix[:, 2]
    assert placed == pytest.approx(
        np.array([[0.3 * 48 - 0.5, 0.4 * 64 - 0.5], [0.7 * 48 - 0.5, 0.4 * 64 - 0.5]]), abs=1e-6
    )
    # One scale and a rotation: no shear, no mirror.
    a, b, c, d = matrix[:, :2].ravel()
    assert (a, b) == pytest.approx((d, -c))
    assert a * d - b * c > 0


def test_eyes_that_coincide_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.zeros((2, 2), np.float32), TEMPLATE, 48, 48)


def test_a_crop_at_its_own_size_is_the_picture_itself():
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    eyes = np.array([[0.3 * 48 - 0.5, 0.4 * 48 - 0.5], [0.7 * 48 - 0.5, 0.4 * 48 - 0.5]], np.float32)
    assert np.abs(align(picture, eyes, TEMPLATE, 48, 48, "area").astype(int) - picture).max() <= 1


def test_area_averages_what_linear_skips():
    """Stripes of one pixel under a fourfold shrink: their mean is grey; bilinear samples catch stripes at random."""
    stripes = np.zeros((192, 192, 3), np.uint8)
    stripes[:, ::2] = 255
    eyes = np.array([[0.3 * 192 - 0.5, 0.4 * 192 - 0.5], [0.7 * 192 - 0.5, 0.4 * 192 - 0.5]], np.float32)
    area = align(stripes, eyes, TEMPLATE, 48, 48, "area").astype(int)
    assert np.abs(area - 127.5).max() <= 2
    # Shifted by a quarter of an output pixel, so that the samples fall on stripes' centres.
    linear = align(stripes, eyes + np.float32(0.5), TEMPLATE, 48, 48, "linear").astype(int)
    assert np.abs(linear - 127.5).max() > 60


def test_supersampling_does_not_shift_the_crop(portrait):
    """The centre of mass of a blob stays put, however large the face is in the frame."""
    for scale in (1, 2, 3, 5):
        side = 48 * scale
        blob = np.zeros((side, side, 3), np.uint8)
        cv2.circle(blob, (round(24.5 * scale), round(20.5 * scale)), 6 * scale, (255, 255, 255), -1)
        eyes = np.array([[0.3 * side - 0.5, 0.4 * side - 0.5], [0.7 * side - 0.5, 0.4 * side - 0.5]], np.float32)
        crop = align(blob, eyes, TEMPLATE, 48, 48, "area")[..., 0].astype(float)
        moments = cv2.moments(crop)
        source = cv2.moments(blob[..., 0].astype(float))
        wanted = [(source[key] / source["m00"] + 0.5) / scale - 0.5 for key in ("m10", "m01")]
        assert [moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]] == pytest.approx(wanted, abs=0.05)


def test_turning_the_frame_does_not_change_the_crop(portrait):
    (spec,) = Bundle.open().manifest.inputs
    eyes = np.array([[202.0, 108.0], [247.0, 107.0]], np.float32)
    upright = face_crop(portrait, eyes, spec).astype(int)
    matrix = cv2.getRotationMatrix2D((224, 118), 25, 0.8)
    turned = cv2.warpAffine(portrait, matrix, (512, 512), flags=cv2.INTER_CUBIC)
    moved = (eyes @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    assert np.abs(face_crop(turned, moved, spec).astype(int) - upright).mean() < 4


def test_colours():
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[..., 0] = 200
    eyes = np.array([[14, 19], [33, 19]], np.float32)
    from dataclasses import replace

    (spec,) = Bundle.open().manifest.inputs
    rgb = replace(spec, colour="rgb", shape=(1, 3, 48, 48), normalisation=Normalisation("fixed", (0, 0, 0), (1, 2, 4)))
    tensor = to_tensor(face_crop(picture, eyes, rgb), rgb)
    assert tensor.shape == (1, 3, 48, 48)
    assert tensor[0, :, 24, 24] == pytest.approx([0, 0, 50])
    bgr = replace(rgb, colour="bgr")
    assert to_tensor(face_crop(picture, eyes, bgr), bgr)[0, :, 24, 24] == pytest.approx([200, 0, 0])
    assert face_crop(picture, eyes, spec).shape == (48, 48)


@pytest.mark.parametrize("apart", [12, 30, 52])
def test_a_grey_frame_gives_the_same_crop(portrait, apart):
    spec = Bundle.open().manifest.inputs[0]
    assert spec.colour == "grey"
    eyes = np.array([[197, 108], [197 + apart, 106]], np.float32)
    crop = face_crop(portrait, eyes, spec).astype(int)
    grey = face_crop(cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY), eyes, spec).astype(int)
    assert grey.shape == crop.shape
    assert np.abs(grey - crop).max() <= 1, "each rounds in its own place"


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.5), st.floats(-40, 40))
def test_light_and_contrast_are_taken_out(seed, gain, offset):
    how = Normalisation("per_image", min_std=1.0)
    pixels = np.random.default_rng(seed).uniform(60, 180, (2, 1, 8, 8)).astype(np.float32)
    plain, changed = normalise(pixels, how), normalise(pixels * np.float32(gain) + np.float32(offset), how)
    assert plain == pytest.approx(changed, abs=1e-3)
    assert plain.mean(axis=(1, 2, 3)) == pytest.approx(0, abs=1e-5)
    assert plain.std(axis=(1, 2, 3)) == pytest.approx(1, abs=1e-3)


def test_a_flat_picture_is_not_blown_up():
    pixels = np.full((1, 1, 8, 8), 100, np.uint8)
    pixels[0, 0, 0, 0] = 102
    assert np.abs(normalise(pixels, Normalisation("per_image", min_std=8.0))).max() < 0.3


def test_one_picture_or_many_give_the_same_tensor():
    (spec,) = Bundle.open().manifest.inputs
    crops = np.random.default_rng(0).integers(0, 256, (5, 48, 48), dtype=np.uint8)
    together = normalise(crops[:, None], spec.normalisation)
    for crop, tensor in zip(crops, together, strict=True):
        alone = to_tensor(crop, spec)
        assert alone.dtype == np.float32
        assert alone.flags.c_contiguous
        assert alone[0] == pytest.approx(tensor, abs=1e-6)
