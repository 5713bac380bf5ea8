"""A camera that sends JPEG after JPEG over HTTP (``multipart/x-mixed-replace``, RFC 2046 section 5.1)."""

from __future__ import annotations

import contextlib
import email.message
import http.client
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import cv2
import numpy as np

from edge.errors import SourceError
from edge.source import DEFAULT_FPS, complete
from edge.sources.live import Camera, Shot
from edge.sources.uri import shown

CONNECT_TIMEOUT_S, TIMEOUT_S = 2.0, 5.0
"""How long connecting, and waiting for the next bytes, may take."""

LARGEST_PICTURE = 32 << 20
"""Bytes. A part without an end would fill the memory."""

LARGEST_HEADER = 64 << 10

_CHUNK = 1 << 16
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")


class MJPEGCamera(Camera):
    """A camera's MJPEG address.

    Args:
        url: ``http://user:password@host/path``; a fragment is not sent.

    Raises:
        SourceError: nobody answers, or the answer is no such stream.
    """

    buffered = True

    def __init__(self, url: str) -> None:
        self._name, self._count = shown(url), 0
        self.fps = DEFAULT_FPS
        response = _answer(self._name, url)
        try:
            # A second handle on the connection, by which any thread can end it.
            self._socket = socket.socket(fileno=os.dup(response.fileno()))
        except BaseException:
            response.close()
            raise
        self._response = response
        try:
            self._parts = Parts(response.read1, _boundary(self._name, response.headers))
        except BaseException:
            self.close()
            raise

    def read(self) -> Shot | None:
        """See :class:`Camera`; the time is that at which the picture's first bytes came."""
        try:
            data, captured_ns = self._parts.next()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(f"{self._name}: the stream stopped after {self._count} frames ({_why(error)})") from None
        self._count += 1
        # Decoders fill the missing rest of a picture with grey, which is made-up data.
        if not data.startswith((b"\xff\xd8", b"\x89PNG")) or not complete(data):
            return None
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            return None
        return None if image is None else Shot(np.asarray(image, np.uint8), captured_ns)

    def interrupt(self) -> None:
        """See :class:`Camera`."""
        with contextlib.suppress(OSError):  # it may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._response.close()
        self._socket.close()


class Parts:
    """Cuts a multipart body into its parts, whatever liberties the camera takes.

    The delimiter is the body's first line if that begins with ``--``, since many cameras announce another; else the
    announced one. A part ends where its Content-Length says if that is a JPEG's end, else where a JPEG is whole, else
    at the next delimiter.

    Args:
        read: gives up to so many bytes, waiting for the first of them; none at the end.
        boundary: as announced, without dashes; empty if it was not.
    """

    def __init__(self, read: Callable[[int], bytes], boundary: bytes) -> None:
        self._read = read
        self._buffer = bytearray()
        self._announced = b"--" + boundary if boundary else b""
        self._delimiter = b""
        self._came_ns = 0

    def next(self) -> tuple[bytes, int]:
        """The next part's bytes, and when its first bytes came (monotonic clock, nanoseconds).

        Raises:
            OSError: the connection is lost, or silent for too long.
            ValueError: not a multipart body, or a part without an end.
        """
        self._skip_delimiter()
        length = self._header()
        if not self._buffer:
            self._more()
        captured_ns = self._came_ns
        return self._body(length), captured_ns

    def _more(self) -> None:
        data = self._read(_CHUNK)
        if not data:
            raise ConnectionResetError("the camera hung up")
        self._came_ns = time.monotonic_ns()
        self._buffer += data

    def _skip_delimiter(self) -> None:
        """Throw away everything up to the end of the next delimiter's line."""
        thrown = 0
        while True:
            if not self._delimiter:
                if line := re.match(rb"\s*(--[^\r\n]+)\r?\n", self._buffer):
                    self._delimiter = bytes(line[1]).rstrip()
                elif self._announced and self._announced in self._buffer:
                    self._delimiter = self._announced
            place = self._buffer.find(self._delimiter) if self._delimiter else -1
            if place >= 0:
                if (end := self._buffer.find(b"\n", place)) >= 0:
                    del self._buffer[: end + 1]
                    return
                if self._buffer[place + len(self._delimiter) :].startswith(b"--"):
                    raise ConnectionResetError("the camera ended the stream")
            else:
                surplus = max(0, len(self._buffer) - LARGEST_HEADER)
                thrown += surplus
                del self._buffer[:surplus]
                if thrown > LARGEST_PICTURE or (thrown and not self._delimiter):
                    raise ValueError("no boundary found: not an MJPEG stream")
            self._more()

    def _header(self) -> int | None:
        """Read a part's header; its Content-Length, None if it has none that can be believed."""
        if not self._buffer:
            self._more()
        while True:
            if self._buffer.startswith((b"\r\n", b"\n")):  # no header at all
                del self._buffer[: self._buffer.index(b"\n") + 1]
                return None
            if self._buffer.startswith(b"\xff\xd8"):
                return None
            if end := _END_OF_HEADER.search(self._buffer):
                break
            if len(self._buffer) > LARGEST_HEADER:
                return None  # garbage: the body's search for the next delimiter skips it
            self._more()
        header = bytes(self._buffer[: end.start()])
        del self._buffer[: end.end()]
        length = re.search(rb"(?im)^content-length[ \t]*:[ \t]*(\d{1,9})[ \t]*\r?$", header)
        return int(length[1]) if length and 0 < int(length[1]) <= LARGEST_PICTURE else None

    def _body(self, length: int | None) -> bytes:
        searched = 0
        while True:
            if length is not None and len(self._buffer) >= length:
                data = bytes(self._buffer[:length])
                ended = data.rstrip(b"\r\n\0").endswith(b"\xff\xd9") or not data.startswith(b"\xff\xd8")
                if ended and self._delimiter not in data:
                    del self._buffer[:length]
                    return data
                length = None  # it is not to be believed
                searched = 0
            place = self._buffer.find(self._delimiter, max(0, searched - len(self._delimiter)))
            if place >= 0 and (length is None or self._buffer[:place].rstrip().endswith(b"\xff\xd9")):
                data = bytes(self._buffer[:place])
                del self._buffer[:place]
                return data
            if length is None and self._buffer[-16:].rstrip(b"\r\n").endswith(b"\xff\xd9"):
                data = bytes(self._buffer)
                if complete(data):  # the picture is whole: the next delimiter need not be waited for
                    self._buffer.clear()
                    return data
            searched = len(self._buffer)
            if searched > LARGEST_PICTURE:
                raise ValueError(f"a picture of more than {LARGEST_PICTURE >> 20} MiB")
            self._more()


