"""Each example runs, on the synthetic camera."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def start(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_control_loop(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import control_loop

    counts = control_loop.run("synthetic://", 3.0, (640, 360))
    # A busy machine may be late now and then; the loop never waits for a frame.
    assert 75 <= counts.cycles <= 151
    assert counts.fresh + counts.stale == counts.cycles
    assert counts.with_face > counts.cycles / 2
    assert set(counts.labels) == {"happy"}
    assert counts.longest_ms < 500


def test_a_control_loop_goes_on_without_a_picture(monkeypatch):
    """The source ends after a second: each result grows stale, and the loop runs on."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import control_loop

    counts = control_loop.run("synthetic://?frames=30", 2.0, (640, 360))
    assert counts.stale > 20
    assert counts.fresh > 20


def test_the_heads_way(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from control_loop import Head

    head = Head()
    for _ in range(1000):
        head.towards(1.0, -0.5)
    assert (head.pan_deg, head.tilt_deg) == (90, 30)
    head.towards(-1.0, 0.0)
    assert head.pan_deg == pytest.approx(89.4)


def test_the_examples_refuse_in_one_line(tmp_path):
    for name, more in (("control_loop", []), ("headless_logger", ["--into", tmp_path])):
        status, _, err = finished(EXAMPLES / f"{name}.py", "nowhere.mp4", *more)
        assert status == 2
        assert err.startswith(f"{name}: nowhere.mp4: no such file")
        assert err.count("\n") == 1
    (begun, *_) = [json.loads(line) for line in (tmp_path / "faces.jsonl").read_text().splitlines()]
    assert begun["what"] == "failed"


def test_a_diary(tmp_path):
    source = "synthetic://?frames=300"
    status, _, err = finished(EXAMPLES / "headless_logger.py", source, "--into", tmp_path / "new", "--every", "0.5")
    assert status == 0, err
    lines = [json.loads(line) for line in (tmp_path / "new" / "faces.jsonl").read_text().splitlines()]
    assert lines[0]["what"] == "begun"
    told = [(line["what"], line["face"]) for line in lines if "face" in line]
    assert told == [("shows", 1), ("gone", 1), ("shows", 2)]
    assert {line["label"] for line in lines if line["what"] == "shows"} == {"happy"}
    summaries = [line for line in lines if line["what"] == "summary"]
    assert len(summaries) >= 2
    assert sum(line["frames"] for line in summaries) == 300
    assert 100 < sum(line["with_face"] for line in summaries) < 300
    assert lines[-2]["what"] == "ended"


def test_a_diary_that_is_stopped(tmp_path):
    process = start(EXAMPLES / "headless_logger.py", "synthetic://?frames=100000", "--into", tmp_path)
    file = tmp_path / "faces.jsonl"
    deadline = time.monotonic() + 20
    while not (file.exists() and "shows" in file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    whats = [json.loads(line)["what"] for line in file.read_text().splitlines()]
    assert whats[-2:] == ["stopped", "summary"]


def test_a_behaviour_hears_a_run():
    """Two processes: edge run --ros tells, the behaviour greets; nobody needs ROS."""
    pytest.importorskip("zenoh", reason="pip install eclipse-zenoh")
    pytest.importorskip("rosbags", reason="pip install rosbags")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Played through once in about three seconds: there, away, and there again as somebody else.
    run = start("-m", "edge", "run", "synthetic://?frames=900", "--ros", f"zenoh://?listen={port}")
    behaviour = start(EXAMPLES / "ros2_behaviour.py", f"zenoh://127.0.0.1:{port}")
    try:
        said = []
        while sum(line.startswith("goodbye") for line in said) < 2:
            said.append(behaviour.stdout.readline())
            assert said[-1], behaviour.stderr.read()
    finally:
        for process in (behaviour, run):
            process.kill()
            process.communicate()
    assert said[0] == "listening\n"
    done = [re.fullmatch(r"(hello|goodbye) (f[a-z]{4}\d+)\n", line).groups() for line in said[1:]]
    faces = list(dict.fromkeys(face for _, face in done))
    for face in faces[:2]:
        assert [what for what, whom in done if whom == face] == ["hello", "goodbye"]


def test_who_smiles_is_greeted_once(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from ros2_behaviour import Greeter

    done = []
    greeter = Greeter(lambda what, face: done.append((what, face)))
    greeter.tracked(["fa", "fb"])
    greeter.expression("fa", "happy", 0.9, 1.0)
    greeter.expression("fa", "happy", 0.5, 1.2)  # not sure enough: it begins anew
    greeter.expression("fa", "happy", 0.9, 1.3)
    greeter.expression("fa", "neutral", 0.9, 1.5)
    greeter.expression("fb", "happy", 0.9, 1.5)
    assert done == []
    for at_s in (2.0, 2.31, 2.7, 3.5):
        greeter.expression("fa", "happy", 0.9, at_s)
    assert done == [("hello", "fa")]
    greeter.tracked(["fb"])
    greeter.tracked([])
    assert done == [("hello", "fa"), ("goodbye", "fa")], "who was not greeted goes without a word"


def test_a_behaviour_in_a_node_of_rclpy(monkeypatch, capfd):
    """With a stand-in for rclpy: subscriptions come and go with the faces."""
    pytest.importorskip("rosbags")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "edge"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from ros_standin import STORE, install

    ros = install(monkeypatch)
    types = STORE.types

    def header(at_s):
        stamp = types["builtin_interfaces/msg/Time"](sec=int(at_s), nanosec=round(at_s % 1 * 1e9))
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")

    ids, said = types["hri_msgs/msg/IdsList"], types["hri_msgs/msg/Expression"]
    ros.send("/humans/faces/tracked", ids(header=header(1), ids=["fa"]))
    for at_s in (1.0, 1.25, 1.5):
        message = said(header=header(at_s), expression="happy", valence=0.0, arousal=0.0, confidence=0.9)
        ros.send("/humans/faces/fa/expression", message)
    ros.send("/humans/faces/tracked", ids(header=header(2), ids=[]))
    ros.send(None, None)
    import ros2_behaviour

    assert ros2_behaviour.main([]) == 0
    assert capfd.readouterr().out == "hello fa\ngoodbye fa\n"
    assert set(ros.callbacks) == {"/humans/faces/tracked"}
