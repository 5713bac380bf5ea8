"""ROS 2 without ROS: the bytes, the names, and a peer in another process that hears them."""

import json
import math
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.__main__ import main
from edge.outputs import ros4hri, rosaddress
from edge.outputs.rosmessages import DEFINITIONS, Encoder, Expression, Header, Ids, Region, dds_name
from edge.types import Box, Face, FaceState, Frame, Result

HERE = Path(__file__).resolve().parent
EXPRESSION_HASH = "RIHS01_411b88e0604397d44775d8ec6a4bc69398fb0dfbfe864c33a40fa99ee85f1b00"

pytest.importorskip("rosbags", reason="pip install rosbags")


class Cdr:
    """XCDR1, little endian, read by hand: nothing of what wrote it."""

    def __init__(self, data):
        assert data[:4] == b"\0\1\0\0"
        self.data, self.place = data[4:], 0

    def number(self, code):
        self.place += -self.place % 4
        (value,) = struct.unpack_from(f"<{code}", self.data, self.place)
        self.place += 4
        return value

    def text(self):
        length = self.number("I")
        raw = self.data[self.place : self.place + length]
        self.place += length
        assert raw.endswith(b"\0")
        return raw[:-1].decode()

    def header(self):
        return self.number("i"), self.number("I"), self.text()

    def ids(self):
        return *self.header(), [self.text() for _ in range(self.number("I"))]

    def floats(self, count):
        return [self.number("f") for _ in range(count)]


def make_face(number=1, label="happy", state=FaceState.OK, **more):
    return Face(number, Box(64, 36, 128, 72), label, 0.875, {}, state, **more)


# -- bytes ------------------------------------------------------------------------------------------------------------


def test_an_expression_is_these_bytes():
    """As an independent DDS implementation wrote them, and as rosidl hashes the type."""
    header = Header(12 * 10**9 + 34, "camera")
    assert Encoder().encode(Expression(header, "happy", 0.5, -0.25, 0.875)).hex() == (
        "000100000c000000220000000700000063616d65726100000600000068617070790000000000003f000080be0000603f"
    )
    assert Encoder().type_hash(Expression) == EXPRESSION_HASH
    assert dds_name(Expression) == "hri_msgs::msg::dds_::Expression_"


def test_the_other_messages_read_by_hand():
    header, encoder = Header(1_795_000_000_123_456_789, "head"), Encoder()
    read = Cdr(encoder.encode(Ids(header, ("f1", "fabcd22"))))
    assert read.ids() == (1_795_000_000, 123_456_789, "head", ["f1", "fabcd22"])
    assert read.place == len(read.data)
    read = Cdr(encoder.encode(Region(header, 0.1, 0.2, 0.3, 0.4, 1.0)))
    assert read.header() == (1_795_000_000, 123_456_789, "head")
    assert read.floats(5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 1.0])
    assert read.place == len(read.data)
    assert Cdr(encoder.encode(Ids(header, ()))).ids()[3] == []


def test_a_hash_is_made_as_ros_makes_it():
    """std_msgs/String's, as rmw_zenoh's documents show it."""
    from rosbags.typesys import Stores, get_typestore

    assert get_typestore(Stores.ROS2_HUMBLE).hash_rihs01("std_msgs/msg/String") == (
        "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
    )
    assert len({Encoder().type_hash(kind) for kind in DEFINITIONS}) == 3


# -- what is said -----------------------------------------------------------------------------------------------------


def test_the_messages_own_words():
    said = {label: ros4hri.word(label) for label in (*edge.Bundle.open().manifest.labels, "contempt", "bored", "x")}
    same = {label: label for label in ("angry", "happy", "sad", "neutral", "bored")}
    assert said == same | {"disgust": "disgusted", "fear": "scared", "surprise": "surprised", "contempt": "", "x": ""}
    assert set(ros4hri.WORDS.values()) <= ros4hri.OWN_WORDS


@pytest.mark.parametrize("state", FaceState)
def test_only_a_sure_face_has_an_expression(state):
    said = ros4hri.expression(Header(0, "camera"), make_face(state=state))
    assert (said is not None) == (state is FaceState.OK)
    if said is not None:
        assert (said.expression, said.confidence) == ("happy", 0.875)
        assert math.isnan(said.valence), "nobody measured it"
        assert math.isnan(said.arousal)
    assert ros4hri.expression(Header(0, "camera"), make_face(label=None, state=state)) is None


