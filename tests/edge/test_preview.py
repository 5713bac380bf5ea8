"""The server beside the loop, asked by real clients over real sockets."""

import contextlib
import gc
import http.client
import importlib.resources
import json
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
import weakref

import cv2
import numpy as np
import pytest

for package in ("starlette", "uvicorn", "websockets", "prometheus_client"):
    pytest.importorskip(package)

from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import edge
from edge.__main__ import main
from edge.outputs import board as board_module
from edge.outputs.address import TOKEN_VARIABLE, Address, parse
from edge.outputs.board import MAX_CLIENTS, QUEUE, Board
from edge.outputs.preview import Preview
from edge.outputs.server import ASSETS, cookie_name
from edge.types import Box, Face, FaceState, Frame, Result

TOKEN = "a-token-of-good-length"
PATHS = ("/", "/preview.js", "/preview.css", "/icon.svg", "/picture", "/picture?after=-1", "/status", "/metrics")


def result(number, label="happy"):
    face = Face(1, Box(20, 10, 40, 40), label, 0.9, {"happy": 0.9, "sad": 0.1}, FaceState.OK)
    return Result(number, number * 33_000_000, (face,), {"detect": 2.0, "total": 4.0})


def frame(number, side=64, shade=90):
    now = time.monotonic_ns()
    return Frame(number, now, np.full((side, side * 2, 3), shade, np.uint8), now)


def write(preview, number, **options):
    preview.write(frame(number, **options), result(number))


@pytest.fixture
def make_preview(monkeypatch):
    """Makes previews on free ports, and checks that each leaves nothing behind."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    made = []

    def make(where="127.0.0.1:0", **options):
        made.append(Preview(where, **options))
        return made[-1]

    before = threading.active_count()
    yield make
    for preview in made:
        assert preview.finish(True) is None
    gc.collect()  # a socket that nobody closed is complained of here, not in a later test
    assert threading.active_count() == before, threading.enumerate()


def port_of(preview):
    return int(preview.url.split(":")[2].split("/")[0])


def get(preview, path, headers=None):
    """Status, headers and body; redirects are not followed."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(preview), timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def listen(preview, path="/ws", **options):
    # No proxy: the environment may name one.
    return connect(f"ws://127.0.0.1:{port_of(preview)}{path}", proxy=None, open_timeout=10, **options)


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


# -- what is served ----------------------------------------------------------------------------------------------------


def test_the_websocket_says_what_a_json_line_says(make_preview, make_clip, tmp_path):
    """The real pipeline's results, byte for byte."""
    from edge.outputs.jsonl import JsonLines

    preview, lines = make_preview(), JsonLines(str(tmp_path / "out.jsonl"))
    with listen(preview) as client, edge.Recognizer(str(make_clip(12))) as recognizer:
        until(lambda: preview._board.clients()[0] == 1)
        for each, its_result in recognizer.with_frames():
            preview.write(each, its_result)
            lines.write(each, its_result)
        lines.finish(True)
        expected = (tmp_path / "out.jsonl").read_text().splitlines()
        assert [client.recv(timeout=5) for _ in expected] == expected
    assert any(json.loads(line)["faces"] for line in expected)


def test_a_late_client_gets_the_newest_result_at_once(make_preview):
    preview = make_preview()
    for number in range(5):
        write(preview, number)
    with listen(preview) as client:
        assert json.loads(client.recv(timeout=5))["frame"] == 4


def test_clients_are_told_why_it_ends(make_preview):
    for whole, reason in ((True, "the source has ended"), (False, "the run was stopped")):
        preview = make_preview()
        with listen(preview) as client:
            until(lambda preview=preview: preview._board.clients()[0] == 1)
            preview.finish(whole)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=5)
            assert closed.value.rcvd.code == 1000
            assert closed.value.rcvd.reason == reason


