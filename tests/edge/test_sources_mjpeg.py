"""MJPEG over HTTP, from a real server that is as careless as cameras are."""

import gc
import itertools
import json
import logging
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

import edge
from edge.camera import open_source
from edge.sources import mjpeg
from edge.sources.mjpeg import Parts
from edge.synthetic import SyntheticSource


@pytest.fixture(scope="module")
def jpegs():
    camera = SyntheticSource(320, 240)
    noise = np.random.default_rng(0).integers(0, 6, (40, 240, 320, 3), dtype=np.uint8)
    return [cv2.imencode(".jpg", cv2.add(camera.picture(index / 30), noise[index]))[1].tobytes() for index in range(40)]


class Server:
    """A camera's web server; what it does may be changed while it runs."""

    def __init__(self, jpegs):
        self.jpegs, self.kind = jpegs, "multipart/x-mixed-replace; boundary=frame"
        self.part = plain
        self.every_s, self.most, self.cut = 0.02, 10**9, threading.Event()
        self.requests, self.status, self.password, self.chunked = [], 200, None, False
        self.port, self.secret = 0, None
        self.start()

    def start(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner.serve(self)

            def log_message(self, *arguments):
                pass

        self.cut.clear()
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.handle_error = lambda *arguments: None
        if self.secret is not None:
            self.server.socket = self.secret.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.server.daemon_threads = False
        self.server.block_on_close = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def stop(self):
        """Unplugged: nobody listens any more, and every connection is cut."""
        self.cut.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/video"

    def serve(self, handler):
        self.requests.append((handler.path, handler.headers.get("Authorization")))
        handler.close_connection = True
        status = self.status
        if self.password is not None and handler.headers.get("Authorization") != self.password:
            status = 401
        handler.send_response(status)
        if status == 401:
            handler.send_header("WWW-Authenticate", 'Basic realm="cam"')
        if self.kind:
            handler.send_header("Content-Type", self.kind)
        if self.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        if status != 200:
            return
        try:
            for number in range(self.most):
                data = self.part(number, self.jpegs[number % len(self.jpegs)])
                if data is None or self.cut.is_set():
                    break
                pieces = [data[at : at + 4000] for at in range(0, len(data), 4000)] if self.chunked else [data]
                for piece in pieces:
                    handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if self.chunked else piece)
                if self.cut.wait(self.every_s):
                    break
        except OSError:
            pass


def plain(number, jpeg):
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)


@pytest.fixture
def server(jpegs):
    gc.collect()
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    one = Server(jpegs)
    yield one
    one.stop()
    gc.collect()
    assert not set(threading.enumerate()) - threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture(scope="module", autouse=True)
def everything_loaded():
    """What is opened once in a process."""
    with edge.Recognizer() as once:
        once.process(np.zeros((240, 320, 3), np.uint8))


def take(url, count):
    source = open_source(url)
    frames = list(itertools.islice(source, count))
    source.close()
    return frames, source.health


def test_frames_and_their_time(server):
    frames, health = take(server.url, 10)
    assert [frame.image.shape for frame in frames] == [(240, 320, 3)] * 10
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    gaps = np.diff([frame.captured_ns for frame in frames]) / 1e6
    assert 15 < np.median(gaps) < 40
    assert (health.corrupt, health.reconnects) == (0, 0)
    assert server.requests == [("/video", None)]


def no_length(number, jpeg):
    return b"--frame\r\nContent-Type: image/jpeg\r\n\r\n%s\r\n" % jpeg


def delimiter_after(number, jpeg):
    head = b"--frame\r\n" if number == 0 else b""
    return head + b"Content-Type: image/jpeg\r\n\r\n%s\r\n--frame\r\n" % jpeg


def bare_newlines(number, jpeg):
    return b"--frame\nContent-length:%d\n\n%s\n" % (len(jpeg), jpeg)


def other_boundary(number, jpeg):
    return b"\r\n--other--than--announced\r\nContent-Type: image/jpeg\r\n\r\n%s" % jpeg


def length_too_short(number, jpeg):
    return b"--frame\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg) // 2, jpeg)


def length_too_long(number, jpeg):
    return b"--frame\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg) * 3, jpeg)


def no_header(number, jpeg):
    return b"--frame\r\n\r\n%s\r\n" % jpeg


def late_delimiter(number, jpeg):
    """The first picture stands before any delimiter."""
    return b"%s\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n" % jpeg


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "part",
    [
        plain,
        no_length,
        delimiter_after,
        bare_newlines,
        other_boundary,
        length_too_short,
        length_too_long,
        no_header,
        late_delimiter,
    ],
)
def test_liberties_that_cameras_take(server, part, chunked):
    server.part, server.chunked = part, chunked
    frames, health = take(server.url, 8)
    assert len(frames) == 8
    assert health.corrupt == 0
    assert health.reconnects == 0


@pytest.mark.parametrize("kind", ['multipart/x-mixed-replace;boundary="--frame"', "multipart/mixed", "multipart/x-y"])
def test_boundaries_as_cameras_announce_them(server, kind):
    server.kind = kind
    frames, health = take(server.url, 5)
    assert (len(frames), health.corrupt) == (5, 0)


