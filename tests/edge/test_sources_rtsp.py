"""RTSP from a real server (GStreamer's), through OpenCV's FFmpeg."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import edge
from edge.camera import open_source
from edge.sources.opencv import driver_time

SERVER = Path(__file__).parent / "rtsp_server.py"
PYTHON = "/usr/bin/python3"
PROBE = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer, Gst; "
    "Gst.init(None); assert Gst.ElementFactory.find('x264enc')"
)


class Server:
    def __init__(self, *arguments):
        self.port, self.arguments = "0", arguments
        self.start()

    def start(self):
        self.process = subprocess.Popen([PYTHON, str(SERVER), self.port, *self.arguments], stdout=subprocess.PIPE)
        self.port = self.process.stdout.readline().decode().strip()

    def stop(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def gstreamer():
    try:
        done = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, timeout=60)
    except OSError:
        pytest.skip(f"{PYTHON} is absent")
    if done.returncode:
        pytest.skip("no RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly python3-gi")


@pytest.fixture
def server(gstreamer):
    one = Server()
    yield one
    one.stop()


def age_s(frame):
    """How old a picture was when it was ours, from the time that it shows; 0 to 1.6 s."""
    shown = round(float(frame.image.mean()) / (13 * 255 / 219))
    return ((frame.captured_ns / 1e8 - shown) % 16) / 10


def test_no_old_picture_however_late_one_comes(server):
    source = open_source(f"rtsp://127.0.0.1:{server.port}/cam")
    time.sleep(1.0)  # a model is loaded; pictures wait meanwhile
    frames = iter(source)
    first = next(frames)
    ages = [age_s(first)] + [age_s(next(frames)) for _ in range(20)]
    time.sleep(1.0)  # a slow consumer
    late = [next(frames) for _ in range(5)]
    source.close()
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ, "files are opened without our options"
    assert sorted(ages)[10] < 0.4, ages
    # The one that was already waiting is the newest of that time.
    assert max(age_s(frame) for frame in late) < 0.5
    assert source.health.dropped > 10
    assert late[0].index - first.index > 30
    assert list(frames) == []


def test_gone_and_back(server):
    with edge.Recognizer(f"rtsp://127.0.0.1:{server.port}/cam") as watching:
        results = iter(watching)
        next(results)
        server.stop()
        time.sleep(1.5)
        server.start()
        back = time.monotonic_ns()
        while (result := next(results)).captured_ns < back:
            pass
        away_s = (result.captured_ns - back) / 1e9
        assert away_s < 2
        assert watching._source.health.reconnects == 1


def test_passwords(gstreamer, caplog, capfd):
    one = Server("user:geheim")
    try:
        source = open_source(f"rtsp://user:geheim@127.0.0.1:{one.port}/cam")
        assert next(iter(source)).image.shape == (240, 320, 3)
        source.close()
        with pytest.raises(
            edge.SourceError, match="answers, but gives no stream; check the path, and user and"
        ) as caught:
            open_source(f"rtsp://user:verkehrt@127.0.0.1:{one.port}/cam?key=verkehrt")
    finally:
        one.stop()
    told = [source.name, str(caught.value), caplog.text, *capfd.readouterr()]
    assert not [text for text in told if "geheim" in text or "verkehrt" in text]


def test_opencv_itself_shows_no_password():
    """Without our settings OpenCV prints what it likes, so the address is looked for there too."""
    code = "from edge.camera import open_source\nopen_source('rtsp://user:geheim@127.0.0.1:{port}/cam')"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        threading.Thread(target=_hang_up, args=(deaf,), daemon=True).start()
        done = subprocess.run(
            [sys.executable, "-c", code.format(port=deaf.getsockname()[1])],
            capture_output=True,
            timeout=60,
            env={**os.environ, "OPENCV_LOG_LEVEL": "INFO", "OPENCV_FFMPEG_LOGLEVEL": "24"},
        )
    assert done.returncode == 1
    output = [line for line in done.stderr.decode().splitlines() if "open_source(" not in line]
    assert "answers, but gives no stream" in output[-1]
    assert not [line for line in output if "geheim" in line]


def _hang_up(server):
    for _ in range(2):
        server.accept()[0].close()


def test_nobody_there():
    begun = time.monotonic()
    with pytest.raises(edge.SourceError, match=r"rtsp://127.0.0.1:9/cam: 127.0.0.1 port 9 can't be reached \(Connect"):
        open_source("rtsp://127.0.0.1:9/cam")
    assert time.monotonic() - begun < 1


def test_a_driver_that_tells_the_time_is_believed_where_that_can_be_true():
    now = 5_000_000_000_000
    assert driver_time(now / 1e6 - 30, now, 0) == now - 30_000_000
    assert driver_time(0.0, now, 0) == now, "no time at all"
    assert driver_time(1.8e12, now, 0) == now, "the wall clock"
    assert driver_time(now / 1e6 + 5, now, 0) == now, "the future"
    assert driver_time(now / 1e6 - 2000, now, 0) == now, "too old to be true"
    assert driver_time(float("nan"), now, 0) == now
    assert driver_time(now / 1e6 - 30, now, now - 10_000_000) == now, "it went back"
    assert driver_time(0.0, now, now + 5) == now + 5


def test_no_descriptor_is_left(server):
    url = f"rtsp://127.0.0.1:{server.port}/cam"

    def look():
        source = open_source(url)
        next(iter(source))
        source.close()

    look()
    gc.collect()
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    look()
    gc.collect()
    deadline = time.monotonic() + 3
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors
