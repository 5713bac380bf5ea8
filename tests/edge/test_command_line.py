"""The command line as a user types it: one-line errors, status 2, whole outputs or none."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import pytest
from refusals import refused

from edge.__main__ import main


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "edge", *map(str, arguments)], capture_output=True, text=True, timeout=60, **options
    )


def test_a_clip_to_json_lines(make_clip, tmp_path):
    done = run("run", make_clip(20), "--jsonl", "-")
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["frame"] for row in rows] == list(range(20))
    assert set(rows[0]) == {"frame", "captured_ns", "faces", "timings_ms"}
    face = rows[10]["faces"][0]
    assert set(face) == {"id", "box", "label", "confidence", "probabilities", "state", "reasons"}
    assert len(face["box"]) == 4
    assert face["probabilities"][face["label"]] == face["confidence"]
    assert "frames  20, a face in" in done.stderr
    assert "p95 ms" in done.stderr


def test_files_are_written_whole(make_clip, tmp_path, capfd):
    jsonl, video = tmp_path / "new" / "out.jsonl", tmp_path / "new" / "out.mp4"
    assert main(["run", str(make_clip(20)), "--jsonl", str(jsonl), "--video", str(video)]) == 0
    out = capfd.readouterr().out
    assert f"{jsonl} written" in out
    assert f"{video} written" in out
    assert sorted(path.name for path in jsonl.parent.iterdir()) == ["out.jsonl", "out.mp4"]
    assert len(jsonl.read_text().splitlines()) == 20
    capture = cv2.VideoCapture(str(video))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 20
    assert capture.get(cv2.CAP_PROP_FPS) == 25
    _, annotated = capture.read()
    plain = cv2.VideoCapture(str(make_clip(20))).read()[1]
    assert cv2.absdiff(annotated, plain).max() > 100, "something is drawn"


def test_a_broken_source_leaves_no_file_that_looks_whole(make_clip, tmp_path, capfd):
    data = make_clip(60, "clip.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    target = tmp_path / "out.jsonl"
    assert main(["run", str(tmp_path / "half.avi"), "--jsonl", str(target)]) == 2
    out, err = capfd.readouterr()
    assert "truncated" in err
    assert err.count("\n") == 1
    assert not target.exists()
    assert (tmp_path / "out.partial.jsonl").exists()
    assert "out.partial.jsonl holds what there was before the stop" in out


def test_bad_sources(tmp_path, capfd):
    target = tmp_path / "out.jsonl"
    assert "no such file or folder" in refused(capfd, "run", tmp_path / "none.mp4", "--jsonl", target)
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in refused(capfd, "run", tmp_path / "empty.mp4", "--jsonl", target)
    (tmp_path / "text.mp4").write_text("no video " * 1000)
    assert "not a video or picture" in refused(capfd, "run", tmp_path / "text.mp4", "--jsonl", target)
    (tmp_path / "folder").mkdir()
    assert "no picture in this folder" in refused(capfd, "run", tmp_path / "folder")
    assert "no such camera" in refused(capfd, "run", "v4l2:///dev/video99")
    assert "unknown kind of source" in refused(capfd, "run", "ftp://x")
    assert not list(tmp_path.glob("out*"))


def test_a_tiny_picture(tmp_path, portrait, capfd):
    cv2.imwrite(str(tmp_path / "dot.png"), portrait[:1, :1])
    assert "frame is 1x1 pixels; expected 16x16 or larger" in refused(capfd, "run", tmp_path / "dot.png")


def test_messages_of_ffmpeg_and_opencv_stay_out(tmp_path, make_clip):
    data = make_clip(30).read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    done = run("run", tmp_path / "half.mp4")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""


def test_bad_options(make_clip, capfd, tmp_path):
    clip = make_clip(5)
    assert "invalid choice: 'cuda'" in refused(capfd, "run", clip, "--backend", "cuda")
    assert "invalid choice: 'int4'" in refused(capfd, "run", clip, "--precision", "int4")
    assert "tensorrt backend" in refused(capfd, "run", clip, "--backend", "tensorrt")
    assert "expected 1 or more" in refused(capfd, "run", clip, "--max-frames", "0")
    assert "invalid int value: 'x'" in refused(capfd, "run", clip, "--max-frames", "x")
    assert "ends in .mp4" in refused(capfd, "run", clip, "--video", tmp_path / "out.avi")
    assert "unrecognized arguments: --bogus" in refused(capfd, "run", clip, "--bogus")
    assert "required: COMMAND" in refused(capfd)
    assert "required: SOURCE" in refused(capfd, "run")
    (tmp_path / "file").touch()
    assert "can't be written" in refused(capfd, "run", clip, "--jsonl", tmp_path / "file" / "out.jsonl")
    assert "can't be written" in refused(capfd, "run", clip, "--jsonl", tmp_path)


def test_bad_bundles(make_clip, face_bundle, capfd):
    clip = make_clip(5)
    assert "no such bundle" in refused(capfd, "run", clip, "--bundle", "nowhere")
    refusal = refused(capfd, "run", clip, "--bundle", face_bundle, "--precision", "int8")
    assert "no int8 graph in this bundle; it has fp32" in refusal
    data = bytearray((face_bundle / "window.fp32.onnx").read_bytes())
    data[1000] ^= 4
    (face_bundle / "window.fp32.onnx").write_bytes(data)
    assert "window.fp32.onnx is not the file that was exported" in refused(capfd, "run", clip, "--bundle", face_bundle)
    assert "window.fp32.onnx is not the file that was exported" in refused(capfd, "check", face_bundle)


def test_check_and_doctor(capfd):
    assert main(["check"]) == 0
    out = capfd.readouterr().out
    assert "FAIL" not in out
    assert out.count("  ok  ") >= 11
    assert main(["doctor"]) == 0
    out = capfd.readouterr().out
    assert "ok  backend onnxruntime" in out
    assert "NO  backend tensorrt: " in out
    assert len(out.splitlines()) <= 24, "one screen"


def test_max_frames(make_clip, capfd):
    assert main(["run", str(make_clip(30)), "--jsonl", "-", "--max-frames", "3"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 3


def test_a_reader_that_has_seen_enough(make_clip):
    command = f"{sys.executable} -m edge run {make_clip(100)} --jsonl - | head -2"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_soon_and_says_what_is_left(tmp_path, number):
    target = tmp_path / "out.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "edge", "run", "synthetic://?frames=100000", "--jsonl", str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # What a shell starts in the background ignores interrupts, and so does all that it starts in turn.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    partial = tmp_path / "out.partial.jsonl"
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    begun = time.monotonic()
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert time.monotonic() - begun < 2
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "holds what there was before the stop" in out
    assert not target.exists()
    for line in partial.read_text().splitlines():
        json.loads(line)