def test_contempt_is_left_empty():
    said = ros4hri.expression(Header(0, "camera"), make_face(label="contempt"))
    assert (said.expression, said.confidence) == ("", 0.875)
    read = Cdr(Encoder().encode(said))
    read.header()
    assert read.text() == ""
    assert read.floats(3)[2] == 0.875


def test_a_region_is_within_the_picture():
    header = Header(0, "camera")
    whole = ros4hri.region(header, make_face(), 640, 360)
    assert (whole.xmin, whole.ymin, whole.xmax, whole.ymax, whole.c) == pytest.approx((0.1, 0.1, 0.3, 0.3, 1))
    over = ros4hri.region(header, Face(1, Box(-50, 300, 100, 100), "sad", 1, {}, FaceState.OK), 640, 360)
    assert (over.xmin, over.ymin, over.xmax, over.ymax) == pytest.approx((0, 300 / 360, 50 / 640, 1))
    followed = make_face(state=FaceState.LOW_QUALITY, reasons=("unconfirmed",))
    assert ros4hri.region(header, followed, 640, 360).c == 0


def test_a_stamp_is_when_the_frame_was_read():
    read_ns = time.monotonic_ns() - 250_000_000
    stamp = ros4hri.stamp_ns(Frame(0, 0, None, read_ns))
    assert abs(time.time_ns() - 250_000_000 - stamp) < 50_000_000
    assert abs(time.time_ns() - ros4hri.stamp_ns(Frame(0, 0, None))) < 50_000_000


# -- where it goes ----------------------------------------------------------------------------------------------------


def test_addresses():
    plain = rosaddress.parse(environment={})
    assert (plain.kind, plain.host, plain.port, plain.domain, plain.node) == ("zenoh", "localhost", 7447, 0, "edge")
    assert rosaddress.parse("zenoh", {}) == plain
    assert rosaddress.parse("zenoh://robot:7000", {"ROS_DOMAIN_ID": "7"}).domain == 7
    full = rosaddress.parse("zenoh://[::1]:7?domain=3&node=eyes&frame=head_camera&listen=7448", {"ROS_DOMAIN_ID": "7"})
    assert (full.host, full.port, full.domain, full.node) == ("::1", 7, 3, "eyes")
    assert (full.frame, full.listen) == ("head_camera", 7448)
    assert rosaddress.parse("dds://?domain=5", {}).kind == "dds"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("ros://x", "expected zenoh://HOST:PORT or dds://"),
        ("zenoh://h:99999", "expected zenoh://HOST:PORT"),
        ("zenoh://h/path", "expected zenoh://HOST:PORT"),
        ("zenoh://user@h", "expected zenoh://HOST:PORT"),
        ("dds://host", "DDS finds the others itself"),
        ("zenoh://h?dmain=1", "unknown option 'dmain'; expected of domain, node, frame, listen"),
        ("dds://?listen=1", "unknown option 'listen'"),
        ("zenoh://h?domain=233", "domain is '233'; expected a whole number from 0 to 232"),
        ("zenoh://h?domain=-1", "domain is '-1'"),
        ("zenoh://h?node=a/b", "node 'a/b' is no ROS name"),
        ("zenoh://h?listen=0", "listen is '0'; expected a whole number from 1 to 65535"),
    ],
)
def test_bad_addresses(uri, expected):
    with pytest.raises(edge.OptionError, match=re.escape(expected)):
        rosaddress.parse(uri, {})


# -- a peer in another process ----------------------------------------------------------------------------------------


class Peer:
    """A process that prints what it hears, a JSON object a line."""

    def __init__(self, script, *arguments):
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.heard, self._changed = [], threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.wait(lambda heard: heard, "nothing was heard")

    def _listen(self):
        for line in self.process.stdout:
            with self._changed:
                self.heard.append(json.loads(line))
                self._changed.notify_all()

    def wait(self, reached, otherwise, seconds=20):
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self.heard), seconds), otherwise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self._thread.join()
        self.process.stdout.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def messages(heard, topic):
    return [each for each in heard if "payload" in each and re.fullmatch(rf"\d+/humans/faces/{topic}/.*", each["key"])]


