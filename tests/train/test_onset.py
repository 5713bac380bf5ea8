"""Made-up onsets: a motion field that is exactly the clip's, the still at the end, and honest labels."""

import cv2
import numpy as np
import pytest

from edge.bundle import Alignment, InputSpec, Normalisation
from edge.errors import OptionError
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.flow import flow
from edge.preprocess import face_crop
from edge.types import Box
from train import onset as module
from train.datasets import fer2013
from train.datasets.errors import CorpusError
from train.examples import Examples
from train.onset import (
    FACE_BOX,
    STABLE,
    Neutral,
    ease,
    neutral_shapes,
    onset,
    onsets,
    plausible,
    start_shape,
)

NAMES = ("happy", "neutral")
FREE = [i for i in range(68) if i not in STABLE]


def crop_spec(side):
    alignment = Alignment((0.316, 0.398), (0.684, 0.398))
    return InputSpec(
        "face", "face", (1, 1, side, side), "float32", "grey", "area", Normalisation("per_image"), alignment
    )


@pytest.fixture(scope="module")
def landmarks():
    return Landmarks("68")


@pytest.fixture(scope="module")
def eyes(portrait, landmarks):
    grey = cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY)
    return landmarks.eyes(landmarks.points(grey, FaceDetector(60).find(grey)[0].box))


@pytest.fixture(scope="module")
def still(portrait, eyes):
    """The portrait as a crop of 96x96."""
    return face_crop(portrait, eyes, crop_spec(96))


