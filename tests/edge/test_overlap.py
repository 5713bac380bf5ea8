"""The halves of the pipeline on two threads: the same results as one after the other, failures told, nothing left."""

import json
import threading
import time

import numpy as np
import pytest

import edge
from edge.camera import open_source
from edge.faces.watch import LOOK_AROUND_NS, ROUND
from edge.recognizer import LOOK_AHEAD


def plain(result):
    return json.dumps({**result.to_dict(), "timings_ms": None})


def test_overlapped_and_one_after_the_other_give_the_same_bytes(make_clip):
    path = make_clip(60)
    with edge.Recognizer(path) as recognizer:
        overlapped = [plain(result) for result in recognizer]
    with edge.Recognizer() as recognizer:
        one_by_one = [plain(recognizer.process(frame.image, frame.captured_ns)) for frame in open_source(path)]
    assert overlapped == one_by_one
    assert len(overlapped) == 60


def test_a_slow_consumer_changes_nothing(make_clip):
    path = make_clip(30)
    with edge.Recognizer(path) as recognizer:
        quick = [plain(result) for result in recognizer]
    with edge.Recognizer(path) as recognizer:
        slow = []
        for result in recognizer:
            time.sleep(0.02)
            slow.append(plain(result))
    assert slow == quick


def test_the_halves_run_at_once(make_clip, monkeypatch):
    """While a frame is answered, a later one is looked at."""
    looking, seen_while_answering = threading.Event(), 0
    with edge.Recognizer(make_clip(40)) as recognizer:
        look, answer = recognizer._pipeline.look, recognizer._pipeline.answer

        def slow_look(frame):
            looking.set()
            return look(frame)

        def slow_answer(seen):
            nonlocal seen_while_answering
            looking.clear()
            # In a loop without overlap nobody would look before this is over.
            seen_while_answering += looking.wait(0.05)
            return answer(seen)

        monkeypatch.setattr(recognizer._pipeline, "look", slow_look)
        monkeypatch.setattr(recognizer._pipeline, "answer", slow_answer)
        assert len(list(recognizer)) == 40
    assert seen_while_answering >= 20


def test_what_is_put_off_waits_for_the_answer_and_for_no_other_frame(make_clip, monkeypatch):
    """Landmarks are fitted anew while nobody waits: a frame's answer is out, and the next one is not here yet."""
    images = [frame.image for frame in open_source(make_clip(40))]

    def paced():
        for image in images:
            time.sleep(0.04)
            yield image

    fitted = []
    with edge.Recognizer(paced(), drop="wait") as recognizer:
        pipeline, answer = recognizer._pipeline, recognizer._pipeline.answer
        points = pipeline.watcher._landmarks.points

        def fit(grey, box):
            fitted.append(pipeline.idle)
            return points(grey, box)

        def slow_answer(seen):
            time.sleep(0.01)
            return answer(seen)

        monkeypatch.setattr(pipeline.watcher._landmarks, "points", fit)
        monkeypatch.setattr(pipeline, "answer", slow_answer)
        assert len(list(recognizer)) == len(images)
    again = fitted[1:]
    assert len(again) >= len(images) // ROUND - 1
    assert sum(again) >= 0.6 * len(again), "a busy machine may be behind now and then"


def test_a_frame_that_is_here_does_not_wait_for_the_answer_to_another(make_clip, monkeypatch):
    """With frames in store, finding faces goes ahead of the network as far as it may."""
    with edge.Recognizer(make_clip(20)) as recognizer:
        pipeline, look, ahead = recognizer._pipeline, recognizer._pipeline.look, []

        def counted(frame):
            ahead.append(frame.index)
            return look(frame)

        monkeypatch.setattr(pipeline, "look", counted)
        results = iter(recognizer)
        next(results)
        give_up = time.monotonic() + 2
        while len(ahead) <= 1 + LOOK_AHEAD and time.monotonic() < give_up:
            time.sleep(0.01)
        assert len(ahead) > 1 + LOOK_AHEAD


def test_the_search_beside_the_frames_that_fails_is_told(make_clip, monkeypatch):
    with edge.Recognizer(make_clip(60)) as recognizer:
        find = recognizer._pipeline.watcher._wholes.find

        def fail(grey, *region):
            if region:
                raise RuntimeError("search broke")
            return find(grey)

        monkeypatch.setattr(recognizer._pipeline.watcher._wholes, "find", fail)
        seen = []
        with pytest.raises(RuntimeError, match="search broke"):
            for result in recognizer:
                seen.append(result.frame)
        assert seen[-1] <= 2 * LOOK_AROUND_NS / 40e6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-")]


def test_what_a_consumer_raises_stops_the_threads(make_clip):
    with pytest.raises(ZeroDivisionError):
        with edge.Recognizer(make_clip(60)) as recognizer:
            for result in recognizer:
                if result.frame == 5:
                    _ = 1 // 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-")]


def test_a_slow_consumer_of_a_camera_gets_the_newest(make_clip):
    """Where frames may be dropped none waits for the consumer, before the first half or after it."""
    with edge.Recognizer(make_clip(75), drop="drop_oldest") as recognizer:
        ages, frames = [], []
        for result in recognizer:
            ages.append(result.age_ms)
            frames.append(result.frame)
            time.sleep(0.4)
        assert recognizer.dropped >= 75 - len(frames) - 2
    assert len(frames) < 12
    assert np.median(ages[1:-1]) < 250, "one that had waited for the consumer would be 400 ms old"


def test_a_result_knows_its_age(make_clip):
    with edge.Recognizer(make_clip(25)) as recognizer:
        result = recognizer.latest(1000)
        first = result.age_ms
        time.sleep(0.05)
        assert result.age_ms - first >= 50
        assert 0 < first < 1000
    with edge.Recognizer() as recognizer:
        assert recognizer.process(np.zeros((32, 32, 3), np.uint8), 5).age_ms < 1000


def test_total_is_the_sum_of_the_stages(make_clip):
    with edge.Recognizer(make_clip(10)) as recognizer:
        for result in recognizer:
            parts = sum(spent for stage, spent in result.timings_ms.items() if stage != "total")
            assert result.timings_ms["total"] == pytest.approx(parts)