def tokens(heard):
    return [each for each in heard if "alive" in each]


def tracked(heard):
    return [Cdr(bytes.fromhex(each["payload"])).ids()[3] for each in messages(heard, "tracked")]


def test_a_run_as_another_process_hears_it(capfd):
    """The demo's camera: a face, nobody for a while, a face again under another id."""
    pytest.importorskip("zenoh", reason="pip install eclipse-zenoh")
    port = free_port()
    with Peer("ros_peer.py", "listen", port) as peer:
        begun = time.time()
        uri = f"zenoh://127.0.0.1:{port}?frame=head_camera&node=eyes"
        assert main(["run", "synthetic://?frames=300", "--ros", uri]) == 0
        # Messages and tokens come on threads of their own: which is last is nobody's to say.
        peer.wait(
            lambda heard: any(each["key"].endswith("/eyes") and not each["alive"] for each in tokens(heard)), "end"
        )
        peer.wait(lambda heard: tracked(heard)[-1] == [], "the last message")
        heard = peer.heard
    there = tracked(heard)
    # What a busy machine can't take in time is dropped.
    assert 280 < len(there) <= 301, "one a frame, and one at the end"
    assert there[-1] == []
    ids = list(dict.fromkeys(name for names in there for name in names))
    assert len(ids) == 2
    assert all(re.fullmatch(r"f[a-z]{4}\d+", name) for name in ids), ids
    first, second = (next(n for n, names in enumerate(there) if name in names) for name in ids)
    assert first == 0
    assert [] in there[first:second], "nobody between the two"

    for name in ids:
        regions, said = messages(heard, f"{name}/roi"), messages(heard, f"{name}/expression")
        assert abs(len(regions) - sum(name in names for names in there)) < 10
        assert 20 < len(said) < len(regions), "none while warming up, at least"
        words = set()
        for each in said:
            assert each["key"].split("/")[-2:] == ["hri_msgs::msg::dds_::Expression_", EXPRESSION_HASH]
            read = Cdr(bytes.fromhex(each["payload"]))
            seconds, _, frame_id = read.header()
            assert begun - 1 <= seconds <= time.time()
            assert frame_id == "head_camera"
            words.add(read.text())
            valence, arousal, confidence = read.floats(3)
            assert math.isnan(valence)
            assert math.isnan(arousal)
            assert 0.3 < confidence <= 1
        assert words == {"happy"}
        for each in regions:
            read = Cdr(bytes.fromhex(each["payload"]))
            read.header()
            xmin, ymin, xmax, ymax, sure = read.floats(5)
            assert 0 <= xmin < xmax <= 1
            assert 0 <= ymin < ymax <= 1
            assert sure in (0, 1)

    check_attachments(heard)
    check_tokens(heard, ids)


def check_attachments(heard):
    """Each publisher counts, and has a number of its own (rmw_zenoh drops what has no attachment)."""
    numbers = {}
    for each in (each for each in heard if "payload" in each):
        sequence, stamp_ns, length, gid = struct.unpack("<qqB16s", bytes.fromhex(each["attachment"]))
        assert length == 16
        assert abs(stamp_ns / 1e9 - time.time()) < 60
        numbers.setdefault((each["key"], gid), []).append(sequence)
    assert all(sequence == sorted(set(sequence)) for sequence in numbers.values())
    assert len({gid for _, gid in numbers}) == len(numbers) == len({key for key, _ in numbers})