@pytest.fixture(scope="module")
def points(still, landmarks):
    """Its landmarks, pixels of 96x96."""
    large = cv2.resize(still, (192, 192), interpolation=cv2.INTER_CUBIC)
    x, y, width, height = (share * 192 for share in FACE_BOX)
    return ((landmarks.points(large, Box(x, y, width, height)) + 0.5) / 2 - 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def start(points):
    """A less smiling shape: corners of the mouth lower and closer, brows lower."""
    shape = points.copy()
    shape[[48, 60]] += (2, 2)
    shape[[54, 64]] += (-2, 2)
    shape[17:27] += (0, 2)
    return shape


@pytest.fixture(scope="module")
def faces(portrait, eyes):
    """Six crops like FER2013's: happy, neutral (by name alone), and one of noise."""
    rng = np.random.default_rng(0)
    pixels = np.stack([face_crop(portrait, eyes + rng.normal(0, 2, (2, 2)), crop_spec(48)) for _ in range(6)])
    pixels[4] = rng.integers(0, 256, (48, 48))
    return Examples(
        corpus="ours",
        names=NAMES,
        arrays={"face": pixels},
        labels=np.array([0, 1, 0, 1, 0, 1]),
        subjects=("a", "b", "c", "d", "e", None),
        sequences=tuple("uvwxyz"),
        splits=("train", "test", None, "train", "train", "val"),
        originals=np.array([True, True, False, True, True, True]),
    )


def carried(fields, points):
    """Where the fields take points."""
    for field in fields:
        x, y = (np.ascontiguousarray(points[:, i : i + 1], np.float32) for i in range(2))
        points = points + cv2.remap(field, x, y, cv2.INTER_LINEAR)[:, 0]
    return points


def test_the_field_is_the_clips_motion(still, points, start):
    """What is at p in a frame is at p + field in the next: warping back the next frame gives the frame."""
    clip, fields = onset(still, points, start, ease(8))
    assert (clip.shape, clip.dtype) == ((8, 96, 96), np.uint8)
    assert (fields.shape, fields.dtype) == ((7, 96, 96, 2), np.float32)
    grid = np.dstack(np.meshgrid(np.arange(96, dtype=np.float32), np.arange(96, dtype=np.float32)))
    left, moved = [], []
    for before, after, field in zip(clip[:-1], clip[1:], fields, strict=True):
        places = grid + field
        back = cv2.remap(after, places[..., 0], places[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        left.append(np.abs(back.astype(int) - before).mean())
        moved.append(np.abs(after.astype(int) - before).mean())
    assert max(left) < 1
    assert sum(left) < 0.4 * sum(moved)


def test_the_fields_take_the_start_to_the_still(still, points, start):
    fields = onset(still, points, start, ease(8))[1]
    far = np.hypot(*(start - points).T)
    near = np.hypot(*(carried(fields, start) - points).T)
    assert far.max() > 2.5
    assert near.max() < 0.25 * far.max()  # a spline with some stiffness
    assert near[FREE].mean() < 0.15 * far[far > 0].mean()


def test_an_estimate_agrees_with_the_known_field(still, points, start):
    """Known from outside: the optical flow that the device computes finds this very motion."""
    clip, fields = onset(still, points, start, ease(4))
    found = flow(clip[1], clip[2], "clg")
    assert (
        np.hypot(*np.moveaxis(found - fields[1], -1, 0)).mean() < 0.4 * np.hypot(*np.moveaxis(fields[1], -1, 0)).max()
    )
    assert float((found * fields[1]).sum() / np.linalg.norm(found) / np.linalg.norm(fields[1])) > 0.8


def test_the_last_frame_is_the_still_and_the_border_never_moves(still, points, start):
    clip, fields = onset(still, points, start, ease(8))
    assert np.array_equal(clip[-1], still)
    assert not np.array_equal(clip[0], still)
    assert np.hypot(*np.moveaxis(fields.sum(axis=0)[[0, -1]], -1, 0)).max() < 0.4


def test_an_extreme_start_is_approached_as_far_as_the_picture_does_not_fold(still, points):
    shape = points.copy()
    shape[48:68] += (30, -25)
    clip, fields = onset(still, points, shape, ease(8))
    grid = np.dstack(np.meshgrid(np.arange(96, dtype=np.float32), np.arange(96, dtype=np.float32)))
    for field in fields:
        # Every map from frame to frame keeps the order of the pixels.
        assert np.diff((grid + field)[..., 0], axis=1).min() > 0
        assert np.diff((grid + field)[..., 1], axis=0).min() > 0
    assert np.array_equal(clip[-1], still)


def test_no_displacement_no_motion(still, points):
    clip, fields = onset(still, points, points, ease(5))
    assert not fields.any()
    assert all(np.array_equal(frame, still) for frame in clip)


def test_ease():
    for skew in (-0.3, 0.0, 0.3):
        pace = ease(8, skew)
        assert (pace[0], pace[-1]) == (0, 1)
        assert (np.diff(pace) > 0).all()
    assert ease(9, 0.3)[4] < ease(9)[4] == pytest.approx(0.5)


def shape_model(points):
    """A neutral face of those proportions, one mode: the corners of the mouth apart."""
    mean = module._normalised(points, (96, 96)).astype(np.float32)
    mode = np.zeros((1, 68, 2), np.float32)
    mode[0, 48, 0], mode[0, 54, 0] = -(0.5**0.5), 0.5**0.5
    return Neutral(mean, mode, np.array([0.05], np.float32))


@pytest.mark.parametrize("turn", [0.0, 0.2])
def test_a_neutral_face_does_not_move(points, turn):
    """In whatever pose and size; nor does one whose proportions neutral faces have."""
    model = shape_model(points)
    for shape in (model.mean, model.mean + 2 * 0.05 * model.modes[0]):
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * 31
        placed = (shape @ rotation + (20, 30)).astype(np.float32)
        assert start_shape(placed, model) == pytest.approx(placed, abs=0.01)


def test_an_expression_is_taken_away(points):
    model = shape_model(points)
    shape = model.mean.copy()
    shape[17:27] -= (0, 0.1)  # brows up
    shape[[48, 54]] += ((-0.25, 0), (0.25, 0))  # wider than a neutral mouth gets
    start = start_shape(shape * 30, model) / 30
    assert start[17:27] == pytest.approx(model.mean[17:27], abs=0.01)
    limit = module.LIMIT * 0.05 * 0.5**0.5
    assert start[54, 0] - model.mean[54, 0] == pytest.approx(limit, abs=0.01)
    assert start[list(STABLE)] == pytest.approx(shape[list(STABLE)], abs=1e-5)


def test_examples_of_onsets_say_what_they_are(faces):
    made = onsets(faces, frames=6, size=(64, 56), seed=3, progress=False)
    examples = made.examples
    assert made.skipped == 1  # the noise
    assert len(examples) == 5
    assert examples.synthetic
    assert examples.corpus == "ours (synthetic onsets)"
    assert list(examples.arrays) == ["clip"]
    assert examples.arrays["clip"].shape == (5, 6, 64, 56)
    assert examples.arrays["clip"].dtype == np.uint8
    assert examples.labels.tolist() == [0, 1, 0, 1, 1]
    assert examples.subjects == ("a", "b", "c", "d", None)
    assert examples.sequences == ("u", "v", "w", "x", "z")
    assert examples.splits == ("train", "test", None, "train", "val")
    assert examples.originals.tolist() == [True, True, False, True, True]
    for clip, picture in zip(examples.arrays["clip"], faces.arrays["face"][[0, 1, 2, 3, 5]], strict=True):
        assert np.array_equal(clip[-1], cv2.resize(picture, (56, 64), interpolation=cv2.INTER_CUBIC))
    assert faces.corpus == "ours"
    assert not faces.synthetic


def test_the_seed_sets_the_pace_and_nothing_else(faces, landmarks):
    one, again, other = (
        onsets(faces, size=(64, 64), seed=seed, progress=False).examples.arrays["clip"] for seed in (0, 0, 1)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(one[:, [0, -1]], other[:, [0, -1]])


def test_a_face_has_the_same_clip_in_whatever_company(faces):
    """With the neutral shapes given, nothing of one example comes from another."""
    neutral = neutral_shapes(faces)
    everyone = onsets(faces, neutral=neutral, progress=False).examples.arrays["clip"]
    few = onsets(faces.subset(np.array([0, 1])), neutral=neutral, progress=False).examples.arrays["clip"]
    assert np.array_equal(few, everyone[:2])


def test_plausible(points):
    shares = (points + 0.5) / 96
    assert plausible(shares)
    assert not plausible(shares[:, ::-1])
    assert not plausible(shares * 0.5)
    assert not plausible(np.full((68, 2), 0.5, np.float32))


def test_what_can_not_be_is_refused(faces):
    with pytest.raises(OptionError, match="1 frames of 64x64"):
        onsets(faces, frames=1)
    with pytest.raises(OptionError, match="8 frames of 8x64"):
        onsets(faces, size=(8, 64))
    with pytest.raises(CorpusError, match="no neutral face could be marked.*neutral_shapes"):
        onsets(faces.subset(np.array([0, 2])), progress=False)
    with pytest.raises(CorpusError, match="no face could be marked"):
        onsets(faces.subset(np.array([4])), neutral=neutral_shapes(faces), progress=False)


def test_neutral_faces_move_less_than_happy_ones(shared):
    """On FER2013's own 48x48 crops, with neutral shapes from other faces than those compared."""
    everyone = fer2013.load(shared / "fer2013")
    label = {name: np.flatnonzero(everyone.labels == everyone.names.index(name)) for name in ("neutral", "happy")}
    neutral = neutral_shapes(everyone.subset(label["neutral"][:800]))
    travel = {}
    for name, places in label.items():
        marked = module._marks(everyone.subset(places[-300:]), (64, 64), False)
        assert len(marked) > 150
        travel[name] = np.median([np.hypot(*(start_shape(p, neutral) - p)[FREE].T).mean() for p in marked.values()])
    assert travel["neutral"] < 0.8 * travel["happy"]
    assert travel["neutral"] < 1.5  # of 64 pixels, over the whole clip
