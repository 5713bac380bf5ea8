"""What a careful attacker, or a careless user, tries."""

import gc
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile

import cv2
import numpy as np
import pytest

import edge
from edge.__main__ import main
from edge.bundle import GOLDEN, MANIFEST, Bundle
from edge.camera import VideoSource, open_source
from edge.manifest import digest
from edge.source import read_picture


def run(*arguments, **options):
    command = [sys.executable, "-m", "edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


def line(done):
    """The one line of a refusal."""
    text = done.stderr.decode()
    assert done.returncode == 2, text
    assert text.count("\n") == 1, text
    return text


# -- outputs ----------------------------------------------------------------------------------------------------------


def test_a_pipe_is_written_to_and_not_replaced(make_clip, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    rows = []
    reader = threading.Thread(target=lambda: rows.extend(pipe.read_text().splitlines()))
    reader.start()
    assert main(["run", str(make_clip(5)), "--jsonl", str(pipe)]) == 0
    reader.join(10)
    assert [json.loads(row)["frame"] for row in rows] == list(range(5))
    assert pipe.is_fifo()
    assert "a video needs a file" in line(run("run", make_clip(5), "--video", _device(tmp_path)))


def _device(folder):
    pipe = folder / "v.mp4"
    os.mkfifo(pipe)
    return pipe


def test_a_link_is_followed(make_clip, tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    assert main(["run", str(make_clip(5)), "--jsonl", str(tmp_path / "link.jsonl")]) == 0
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len((tmp_path / "real.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("source", "jsonl", "video"),
    [("c.mp4", "c.mp4", None), ("c.mp4", None, "c.mp4"), ("c.partial.mp4", None, "c.mp4"), ("c.mp4", "o.mp4", "o.mp4")],
)
def test_no_output_takes_the_place_of_the_source_or_of_another(make_clip, tmp_path, source, jsonl, video):
    data = make_clip(5).read_bytes()
    (tmp_path / source).write_bytes(data)
    options = ["--jsonl", jsonl] if jsonl else []
    options += ["--video", video] if video else []
    assert "would be written over" in line(run("run", source, *options, cwd=tmp_path, env=_here()))
    assert (tmp_path / source).read_bytes() == data
    assert not (tmp_path / "o.mp4").exists()


def _here():
    from pathlib import Path

    return {**os.environ, "PYTHONPATH": str(Path(edge.__file__).resolve().parent.parent)}


@pytest.mark.parametrize("option", ["--video", "--jsonl"])
def test_a_full_disk_is_told_and_nothing_looks_whole(make_clip, tmp_path, option):
    """The file size is limited, which the system answers like a disk without room."""
    code = (
        "import resource, signal, sys; from edge.__main__ import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY));"
        "sys.exit(main(sys.argv[1:]))"
    )
    target = tmp_path / ("o.mp4" if option == "--video" else "o.jsonl")
    command = [sys.executable, "-c", code, "run", str(make_clip(60)), option, str(target)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert "make room" in line(done)
    assert not target.exists()


def test_a_full_standard_output(make_clip):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edge", "run", str(make_clip(60)), "--jsonl", "-"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"output can't be written (No space left on device)" in done.stderr


def test_no_standard_output_at_all(make_clip):
    command = f"{sys.executable} -m edge run {make_clip(5)} --jsonl - >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert "there is no standard output" in line(done)


def test_an_empty_name_is_refused(make_clip):
    assert "an output needs a name" in line(run("run", make_clip(5), "--jsonl", ""))
    assert "is no source" in line(run("run", ""))
    assert "is no bundle" in line(run("run", make_clip(5), "--bundle", ""))


# -- sources ----------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_utf8(make_clip, tmp_path, portrait):
    folder = os.fsencode(tmp_path)
    for name in (b"s\xff.jpg", b"cl\xffip.mp4"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(make_clip(5).read_bytes())
        done = subprocess.run(
            [sys.executable, "-m", "edge", "run", folder + b"/" + name], capture_output=True, timeout=60
        )
        assert "the name is not UTF-8; rename it" in line(done)
    assert "not UTF-8" in line(run("run", tmp_path))


def test_a_film_behind_a_photograph_does_not_make_it_truncated(portrait, tmp_path):
    _, encoded = cv2.imencode(".jpg", portrait)
    data = encoded.tobytes()
    rng = np.random.default_rng(0)
    for number in range(10):
        (tmp_path / "motion.jpg").write_bytes(data + rng.bytes(200_000))
        assert read_picture(tmp_path / "motion.jpg").shape == portrait.shape, number
    for cut in (0.2, 0.5, 0.9, 0.999):
        (tmp_path / "cut.jpg").write_bytes(data[: int(cut * len(data))])
        with pytest.raises(edge.SourceError, match="truncated"):
            read_picture(tmp_path / "cut.jpg")
    _, progressive = cv2.imencode(".jpg", portrait, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 8])
    (tmp_path / "p.jpg").write_bytes(progressive.tobytes())
    assert read_picture(tmp_path / "p.jpg").shape == portrait.shape


def test_moving_pictures_are_not_shortened_to_one(portrait, tmp_path):
    frames = [cv2.resize(portrait[i : 400 + i, 50:450], (200, 200)) for i in range(0, 30, 5)]
    (tmp_path / "many.mjpeg").write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames))
    source = open_source(tmp_path / "many.mjpeg")
    assert isinstance(source, VideoSource)
    assert len(list(source)) == 6
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [40] * 6
    cv2.imwriteanimation(str(tmp_path / "anim.gif"), animation)
    assert len(list(open_source(tmp_path / "anim.gif"))) == 6


def test_a_name_with_a_colon(make_clip, tmp_path, monkeypatch):
    (tmp_path / "10:30:00.mp4").write_bytes(make_clip(5).read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(list(open_source("10:30:00.mp4"))) == 5


@pytest.mark.parametrize("source", ["synthetic://[", "dir:////[x", "synthetic://foo?frames=2", "a" * 5000, "no\nsuch"])
def test_odd_words_for_a_source(source):
    line(run("run", source))


def test_folders_with_odd_names(tmp_path, portrait):
    for name in ("run:1", "a#b"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), portrait)
        assert len(list(open_source(f"dir://{tmp_path}/{name}"))) == 1


def test_a_dot_among_pictures_is_named(tmp_path, portrait):
    cv2.imwrite(str(tmp_path / "a.png"), portrait)
    cv2.imwrite(str(tmp_path / "b.png"), portrait[:8, :8])
    with pytest.raises(edge.SourceError, match=r"b\.png: frame is 8x8 pixels; expected 16x16"):
        list(open_source(tmp_path))


@pytest.mark.parametrize("source", [b"x", 3.5, ["a"], ""])
def test_things_that_are_no_source(source):
    with pytest.raises(edge.SourceError, match="is no source; expected a path, a URI"):
        edge.Recognizer(source)


def test_unrelated_pictures_share_nobody(tmp_path, portrait):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), portrait[:300])
    with edge.Recognizer(tmp_path) as recognizer:
        assert [[face.id for face in result.faces] for result in recognizer] == [[1], [2], [3]]


def test_a_fold_of_cloth_is_no_face(portrait):
    with edge.Recognizer(min_face=40) as recognizer:
        assert len(recognizer.process(portrait).faces) == 1


# -- bundles ----------------------------------------------------------------------------------------------------------


def forge(folder, edit):
    path = folder / MANIFEST
    document = json.loads(path.read_text())
    edit(document)
    document["digest"] = digest(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(labels=[["a"], ["b"]]),
        lambda d: d.update(graphs=["window.fp32.onnx"]),
        lambda d: d.update(graphs={"fp32": ["window.fp32.onnx"]}),
        lambda d: d["inputs"][0].update(shape=[1, 1, 48.5, 48]),
        lambda d: d["inputs"][0].update(shape=[]),
        lambda d: d["inputs"][0]["alignment"].update(left_eye=[]),
        lambda d: d["inputs"][0]["alignment"].update(left_eye=["a", "b"]),
        lambda d: d["inputs"][0]["normalisation"].update(min_std=-5),
        lambda d: d["tolerances"].update(fp32=float("inf")),
        lambda d: d["tolerances"].update(fp32="1"),
        lambda d: d.update(temperature=float("nan")),
        lambda d: d.update(temperature=float("inf")),
        lambda d: d.update(inputs=5),
    ],
)
def test_forged_manifests(face_bundle, edit):
    forge(face_bundle, edit)
    with pytest.raises(edge.BundleError) as caught:
        Bundle.open(face_bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "null", "3", "[" * 200_000, "\xff"])