def test_rubbish_between_and_within_is_skipped_and_counted(server):
    def part(number, jpeg):
        if number % 5 == 3:
            return plain(number, jpeg[: len(jpeg) // 2])
        if number % 5 == 4:
            return plain(number, os.urandom(3000))
        return plain(number, jpeg) + (os.urandom(500) if number % 5 == 1 else b"")

    server.part = part
    frames, health = take(server.url, 30)
    assert 8 <= health.corrupt <= 30
    assert health.reconnects == 0
    assert len({frame.image.shape for frame in frames}) == 1


def test_every_picture_is_the_one_that_was_sent(server, jpegs):
    server.every_s, server.most = 0.03, 12
    source = open_source(server.url + "#give_up=0.2")
    seen = []
    with pytest.raises(edge.SourceError):
        server.requests.clear()
        for frame in source:
            seen.append(frame)
            if len(seen) >= 8:
                server.status = 404
    for frame in seen:
        assert (
            min(
                np.abs(frame.image.astype(int) - cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)).max() for jpeg in jpegs
            )
            == 0
        )


def test_the_size_may_change(server, jpegs):
    small = cv2.imencode(".jpg", np.full((90, 160, 3), 90, np.uint8))[1].tobytes()
    server.part = lambda number, jpeg: plain(number, jpeg if number % 10 < 5 else small)
    with edge.Recognizer(server.url) as watching:
        shapes = [
            (frame.image.shape, bool(result.faces)) for frame, result in itertools.islice(watching.with_frames(), 30)
        ]
    assert {shape for shape, _ in shapes} == {(240, 320, 3), (90, 160, 3)}
    assert sum(found for shape, found in shapes if shape[0] == 240) > 5


@pytest.mark.parametrize("away_s", [0.3, 1.7])
def test_the_camera_goes_and_comes_back(server, away_s, caplog):
    with edge.Recognizer(server.url) as watching, caplog.at_level(logging.WARNING):
        source = watching._source
        results = iter(watching)
        first = next(results)
        server.stop()
        time.sleep(away_s)
        server.start()
        back = time.monotonic_ns()
        while (result := next(results)).captured_ns < back:
            pass
        assert result.captured_ns - back < 2e9
        assert result.frame > first.frame
        assert source.health.reconnects == 1
        assert source.health.state == "streaming"
    assert [record.name for record in caplog.records] == ["edge.sources.live"] * 2


def test_a_server_that_falls_silent_is_closed_at_once(server):
    server.every_s = 60
    server.part = lambda number, jpeg: plain(number, jpeg) + plain(number, jpeg)
    source = open_source(server.url)
    frames = iter(source)
    closing = threading.Timer(0.5, source.close)
    closing.start()
    begun = time.monotonic()
    list(frames)
    assert time.monotonic() - begun < 1.5
    server.cut.set()


def test_a_part_without_an_end_does_not_fill_the_memory(server, monkeypatch):
    monkeypatch.setattr(mjpeg, "LARGEST_PICTURE", 200_000)
    server.part = lambda number, jpeg: b"--frame\r\n\r\n\xff\xd8" if number == 0 else bytes(50_000)
    with pytest.raises(edge.SourceError, match=r"the stream stopped after 0 frames \(a picture of more than 0 MiB\)"):
        next(iter(open_source(server.url)))


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("image/jpeg", 200, r"answers with a single picture \(image/jpeg\), not a stream; give the camera's MJPEG"),
        ("video/mp4", 200, r"answers with video/mp4; expected an MJPEG stream"),
        (None, 200, r"answers with nothing; expected an MJPEG stream"),
        ("text/html", 404, r"answers 404 \(Not Found\); is the path right"),
        (
            "text/html",
            401,
            r"answers 401 \(Unauthorized\); it wants a user and a password; write http://user:password@",
        ),
    ],
)
def test_what_is_no_stream_is_told(server, kind, status, message):
    server.kind, server.status = kind, status
    with pytest.raises(edge.SourceError, match=message):
        open_source(server.url)


def test_multipart_that_holds_none(server):
    server.part = lambda number, jpeg: b"hello\n" * 20_000
    with pytest.raises(edge.SourceError, match=r"\(no boundary found: not an MJPEG stream\)"):
        next(iter(open_source(server.url)))


def test_nobody_there():
    with pytest.raises(edge.SourceError, match=r"127.0.0.1 can't be reached \(Connection refused\); is the camera on"):
        open_source("http://127.0.0.1:9/video")
    with pytest.raises(edge.SourceError, match="can't be reached"):
        open_source("http://no.such.host.invalid/video")


