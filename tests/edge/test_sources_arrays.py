"""Pictures from the caller's own code."""

import itertools
import threading
import time

import numpy as np
import pytest

import edge
from edge.camera import open_source
from edge.source import SourceState
from edge.synthetic import SyntheticSource


def pictures(count=10**9):
    camera = SyntheticSource(320, 240)
    for index in range(count):
        yield camera.picture(index / 25)


@pytest.mark.parametrize("make", [lambda frames: frames, iter, tuple, lambda frames: (one for one in frames)])
def test_any_iterable(make):
    with edge.Recognizer(make(list(pictures(12)))) as recognizer:
        assert not recognizer.live
        assert recognizer.policy is edge.DropPolicy.WAIT
        results = list(recognizer)
    assert [result.frame for result in results] == list(range(12))
    assert [result.captured_ns for result in results] == [index * 40_000_000 for index in range(12)]
    assert all(result.faces for result in results)
    assert {face.id for result in results for face in result.faces} == {1}


def test_times_of_ones_own():
    times = [5, 10**9, 10**9, 3 * 10**9]
    source = open_source(zip(pictures(4), times, strict=True))
    assert [frame.captured_ns for frame in source] == times
    assert source.health.frames == 4
    assert source.health.state is SourceState.ENDED


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([1, 0], edge.SourceError, "captured_ns 0 is before the last frame's 1; it may not go back"),
        ([1, 2.5], edge.SourceError, "captured_ns is 2.5; expected whole nanoseconds"),
        ([1, None], edge.SourceError, "captured_ns is None; expected whole nanoseconds"),
    ],
)
def test_times_that_are_none(items, error, message):
    with edge.Recognizer(zip(pictures(), items, strict=False)) as recognizer:
        with pytest.raises(error, match=message):
            list(recognizer)


def test_things_among_the_pictures_that_are_none():
    good = next(pictures())
    for bad, error in (
        (good[..., 0], edge.FrameError),
        (good.astype(float), edge.FrameError),
        ("text", edge.FrameError),
        ((good, 1, 2), edge.SourceError),
        (None, edge.FrameError),
    ):
        with pytest.raises(error):
            list(open_source(iter([good, bad])))
    for wrong in (["a"], [1, 2], ("a.png", "b.png")):
        with pytest.raises(edge.SourceError, match=r"is no source; expected a path, a URI.*or pictures: BGR uint8"):
            open_source(wrong)


def test_no_picture_at_all():
    assert list(open_source([])) == []
    assert list(open_source(iter(()))) == []


@pytest.mark.parametrize("use", ["iterate", "latest"])
def test_what_a_generator_raises_reaches_the_consumer_unchanged(use):
    class OwnError(Exception):
        pass

    told = OwnError("the driver of the robot's head")

    def failing():
        yield from pictures(5)
        raise told

    begun = time.monotonic()
    with edge.Recognizer(failing()) as recognizer, pytest.raises(OwnError) as caught:
        if use == "iterate":
            list(recognizer)
        while True:
            recognizer.latest(1e6)
    assert caught.value is told
    assert time.monotonic() - begun < 3


def test_an_endless_generator():
    made = itertools.count()

    def endless():
        for picture in pictures():
            next(made)
            yield picture

    with edge.Recognizer(endless()) as recognizer:
        assert len(list(itertools.islice(recognizer, 10))) == 10
    assert next(made) < 30, "it is not read far ahead of the consumer"
    with edge.Recognizer(endless()) as recognizer:
        assert recognizer.latest(1000).faces
    deadline = time.monotonic() + 3
    while [one for one in threading.enumerate() if one.name.startswith("edge-")] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [one for one in threading.enumerate() if one.name.startswith("edge-")]


def test_one_array_is_a_film_of_its_first_axis_or_no_picture():
    film = np.stack(list(pictures(3)))
    assert len(list(open_source(film))) == 3
    with pytest.raises(edge.FrameError, match="is grey, shape"):
        list(open_source(film[0]))
