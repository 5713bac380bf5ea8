"""Less is done while frames cost too much, in the order of the ladder, and again more when there is room."""

import copy
import itertools
import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest

import edge
from edge.budget import FOLLOW_LONGER, JUDGED, LADDER, PATIENCE, RESTED, SPARE, Budget, ladder
from edge.bundle import Bundle, write
from edge.engine.onnxruntime import OnnxRuntimeEngine
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.faces.watch import RARER, SEARCHES
from edge.pipeline import Pipeline
from edge.smooth import Smoothing, softmax
from edge.synthetic import SyntheticSource


class Clock:
    """Nanoseconds that pass when somebody says so."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


class SlowEngine(OnnxRuntimeEngine):
    """The real engine, on a machine on which a network takes ``slow_ms``."""

    slow_ms, ran = 0.0, 0

    def _run(self, graph, inputs):
        self.clock.now += round(self.slow_ms * 1e6)
        self.ran += 1
        return super()._run(graph, inputs)


@pytest.fixture
def slow():
    """A pipeline with a budget of 20 ms whose clock only its slow network moves."""
    bundle, clock = Bundle.open(), Clock()
    engine = SlowEngine(bundle, "fp32")
    engine.clock = clock
    budget = Budget(20)
    return engine, Pipeline(bundle, engine, FaceDetector(80), Landmarks("5"), Smoothing(), budget=budget, clock=clock)


def frames(count, first=0):
    camera = SyntheticSource(320, 240)
    for index in range(first, first + count):
        seconds = 0.04 * index
        yield edge.Frame(index, round(seconds * 1e9), camera.picture(seconds % 4), 0)


def test_down_the_ladder_and_back_up(slow, caplog):
    engine, pipeline = slow
    engine.slow_ms = 30.0

    def run(count, first):
        ran, results = engine.ran, [pipeline.process(frame) for frame in frames(count, first)]
        return engine.ran - ran, [getattr(result, "degraded", ()) for result in results], results

    with caplog.at_level(logging.WARNING, "edge.budget"):
        ran, steps, results = run(100, 0)
        # Three steps down, each after as many frames as are judged: half of 30 ms is within 20.
        down = [LADDER[:step] for step in range(3) for _ in range(JUDGED)]
        assert steps == down + [LADDER[:3]] * (100 - 3 * JUDGED)
        assert abs(ran - (3 * JUDGED + (100 - 3 * JUDGED) / 2)) <= 1
        assert [one.faces[0].label for one in results] == ["happy"] * 100
        assert results[-1].to_dict()["degraded"] == ["search_rarely", "follow_longer", "read_half"]
        assert "degraded" not in results[0].to_dict()
        assert len(caplog.records) == 3, "said once a change"
        engine.slow_ms = 70.0
        _, steps, _ = run(40, 100)
        assert steps[-1] == LADDER
        engine.slow_ms = 1.0
        _, steps, _ = run(4 * RESTED + 5, 140)
        assert [len(one) for one in steps] == sorted((len(one) for one in steps), reverse=True)
        assert steps[-1] == ()
        assert len(caplog.records) == 8
    assert "a frame costs 30.0 ms of 20.0: now search_rarely" in caplog.text
    assert "no longer search_rarely" in caplog.text


def test_within_the_budget_nothing_changes(slow):
    engine, pipeline = slow
    engine.slow_ms = 19.0
    results = [pipeline.process(frame) for frame in frames(40)]
    assert engine.ran == 40
    assert all(type(result) is edge.Result for result in results)


def test_a_new_face_is_read_at_once(slow):
    """What is spared is reading again what was just read, never the first reading."""
    engine, pipeline = slow
    list(map(pipeline.process, frames(3)))
    blank = np.full((240, 320, 3), 90, np.uint8)
    for index in range(3, 40):
        assert not any(face.visible for face in pipeline.process(edge.Frame(index, index * 40_000_000, blank)).faces)
    for frame in frames(8, 40):
        before = engine.ran
        result = pipeline.answer(pipeline.look(frame, LADDER))
        if result.faces:
            assert engine.ran == before + 1
            assert result.faces[0].label is not None
            break
    else:
        raise AssertionError("the face came back and was not seen")


def test_the_whole_frame_is_searched_more_rarely():
    bundle = Bundle.open()
    engine = OnnxRuntimeEngine(bundle, "fp32")

    def searched(pictures, steps):
        pipeline = Pipeline(bundle, engine, FaceDetector(80), Landmarks("5"), Smoothing())
        for index, picture in enumerate(pictures):
            pipeline.look(edge.Frame(index, index * 40_000_000, picture), steps)
        return pipeline.watcher.searched

    blank = [np.full((240, 320, 3), 90, np.uint8)] * 30
    often, rarely = searched(blank, ()), searched(blank, LADDER[:1])
    assert rarely[1] * RARER == often[1]
    face = [frame.image for frame in frames(90)]
    often, rarely = searched(face, ()), searched(face, LADDER[:1])
    whole = 240 * 320
    for pixels, apart in ((often[1], 0.4), (rarely[1], RARER * 0.4)):
        searches = 1 + math.floor(88 * 0.04 / apart)
        # The first frame, then the kinds of search by turns.
        assert pixels == whole * (1 + sum(1 / SEARCHES[turn % len(SEARCHES)][0] ** 2 for turn in range(searches)))


def test_a_face_is_followed_for_longer():
    """A quarter less is searched for a face that is known, and it is still there."""
    bundle = Bundle.open()
    engine = OnnxRuntimeEngine(bundle, "fp32")

    def watched(steps):
        pipeline = Pipeline(bundle, engine, FaceDetector(80), Landmarks("5"), Smoothing())
        there = [len(pipeline.look(frame, steps).problems) for frame in frames(60)]
        return pipeline.watcher.searched[0], there

    (often, seen), (rarely, still_seen) = watched(()), watched((FOLLOW_LONGER,))
    assert 0.6 < rarely / often < 0.85
    assert seen == still_seen


def test_the_last_step_reads_with_the_spare_bundle(slow):
    engine, _ = slow
    engine.slow_ms, clock = 200.0, engine.clock
    spare = SlowEngine(engine.bundle, "int8")
    spare.clock, spare.slow_ms = clock, 4.0
    budget = Budget(20, ladder(streams=False, spare=True))
    pipeline = Pipeline(
        engine.bundle, engine, FaceDetector(80), Landmarks("5"), Smoothing(), budget=budget, spare=spare, clock=clock
    )
    results = [pipeline.process(frame) for frame in frames(100)]
    assert results[-1].degraded == (*LADDER, SPARE)
    assert {one.faces[0].label for one in results} == {"happy"}
    first = next(at for at, one in enumerate(results) if SPARE in one.degraded)
    before = engine.ran
    assert spare.ran == pytest.approx((100 - first) / 4, abs=1)
    assert results[-1].timings_ms["total"] <= 4.0
    engine.slow_ms = spare.slow_ms = 1.0
    later = [pipeline.process(frame) for frame in frames(6 * RESTED, 100)]
    assert later[-1].degraded == ()
    assert engine.ran > before


def test_logits_of_a_spare_bundle_are_brought_to_one_temperature(slow):
    engine, _ = slow
    cool = copy.copy(engine.manifest)
    spare = SlowEngine(engine.bundle, "fp32")
    spare.clock = engine.clock
    spare.manifest = replace(cool, temperature=2 * cool.temperature)
    pipeline = Pipeline(engine.bundle, engine, FaceDetector(80), Landmarks("5"), Smoothing(), spare=spare)
    (frame,) = frames(1)
    face = pipeline.answer(pipeline.look(frame, (SPARE,))).faces[0]
    logits = engine.run(pipeline.fed[1])["logits"][0]
    expected = softmax(logits / spare.manifest.temperature)
    assert list(face.probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_the_ladder_of_each_kind():
    assert ladder(streams=False, spare=False) == LADDER
    assert ladder(streams=True, spare=False) == LADDER[:2]
    assert ladder(streams=True, spare=True) == (*LADDER[:2], SPARE)


def test_spare_bundles_that_can_not_stand_in(tmp_path, face_bundle):
    with pytest.raises(edge.OptionError, match="give budget_ms"):
        edge.Recognizer(spare="face")
    with pytest.raises(edge.OptionError, match="can't be recorded"):
        edge.Recognizer(spare="face", budget_ms=5, record=tmp_path / "run")
    with edge.Recognizer("synthetic://?frames=85", spare=face_bundle, budget_ms=0.001) as recognizer:
        *_, last = recognizer
    assert last.degraded[-1] == SPARE
    opened = Bundle.open(face_bundle)
    labels = tuple(reversed(opened.manifest.labels))
    other = write(
        tmp_path / "other",
        replace(opened.manifest, labels=labels, files={}),
        {"window.fp32.onnx": opened.graph("window", "fp32").model},
        {**opened.golden, "labels": np.array(labels)},
    )
    with pytest.raises(edge.OptionError, match=r"has labels .*has the labels of .*: angry"):
        edge.Recognizer(spare=other.where, budget_ms=5)


def test_a_step_that_is_needed_at_once_again_is_kept_longer():
    """Rooms that are not there: the machine has room only while the step is taken."""
    budget, changes, depth = Budget(20), [], 0
    for at in range(6000):
        budget.spend(30 if not budget.steps else 5)
        if len(budget.steps) != depth:
            depth = len(budget.steps)
            changes.append((at, depth))
    kept = [later[0] - at for (at, down), later in itertools.pairwise(changes) if down]
    assert kept[:5] == [RESTED * 2**step for step in range(5)]
    assert set(kept[4:]) <= {RESTED * PATIENCE}


@pytest.mark.parametrize("private", [False, True])
def test_a_replay_takes_the_recorded_steps(tmp_path, private):
    """What was decided by the time it took is not decided again."""
    with edge.Recognizer(
        "synthetic://?frames=80&width=320&height=240",
        budget_ms=0.001,
        record=tmp_path / "run",
        record_private=private,
    ) as recognizer:
        results = [result.to_dict() for result in recognizer]
    steps = [result.get("degraded", []) for result in results]
    assert steps[0] == []
    assert steps[-1] == list(LADDER)
    with edge.Replay(tmp_path / "run") as replay:
        assert [result.to_dict().get("degraded", []) for result in replay] == steps
        assert replay.check() is None
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert [line.get("degraded", []) for line in lines] == steps


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, "20", True])
def test_bad_budgets(wrong):
    with pytest.raises(edge.OptionError, match="expected a positive number of milliseconds"):
        edge.Recognizer(budget_ms=wrong)


def test_no_budget_for_pictures(tmp_path):
    from edge.synthetic import PORTRAIT

    with pytest.raises(edge.OptionError, match="for pictures leave out --budget-ms"):
        edge.Recognizer(PORTRAIT, budget_ms=20)