def test_manifests_that_are_none(face_bundle, text):
    (face_bundle / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(edge.BundleError):
        Bundle.open(face_bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("picture/noise", np.zeros((1, 0, 0, 3), np.uint8)),
        ("picture/noise", np.zeros((2, 9, 9, 3), np.uint8)),
        ("picture/noise", np.zeros((1, 9, 9, 3), np.float32)),
        ("eyes/noise", np.zeros((1, 2, 2), np.float32)),
        ("eyes/noise", np.zeros((1, 2, 3), np.float32)),
        ("tensor/noise/face", np.zeros((1, 1, 8, 8), np.float32)),
        ("logits/noise", np.zeros(7, np.float32)),
        ("no_face", np.zeros((9, 9), np.uint8)),
        ("labels", np.array("happy")),
    ],
)
def test_forged_golden_vectors(face_bundle, key, value):
    import hashlib

    stored = io.BytesIO()
    np.savez(stored, **{**Bundle.open(face_bundle).golden, key: value})
    (face_bundle / GOLDEN).write_bytes(stored.getvalue())
    digest = hashlib.sha256(stored.getvalue()).hexdigest()
    forge(face_bundle, lambda document: document["files"].update({GOLDEN: digest}))
    with pytest.raises(edge.BundleError, match="golden"):
        Bundle.open(face_bundle)