def test_health_follows_the_loop(make_preview, monkeypatch):
    trouble = [None]
    preview = make_preview(stale_s=0.3, trouble=lambda: trouble[0])
    assert get(preview, "/healthz")[0] == 200
    assert json.loads(get(preview, "/healthz")[2]) == {"alive": True, "reason": "starting", "result_age_s": None}
    status, _, body = get(preview, "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reason": "no result yet"})
    write(preview, 0)
    assert json.loads(get(preview, "/healthz")[2])["reason"] == "ok"
    assert get(preview, "/readyz")[0] == 200
    time.sleep(0.35)
    status, _, body = get(preview, "/healthz")
    assert status == 503
    assert "s old; expected one within 0.3 s" in json.loads(body)["reason"]
    write(preview, 1)
    assert get(preview, "/healthz")[0] == 200
    trouble[0] = "the camera is unplugged"
    status, _, body = get(preview, "/healthz")
    assert (status, json.loads(body)["reason"]) == (503, "the camera is unplugged")


def test_a_loop_that_never_begins_is_not_alive():
    now = [100.0]
    board = Board(clock=lambda: now[0])
    now[0] += board_module.START_S - 1
    assert board.health().alive
    now[0] += 2
    assert not board.health().alive
    board.publish(result(0), (64, 64))
    assert board.health().alive
    board.end("the run was stopped")
    assert board.health().reason == "the run was stopped"


def test_an_old_frame_is_old_however_new_its_result():
    now = [100.0]
    board = Board(clock=lambda: now[0], stale_s=5)
    board.publish(result(0), (64, 64), read_s=92.0)
    assert board.health().age_s == 8.0
    assert not board.health().alive


def test_metrics_over_http(make_preview):
    preview = make_preview(counters=lambda: {"dropped": 5})
    for number in range(3):
        write(preview, number)
    status, headers, body = get(preview, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    found = {s.name: s.value for family in text_string_to_metric_families(body.decode()) for s in family.samples}
    assert found["edge_frames_processed_total"] == 3
    assert found["edge_frames_dropped_total"] == 5
    assert 0 <= found["edge_result_age_seconds"] < 5


def test_the_status(make_preview):
    preview = make_preview(counters=lambda: {"dropped": 5})
    for number in range(3):
        write(preview, number)
        time.sleep(0.02)
    status = json.loads(get(preview, "/status")[2])
    assert status["picture"] is True
    assert (status["width"], status["height"]) == (128, 64)
    assert status["frames"] == 3
    assert 0 < status["fps"] < 60
    assert status["counters"] == {"dropped": 5}


def test_the_picture_is_the_newest_frame_and_made_once(make_preview):
    preview = make_preview()
    assert get(preview, "/picture")[0] == 503
    write(preview, 0, shade=10)
    write(preview, 1, shade=200)
    status, headers, body = get(preview, "/picture")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert (headers["x-frame"], headers["x-frame-size"]) == ("1", "128x64")
    assert abs(int(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).mean()) - 200) <= 2
    assert get(preview, "/picture?after=0")[2] == body
    assert preview._pictures.encoded == 1
    assert get(preview, "/picture?after=x")[0] == 400


def test_a_request_waits_for_the_next_picture(make_preview, monkeypatch):
    monkeypatch.setattr("edge.outputs.server.LONG_POLL_S", 0.2)
    preview = make_preview()
    write(preview, 0)
    assert get(preview, "/picture?after=0")[0] == 204
    monkeypatch.setattr("edge.outputs.server.LONG_POLL_S", 5.0)
    timer = threading.Timer(0.3, write, (preview, 1))
    begun = time.monotonic()
    timer.start()
    assert get(preview, "/picture?after=0")[1]["x-frame"] == "1"
    assert 0.25 < time.monotonic() - begun < 3
    timer.join()


def test_a_large_frame_is_shown_smaller(make_preview):
    preview = make_preview()
    write(preview, 0, side=1080)
    _, headers, body = get(preview, "/picture")
    assert headers["x-frame-size"] == "2160x1080", "boxes are in the frame's own pixels"
    assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).shape == (640, 1280, 3)


def test_nothing_is_encoded_while_nobody_looks(make_preview, monkeypatch):
    preview = make_preview()
    monkeypatch.setattr(cv2, "imencode", lambda *_: pytest.fail("encoded for nobody"))
    with listen(preview) as client:
        for number in range(20):
            write(preview, number)
            client.recv(timeout=5)
    assert preview._pictures.encoded == 0


