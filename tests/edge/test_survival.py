"""What a robot does to a program that runs for months: stops it, kills it, fills its disk, calls it from everywhere.

Cameras that fail are in test_sources_live.py, failing stages in test_recognizer.py, the whole together in test_soak.py.
"""

import ast
import datetime
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import cv2
import pytest
from faulty import Script

import edge
from edge.__main__ import EXIT_INTERRUPTED, main
from edge.outputs.contract import Output
from edge.synthetic import SyntheticSource

ROOM = Path(edge.__file__).resolve().parent
FRAME_NS = 40_000_000


def start(*arguments, ready):
    """A real ``edge run`` in a process of its own, once the file ``ready`` has something in it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge", "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOM.parent)},
    )
    deadline = time.monotonic() + 30
    while not (ready.exists() and ready.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def frames_in(video):
    """Frames of a video that can really be decoded."""
    capture, count = cv2.VideoCapture(str(video)), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


# -- stopped from outside ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preview", [False, True])
def test_sigterm_leaves_whole_lines_and_a_video_that_opens(tmp_path, preview):
    if preview:
        pytest.importorskip("uvicorn")
    lines, video = tmp_path / "o.partial.jsonl", tmp_path / "o.partial.mp4"
    process = start(
        "synthetic://?frames=100000&width=320&height=240",
        *("--jsonl", tmp_path / "o.jsonl", "--video", tmp_path / "o.mp4"),
        *(["--preview", "127.0.0.1:0"] if preview else []),
        ready=lines,
    )
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 2
    assert process.returncode == EXIT_INTERRUPTED == 130
    assert err == ""
    assert out.count("holds what there was before the stop") == 2
    assert ("preview at http://127.0.0.1:" in out) is preview
    text = lines.read_text()
    assert text.endswith("\n")
    frames = [json.loads(line)["frame"] for line in text.splitlines()]
    assert frames == list(range(len(frames)))
    # The stop may come between the two: then the line is there and the picture is not.
    assert 0 < len(frames) - 1 <= frames_in(video) <= len(frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == [lines.name, video.name], "nothing that looks whole"


def test_sigkill_leaves_partial_files_alone(tmp_path):
    lines = tmp_path / "o.partial.jsonl"
    process = start(
        "synthetic://?frames=100000&width=320&height=240",
        *("--jsonl", tmp_path / "o.jsonl", "--video", tmp_path / "o.mp4"),
        ready=lines,
    )
    process.kill()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert lines.name in left
    assert left <= {lines.name, "o.partial.mp4"}
    *whole, _ = lines.read_text().split("\n")  # the last line may be cut off anywhere
    assert [json.loads(line)["frame"] for line in whole] == list(range(len(whole)))
    # The next run is not disturbed by what the last one left.
    assert main(["run", "synthetic://?frames=5", "--jsonl", str(tmp_path / "o.jsonl")]) == 0
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 5
    assert not lines.exists()


def test_closing_in_a_signals_handler(portrait):
    """As a robot's program does it: the handler runs on the thread that is in the middle of a frame."""
    recognizer = edge.Recognizer()
    before = signal.signal(signal.SIGALRM, lambda number, stack: recognizer.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        begun = time.monotonic()
        with pytest.raises(edge.ClosedError, match="closed; make a new one"):
            while True:
                recognizer.process(portrait)
        assert time.monotonic() - begun < 1.5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- a full disk ------------------------------------------------------------------------------------------------------


def test_a_device_without_room(make_clip):
    done = subprocess.run(
        [sys.executable, "-m", "edge", "run", str(make_clip(30)), "--jsonl", "/dev/full"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr
    assert "make room" in done.stderr


# -- the clock --------------------------------------------------------------------------------------------------------


def test_nothing_asks_for_the_wall_clock():
    """Neither by name nor by import; every file of the package."""
    wall = {("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"), ("time", "ctime")}
    wall |= {("datetime", name) for name in ("now", "utcnow", "today")} | {("date", "today")}
    # ROS stamps are by the clock of the day, and what is said of engines says of which day it is; none measures time.
    dated = ("rosclock.py", "admission.py", "plans.py", "ondevice.py")
    paths = [path for path in sorted(ROOM.rglob("*.py")) if path.name not in dated]
    assert len(paths) > 40
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                of = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                assert (of, node.attr) not in wall, f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                names = {alias.name for alias in node.names}
                assert not names & {"time", "time_ns", "datetime", "date"}, f"{path}:{node.lineno}"


def test_a_whole_run_under_a_clock_that_steps(tmp_path, monkeypatch):
    def run(name):
        target = tmp_path / name
        options = ["--jsonl", str(target), "--video", str(tmp_path / f"{name}.mp4")]
        assert main(["run", "synthetic://?frames=40&width=320&height=240", *options]) == 0
        assert frames_in(tmp_path / f"{name}.mp4") == 40
        return [{**json.loads(line), "timings_ms": None} for line in target.read_text().splitlines()]

    steady = run("steady")
    steps = itertools.cycle([0.0, 4e9, -5.0, 1e6])

    class Stepping(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(abs(next(steps)), tz)

    monkeypatch.setattr(time, "time", lambda: next(steps))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(steps) * 1e9))
    monkeypatch.setattr(datetime, "datetime", Stepping)
    assert run("stepping") == steady
    assert len(steady) == 40


# -- several threads, several recognizers -----------------------------------------------------------------------------


def views(count, size=(320, 240)):
    camera = SyntheticSource(*size)
    return [camera.picture(index / 25) for index in range(count)]


def test_process_from_four_threads_with_times_of_their_own():
    """Whoever comes late is refused in words; what is answered is in order of capture, and each frame's own."""
    pictures, numbers = views(60), iter(range(60))
    drawing = threading.Lock()
    results, refusals, others = {}, [], []
    with edge.Recognizer() as recognizer:

        def work():
            while True:
                with drawing:
                    number = next(numbers, None)
                if number is None:
                    return
                try:
                    results[number] = recognizer.process(pictures[number], number * FRAME_NS)
                except edge.OptionError as error:
                    refusals.append(str(error))
                except BaseException as error:
                    others.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert others == []
    assert all("it may not go back" in refusal for refusal in refusals)
    assert len(results) + len(refusals) == 60
    assert len(results) > 15
    ordered = sorted(results.items(), key=lambda item: item[1].frame)
    assert [result.frame for _, result in ordered] == list(range(len(results))), "no index lost, none twice"
    assert [number for number, _ in ordered] == sorted(results), "in order of capture"
    assert all(result.captured_ns == number * FRAME_NS for number, result in ordered)
    # The same frames, one after the other on one thread, give the same.
    with edge.Recognizer() as recognizer:
        again = [recognizer.process(pictures[number], number * FRAME_NS) for number, _ in ordered]
    assert [result.faces for result in again] == [result.faces for _, result in ordered]
    assert sum(bool(result.faces) for result in again) > 0.9 * len(again)


def test_closing_while_four_threads_process():
    """Each is told so, none gets anything else, and the engine is not opened again behind the one who closed it."""
    pictures = views(10)
    for after_s in (0.02, 0.05, 0.08, 0.11):
        recognizer = edge.Recognizer()
        ends = []

        def work(recognizer=recognizer, ends=ends):
            try:
                for picture in itertools.cycle(pictures):
                    recognizer.process(picture)
            except BaseException as error:
                ends.append(type(error))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(after_s)
        recognizer.close()
        assert not recognizer.engine._sessions
        for thread in threads:
            thread.join(5)
        assert ends == [edge.ClosedError] * 4
        assert not recognizer.engine._sessions


def test_two_recognizers_in_one_process(make_clip):
    def plain(result):
        return {**result.to_dict(), "timings_ms": None}

    paths = [make_clip(30), make_clip(30, start=1.0)]
    alone = []
    for path in paths:
        with edge.Recognizer(path) as recognizer:
            alone.append([plain(result) for result in recognizer])
    assert alone[0] != alone[1]
    with edge.Recognizer(paths[0]) as one, edge.Recognizer(paths[1]) as other:
        both = list(zip(one, other, strict=True))
    assert [[plain(result) for result in side] for side in zip(*both, strict=True)] == alone
    # Closing one does nothing to the other.
    with edge.Recognizer() as one:
        other = edge.Recognizer()
        other.close()
        assert one.process(views(1)[0]).faces


def test_a_process_that_is_spawned_has_a_recognizer_of_its_own(tmp_path):
    """What the directions offer to who wants several processes (a forked child has none of its parent's threads)."""
    code = (
        "import multiprocessing, edge\n"
        "from edge.synthetic import SyntheticSource\n"
        "def work(seconds):\n"
        "    with edge.Recognizer() as recognizer:\n"
        "        return len(recognizer.process(SyntheticSource().picture(seconds)).faces)\n"
        "if __name__ == '__main__':\n"
        "    with edge.Recognizer('synthetic://') as recognizer:\n"
        "        recognizer.latest(5000)\n"
        "        with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "            print(pool.map(work, [0.0, 1.0]))\n"
    )
    (tmp_path / "main.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOM.parent)}
    done = subprocess.run([sys.executable, tmp_path / "main.py"], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 1]\n"


def test_opening_and_closing_again_and_again_leaves_nothing():
    def once():
        with edge.Recognizer(Script(every_s=0.001).source()) as recognizer:
            next(iter(recognizer))

    once()
    gc.collect()
    threads, descriptors = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    for _ in range(6):
        once()
    gc.collect()
    deadline = time.monotonic() + 3
    while len(os.listdir("/proc/self/task")) > threads and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(os.listdir("/proc/self/task")) <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


# -- a slow consumer, a size that changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False])
def test_a_slow_consumers_memory_is_flat(live, trace_memory):
    """Frames of 0.9 MB, many times faster than they are taken: only what may lie ready does."""
    script = Script(every_s=0.001, size=(640, 480))
    read = [0]

    def pictures():
        for number in itertools.count():
            read[0] = number
            yield script.picture(number)

    size = 640 * 480 * 3
    with edge.Recognizer(script.source() if live else pictures()) as recognizer:
        results = iter(recognizer)
        for _ in range(3):
            next(results)
        time.sleep(0.3)
        trace_memory()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            time.sleep(0.15)
            result = next(results)
        after, peak = tracemalloc.get_traced_memory()
        if not live:
            assert read[0] - result.frame <= 12, "what lies between the source and the consumer"
        # Freed ones were not traced, so the room that is taken anew is that of the few places between the threads.
        assert after - before < 8 * size
        assert peak - before < 12 * size
        assert (recognizer.dropped > 30) is live


def test_the_latest_goes_on_through_a_change_of_size():
    script = Script(every_s=0.02, real=True).frames(30).resize(640, 480).frames(30).resize(200, 150).frames(20)
    script.resize(320, 240)
    sizes, last = {}, -1
    with edge.Recognizer(script.source()) as watching:
        deadline = time.monotonic() + 15
        while script.taken < 110 and time.monotonic() < deadline:
            result = watching.latest(2000)
            assert result.frame >= last
            if result.frame > last:
                last = result.frame
                width, height = (320, 240) if last < 30 or last >= 80 else (640, 480) if last < 60 else (200, 150)
                for face in result.faces:
                    if face.visible:
                        x, y = face.box.centre
                        assert 0 <= x <= width, (last, face)
                        assert 0 <= y <= height, (last, face)
                        sizes[width] = sizes.get(width, 0) + 1
            time.sleep(0.005)
    assert sizes.get(320, 0) > 5
    assert sizes.get(640, 0) > 5


def test_a_change_of_size_in_the_outputs(tmp_path, monkeypatch):
    """The command line on a camera that changes its resolution: one video of one size, and every line."""
    import edge.recognizer

    script = Script(every_s=0.01).frames(15).resize(480, 360).frames(15).resize(201, 151)
    monkeypatch.setattr(edge.recognizer, "open_source", lambda name: script.source())
    options = ["--max-frames", "40", "--jsonl", str(tmp_path / "o.jsonl")]
    assert main(["run", "0", *options, "--video", str(tmp_path / "o.mp4")]) == 0
    frames = [json.loads(line)["frame"] for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert len(frames) == 40
    assert max(frames) > 30
    assert frames_in(tmp_path / "o.mp4") == 40


# -- an output that breaks --------------------------------------------------------------------------------------------


def test_an_output_that_breaks_stops_everything_and_is_told(tmp_path, monkeypatch):
    """What was written before it stays, under its partial name."""
    from edge.outputs import summary

    class Breaks(Output):
        def write(self, frame, result):
            if result.frame == 12:
                raise edge.OutputError("the arm is off; switch it on")

        def finish(self, whole):
            assert whole is False

    monkeypatch.setattr(summary, "Summary", Breaks)
    begun = time.monotonic()
    assert main(["run", "synthetic://", "--jsonl", str(tmp_path / "o.jsonl")]) == 2
    assert time.monotonic() - begun < 10
    assert not (tmp_path / "o.jsonl").exists()
    assert len((tmp_path / "o.partial.jsonl").read_text().splitlines()) == 13
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-")]
