"""A camera that is unplugged, stands still, hangs or sends rubbish: counted, survived, and told."""

import gc
import itertools
import logging
import os
import threading
import time
import tracemalloc

import numpy as np
import pytest
from faulty import Script

import edge
from edge.source import Source, SourceState
from edge.sources import live
from edge.sources.live import pauses


@pytest.fixture(scope="module", autouse=True)
def everything_loaded():
    """What is opened once in a process, as models and the runtime's own descriptors."""
    with edge.Recognizer() as once:
        once.process(np.zeros((240, 320, 3), np.uint8))


@pytest.fixture(autouse=True)
def nothing_left(everything_loaded):
    """No thread and no descriptor is left behind by any of these tests."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    deadline = time.monotonic() + 3
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def take(source, count):
    """The first frames of a source, which is closed then."""
    frames = list(itertools.islice(source, count))
    source.close()
    return frames


def test_frames_of_a_good_camera():
    script = Script()
    source = script.source()
    assert source.live
    assert source.health.state is SourceState.CONNECTING
    frames = []
    for frame in source:
        frames.append(frame)
        assert frame.read_ns == frame.captured_ns
        if len(frames) == 30:
            assert source.health.state is SourceState.STREAMING
            source.close()
    assert all(b.index > a.index for a, b in itertools.pairwise(frames))
    health = source.health
    assert health.state is SourceState.ENDED
    assert health.frames == 30
    assert health.dropped + 30 <= script.taken
    assert (health.reconnects, health.corrupt, health.frozen, health.last_error) == (0, 0, 0, "")
    assert script.closed == script.opened == 1


def test_pauses_double_up_to_a_second():
    assert list(itertools.islice(pauses(), 7)) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1, 1, 1])


def test_what_is_wrong_from_the_start_is_an_error_at_once():
    script = Script()
    script.unplugged.set()
    with pytest.raises(edge.SourceError, match="cam: no such camera"):
        script.source()
    begun = time.monotonic()
    source = Script().lose().source()
    with pytest.raises(edge.SourceError, match="cam: stopped; is it still plugged in"):
        next(iter(source))
    with pytest.raises(edge.SourceError, match=r"cam: gives no picture \(100 corrupt pictures in a row\)"):
        next(iter(Script(every_s=0).corrupt(200).source()))
    with pytest.raises(edge.SourceError, match=r"cam: gives no picture \(no picture for 0.2 s\)"):
        next(iter(Script().hang().source(silent_after_s=0.2)))
    assert time.monotonic() - begun < 2


def test_unplugged_and_back(caplog):
    script = Script().frames(10).lose(refusals=2).frames(1000)
    source = script.source()
    with caplog.at_level(logging.WARNING, logger="edge.sources.live"):
        frames = take(source, 40)
    assert [b.index > a.index for a, b in itertools.pairwise(frames)] == [True] * 39
    health = source.health
    assert health.reconnects == 1
    assert "no such camera" in health.last_error
    assert [record.getMessage().split(" (")[0].split(" after")[0] for record in caplog.records] == [
        "cam: lost",
        "cam: back",
    ]
    waited = np.diff(script.openings)[1:]
    assert waited == pytest.approx([0.2, 0.4], abs=0.15)


def test_back_within_two_seconds_of_its_return_however_long_it_was_away():
    script = Script(real=True)
    source = script.source()
    frames = iter(source)
    frame = next(frames)
    assert source.health.trouble is None
    script.unplugged.set()
    returned, told = [], []

    def plug_in():
        time.sleep(2.6)  # by now it is tried once a second
        told.append(source.health.trouble)
        returned.append(time.monotonic_ns())
        script.unplugged.clear()

    helper = threading.Thread(target=plug_in)
    helper.start()
    while not returned or frame.captured_ns < returned[0]:
        frame = next(frames)
    helper.join()
    gap = frame.captured_ns - returned[0]
    assert gap < 2e9
    assert told[0] is not None
    assert told[0].startswith("the camera is awaited: ")
    assert source.health.trouble is None
    assert source.health.reconnects == 1
    source.close()


def test_giving_up():
    script = Script().frames(5)
    source = script.source(give_up_s=0.5)
    frames = iter(source)
    next(frames)
    script.unplugged.set()
    begun = time.monotonic()
    with pytest.raises(edge.SourceError, match=r"cam: gone for \d+ s \(cam: .*\); plug it in and start again"):
        list(frames)
    assert 0.4 < time.monotonic() - begun < 2
    assert source.health.state is SourceState.ENDED


def test_a_frozen_camera_is_noticed_and_its_picture_is_not_handed_on_again():
    script = Script(fps=25).frames(10).freeze(250).frames(1000)
    source = script.source(frozen_after_s=2.0)
    states, frames = set(), []
    for frame in source:
        frames.append(frame)
        states.add(source.health.state)
        if source.health.frozen and script.taken > 270:
            break
    source.close()
    health = source.health
    # 250 pictures are 10 s of the camera's time: noticed every two seconds, until they are over.
    assert 4 <= health.frozen <= 5
    assert health.reconnects == 1
    still = script.picture(-1)
    standing = [frame for frame in frames if np.array_equal(frame.image, still)]
    assert len(standing) <= 51
    assert max(frame.captured_ns for frame in standing) <= (10 + 51) * 40e6
    assert not np.array_equal(frames[-1].image, still)


def test_standing_still_may_be_allowed():
    source = Script(fps=25, every_s=0.001).freeze(300).source(frozen_after_s=0)
    frames = []
    for frame in source:
        frames.append(frame)
        if frame.captured_ns > 11e9:
            break
    source.close()
    assert source.health.frozen == source.health.reconnects == 0


def test_drawing_on_a_frame_hides_no_standing_picture():
    source = Script(fps=25, every_s=0.001).frames(2).freeze(100).source(frozen_after_s=1.0)
    for frame in source:
        frame.image[:] = 0
        if source.health.frozen or frame.captured_ns > 10e9:
            break
    source.close()
    assert source.health.frozen >= 1


def test_corrupt_frames_are_skipped_and_counted():
    script = Script().frames(5).corrupt(3).frames(1000)
    source = script.source()
    frames = take(source, 20)
    assert source.health.corrupt == 3
    assert source.health.reconnects == 0
    assert frames[-1].index >= 22


def test_too_many_corrupt_frames_are_a_loss():
    script = Script(every_s=0.001).frames(50).corrupt(100).frames(1000)
    source = script.source()
    for frame in source:
        if frame.index > 160:
            break
    source.close()
    assert source.health.corrupt == 100
    assert source.health.reconnects == 1
    assert source.health.last_error == "100 corrupt pictures in a row"


def test_what_is_no_picture_is_corrupt():
    script = Script().frames(5).resize(64, 64).frames(1000)
    picture = script.picture
    script.picture = lambda number: np.zeros((8, 8, 3), np.uint8) if 10 < number <= 14 else picture(number)
    source = script.source()
    take(source, 20)
    assert source.health.corrupt == 4


def test_a_camera_that_hangs_is_opened_again():
    source = Script().frames(5).hang().frames(1000).source(silent_after_s=0.3)
    begun = time.monotonic()
    take(source, 15)
    assert time.monotonic() - begun < 2
    assert source.health.reconnects == 1
    assert source.health.last_error == "no picture for 0.3 s"


def test_a_driver_that_is_stuck_is_waited_for_by_one_thread_alone():
    script = Script().frames(5).stick().frames(1000)
    source = script.source(silent_after_s=0.2)
    frames = iter(source)
    next(frames)
    helper = threading.Timer(1.2, script.release.set)
    helper.start()
    most = 0
    for frame in frames:
        most = max(most, sum(thread.name == "edge-camera" for thread in threading.enumerate()))
        if frame.index > 15:
            break
    source.close()
    helper.join()
    assert most == 1
    assert script.opened == 2
    assert source.health.reconnects == 1


@pytest.mark.parametrize("state", ["streaming", "hanging", "stuck", "away", "unread"])
def test_closing_from_another_thread_frees_a_reader_within_a_second(state):
    script = Script().frames(5)
    script = {"hanging": script.hang, "stuck": script.stick}.get(state, lambda: script)()
    source = script.source()
    if state == "unread":
        source.close()
        source.close()
        assert list(source) == []
        assert script.closed == 1
        return
    done = []
    seen = threading.Event()

    def read():
        for _ in source:
            seen.set()
        done.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    assert seen.wait(2)
    if state == "away":
        script.unplugged.set()
    time.sleep(0.2)
    begun = time.monotonic()
    source.close()
    assert time.monotonic() - begun < 0.5, "closing itself does not wait"
    reader.join(3)
    assert done[0] - begun < 1.5
    assert source.health.state is SourceState.ENDED
    script.release.set()


def test_a_mistake_in_a_program_is_not_taken_for_a_lost_camera():
    source = Script().frames(5).fail(ZeroDivisionError("a bug")).source()
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(source)
    assert time.monotonic() - begun < 1


def test_a_slow_consumer_gets_the_newest_and_memory_stays_flat(trace_memory):
    script = Script(every_s=0.001, size=(640, 480))
    source = script.source()
    frames = iter(source)
    next(frames)
    time.sleep(0.2)
    trace_memory()
    before, _ = tracemalloc.get_traced_memory()
    behind = []
    for _ in range(5):
        time.sleep(0.15)
        frame = next(frames)
        behind.append(script.taken - frame.index)
    after, peak = tracemalloc.get_traced_memory()
    source.close()
    # 900 KB a picture: one in the consumer's hands, one waiting, one or two on their way.
    assert after - before < 5 * 921_600
    assert peak - before < 8 * 921_600
    assert max(behind) <= 4
    assert source.health.dropped > 50
    assert source.health.dropped + source.health.frames >= script.taken - 4


def test_dropping_the_iteration_releases_the_camera():
    script = Script()
    source = script.source()
    frames = iter(source)
    next(frames)
    del frames
    gc.collect()
    assert script.closed == 1


# -- through the recognizer -------------------------------------------------------------------------------------------


def recognizer(script, **options):
    return edge.Recognizer(script.source(**options))


def test_the_recognizer_goes_on_after_everything():
    script = Script(every_s=0.02).frames(30).lose(refusals=1).frames(30).corrupt(2).frames(10)
    script.resize(480, 360).frames(30).hang().frames(20).resize(200, 150).frames(10).freeze(120)
    results = []
    with recognizer(script, silent_after_s=0.3, frozen_after_s=2.0) as watching:
        source = watching._source
        for result in watching:
            results.append(result)
            if source.health.frozen and script.taken > 270:
                break
    health = source.health
    assert health.corrupt == 2
    assert health.reconnects == 3
    assert health.frozen >= 1
    assert sum(bool(result.faces) for result in results) > 40
    frames = [result.frame for result in results]
    assert frames == sorted(set(frames))
    times = [result.captured_ns for result in results]
    assert times == sorted(times)


def test_latest_is_stale_while_the_camera_is_away_and_fresh_after():
    script = Script(every_s=0.02, real=True)
    with recognizer(script) as watching:
        assert watching.latest(1000).faces
        script.unplugged.set()
        time.sleep(0.5)
        with pytest.raises(edge.StaleResultError, match=r"newest result is \d+ ms old, allowed 300 ms"):
            watching.latest(300)
        script.unplugged.clear()
        back = time.monotonic()
        while True:
            try:
                result = watching.latest(200)
                break
            except edge.StaleResultError:
                assert time.monotonic() - back < 2
                time.sleep(0.02)
    assert result.faces


def test_latest_never_hands_on_a_frozen_picture_as_fresh():
    script = Script(every_s=0.02, real=True).frames(20).freeze(100_000)
    with recognizer(script, frozen_after_s=0.5) as watching:
        watching.latest(1000)
        time.sleep(1.4)
        for _ in range(30):
            with pytest.raises(edge.StaleResultError):
                watching.latest(300)
            time.sleep(0.02)


@pytest.mark.parametrize("use", ["iterate", "latest"])
def test_giving_up_reaches_the_consumer(use):
    script = Script(every_s=0.02, real=True).frames(10).lose(refusals=1000)
    begun = time.monotonic()
    with recognizer(script, give_up_s=0.5) as watching, pytest.raises(edge.SourceError, match="cam: gone for"):
        if use == "iterate":
            list(watching)
        while True:
            try:
                watching.latest(1e6)
            finally:
                time.sleep(0.01)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("use", ["iterate", "latest"])
def test_a_stage_that_raises_is_told_within_a_second(use, monkeypatch):
    script = Script(every_s=0.02, real=True)
    raised = []
    with recognizer(script) as watching:
        look = watching._pipeline.look

        def fail(frame):
            if frame.index > 5:
                raised.append(time.monotonic())
                raise RuntimeError("stage broke")
            return look(frame)

        monkeypatch.setattr(watching._pipeline, "look", fail)
        with pytest.raises(RuntimeError, match="stage broke"):
            if use == "iterate":
                list(watching)
            while True:
                watching.latest(1e6)
        assert time.monotonic() - raised[0] < 1
    assert script.closed == script.opened


def test_closing_a_recognizer_whose_camera_hangs():
    script = Script(every_s=0.02, real=True).frames(10).hang()
    watching = recognizer(script)
    watching.latest(1000)
    time.sleep(0.4)
    begun = time.monotonic()
    watching.close()
    assert time.monotonic() - begun < 3


def test_the_wall_clock_may_step(monkeypatch):
    """Neither a source nor the loop around it looks at the wall clock."""
    steps = itertools.cycle([0.0, 2e9, -5.0])
    monkeypatch.setattr(time, "time", lambda: next(steps))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(steps) * 1e9))
    script = Script(every_s=0.02, real=True).frames(20).lose().frames(1000)
    with recognizer(script) as watching:
        results = list(itertools.islice(watching, 40))
    assert all(0 < b.captured_ns - a.captured_ns < 3e9 for a, b in itertools.pairwise(results))
    assert abs(results[-1].captured_ns - time.monotonic_ns()) < 3e9


def test_no_source_asks_for_the_wall_clock():
    import ast
    from pathlib import Path

    room = Path(live.__file__).parent
    for path in [*room.glob("*.py"), *(room.parent / f"{name}.py" for name in ("source", "camera", "mailbox"))]:
        used = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not used & {"time_ns", "utcnow", "now", "today"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("time", "time"), path


def test_a_source_of_ones_own():
    class Mine(Source):
        def __iter__(self):
            yield self._media_frame(0, Script().picture(0))

    with edge.Recognizer(Mine("mine", 10)) as watching:
        assert len(list(watching)) == 1
        assert watching.fps == 10