def test_the_page_and_its_files_are_in_the_package(make_preview):
    preview = make_preview()
    folder = importlib.resources.files("edge.outputs") / "web"
    assert {each.name for each in folder.iterdir()} == set(ASSETS)
    for name, media_type in ASSETS.items():
        status, headers, body = get(preview, "/" if name == "index.html" else f"/{name}")
        assert (status, headers["content-type"]) == (200, media_type)
        assert body == (folder / name).read_bytes()
        # No internet: nothing names another host but the namespace of SVG.
        assert b"//" not in body.replace(b"http://www.w3.org/2000/svg", b"").replace(b"// ", b"").replace(
            b"}://${location.host}", b""
        ), name
    text = (folder / "index.html").read_text()
    assert "style=" not in text
    assert "<script>" not in text


# -- the loop goes on --------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_loses_old_messages_and_the_loop_does_not_wait(make_preview, trace_memory):
    preview = make_preview()
    slow = socket.create_connection(("127.0.0.1", port_of(preview)))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    until(lambda: preview._board.clients()[0] == 1)
    (feed,) = preview._board._feeds
    picture = frame(0)
    trace_memory()
    slowest = used = 0.0
    for number in range(15_000):
        begun = time.perf_counter()
        preview.write(picture, result(number))
        slowest = max(slowest, time.perf_counter() - begun)
        if number == 8_000:
            used = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - used
    assert feed.lost > 5_000
    assert preview._board.clients()[1] == feed.lost
    assert len(feed.lines) <= QUEUE
    assert slowest < 1.0
    assert grown < 500_000, "memory is flat"
    begun = time.monotonic()
    preview.finish(True)
    assert time.monotonic() - begun < 4, "one that doesn't read doesn't hold up the end"
    slow.close()


def test_misbehaving_clients_do_not_reach_the_loop(make_preview):
    preview = make_preview()
    write(preview, 0)
    for garbage in (b"\x00" * 2000, b"GET", b"GET /ws HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port_of(preview))) as client:
            client.sendall(garbage)
    with listen(preview) as client:
        client.recv(timeout=5)
        client.send("x" * 5000)  # more than the server hears
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=5)
    for number in range(1, 5):
        with listen(preview) as client:
            client.send("who is there?")
            client.socket.close()  # gone without a word
        write(preview, number)
    until(lambda: preview._board.clients()[0] == 0)
    assert get(preview, "/healthz")[0] == 200
    assert get(preview, "/nothing")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", port_of(preview), timeout=5)
    connection.request("POST", "/status", body=b"x")
    assert connection.getresponse().status == 405
    connection.close()


def test_there_are_only_so_many_clients(make_preview):
    preview = make_preview()
    with contextlib.ExitStack() as clients:
        for _ in range(MAX_CLIENTS - 1):
            clients.enter_context(listen(preview))
        with listen(preview):
            with pytest.raises(InvalidStatus) as refused, listen(preview):
                pass
            assert refused.value.response.status_code == 503
        until(lambda: preview._board.clients()[0] == MAX_CLIENTS - 1)
        with listen(preview):
            pass


def test_the_port_is_free_again_and_nothing_is_left(make_preview):
    preview = make_preview()
    port = port_of(preview)
    open_files = len(os.listdir("/proc/self/fd"))
    with listen(preview):
        begun = time.monotonic()
        preview.finish(True)
        assert time.monotonic() - begun < 3
    assert "edge-preview" not in {thread.name for thread in threading.enumerate()}
    assert len(os.listdir("/proc/self/fd")) <= open_files
    write(preview, 1)  # the loop may still be writing
    again = make_preview(f"127.0.0.1:{port}")
    assert get(again, "/healthz")[0] == 200


# -- who may come ------------------------------------------------------------------------------------------------------


def test_addresses():
    assert parse("8765") == ("127.0.0.1", 8765)
    assert parse("0.0.0.0:80") == ("0.0.0.0", 80)
    assert parse("[::1]:80") == ("::1", 80)
    assert parse("robot.local:80") == ("robot.local", 80)
    for bad in (
        "",
        ":",
        "host",
        "host:",
        "host:x",
        "host:70000",
        "::1:80",
        "http://x:80",
        "a b:80",
        "x:80/y",
        "x@y:80",
    ):
        with pytest.raises(edge.OptionError, match="expected HOST:PORT, as 127.0.0.1:8765"):
            parse(bad)