def _connect(connection: http.client.HTTPConnection, connect: Callable[[], None]) -> None:
    """Connect with a shorter limit than reading has, so that a camera that comes back is noticed soon."""
    limit, connection.timeout = connection.timeout, CONNECT_TIMEOUT_S
    try:
        connect()
    finally:
        connection.timeout = limit
    connection.sock.settimeout(limit)


class _PlainConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _EncryptedConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PlainConnection, req)


class _Encrypted(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_EncryptedConnection, req)


class _Basic(urllib.request.HTTPBasicAuthHandler):
    def http_error_401(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # urllib leaves the refused connection open
        return super().http_error_401(req, fp, code, msg, headers)


class _Digest(urllib.request.HTTPDigestAuthHandler):
    def http_error_401(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()
        return super().http_error_401(req, fp, code, msg, headers)


def _answer(name: str, url: str) -> http.client.HTTPResponse:
    """Ask for the address."""
    try:
        parts = urlsplit(url)
        user, password, host = parts.username, parts.password, parts.hostname
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        host = None
    if not host or re.search(r"[\x00-\x20\x7f]", url):
        raise SourceError(f"{name}: not an address; expected http://user:password@host/path")
    place = f"[{host}]{port}" if ":" in host else f"{host}{port}"
    bare = urlunsplit((parts.scheme, place, parts.path or "/", parts.query, ""))
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if user is not None:
        passwords.add_password(None, bare, unquote(user), unquote(password or ""))
    opener = urllib.request.build_opener(
        _Plain(),
        _Encrypted(),
        urllib.request.ProxyHandler({}),  # a camera is no page of the web
        _Basic(passwords),
        _Digest(passwords),
    )
    try:
        response = opener.open(bare, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        advice = "is the path right?"
        if error.code == 401:
            wrong = "the user or password is wrong" if user is not None else "it wants a user and a password"
            advice = f"{wrong}; write http://user:password@host/path"
        raise SourceError(f"{name}: answers {error.code} ({error.reason}); {advice}") from None
    except urllib.error.URLError as error:
        reason = error.reason if isinstance(error.reason, OSError) else error
        raise SourceError(
            f"{name}: {host} can't be reached ({_why(reason)}); is the camera on, and the address right?"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"{name}: gives no answer that can be read ({_why(error)})") from None
    if not isinstance(response, http.client.HTTPResponse):
        response.close()
        raise SourceError(f"{name}: not an answer over HTTP")
    return response


def _boundary(name: str, headers: email.message.Message) -> bytes:
    """The boundary that an answer announces.

    Raises:
        SourceError: it is no MJPEG stream.
    """
    kind = headers.get_content_type() if "content-type" in headers else "nothing"
    if kind.startswith("multipart/"):
        return str(headers.get_param("boundary", "")).strip().strip('"').lstrip("-").encode("latin-1", "replace")
    if kind.startswith("image/"):
        raise SourceError(
            f"{name}: answers with a single picture ({kind}), not a stream; give the camera's MJPEG address "
            "(multipart/x-mixed-replace)"
        )
    raise SourceError(f"{name}: answers with {kind[:60]}; expected an MJPEG stream (multipart/x-mixed-replace)")


def _why(error: BaseException) -> str:
    """In a few words, and never with the address, which may hold a password."""
    if isinstance(error, TimeoutError):
        return f"silent for {TIMEOUT_S:g} s"
    if isinstance(error, OSError):
        return error.strerror or (str(error) if isinstance(error, ConnectionError) else type(error).__name__)
    if isinstance(error, ValueError) and not isinstance(error, http.client.HTTPException):
        return str(error)
    return type(error).__name__
