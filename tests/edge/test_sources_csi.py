"""A Jetson's CSI camera: the pipeline's words, and the child process for real, with GStreamer's own test picture."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import pytest

import edge
from edge.camera import open_source
from edge.sources import csi
from edge.sources.csi import PipeCamera, argus, open_csi
from edge.sources.live import Reconnecting

here = pytest.mark.skipif(
    shutil.which(csi.LAUNCH) is None, reason="gst-launch-1.0 is absent: apt-get install gstreamer1.0-tools"
)


def picture(width=320, height=240, fps=30, pattern="ball", more=""):
    """What stands in for nvarguscamerasrc."""
    return (
        f"videotestsrc is-live=true pattern={pattern} {more} ! "
        f"video/x-raw,width={width},height={height},framerate={fps}/1 ! videoconvert ! video/x-raw,format=BGR"
    )


def children():
    """Process ids of our own gst-launch-1.0, whichever thread started them."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if csi.LAUNCH in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(int(pid))
    return found


@pytest.fixture(autouse=True)
def nothing_left():
    gc.collect()
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    deadline = time.monotonic() + 3
    while (set(threading.enumerate()) - threads or children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - threads
    assert not children()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_the_pipeline():
    assert argus(0, 1280, 720, 30, 0) == (
        "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1,format=NV12 ! "
        "nvvidconv flip-method=0 ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
    )


@here
@pytest.mark.parametrize("size", [(320, 240), (322, 242), (321, 63)])
def test_pictures_come_whole_at_any_size(size):
    """At widths that are no multiple of four GStreamer pads each row."""
    camera = PipeCamera("csi://0", picture(*size, pattern="smpte"), size, 30)
    try:
        shots = [camera.read() for _ in range(3)]
    finally:
        camera.close()
    for shot in shots:
        assert shot.image.shape == (size[1], size[0], 3)
        # SMPTE's bars: grey, yellow, cyan, green, magenta, red, blue from the left; BGR.
        row = shot.image[10]
        bars = [row[int((bar + 0.5) * size[0] / 7)] for bar in range(7)]
        assert [tuple(int(value > 90) for value in bar) for bar in bars] == [
            (1, 1, 1),
            (0, 1, 1),
            (1, 1, 0),
            (0, 1, 0),
            (1, 0, 1),
            (0, 0, 1),
            (1, 0, 0),
        ]
    times = [shot.captured_ns for shot in shots]
    assert times == sorted(times)
    assert abs(time.monotonic_ns() - times[-1]) < 3e9


@here
def test_a_child_that_dies_is_started_again():
    source = Reconnecting("csi://0", lambda: PipeCamera("csi://0", picture(), (320, 240), 30))
    frames = iter(source)
    next(frames)
    assert len(children()) == 1
    killed = time.monotonic_ns()
    os.kill(children()[0], signal.SIGKILL)
    while next(frames).captured_ns - killed < 0.5e9 or not source.health.reconnects:
        assert time.monotonic_ns() - killed < 5e9
    assert "gst-launch-1.0 ended after" in source.health.last_error
    source.close()
    assert list(frames) == []


@here
def test_a_child_that_stops_is_silent_and_closing_is_prompt():
    source = Reconnecting("csi://0", lambda: PipeCamera("csi://0", picture(), (320, 240), 30), silent_after_s=0.5)
    frames = iter(source)
    next(frames)
    os.kill(children()[0], signal.SIGSTOP)
    begun = time.monotonic()
    while not source.health.reconnects:
        next(frames)
        assert time.monotonic() - begun < 8
    begun = time.monotonic()
    source.close()
    frames.close()
    assert time.monotonic() - begun < 2


@here
def test_frozen_is_noticed_with_a_real_pipe():
    pipeline = picture(pattern="smpte100")
    source = Reconnecting("csi://0", lambda: PipeCamera("csi://0", pipeline, (320, 240), 30), frozen_after_s=0.5)
    frames = iter(source)
    next(frames)
    deadline = threading.Timer(2.5, source.close)
    deadline.start()
    for _ in frames:
        pass
    deadline.cancel()
    assert source.health.frozen >= 1
    assert source.health.reconnects == 0


@here
def test_what_gstreamer_says_is_told():
    with pytest.raises(edge.SourceError, match=r'csi://0: gst-launch-1.0 ended .* no element "nvarguscamerasrc"'):
        open_source("csi://0")
    with pytest.raises(edge.SourceError, match="gst-launch-1.0 ended after 0 frames; it says: .*Resource not found"):
        PipeCamera("csi://0", "filesrc location=/none ! pngdec ! videoconvert ! video/x-raw,format=BGR", (9, 9), 30)


def test_no_gstreamer(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(edge.SourceError, match=r"csi://0: gst-launch-1.0 is not installed; type: sudo apt-get install"):
        PipeCamera("csi://0", picture(), (320, 240), 30)


@pytest.mark.skipif(csi.opencv_has_gstreamer(), reason="this OpenCV has GStreamer")
def test_turning_swaps_the_sides(monkeypatch):
    seen = []
    monkeypatch.setattr(csi, "PipeCamera", lambda *arguments: seen.append(arguments))
    for flip in (0, 1, 2, 3):
        open_csi(1, 640, 360, 30, flip)
    assert [size for _, _, size, _ in seen] == [(640, 360), (360, 640), (640, 360), (360, 640)]
    assert "flip-method=3" in seen[3][1]
    assert "sensor-id=1" in seen[3][1]


@here
def test_a_recognizer_on_a_pipe(portrait, tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), portrait[:384, :384])
    pipeline = (
        f"filesrc location={tmp_path}/face.png ! pngdec ! imagefreeze is-live=true ! "
        "video/x-raw,framerate=20/1 ! videoconvert ! video/x-raw,format=BGR"
    )
    camera = Reconnecting("csi://0", lambda: PipeCamera("csi://0", pipeline, (384, 384), 20), frozen_after_s=0)
    with edge.Recognizer(camera) as watching:
        result = watching.latest(1000)
        assert [face.label for face in result.faces] == ["happy"]


@here
def test_no_child_outlives_a_program_that_is_killed():
    code = (
        "import time; from edge.sources.csi import PipeCamera\n"
        f"camera = PipeCamera('csi://0', {picture()!r}, (320, 240), 30)\n"
        "camera.read(); print(camera._child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as program:
        child = int(program.stdout.readline())
        program.kill()
    deadline = time.monotonic() + 5
    state = Path(f"/proc/{child}/stat")
    # Whoever inherits it may be slow to collect what is left of it, a zombie.
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
