"""A camera on the Jetson's CSI port: NVIDIA's ``nvarguscamerasrc``, through GStreamer.

Where OpenCV was built with GStreamer (JetPack's own) it runs the pipeline; where it was not (the wheels) a child
process ``gst-launch-1.0`` does, and hands raw pictures through a pipe. Pipeline: JetsonHacks, CSI-Camera, with
``drop=1 max-buffers=1 sync=false`` so that old pictures don't wait.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import re
import select
import signal
import subprocess
import termios
import threading
import time
import weakref
from collections import deque

import cv2
import numpy as np

from edge.errors import SourceError
from edge.sources.live import Camera, Shot
from edge.sources.opencv import OpenCVCamera

START_TIMEOUT_S = 10.0
"""Argus takes seconds to set a sensor up."""

READ_TIMEOUT_S = 5.0

TURNED = (1, 3, 5, 7)
"""``flip-method`` values that swap width and height."""

LAUNCH = "gst-launch-1.0"

_PIPE_BYTES = 1 << 20


def argus(sensor: int, width: int, height: int, fps: int, flip: int) -> str:
    """The pipeline up to BGR pictures in the machine's own memory, without a sink.

    Args:
        sensor: number of the camera, from 0.
        width: of what the sensor gives, pixels, before turning.
        height: likewise.
        fps: frames a second.
        flip: nvvidconv's ``flip-method``: 0 none, 1 counter-clockwise, 2 by 180 degrees, 3 clockwise, 4 mirrored, ...
    """
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12 ! "
        f"nvvidconv flip-method={flip} ! video/x-raw,format=BGRx ! "
        "videoconvert ! video/x-raw,format=BGR"
    )


def opencv_has_gstreamer() -> bool:
    """Whether OpenCV was built with GStreamer."""
    return re.search(r"GStreamer:\s*YES", cv2.getBuildInformation()) is not None


def open_csi(sensor: int, width: int, height: int, fps: int, flip: int) -> Camera:
    """Open a CSI camera by whatever this machine has.

    Raises:
        SourceError: no such camera, no GStreamer, or no ``nvarguscamerasrc``.
    """
    name, pipeline = f"csi://{sensor}", argus(sensor, width, height, fps, flip)
    if opencv_has_gstreamer():
        camera = OpenCVCamera(
            name,
            f"{pipeline} ! appsink drop=1 max-buffers=1 sync=false",
            cv2.CAP_GSTREAMER,
            refusal="can't be opened; is this a Jetson, is the camera plugged in, and does nvargus-daemon run?",
        )
        camera.fps = fps
        return camera
    size = (height, width) if flip in TURNED else (width, height)
    return PipeCamera(name, pipeline, size, fps)


class PipeCamera(Camera):
    """Raw BGR pictures from a child process ``gst-launch-1.0``.

    A pipe of its own carries them, since Argus prints on standard output.

    Args:
        name: as messages call it.
        pipeline: ends in ``video/x-raw,format=BGR``, without a sink.
        size: width and height of its pictures, pixels.
        fps: frames a second.

    Raises:
        SourceError: GStreamer is not installed, or the pipeline gives no picture; with its own last words.
    """

    def __init__(self, name: str, pipeline: str, size: tuple[int, int], fps: float) -> None:
        self._name, (self._width, self._height), self.fps = name, size, fps
        # GStreamer begins each row of BGR at a multiple of four bytes.
        self._stride = (3 * self._width + 3) // 4 * 4
        self._words: deque[str] = deque(maxlen=20)
        self._interrupted = False
        self._count = 0
        self._pipe, theirs = os.pipe()
        caps = f"{pipeline},width={self._width},height={self._height} ! fdsink fd={theirs} sync=false"
        try:
            self._child = subprocess.Popen(
                [LAUNCH, "-q", *caps.split()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs,),
                start_new_session=True,  # Ctrl-C is for us; we end the child
            )
        except OSError as error:
            os.close(self._pipe)
            why = "is not installed" if isinstance(error, FileNotFoundError) else f"can't run ({error.strerror})"
            raise SourceError(
                f"{name}: {LAUNCH} {why}; type: sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base"
            ) from error
        finally:
            os.close(theirs)
        with contextlib.suppress(OSError):  # fewer wake-ups where the system allows it
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        threading.Thread(name="edge-gstreamer", target=_listen, args=(self._child, self._words), daemon=True).start()
        self._end = weakref.finalize(self, _end, self._child, self._pipe)
        try:
            self._wait(START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def read(self) -> Shot | None:
        """See :class:`Camera`; the time is that at which the picture's first bytes came."""
        self._wait(READ_TIMEOUT_S)
        captured_ns = time.monotonic_ns()
        rows = np.empty((self._height, self._stride), np.uint8)
        view = rows.data.cast("B")
        have = 0
        while have < len(view):
            if have:
                self._wait(READ_TIMEOUT_S)
            got = os.readv(self._pipe, [view[have:]])
            if not got:
                raise self._lost()
            have += got
        self._count += 1
        image = rows[:, : 3 * self._width].reshape(self._height, self._width, 3)
        return Shot(np.ascontiguousarray(image), captured_ns)

    def interrupt(self) -> None:
        """See :class:`Camera`."""
        self._interrupted = True

    def close(self) -> None:
        """End the child and wait for it."""
        self._end()

    def _wait(self, seconds: float) -> None:
        """Until there is something to read, or the child is gone."""
        deadline = time.monotonic() + seconds
        while not self._interrupted:
            if _ready(self._pipe, min(0.1, max(0.0, deadline - time.monotonic()))):
                if not _waiting(self._pipe):
                    raise self._lost()
                return
            if time.monotonic() > deadline:
                raise SourceError(f"{self._name}: no picture for {seconds:g} s; {self._last_words()}")
        raise SourceError(f"{self._name}: closed")

    def _lost(self) -> SourceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        return SourceError(f"{self._name}: {LAUNCH} ended after {self._count} frames; {self._last_words()}")

    def _last_words(self) -> str:
        deadline = time.monotonic() + 0.5
        while not self._words and time.monotonic() < deadline:
            time.sleep(0.01)
        words = list(self._words)
        told = [word for word in words if word.startswith(("ERROR", "WARNING"))] or words
        return f"it says: {told[0]}" if told else "it says nothing; is the camera plugged in?"


def _ready(pipe: int, seconds: float) -> bool:
    """Wait until a pipe can be read, or is at its end."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def _waiting(pipe: int) -> bool:
    """Whether bytes lie in a pipe that is ready to be read: at its end it is ready and empty."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0] > 0


def _listen(child: subprocess.Popen[bytes], words: deque[str]) -> None:
    assert child.stderr is not None
    with child.stderr as stream:
        for line in stream:
            if text := line.decode(errors="replace").strip():
                words.append(text)


def _end(child: subprocess.Popen[bytes], pipe: int) -> None:
    # Argus keeps a session open for a client that was killed, so it is asked first; a child that waits to write is
    # freed by reading on.
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 1.0
    while child.poll() is None and time.monotonic() < deadline:
        if _ready(pipe, 0.05) and not os.read(pipe, _PIPE_BYTES):
            break
    os.close(pipe)
    try:
        child.wait(0.5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
