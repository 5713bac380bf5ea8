"""dlib's two models against each other: where they see the eyes of real faces, how much that trembles, and its time.

``pytest tests/edge/test_landmarks.py -s`` prints the figures of docs/loop.md.
"""

import inspect
import re
import statistics
import time
from pathlib import Path

import cv2
import dlib
import numpy as np
import pytest

import edge
from edge.__main__ import _parser
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import DEFAULT_MODEL, MODELS, Landmarks
from edge.types import Box

PICTURES = 150
LOOKS = 4


@pytest.fixture(scope="module")
def looks(shared):
    """By model: eyes (faces, LOOKS, 2, 2) of PublicTest's faces, each seen with other noise and in another box; and
    the median time of a fit, seconds."""
    pixels = np.load(shared / "fer2013" / "public_test.npz")["x"][:PICTURES]
    detector, models = FaceDetector(40), {name: Landmarks(name) for name in MODELS}
    rng = np.random.default_rng(0)
    found = {name: [] for name in models}
    spent = {name: [] for name in models}
    for picture in pixels:
        large = cv2.resize(picture, (144, 144), interpolation=cv2.INTER_CUBIC)
        scene = cv2.copyMakeBorder(large, *(72,) * 4, cv2.BORDER_CONSTANT, value=(128,))
        faces = detector.find(scene)
        if len(faces) != 1:
            continue
        box = faces[0].box
        seen = []
        for _ in range(LOOKS):
            noisy = np.clip(scene + rng.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
            off = rng.normal(0, 0.02 * box.width, 3)
            seen.append((noisy, Box(box.x + off[0], box.y + off[1], box.width + off[2], box.height + off[2])))
        for name, model in models.items():
            eyes = []
            for noisy, near in seen:
                begun = time.thread_time()
                points = model.points(noisy, near)
                spent[name].append(time.thread_time() - begun)
                eyes.append(model.eyes(points))
            found[name].append(eyes)
    return {name: (np.array(found[name], np.float64), statistics.median(spent[name])) for name in models}


def test_both_see_the_eyes_in_the_same_place(looks):
    first, second = (looks[name][0].mean(axis=1) for name in MODELS)
    apart = np.linalg.norm(second[:, 1] - second[:, 0], axis=-1)
    assert len(apart) >= 80
    off = (first - second) / apart[:, None, None]
    print(f"apart by {np.abs(off.mean(axis=0)).max():.2%} on average, deviation {off.std(axis=0).max():.2%}")
    assert np.abs(off.mean(axis=0)).max() < 0.02  # of the distance between the eyes: a third of a pixel in a crop of 48
    assert off.std(axis=0).max() < 0.05


def test_the_default_trembles_no_more_than_the_other_and_is_quicker(looks):
    trembles = {}
    for name, (eyes, seconds) in looks.items():
        apart = np.linalg.norm(eyes[:, :, 1] - eyes[:, :, 0], axis=-1).mean(axis=1)
        away = np.linalg.norm(eyes - eyes.mean(axis=1, keepdims=True), axis=-1)
        trembles[name] = float((np.sqrt((away**2).mean(axis=(1, 2))) / apart).mean())
        print(f"{name}: trembles by {trembles[name]:.2%}, a fit takes {1000 * seconds:.2f} ms of a core")
    others = [name for name in MODELS if name != DEFAULT_MODEL]
    assert all(trembles[DEFAULT_MODEL] <= 1.05 * trembles[name] for name in others)
    assert all(looks[DEFAULT_MODEL][1] < 0.9 * looks[name][1] for name in others)


def test_the_large_model_is_opened_only_where_it_is_asked_for(portrait, monkeypatch):
    opened = []
    real = dlib.shape_predictor
    monkeypatch.setattr(dlib, "shape_predictor", lambda path: opened.append(path) or real(path))
    for asked in ({}, {"landmarks": "68"}):
        with edge.Recognizer(**asked) as recognizer:
            assert recognizer.process(portrait).faces
    assert [f"_{count}_" in path for count, path in zip(("5", "68"), opened, strict=True)] == [True, True]


def test_every_door_has_the_same_default():
    """The command line does not import the models' names, and the ROS parameters can't: both say them once more."""
    options = _parser().parse_args(["run", "0"])
    (asked,) = (one for one in options.parser._actions if one.dest == "landmarks")
    assert (tuple(asked.choices), options.landmarks) == (MODELS, DEFAULT_MODEL)
    for door in (edge.Recognizer, edge.recognize):
        assert inspect.signature(door).parameters["landmarks"].default == DEFAULT_MODEL
    ros = Path(__file__).parents[2] / "jetson" / "ros2"
    for file in ("config/faces.yaml", "edge_ros2/node.py"):
        assert re.search(f'landmarks"?: "{DEFAULT_MODEL}"', (ros / file).read_text())