def check_tokens(heard, ids):
    """What ros2 node list and ros2 topic list go by; a topic is there while its face is known."""
    keys = [each["key"] for each in tokens(heard) if each["alive"]]
    session = keys[0].split("/")[2]
    assert re.fullmatch(r"[0-9a-f]{1,32}", session)
    root = f"@ros2_lv/0/{session}/0"
    assert keys[0] == f"{root}/0/NN/%/%/eyes"
    topics = {key.split("/")[9]: key.split("/") for key in keys[1:]}
    assert set(topics) == {"%humans%faces%tracked"} | {
        f"%humans%faces%{name}%{kind}" for name in ids for kind in ("roi", "expression")
    }
    for parts in topics.values():
        assert "/".join(parts[:4]) == root
        assert parts[5:9] == ["MP", "%", "%", "eyes"]
        assert parts[10].startswith("hri_msgs::msg::dds_::")
        assert re.fullmatch("RIHS01_[0-9a-f]{64}", parts[11])
        assert parts[12] == "::,10:,:,:,,"
    assert len({parts[4] for parts in topics.values()}) == 5, "each entity has a number"
    gone = [each["key"] for each in tokens(heard) if not each["alive"]]
    assert sorted(gone) == sorted(keys), "all are taken back"
    place = {(each["key"].split("/")[9:10] or ["node"])[0]: n for n, each in enumerate(heard) if "alive" in each}
    reborn = next(n for n, each in enumerate(heard) if f"%{ids[1]}%roi/" in each["key"])
    assert place[f"%humans%faces%{ids[0]}%roi"] < reborn, "the first face's topics went before the second came"


def test_a_router_that_comes_later(monkeypatch, caplog):
    """The loop runs on without it; what comes after it is there is heard."""
    pytest.importorskip("zenoh")
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    port = free_port()
    output = ros4hri.open_ros(f"zenoh://127.0.0.1:{port}", run="abcd")
    assert f"no zenoh router at 127.0.0.1:{port} yet (Connection refused)" in caplog.text
    frame = Frame(0, 0, np.zeros((360, 640, 3), np.uint8))
    begun = time.perf_counter()
    for _ in range(100):
        output.write(frame, Result(0, 0, (make_face(),), {}))
    assert time.perf_counter() - begun < 1, "nobody is waited for"
    with Peer("ros_peer.py", "listen", port) as peer:
        deadline = time.monotonic() + 20
        while not messages(peer.heard, "fabcd1/expression") and time.monotonic() < deadline:
            output.write(frame, Result(0, 0, (make_face(),), {}))
            time.sleep(0.05)
        assert tracked(peer.heard)[-1] == ["fabcd1"]
        lost = make_face(state=FaceState.LOST)
        output.write(frame, Result(0, 0, (lost,), {}))
        peer.wait(lambda heard: tracked(heard)[-1] == [], "a lost face is not in the picture")
        assert not [each for each in peer.heard if "alive" in each and not each["alive"]], "but it may come back"
        output.write(frame, Result(0, 0, (), {}))
        peer.wait(lambda heard: sum("alive" in each and not each["alive"] for each in heard) == 2, "it was forgotten")
        assert output.finish(True) is None
        assert output.finish(True) is None
        output.write(frame, Result(0, 0, (make_face(),), {}))


def test_through_a_router_as_rmw_zenoh_does(capfd):
    """Neither knows the other's address: the router tells them of each other."""
    pytest.importorskip("zenoh")
    port = free_port()
    with Peer("ros_peer.py", "router", port), Peer("ros_peer.py", "connect", port) as peer:
        assert main(["run", "synthetic://?frames=60", "--ros", f"zenoh://127.0.0.1:{port}"]) == 0
        peer.wait(lambda heard: tracked(heard)[-1:] == [[]], "the end was not heard")
        assert len(tracked(peer.heard)) > 30
        peer.wait(lambda heard: any(each.get("alive") is False for each in heard), "the node's end was not seen")
        assert any(each["key"].endswith("/NN/%/%/edge") for each in peer.heard)


