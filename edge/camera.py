"""Where frames come from. A source is named by a URI, a plain path or a camera's number, or it is the pictures.

file:///path/clip.mp4      a video, or one picture          (plain path: clip.mp4)
dir:///path/frames?fps=25  a folder of pictures, by name    (plain path of a folder)
v4l2:///dev/video0         a camera                         (plain number: 0)
csi://0                    a camera on a Jetson's CSI port
rtsp://host/path           a network camera; rtsps:// likewise
http://host/path           a network camera that sends MJPEG; https:// likewise
synthetic://               the demo: a real portrait moved in front of a synthetic camera
any iterable               of BGR uint8 arrays, or of (array, captured_ns)
a Source                   of your own (see edge.source)

Options of ``v4l2``: ``width``, ``height``, ``fps``, ``mjpg=1`` (JPEG from the camera). Of ``csi``: ``width``,
``height``, ``fps``, ``flip`` (nvvidconv's 0 to 7). Of both, and after a ``#`` of ``rtsp`` and ``http``, whose ``?``
belongs to the camera: ``frozen`` (seconds after which a standing picture is no live one, default 5, 0 for never) and
``give_up`` (seconds after which a camera that is lost is an error, default 0 for never). For example
``v4l2:///dev/video0?width=1280&height=720&fps=30`` or ``rtsp://host/path#give_up=60``.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote

import cv2

from edge.errors import SourceError
from edge.source import DEFAULT_FPS, Source, readable
from edge.sources.arrays import ArraySource
from edge.sources.csi import open_csi
from edge.sources.files import FolderSource, PictureSource, VideoSource
from edge.sources.live import FROZEN_AFTER_S, Camera, Reconnecting
from edge.sources.mjpeg import MJPEGCamera
from edge.sources.opencv import RTSPCamera, V4L2Camera
from edge.sources.uri import Number, read_options, shown

SCHEMES = ("file", "dir", "v4l2", "csi", "rtsp", "rtsps", "http", "https", "synthetic")

MOTION_JPEG = (".mjpeg", ".mjpg")
"""Files of many JPEGs, which begin like a picture."""

LIVE = {"frozen": Number(FROZEN_AFTER_S, zero=True), "give_up": Number(0, zero=True)}
V4L2 = {
    "width": Number(0, whole=True),
    "height": Number(0, whole=True),
    "fps": Number(0),
    "mjpg": Number(0, zero=True, whole=True, most=2),
    **LIVE,
}
CSI = {
    "width": Number(1280, whole=True),
    "height": Number(720, whole=True),
    "fps": Number(30, whole=True),
    "flip": Number(0, zero=True, whole=True, most=8),
    **LIVE,
}


def open_source(source: str | int | os.PathLike[str] | Iterable[object] | Source) -> Source:
    """Open a source by URI, path or camera number, or take pictures from an iterable; a Source is taken as it is.

    Raises:
        SourceError: it isn't there, can't be read, or the URI is not understood.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, numbers.Integral) or (isinstance(source, str) and source.isdecimal()):
        return _v4l2(f"/dev/video{int(source)}", "")
    if isinstance(source, Iterable) and not isinstance(source, str | bytes | bytearray | memoryview | os.PathLike):
        return ArraySource(source)
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise SourceError(
            f"{source!r} is no source; expected a path, a URI such as file://, a camera's number, or pictures"
        )
    text = os.fspath(source)
    try:
        return _open_text(text)
    except OSError as error:
        raise SourceError(f"{shown(text)}: can't be opened ({error.strerror}); choose another source") from error


def _open_text(text: str) -> Source:
    if "://" not in text:
        return _open_path(Path(text))
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise SourceError(
            f"{shown(text)}: unknown kind of source {scheme!r}; expected {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    # A file's name may hold '?', '#' or '%': it takes no options.
    if scheme == "file":
        path = Path(rest)
        return _open_path(path if path.exists() else Path(unquote(rest)))
    if scheme in ("rtsp", "rtsps"):
        return _network(text, RTSPCamera)
    if scheme in ("http", "https"):
        return _network(text, MJPEGCamera)
    place, _, query = rest.partition("?")
    if scheme == "synthetic":
        if place:
            raise SourceError(f"{text}: synthetic:// takes options alone, as synthetic://?frames=100")
        from edge.synthetic import SyntheticSource

        known = {name: Number(default) for name, default in SyntheticSource.OPTIONS.items()}
        return SyntheticSource(**read_options(text, query, known))
    if scheme == "dir":
        return FolderSource(Path(unquote(place)), **read_options(text, query, {"fps": Number(DEFAULT_FPS)}))
    if scheme == "csi":
        return _csi(text, place, query)
    return _v4l2(unquote(place), query)


def _open_path(path: Path) -> Source:
    if path.is_dir():
        return FolderSource(path)
    if path.is_char_device():
        return _v4l2(str(path), "")
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; give a video, a picture, a folder of pictures or a camera")
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: is empty; expected a video or a picture")
    name = readable(path)
    moving = path.suffix.lower() in MOTION_JPEG
    if cv2.haveImageReader(name) and not moving and cv2.imcount(name) <= 1:
        return PictureSource(path)
    return VideoSource(path)


def _v4l2(device: str, query: str) -> Source:
    options = _with_defaults(f"v4l2://{device}", query, V4L2)
    width, height, fps, mjpg = (options[name] for name in ("width", "height", "fps", "mjpg"))
    return _live(device, lambda: V4L2Camera(device, int(width), int(height), fps, bool(mjpg)), options)


def _csi(text: str, place: str, query: str) -> Source:
    if not (place.isascii() and place.isdecimal()):
        raise SourceError(f"{text}: expected the camera's number, as in csi://0")
    options = _with_defaults(text, query, CSI)
    width, height, fps, flip = (int(options[name]) for name in ("width", "height", "fps", "flip"))
    return _live(f"csi://{int(place)}", lambda: open_csi(int(place), width, height, fps, flip), options)


def _network(url: str, camera: Callable[[str], Camera]) -> Source:
    options = _with_defaults(shown(url), url.partition("#")[2], LIVE)
    return _live(shown(url), lambda: camera(url), options)


def _live(name: str, open_camera: Callable[[], Camera], options: dict[str, float]) -> Source:
    return Reconnecting(name, open_camera, frozen_after_s=options["frozen"], give_up_s=options["give_up"])


def _with_defaults(uri: str, query: str, known: dict[str, Number]) -> dict[str, float]:
    return {name: number.default for name, number in known.items()} | read_options(uri, query, known)