def test_bad_addresses_are_refused_in_one_line(make_preview):
    port = port_of(make_preview())
    with pytest.raises(edge.OptionError, match=r"can't listen there \(Address already in use\); choose another port"):
        Preview(f"127.0.0.1:{port}")
    with pytest.raises(edge.OptionError, match="can't listen there"):
        Preview("192.0.2.7:0")
    with pytest.raises(edge.OptionError, match="no such host"):
        Preview("no.such.host.invalid:0")


def test_elsewhere_a_token_is_demanded_of_everything_but_health(make_preview):
    preview = make_preview("0.0.0.0:0")
    token = preview.url.partition("?token=")[2]
    assert len(token) >= 32
    assert preview.url.startswith("http://")
    assert "0.0.0.0" not in preview.url
    write(preview, 0)
    for path in (*PATHS, "/nothing"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"{cookie_name(port_of(preview))}=wrong"}):
            status, answered, body = get(preview, path, headers)
            assert status == 401, path
            assert answered["www-authenticate"] == "Bearer"
            assert b"open the link that edge run printed" in body
    assert get(preview, "/picture?token=wrong")[0] == 401
    with pytest.raises(InvalidStatus, match="401"), listen(preview):
        pass
    assert get(preview, "/healthz")[0] == get(preview, "/readyz")[0] == 200
    # The Host header is the client's to write: it may not make one path look like another.
    assert get(preview, "/status", {"Host": "x/healthz?"})[0] == 401
    # A browser: the link sets a cookie, and leads to the page without the token in its address.
    status, headers, _ = get(preview, f"/?token={token}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax"} <= set(cookie.split("; "))
    for shown in ({"Cookie": cookie.split(";")[0]}, {"Authorization": f"Bearer {token}"}):
        for path in PATHS:
            assert get(preview, path, shown)[0] == 200, path
        with listen(preview, additional_headers=shown) as client:
            assert json.loads(client.recv(timeout=5))["frame"] == 0
    with listen(preview, f"/ws?token={token}") as client:
        client.recv(timeout=5)