def test_others_come_straight_here_without_a_router(capfd):
    pytest.importorskip("zenoh")
    port = free_port()
    command = ["run", "synthetic://?frames=100000"]
    uri = f"zenoh://127.0.0.1:{free_port()}?listen={port}&domain=9"
    run = subprocess.Popen(
        [sys.executable, "-m", "edge", *command, "--ros", uri],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not listens(port):
            time.sleep(0.05)
        with Peer("ros_peer.py", "connect", port, 9) as peer:
            peer.wait(lambda heard: len(tracked(heard)) > 3, "nothing came")
            assert any(each["key"].endswith("/NN/%/%/edge") for each in peer.heard), "tokens from before are seen"
        # A second one at the same port.
        assert main(["run", "synthetic://?frames=2", "--ros", uri]) == 2
        err = capfd.readouterr().err
        assert f"port {port} can't be listened at: is it in use" in err
        assert err.count("\n") == 1
    finally:
        run.kill()
        run.wait()


def test_no_such_host(capfd):
    pytest.importorskip("zenoh")
    assert main(["run", "synthetic://?frames=2", "--ros", "zenoh://no-such-host.invalid"]) == 2
    assert "--ros: no such host 'no-such-host.invalid'" in capfd.readouterr().err


def test_a_zenoh_configuration_of_ones_own(monkeypatch, tmp_path, capfd):
    pytest.importorskip("zenoh")
    (tmp_path / "bad.json5").write_text("{mode: 7}")
    monkeypatch.setenv("ZENOH_SESSION_CONFIG_URI", str(tmp_path / "bad.json5"))
    assert main(["run", "synthetic://?frames=2", "--ros"]) == 2
    assert "bad.json5: not a zenoh configuration" in capfd.readouterr().err
    port = free_port()
    (tmp_path / "good.json5").write_text(f'{{mode: "client", connect: {{endpoints: ["tcp/127.0.0.1:{port}"]}}}}')
    monkeypatch.setenv("ZENOH_SESSION_CONFIG_URI", str(tmp_path / "good.json5"))
    with Peer("ros_peer.py", "listen", port) as peer:
        assert main(["run", "synthetic://?frames=5", "--ros"]) == 0
        peer.wait(lambda heard: len(tracked(heard)) == 6, "the file's address was not used")


def test_through_dds(capfd):
    """A DDS participant in another process hears the ids, and sees the types' hashes as ROS does."""
    pytest.importorskip("cyclonedds", reason="pip install cyclonedds")
    domain = random.Random(os.getpid()).randrange(100, 200)
    with Peer("dds_peer.py", domain) as peer:
        uri = f"dds://?domain={domain}&frame=head_camera"
        assert main(["run", "synthetic://?frames=60", "--ros", uri]) == 0
        peer.wait(lambda heard: any(each.get("ids") == [] for each in heard), "the end was not heard")
        heard = peer.heard
    lists = [each for each in heard if "ids" in each]
    assert len(lists) > 30, "discovery takes some of the 60"
    assert all(len(each["ids"]) == 1 and each["header"]["frame_id"] == "head_camera" for each in lists[:-1])
    (name,) = lists[0]["ids"]
    told = {each["topic"]: each for each in heard if each.get("topic", "").startswith("rt/")}
    assert set(told) == {"rt/humans/faces/tracked"} | {f"rt/humans/faces/{name}/{k}" for k in ("roi", "expression")}
    said = told[f"rt/humans/faces/{name}/expression"]
    assert said["type"] == "hri_msgs::msg::dds_::Expression_"
    assert said["userdata"] == f"typehash={EXPRESSION_HASH};"


def test_dds_writes_the_same_bytes():
    pytest.importorskip("cyclonedds")
    from edge.outputs import rosdds

    header = Header(12 * 10**9 + 34, "camera")
    for message in (
        Expression(header, "happy", 0.5, -0.25, 0.875),
        Region(header, 0.1, 0.2, 0.3, 0.4, 1.0),
        Ids(header, ("f1", "fabcd22")),
    ):
        assert rosdds.sample(message).serialize(use_version_2=False) == Encoder().encode(message)


@pytest.mark.parametrize(("module", "uri"), [("rosbags.typesys", "zenoh"), ("zenoh", "zenoh"), ("cyclonedds", "dds")])
def test_what_is_not_installed_is_named(module, uri, monkeypatch, capfd):
    for name in [name for name in sys.modules if name.split(".")[0] == "cyclonedds" or name.endswith("rosdds")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["run", "synthetic://?frames=2", "--ros", uri]) == 2
    package = {"rosbags.typesys": "rosbags", "zenoh": "eclipse-zenoh", "cyclonedds": "cyclonedds"}[module]
    err = capfd.readouterr().err
    assert f"needs {package}; type: pip install" in err
    assert err.count("\n") == 1