def test_damaged_zips(face_bundle, tmp_path):
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in face_bundle.iterdir():
            archive.write(member, f"face/{member.name}")
    assert Bundle.open(path).manifest.name == "face", "a zip of the folder itself is as good"
    whole = path.read_bytes()
    for place in np.linspace(100, len(whole) - 100, 25).astype(int):
        data = bytearray(whole)
        data[place] ^= 0x55
        path.write_bytes(data)
        with pytest.raises(edge.BundleError):
            Bundle.open(path).verify()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(edge.BundleError):
        Bundle.open(path)


def test_a_pipe_is_no_bundle(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(edge.BundleError, match="not a bundle"):
        Bundle.open(tmp_path / "pipe")
    with pytest.raises(edge.BundleError, match="is no bundle"):
        Bundle.open(5)


# -- the recognizer ---------------------------------------------------------------------------------------------------


def test_forgetting_to_close_leaves_no_thread():
    recognizer = edge.Recognizer("synthetic://?frames=100000")
    recognizer.latest(5000)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("edge-")]
    del recognizer
    gc.collect()
    deadline = time.monotonic() + 5
    while [t for t in threading.enumerate() if t.name.startswith("edge-")] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-")]


def test_a_program_that_ends_without_closing_ends_well():
    code = (
        "import edge\n"
        "kept = [edge.Recognizer('synthetic://?frames=100000') for _ in range(3)]\n"
        "print([len(one.latest(5000).faces) for one in kept])"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""


def test_numbers_that_are_none(portrait):
    with edge.Recognizer() as recognizer:
        for bad in (float("nan"), 1.5, "5"):
            with pytest.raises(edge.OptionError, match="expected whole nanoseconds"):
                recognizer.process(portrait, bad)
        result = recognizer.process(portrait, np.int64(5))
        json.dumps(result.to_dict())
    with edge.Recognizer("synthetic://") as recognizer:
        recognizer.latest(5000)
        with pytest.raises(edge.StaleResultError):
            recognizer.latest(float("nan"))
    for options in ({"min_face": "60"}, {"min_face": float("nan")}, {"smoothing": {"margin": 1}}):
        with pytest.raises(edge.OptionError):
            edge.Recognizer(**options)
    with pytest.raises(edge.OptionError, match="time_constant_ms is 'x'"):
        edge.Smoothing(time_constant_ms="x")


def test_a_failure_told_again_and_again_does_not_grow(tmp_path, portrait):
    cv2.imwrite(str(tmp_path / "a.png"), portrait)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with edge.Recognizer(tmp_path) as recognizer:
        depths = []
        for _ in range(50):
            try:
                recognizer.latest(1e6)
            except edge.SourceError as error:
                depth, trace = 0, error.__traceback__
                while trace is not None:
                    depth, trace = depth + 1, trace.tb_next
                depths.append(depth)
        assert len(depths) > 30
        assert depths[-1] <= depths[0] + 1


def test_dropping_from_a_file_plays_it_and_waiting_for_the_latest_is_refused(make_clip):
    with edge.Recognizer(make_clip(25), drop="drop_oldest") as recognizer:
        begun = time.monotonic()
        frames = [result.frame for result in recognizer]
        assert time.monotonic() - begun > 0.8
        assert len(frames) > 15
    with edge.Recognizer(make_clip(25), drop="wait") as recognizer:
        with pytest.raises(edge.OptionError, match="leave drop='wait' out"):
            recognizer.latest()


def test_what_is_missing_is_named_by_the_command_line():
    code = "import sys; sys.modules['cv2'] = None; from edge.__main__ import main; sys.exit(main(sys.argv[1:]))"
    for command in (["run", "synthetic://"], ["check"]):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, timeout=60)
        assert "opencv is not installed; type: pip install opencv-python-headless" in line(done)
