"""Cameras that OpenCV reads: Video4Linux, RTSP through its FFmpeg, and GStreamer pipelines where it has GStreamer."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from edge.errors import SourceError
from edge.source import DEFAULT_FPS
from edge.sources.live import Camera, Shot
from edge.sources.uri import shown

OLDEST_STAMP_NS = 1_000_000_000
"""A driver's time of capture is believed if it is on the monotonic clock and not older than this."""

CONNECT_TIMEOUT_S = 2.0
STREAM_TIMEOUT_MS = 5000
"""How long opening a stream, and reading one frame of it, may take."""

FFMPEG_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
FFMPEG_OPTIONS = "rtsp_transport;tcp|fpsprobesize;0"
"""TCP, since a lost packet of UDP is a smeared picture. No frame rate is estimated, which would take 20 frames' time
and hold those frames back."""

_LOG = logging.getLogger(__name__)


class OpenCVCamera(Camera):
    """Anything that ``cv2.VideoCapture`` opens.

    Args:
        name: as messages call it.
        source: for OpenCV.
        api: one of OpenCV's ``CAP_`` numbers.
        parameters: property, value, property, value, ... for opening.
        refusal: what may be wrong when it can't be opened.
    """

    def __init__(self, name: str, source: str, api: int, parameters: Sequence[int] = (), *, refusal: str) -> None:
        self._name, self._count = name, 0
        self._stamp_ns = 0
        self._capture = cv2.VideoCapture(source, api, list(parameters))
        if not self._capture.isOpened():
            raise SourceError(f"{name}: {refusal}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else DEFAULT_FPS

    def read(self) -> Shot | None:
        """See :class:`Camera`; the time is that at which OpenCV had the frame, before it was decoded to BGR."""
        grabbed = self._capture.grab()
        now = time.monotonic_ns()
        if not grabbed:
            raise SourceError(f"{self._name}: stopped after {self._count} frames; is it still plugged in?")
        self._count += 1
        captured_ns = self._captured_ns(now)
        retrieved, image = self._capture.retrieve()
        if not retrieved or image is None:
            return None
        return Shot(np.asarray(image, np.uint8), captured_ns)

    def close(self) -> None:
        """Release the device."""
        self._capture.release()

    def _captured_ns(self, now: int) -> int:
        return now


class V4L2Camera(OpenCVCamera):
    """A Video4Linux camera.

    Args:
        device: path; one under ``/dev/v4l/by-id`` stays with the camera, wherever it is plugged in.
        width: wished, pixels; 0 leaves it to the driver. The nearest that the camera has is taken, with a warning.
        height: wished, pixels; likewise.
        fps: wished; likewise.
        mjpg: ask for JPEG pictures, which many USB cameras need for their full rate at large sizes.

    Raises:
        SourceError: not there, not a camera, in use, or not allowed.
    """

    def __init__(self, device: str, width: int = 0, height: int = 0, fps: float = 0, mjpg: bool = False) -> None:
        if not os.path.exists(device):
            there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
            raise SourceError(f"{device}: no such camera; cameras here: {there}")
        super().__init__(
            device,
            device,
            cv2.CAP_V4L2,
            refusal="can't be opened as a camera; is it in use, or may this user not read it?",
        )
        if mjpg:
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        wishes = ((cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height), (cv2.CAP_PROP_FPS, fps))
        for key, wish in wishes:
            if wish:
                self._capture.set(key, wish)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        got = [self._capture.get(key) for key, _ in wishes]
        if any(wish and not math.isclose(wish, have, abs_tol=0.5) for (_, wish), have in zip(wishes, got, strict=True)):
            _LOG.warning("%s: gives %.0fx%.0f at %.0f frames a second, the nearest it has", device, *got)
        self.fps = got[2] if 0 < got[2] < 1000 else DEFAULT_FPS

    def _captured_ns(self, now: int) -> int:
        self._stamp_ns = driver_time(self._capture.get(cv2.CAP_PROP_POS_MSEC), now, self._stamp_ns)
        return self._stamp_ns


def driver_time(stamp_ms: float, now_ns: int, last_ns: int) -> int:
    """When a frame was captured, monotonic clock, nanoseconds.

    Args:
        stamp_ms: the driver's time, milliseconds. Most drivers use the monotonic clock; some the wall clock, or 0.
        now_ns: when the frame was in our hands, monotonic clock.
        last_ns: what was returned for the frame before.

    Returns:
        The driver's time where it can be true, else ``now_ns``; never before ``last_ns``.
    """
    stamp_ns = round(stamp_ms * 1e6) if math.isfinite(stamp_ms) else 0
    believed = max(last_ns, now_ns - OLDEST_STAMP_NS) <= stamp_ns <= now_ns
    return stamp_ns if believed else max(now_ns, last_ns)


class RTSPCamera(OpenCVCamera):
    """A stream over RTSP, by OpenCV's FFmpeg, over TCP.

    Where OPENCV_FFMPEG_CAPTURE_OPTIONS is set, its options hold instead of ours.

    Args:
        url: ``rtsp://user:password@host:554/path``.

    Raises:
        SourceError: nobody answers, or what answers gives no stream.
    """

    buffered = True

    def __init__(self, url: str) -> None:
        name = shown(url)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or (322 if parts.scheme == "rtsps" else 554)
        except ValueError:
            host = None
        if not host:
            raise SourceError(f"{name}: not an address; expected rtsp://user:password@host:554/path")
        # FFmpeg waits long and says nothing of why.
        try:
            socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            reason = error.strerror or str(error) or "no answer"
            raise SourceError(
                f"{name}: {host} port {port} can't be reached ({reason}); is the camera on, and the address right?"
            ) from None
        with _ffmpeg_options():
            super().__init__(
                name,
                url.partition("#")[0],
                cv2.CAP_FFMPEG,
                # One thread, since each further one holds a frame back.
                (
                    *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT_MS),
                    *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, STREAM_TIMEOUT_MS),
                    *(cv2.CAP_PROP_N_THREADS, 1),
                ),
                refusal="answers, but gives no stream; check the path, and user and password",
            )


_opening = 0
_opening_lock = threading.Lock()


@contextlib.contextmanager
def _ffmpeg_options() -> Iterator[None]:
    """OpenCV takes FFmpeg's options from the environment alone; they stand there only while a stream is opened."""
    global _opening
    with _opening_lock:
        if _opening or FFMPEG_VARIABLE not in os.environ:
            os.environ[FFMPEG_VARIABLE] = FFMPEG_OPTIONS
            _opening += 1
            ours = True
        else:
            ours = False
    try:
        yield
    finally:
        if ours:
            with _opening_lock:
                _opening -= 1
                if not _opening:
                    os.environ.pop(FFMPEG_VARIABLE, None)