def test_the_token_may_be_given(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    preview = Preview("127.0.0.1:0")
    try:
        assert preview.url.endswith(f"?token={TOKEN}"), "then loopback asks for it too"
        assert get(preview, "/status")[0] == 401
        assert get(preview, "/status", {"Authorization": f"Bearer {TOKEN}"})[0] == 200
    finally:
        preview.finish(True)
    for bad in ("short", "with spaces in a long one", "semicolon;semicolon;semicolon"):
        monkeypatch.setenv(TOKEN_VARIABLE, bad)
        with pytest.raises(
            edge.OptionError, match=f"{TOKEN_VARIABLE} is no good token; expected 16 or more"
        ) as refused:
            Preview("127.0.0.1:0")
        assert bad not in str(refused.value), "a secret doesn't belong on the screen"


def test_tokens_differ():
    addresses = [Address("0.0.0.0:0", {}) for _ in range(2)]
    for address in addresses:
        address.socket.close()
    assert addresses[0].token != addresses[1].token


def test_another_sites_page_can_not_read_it(make_preview):
    preview = make_preview()
    write(preview, 0)
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8765", "", "[::1", "localhost.evil.example"):
        for path in ("/", "/status", "/picture", "/healthz"):
            assert get(preview, path, {"Host": host})[0] in (400, 421), host
    for host in ("localhost", "localhost:9000", "127.0.0.1", "[::1]:80"):
        assert get(preview, "/status", {"Host": host})[0] == 200
    port = port_of(preview)
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", f"http://127.0.0.1:{port}.evil.example"):
        with pytest.raises(InvalidStatus, match="403"), listen(preview, origin=origin):
            pass
    with listen(preview, origin=f"http://127.0.0.1:{port}") as client:
        client.recv(timeout=5)


def test_every_answer_has_the_headers(make_preview):
    preview = make_preview()
    write(preview, 0)
    for path in (*PATHS, "/healthz", "/readyz", "/nothing"):
        _, headers, _ = get(preview, path)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_the_token_is_in_no_log(make_preview, caplog):
    caplog.set_level(0)
    preview = make_preview("0.0.0.0:0")
    token = preview.url.partition("?token=")[2]
    get(preview, f"/status?token={token}")
    with listen(preview, f"/ws?token={token}"):
        pass
    own = [record for record in caplog.records if not record.name.startswith("websockets.client")]
    assert not [record for record in own if token in record.getMessage()]


# -- privacy -----------------------------------------------------------------------------------------------------------

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"ftypisom", b"ftypmp4", b"RIFF", b"GIF8", b"BM\x00")


def test_in_privacy_mode_no_pixel_reaches_the_server(make_preview, monkeypatch):
    for name in ("imencode", "imwrite", "VideoWriter"):
        monkeypatch.setattr(cv2, name, lambda *_, name=name: pytest.fail(f"{name} in privacy mode"))
    preview = make_preview(private=True)
    image = np.full((64, 128, 3), 77, np.uint8)
    kept = weakref.ref(image)
    now = time.monotonic_ns()
    with listen(preview) as client:
        preview.write(Frame(0, now, image, now), result(0))
        del image
        assert kept() is None, "nobody holds the frame any more"
        served = [client.recv(timeout=5).encode()]
    for path in (*PATHS, "/healthz", "/readyz"):
        status, headers, body = get(preview, path)
        served.append(body)
        assert status == (410 if path.startswith("/picture") else 200)
        assert not headers["content-type"].startswith(("image/jpeg", "image/png", "video"))
    assert b"privacy mode" in get(preview, "/picture")[2]
    assert json.loads(get(preview, "/status")[2])["picture"] is False
    assert not [mark for body in served for mark in SIGNATURES if mark in body]


WATCHED = """
import sys, cv2
def refuse(*_, **__): raise SystemExit("a picture was made")
cv2.imencode = cv2.imwrite = cv2.VideoWriter = refuse
def audit(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        print("opened", arguments[0], file=sys.stderr, flush=True)
sys.addaudithook(audit)
from edge.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_whole_run_in_privacy_mode_writes_and_serves_no_picture(tmp_path):
    """The real loop with every output that privacy allows, everything served and every file written searched."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", WATCHED, "run", "synthetic://?frames=100000", "--privacy"),
            *("--preview", "127.0.0.1:0", "--jsonl", str(tmp_path / "out.jsonl")),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        url = process.stdout.readline().removeprefix("preview at ").strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        until(lambda: _status(opener, url + "readyz") == 200, 20)
        served = []
        with connect(f"ws{url[4:]}ws", proxy=None) as client:
            served += [client.recv(timeout=10).encode() for _ in range(30)]
        for path in PATHS:
            try:
                served.append(opener.open(url + path[1:], timeout=10).read())
            except urllib.error.HTTPError as error:
                served.append(error.read())
    finally:
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    opened = {line.split(" ", 1)[1] for line in err.splitlines() if line.startswith("opened ")}
    assert opened - {os.devnull} == {str(tmp_path / "out.partial.jsonl")}
    # Libraries may keep files of their own in the home folder: these are searched too.
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "out.partial.jsonl" in written
    assert any(json.loads(line)["faces"] for line in served[:30])
    for data in [*served, *(path.read_bytes() for path in written)]:
        assert not [mark for mark in SIGNATURES if mark in data]


def _status(opener, url):
    try:
        return opener.open(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code


# -- the command line --------------------------------------------------------------------------------------------------


def refused(capfd, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_command_line_refuses(make_clip, make_preview, tmp_path, capfd):
    clip = make_clip(5)
    video = tmp_path / "out.mp4"
    assert "--privacy writes no picture" in refused(capfd, "run", clip, "--privacy", "--video", video)
    assert not list(tmp_path.iterdir())
    assert "expected HOST:PORT" in refused(capfd, "run", clip, "--preview", "nowhere")
    taken = f"127.0.0.1:{port_of(make_preview())}"
    assert "Address already in use" in refused(capfd, "run", clip, "--preview", taken)


def test_the_command_line_says_where(make_clip, monkeypatch, capfd):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert main(["run", str(make_clip(5)), "--jsonl", "-", "--preview", "127.0.0.1:0"]) == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 5
    assert err.startswith("preview at http://127.0.0.1:")
    assert err.splitlines()[0].endswith(f"/?token={TOKEN}")


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "websockets"])
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(edge.MissingPackageError, match=rf"needs {package}; .*\(or the extra edge-emotion\[preview\]\)"):
        Preview("127.0.0.1:0")
    assert len(os.listdir("/proc/self/fd")) == before