def test_users_and_passwords_are_used_and_never_shown(server, caplog):
    server.password = "Basic dTpwQHNz"  # u:p@ss
    server.kind = "multipart/x-mixed-replace; boundary=frame"
    url = server.url.replace("http://", "http://u:p%40ss@") + "?token=geheim"
    with caplog.at_level(logging.DEBUG):
        source = open_source(url)
        frames = iter(source)
        next(frames)
        assert server.requests[-1] == ("/video?token=geheim", "Basic dTpwQHNz")
        server.stop()
        with pytest.raises(edge.SourceError) as caught:
            open_source(url)
        deadline = threading.Timer(0.6, source.close)
        deadline.start()
        list(frames)
        deadline.join()
        server.start()
        server.password = "Basic other"
        with pytest.raises(edge.SourceError, match="the user or password is wrong") as refused:
            open_source(url)
    told = [source.name, source.health.last_error, caplog.text, *_chain(caught.value), *_chain(refused.value)]
    for text in told:
        assert "p@ss" not in text
        assert "p%40ss" not in text
        assert "geheim" not in text
    assert source.name == f"http://127.0.0.1:{server.port}/video"


def _chain(error):
    """All that a traceback would print of an error."""
    import traceback

    return ["".join(traceback.format_exception(error))]


@pytest.mark.parametrize(
    "url",
    [
        "http://user:geheim@/x",
        "http://user:geheim@host:port/x",
        "http://user:ge/heim@[::1/x",
        "rtsp://user:geheim@",
        "rtmp://user:geheim@host/x",
        "http://user:geheim@127.0.0.1:9/x#fro=1",
        "http://u:geheim x@127.0.0.1:9/x",
        "rtsp://user:geheim@127.0.0.1:9/x?password=geheim",
    ],
)
def test_no_refusal_shows_a_password(url):
    with pytest.raises(edge.SourceError) as caught:
        open_source(url)
    for text in _chain(caught.value):
        text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
        assert "heim" not in text
    assert "\n" not in str(caught.value)


def test_an_encrypted_stream(server, tmp_path, monkeypatch):
    """Closing frees a reader here too, and a certificate that nobody vouches for is refused."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is absent")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", "req", *options.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.stop()
    server.secret = context
    server.start()
    server.part = lambda number, jpeg: plain(number, jpeg) if number < 5 else server.cut.wait(10) and None
    url = f"https://localhost:{server.port}/video"
    with pytest.raises(edge.SourceError, match=r"localhost can't be reached \(.*certificate verify failed"):
        open_source(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    source = open_source(url)
    frames = iter(source)
    next(frames)
    closing = threading.Timer(0.5, source.close)
    closing.start()
    begun = time.monotonic()
    list(frames)
    assert time.monotonic() - begun < 1.5
    closing.join()


def test_options_after_the_fragment(server):
    frames, _ = take(server.url + "?a=b#frozen=0&give_up=30", 2)
    assert len(frames) == 2
    assert server.requests[-1][0] == "/video?a=b"
    with pytest.raises(edge.SourceError, match="unknown option 'speed'; expected frozen, give_up"):
        open_source(server.url + "#speed=1")


def test_sigterm_ends_the_command_line_with_whole_outputs(server, tmp_path):
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "edge", "run", server.url, "--jsonl", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        partial = tmp_path / "out.partial.jsonl"
        deadline = time.monotonic() + 30
        while not (partial.exists() and partial.read_bytes().count(b"\n") > 5) and time.monotonic() < deadline:
            time.sleep(0.05)
        program.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        _, errors = program.communicate(timeout=10)
    assert time.monotonic() - begun < 5
    assert program.returncode == 0, errors
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) > 5


def test_sigterm_while_the_camera_is_away(server, tmp_path):
    command = [sys.executable, "-m", "edge", "run", server.url, "--jsonl", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout.readline()
        server.stop()
        time.sleep(0.5)
        program.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        _, errors = program.communicate(timeout=10)
    server.start()
    assert time.monotonic() - begun < 5
    assert program.returncode == 0, errors


# -- the parser alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_of_any_size(jpegs, size):
    body = b"".join(plain(number, jpeg[:1500] + b"\xff\xd9") for number, jpeg in enumerate(jpegs[:6]))
    stream = iter([body[at : at + size] for at in range(0, len(body), size)])
    parts = Parts(lambda most: next(stream, b""), b"frame")
    for jpeg in jpegs[:6]:
        assert parts.next()[0] == jpeg[:1500] + b"\xff\xd9"
    with pytest.raises(ConnectionResetError):
        parts.next()


def test_rubbish_never_breaks_the_parser():
    rng = np.random.default_rng(0)
    words = [
        b"--frame",
        b"\r\n",
        b"\n",
        b"Content-Length: 7",
        b"\xff\xd8",
        b"\xff\xd9",
        b"--",
        b"\0" * 9,
        b": ",
        b"\r\n\r\n",
    ]
    for _ in range(2000):
        body = b"".join(words[index] for index in rng.integers(0, len(words), 60))
        stream = iter([body[at : at + 11] for at in range(0, len(body), 11)])
        parts = Parts(lambda most, stream=stream: next(stream, b""), b"frame")
        for _ in range(200):
            try:
                parts.next()
            except (ConnectionResetError, ValueError):
                break
        else:
            raise AssertionError(body)
