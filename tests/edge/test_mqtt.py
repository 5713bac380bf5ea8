"""Results through a real mosquitto: what arrives, what is retained, and brokers that go, stall or refuse."""

import itertools
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import edge
from edge.__main__ import main
from edge.outputs import mqttaddress
from edge.types import Box, Face, FaceState, Frame, Result

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENT = pytest.importorskip("paho.mqtt.client", reason="pip install paho-mqtt")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="no broker here: apt-get install mosquitto")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """A mosquitto of one's own."""

    def __init__(self, folder, *lines):
        self.port = free_port()
        self.configuration = folder / "mosquitto.conf"
        who = [] if any("allow_anonymous" in line for line in lines) else ["allow_anonymous true"]
        # Started as root it would become another user, who may not read the test's files.
        user = ["user root"] if os.getuid() == 0 else []
        text = [f"listener {self.port} 127.0.0.1", "persistence false", *who, *user, *lines]
        self.configuration.write_text("\n".join(text) + "\n")
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self.configuration)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def stop(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def broker(tmp_path):
    started = Broker(tmp_path)
    yield started
    started.stop()


class Listener:
    """Another client, who hears all."""

    def __init__(self, port):
        self.heard, self._changed, self._there = [], threading.Condition(), False
        self._client = CLIENT.Client(CLIENT.CallbackAPIVersion.VERSION2)
        self._client.on_message, self._client.on_subscribe = self._on_message, self._on_subscribe
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        with self._changed:
            assert self._changed.wait_for(lambda: self._there, 10)

    def _on_subscribe(self, *_):
        with self._changed:
            self._there = True
            self._changed.notify_all()

    def _on_message(self, client, userdata, message):
        with self._changed:
            self.heard.append((message.topic, message.payload.decode(), message.retain))
            self._changed.notify_all()

    def wait(self, reached, seconds=10):
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self.heard), seconds), self.heard[-3:]

    def of(self, topic):
        return [payload for heard, payload, _ in self.heard if heard == topic]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._client.disconnect()
        self._client.loop_stop()


def make_face(label="happy", state=FaceState.OK):
    return Face(1, Box(64, 36, 128, 72), label, 0.9, {label: 0.9}, state)


def give(output, number, face=None):
    """One result."""
    output.write(Frame(number, 0, None), Result(number, 0, (face or make_face(),), {}))


@needs_broker
def test_a_run_arrives(broker, capfd):
    with Listener(broker.port) as listener:
        uri = f"mqtt://127.0.0.1:{broker.port}/robots/eyes/"
        command = ["run", "synthetic://?frames=60", "--jsonl", "-", "--mqtt", uri]
        assert main(command) == 0
        rows = capfd.readouterr().out.splitlines()
        listener.wait(lambda heard: heard[-1][:2] == ("robots/eyes/availability", "offline"))
        assert listener.heard[0] == ("robots/eyes/availability", "online", False)
        assert listener.of("robots/eyes/results") == rows
        assert len(rows) == 60
        changes = [json.loads(each) for each in listener.of("robots/eyes/faces")]
    assert changes[-1] == []
    assert {"id": 1, "label": "happy", "state": "ok"} in [face for faces in changes for face in faces]
    assert len(changes) < 12, "only what changed"
    assert all(one != other for one, other in itertools.pairwise(changes))
    with Listener(broker.port) as late:
        late.wait(lambda heard: heard)
        assert late.heard == [("robots/eyes/availability", "offline", True)], "retained, and nothing else is"


@needs_broker
def test_the_last_will(broker):
    command = [sys.executable, "-m", "edge", "run", "synthetic://?frames=100000", "--mqtt"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Listener(broker.port) as listener:
        run = subprocess.Popen(
            [*command, f"mqtt://127.0.0.1:{broker.port}"], env=environment, stdout=subprocess.DEVNULL
        )
        try:
            listener.wait(lambda heard: len(heard) > 10, 30)
        finally:
            run.send_signal(signal.SIGKILL)
            run.wait()
        listener.wait(lambda heard: heard[-1] == ("edge/availability", "offline", False))


@needs_broker
def test_a_broker_that_goes_and_comes_back(broker, caplog):
    from edge.outputs.mqtt import Mqtt

    output = Mqtt(f"mqtt://127.0.0.1:{broker.port}/e?queue=5")
    with Listener(broker.port) as listener:
        give(output, 0)
        listener.wait(lambda heard: listener.of("e/results"))
    broker.stop()
    deadline = time.monotonic() + 10
    while "lost" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    begun = time.perf_counter()
    for number in range(1, 101):
        give(output, number)
    assert time.perf_counter() - begun < 0.5, "nobody is waited for"
    assert output.dropped == 95
    broker.start()
    with Listener(broker.port) as listener:
        listener.wait(lambda heard: len(listener.of("e/results")) >= 1 or "back" in caplog.text, 20)
        give(output, 101)
        listener.wait(lambda heard: any('"frame":101' in each for each in listener.of("e/results")))
        listener.wait(lambda heard: ("e/availability", "online") in [each[:2] for each in heard])
        assert listener.of("e/faces") in ([], ['[{"id":1,"label":"happy","state":"ok"}]'])
    assert caplog.text.count("lost") == caplog.text.count("back") == 1
    said = output.finish(True)
    assert re.fullmatch(r"mqtt://127.0.0.1:\d+: \d+ results were not sent, as it was away or too slow", said)
    assert output.finish(True) is None


@needs_broker
def test_a_change_is_never_dropped(broker):
    """Of a hundred results in an instant most go; what the face shows at the end is told all the same."""
    from edge.outputs.mqtt import Mqtt

    with Listener(broker.port) as listener:
        output = Mqtt(f"mqtt://127.0.0.1:{broker.port}/e?queue=1")
        for number in range(100):
            give(output, number, make_face("sad" if number > 50 else "happy"))
        listener.wait(lambda heard: listener.of("e/faces")[-1:] == ['[{"id":1,"label":"sad","state":"ok"}]'])
        listener.wait(lambda heard: listener.of("e/results") and '"frame":99' in listener.of("e/results")[-1])
        output.finish(True)
        listener.wait(lambda heard: heard[-1][:2] == ("e/availability", "offline"))
        assert len(listener.of("e/results")) + output.dropped == 100
        assert listener.of("e/faces")[-1] == "[]"


class Stalled:
    """A broker that lets one in and then never reads."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.port = self.socket.getsockname()[1]
        self._clients = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        client, _ = self.socket.accept()
        client.recv(1024)
        client.sendall(b"\x20\x02\x00\x00")  # CONNACK: welcome
        self._clients.append(client)

    def close(self):
        self._thread.join()
        for client in self._clients:
            client.close()
        self.socket.close()


def test_a_broker_that_stalls_holds_nobody_up():
    from edge.outputs.mqtt import Mqtt

    stalled = Stalled()
    try:
        output = Mqtt(f"mqtt://127.0.0.1:{stalled.port}?queue=10")
        long = make_face("x" * 200_000)
        slowest, deadline = 0.0, time.monotonic() + 20
        for number in range(10_000):
            begun = time.perf_counter()
            give(output, number, long)
            slowest = max(slowest, time.perf_counter() - begun)
            if output.dropped > 20 or time.monotonic() > deadline:
                break
            time.sleep(0.002)
        assert output.dropped > 20
        assert slowest < 0.5
        assert len(output._queue) <= 10
        # What paho holds itself is one message, not all that came.
        assert len(output._client._out_packet) <= 2
        begun = time.monotonic()
        assert "results were not sent" in output.finish(False)
        assert time.monotonic() - begun < 5
    finally:
        stalled.close()


def test_no_broker(capfd):
    port = free_port()
    assert main(["run", "synthetic://?frames=2", "--mqtt", f"mqtt://127.0.0.1:{port}"]) == 2
    err = capfd.readouterr().err
    assert f"--mqtt mqtt://127.0.0.1:{port}: can't be reached (Connection refused)" in err
    assert err.count("\n") == 1
    assert main(["run", "synthetic://?frames=2", "--mqtt", "mqtt://no-such-host.invalid"]) == 2
    assert "can't be reached (" in capfd.readouterr().err
    uri = f"mqtt://127.0.0.1:{port}?wait=1"
    assert main(["run", "synthetic://?frames=3", "--mqtt", uri]) == 0
    assert f"mqtt://127.0.0.1:{port}: 3 results were not sent" in capfd.readouterr().out


@needs_broker
def test_a_broker_that_comes_later(tmp_path):
    from edge.outputs.mqtt import Mqtt

    broker = Broker(tmp_path)
    broker.stop()
    output = Mqtt(f"mqtt://127.0.0.1:{broker.port}/e?wait=1")
    give(output, 0)
    broker.start()
    try:
        with Listener(broker.port) as listener:
            deadline = time.monotonic() + 20
            while not listener.of("e/results") and time.monotonic() < deadline:
                give(output, 1)
                time.sleep(0.05)
            assert listener.of("e/results")
            output.finish(True)
    finally:
        broker.stop()


# -- who may --------------------------------------------------------------------------------------------------------


@needs_broker
def test_user_and_password(tmp_path, monkeypatch, capfd, caplog):
    passwords = tmp_path / "passwords"
    passwords.touch()
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("no mosquitto_passwd")
    subprocess.run([tool, "-b", str(passwords), "robot", "s3cret-word"], check=True, capture_output=True)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    command = ["run", "synthetic://?frames=2", "--mqtt", f"mqtt://127.0.0.1:{broker.port}"]
    caplog.set_level(logging.DEBUG)
    try:
        assert main(command) == 2
        assert "does not let us in (Not authorized); expected an MQTT broker, and user" in capfd.readouterr().err
        monkeypatch.setenv("EDGE_MQTT_USER", "robot")
        monkeypatch.setenv("EDGE_MQTT_PASSWORD", "wrong-word")
        assert main(command) == 2
        assert "EDGE_MQTT_USER and EDGE_MQTT_PASSWORD" in capfd.readouterr().err
        monkeypatch.setenv("EDGE_MQTT_PASSWORD", "s3cret-word")
        assert main(command) == 0
    finally:
        broker.stop()
    out, err = capfd.readouterr()
    assert not re.search("s3cret-word|wrong-word", out + err + caplog.text)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, a server's certificate by it, and another authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments):
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=folder)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-x509", "-days", "2")
    for name in ("ca", "other"):
        run(*new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    run(*new[:4], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    signed = ("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    run(*signed, "-days", "2", "-extfile", "names", "-out", "server.pem")
    return folder


# paho leaves the socket of a failed handshake to Python to collect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_broker
def test_tls(tmp_path, certificates, capfd):
    tls = [f"cafile {certificates}/ca.pem", f"certfile {certificates}/server.pem", f"keyfile {certificates}/server.key"]
    broker = Broker(tmp_path, *tls)
    command = ["run", "synthetic://?frames=3", "--mqtt"]
    there = f"mqtts://localhost:{broker.port}/e"
    try:
        assert main([*command, f"{there}?ca={certificates}/ca.pem"]) == 0
        assert "not sent" not in capfd.readouterr().out
        for uri in (f"{there}?ca={certificates}/other.pem", there):
            assert main([*command, uri]) == 2
            err = capfd.readouterr().err
            assert "no TLS with it (" in err
            assert "certificate" in err
            assert "?ca=FILE" in err
        assert main([*command, f"mqtts://127.0.0.1:{broker.port}/e?ca={certificates}/ca.pem"]) == 2
        assert "127.0.0.1" in capfd.readouterr().err, "the certificate is another name's"
        assert main([*command, f"{there}?ca={certificates}/names"]) == 2
        assert "not a file of certificates" in capfd.readouterr().err
    finally:
        broker.stop()


# paho leaves the socket of a failed handshake to Python to collect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_broker
def test_tls_with_a_broker_that_has_none(broker, capfd):
    assert main(["run", "synthetic://?frames=3", "--mqtt", f"mqtts://localhost:{broker.port}"]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"edge: --mqtt mqtts://localhost:{broker.port}: ")
    assert err.count("\n") == 1


# -- where it goes ----------------------------------------------------------------------------------------------------


def test_addresses():
    plain = mqttaddress.parse("mqtt://robot", {})
    assert (plain.host, plain.port, plain.prefix, plain.tls, plain.queue) == ("robot", 1883, "edge", False, 100)
    assert plain.user is None
    secure = mqttaddress.parse("mqtts://[::1]/a/b?queue=7&wait=1", {"EDGE_MQTT_USER": "u", "EDGE_MQTT_PASSWORD": "p4"})
    assert (secure.host, secure.port, secure.prefix, secure.tls) == ("::1", 8883, "a/b", True)
    assert (secure.queue, secure.wait, secure.user, secure.password) == (7, True, "u", "p4")
    assert secure.shown == "mqtts://[::1]:8883"
    assert "p4" not in repr(secure)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("robot", "expected mqtt://HOST:1883/PREFIX"),
        ("http://robot", "expected mqtt://HOST:1883/PREFIX"),
        ("mqtt://", "expected mqtt://HOST:1883/PREFIX"),
        ("mqtt://robot:99999", "expected mqtt://HOST:1883/PREFIX"),
        ("mqtt://robot:0", "expected mqtt://HOST:1883/PREFIX"),
        ("mqtt://robot/a/+/b", "'a/+/b' can't begin a topic"),
        ("mqtt://robot/$SYS", "'$SYS' can't begin a topic"),
        ("mqtt://robot?qos=1", "unknown option 'qos'; expected of ca, queue, wait"),
        ("mqtt://robot?queue=0", "queue is '0'; expected a whole number from 1 to 100000"),
        ("mqtt://robot?wait=yes", "wait is 'yes'; expected 0 or 1"),
        ("mqtt://robot?ca=a.pem", "ca is for TLS; write mqtts://"),
        ("mqtts://robot?ca=none.pem", "none.pem: no such file"),
        ("mqtt://me:pa55@robot", "user and password are not for the address"),
    ],
)
def test_bad_addresses(uri, expected, capfd):
    with pytest.raises(edge.OptionError, match=re.escape(expected)) as refusal:
        mqttaddress.parse(uri, {})
    assert "pa55" not in str(refusal.value)
    assert main(["run", "nowhere.mp4", "--mqtt", uri]) == 2
    assert expected in capfd.readouterr().err, "before anything is opened"


def test_a_password_without_a_user():
    with pytest.raises(edge.OptionError, match="EDGE_MQTT_PASSWORD is set and EDGE_MQTT_USER is not"):
        mqttaddress.parse("mqtt://robot", {"EDGE_MQTT_PASSWORD": "p"})


def test_paho_is_not_installed(monkeypatch, capfd):
    for name in [name for name in sys.modules if name.startswith("paho")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["run", "synthetic://?frames=2", "--mqtt", "mqtt://127.0.0.1"]) == 2
    assert (
        "--mqtt needs paho-mqtt; type: pip install paho-mqtt (or the extra edge-emotion[mqtt])"
        in capfd.readouterr().err
    )
