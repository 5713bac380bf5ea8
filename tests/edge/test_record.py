"""A recorded run, had again: the same bytes, timings apart; whole up to its last frame however it ended; no picture
where none was to be kept."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import asdict

import cv2
import numpy as np
import pytest

import edge
from edge.__main__ import main
from edge.record import FRAMES, MANIFEST, PICTURES, RESULTS, TENSORS
from edge.replay import Recording, differs
from edge.source import Source
from edge.synthetic import SyntheticSource


class Gappy(Source):
    """A camera that lost frames: indices and times have gaps. It pans away from the face in the middle."""

    def __init__(self, frames=50, pause=0.0, live=False):
        super().__init__("gappy", 25)
        self.live, self._frames, self._pause = live, frames, pause
        self._camera = SyntheticSource(320, 240)

    def __iter__(self):
        for index in range(self._frames):
            if index % 7 != 5:
                time.sleep(self._pause)
                seconds = 3.2 + 0.04 * index + 0.003 * (index % 3)
                yield edge.Frame(index, round(seconds * 1e9), self._camera.picture(seconds), time.monotonic_ns())


def plain(result):
    return json.dumps({**result.to_dict(), "timings_ms": None})


def record(folder, source=None, **options):
    with edge.Recognizer(source or Gappy(), record=folder, **{"precision": "fp32", **options}) as recognizer:
        return [plain(result) for result in recognizer]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recording with pictures and one without, of the same frames, each with its results."""
    place = tmp_path_factory.mktemp("recorded")
    return {
        private: (place / str(private), record(place / str(private), record_private=private))
        for private in (False, True)
    }


@pytest.fixture
def copied(recorded, tmp_path):
    def copy(private=False):
        return shutil.copytree(recorded[private][0], tmp_path / f"copy{private}")

    return copy


@pytest.mark.parametrize("private", [False, True])
def test_a_replay_gives_the_recorded_results(recorded, private):
    folder, results = recorded[private]
    states = {face["state"] for result in results for face in json.loads(result)["faces"]}
    assert {"warming_up", "ok", "lost"} <= states
    assert [json.loads(result)["frame"] for result in results] == [at for at in range(50) if at % 7 != 5]
    written = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    assert [json.dumps({**one, "timings_ms": None}) for one in written] == results
    with edge.Replay(folder) as replay:
        assert [plain(result) for result in replay] == results
        assert replay.check() is None
        assert replay.check() is None, "a replay may be had again"
        assert replay.differences == ()
    ended = json.loads((folder / MANIFEST).read_text())["ended"]
    assert ended["frames"] == ended["results"] == len(results)
    assert ended["missing"] == 50 - len(results)


def test_frames_are_kept_to_the_last_bit(recorded):
    folder, _ = recorded[False]
    recording = Recording(folder)
    entries = list(recording.entries())
    frames = list(Gappy())
    assert len(entries) == len(frames)
    for entry, frame in zip(entries, frames, strict=True):
        kept = recording.frame(entry)
        assert (kept.index, kept.captured_ns) == (frame.index, frame.captured_ns)
        assert np.array_equal(kept.image, frame.image)


def pictures_in(folder):
    """What in a folder could be a frame's picture: picture files, and stretches of a frame's own pixels."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None if data else False:
            found.append(path.name)
        if path.name == TENSORS:
            for frame in Gappy():
                grey = cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY)
                # Through the middle, where the face is.
                found += [
                    path.name
                    for row in (*frame.image[90:150:20, 100:220], *grey[90:150:20, 100:220])
                    if row.tobytes() in data
                ]
    return found


def test_a_private_recording_holds_no_picture(recorded):
    folder, results = recorded[True]
    assert sorted(path.name for path in folder.iterdir()) == sorted([FRAMES, MANIFEST, RESULTS, TENSORS])
    assert pictures_in(folder) == []
    assert len(pictures_in(recorded[False][0])) == len(results), "the search finds pictures where there are some"
    # Every byte of the tensors' file is a tensor that the engine was given, and nothing else.
    entries = [json.loads(line) for line in (folder / FRAMES).read_text().splitlines()]
    tensors = [one for entry in entries for face in entry["faces"] for one in (face["tensors"] or {}).values()]
    assert sum(one["bytes"] for one in tensors) == (folder / TENSORS).stat().st_size
    assert {tuple(one["shape"]) for one in tensors} == {(1, 1, 48, 48)}
    assert set(entries[0]) == {"frame", "captured_ns", "faces"}
    assert set(entries[0]["faces"][0]) == {"id", "box", "seen_ns", "confirmed_ns", "problems", "tensors"}
    with edge.Replay(folder) as replay:
        assert all(frame.image.size == 0 for frame, _ in replay.with_frames())


def test_the_private_tensors_are_what_the_engine_saw(tmp_path, monkeypatch):
    from edge.engine.onnxruntime import OnnxRuntimeEngine

    given, whole = [], OnnxRuntimeEngine._run

    def spy(self, graph, inputs):
        given.append(inputs["face"].copy())
        return whole(self, graph, inputs)

    with edge.Recognizer("synthetic://?frames=5", record=tmp_path / "run", record_private=True) as recognizer:
        monkeypatch.setattr(OnnxRuntimeEngine, "_run", spy)
        assert len(list(recognizer)) == 5
    recording = Recording(tmp_path / "run")
    kept = [recording.seen(entry).kept[1]["face"] for entry in recording.entries()]
    assert len(kept) == 5
    assert all(np.array_equal(one, other) for one, other in zip(kept, given, strict=True))


def test_what_was_looked_at_and_dropped_is_looked_at_again(tmp_path):
    """A slow consumer of a camera misses frames that others were followed from."""
    with edge.Recognizer(Gappy(40, pause=0.01, live=True), record=tmp_path / "run") as recognizer:
        results = []
        for result in recognizer:
            time.sleep(0.05)
            results.append(plain(result))
    recording = Recording(tmp_path / "run")
    assert len(results) < len(list(recording.entries())), "some were looked at and not answered"
    with edge.Replay(tmp_path / "run") as replay:
        assert replay.check() is None
        assert replay.answered == len(results)


def test_handed_over_frames_may_be_written_to_afterwards(tmp_path):
    buffer = np.zeros((240, 320, 3), np.uint8)
    with edge.Recognizer(record=tmp_path / "run") as recognizer:
        for frame in Gappy(12):
            buffer[:] = frame.image
            recognizer.process(buffer, frame.captured_ns)
            buffer[:] = 0
    with edge.Replay(tmp_path / "run") as replay:
        assert replay.check() is None
        assert replay.answered == 11


def test_pictures_that_do_not_follow_one_another(tmp_path, portrait):
    (tmp_path / "photos").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), portrait)
    results = record(tmp_path / "run", tmp_path / "photos")
    assert [json.loads(result)["faces"][0]["id"] for result in results] == [1, 2]
    with edge.Replay(tmp_path / "run") as replay:
        assert [plain(result) for result in replay] == results


# -- recordings that ended otherwise ----------------------------------------------------------------------------------


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "edge", *map(str, arguments)], capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize("private", [[], ["--privacy"]])
def test_a_killed_recording_is_whole_up_to_its_last_frame(tmp_path, private):
    folder = tmp_path / "run"
    arguments = ["run", "synthetic://?frames=100000&width=320&height=240", "--record", folder]
    running = subprocess.Popen(
        [sys.executable, "-m", "edge", *map(str, [*arguments, *private])], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if (folder / RESULTS).exists() and (folder / RESULTS).read_bytes().count(b"\n") > 20:
                break
            time.sleep(0.02)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    done = command("replay", folder, "--check")
    assert done.returncode == 0, done.stderr
    assert "was cut off" in done.stderr
    count = int(done.stdout.split()[0])
    assert count > 20
    # And where a line itself was cut.
    for name in (FRAMES, RESULTS):
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    with edge.Replay(folder) as replay:
        assert count - 2 <= sum(1 for _ in replay) <= count


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # the kernel refuses larger files, as a full disk does
from edge.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("private", [True, False])
def test_a_full_disk_is_one_line_and_what_was_written_stays(tmp_path, portrait, private):
    folder = tmp_path / "run"
    source = "synthetic://?frames=300&width=320&height=240"
    if not private:
        (tmp_path / "photos").mkdir()
        rng = np.random.default_rng(0)
        for at in range(6):
            picture = np.zeros((240, 320, 3), np.uint8) if at < 4 else rng.integers(0, 255, (240, 320, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "photos" / f"{at}.png"), picture)
        source = str(tmp_path / "photos")
    done = subprocess.run(
        [sys.executable, "-c", FULL, "run", source, "--record", str(folder)] + ["--record-private"] * private,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if line]
    assert "the recording ends after" in told
    assert "File too large" in told
    with edge.Replay(folder) as replay:
        assert not replay.recording.whole
        assert replay.check() is None
        assert replay.answered >= 3
    assert not list(folder.glob("frames/00000004*")), "no half picture"


def test_what_fails_at_the_very_end_is_told_too(tmp_path):
    recognizer = edge.Recognizer(record=tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / PICTURES)
    recognizer.process(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(edge.OutputError, match="the recording ends after 0 frames .No such file"):
        recognizer.close()
    recognizer.close()


def test_nothing_is_left_running(tmp_path):
    before = set(threading.enumerate())
    record(tmp_path / "run", Gappy(5))
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert left == []


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(capfd, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    return err


def test_nothing_is_written_over(recorded, tmp_path, capfd):
    folder, _ = recorded[False]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "is not empty" in refused(capfd, "run", "synthetic://", "--record", folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (tmp_path / "file").touch()
    assert "can't be recorded to" in refused(capfd, "run", "synthetic://", "--record", tmp_path / "file")
    assert "give record='FOLDER'" in refused(capfd, "run", "synthetic://", "--record-private")


def test_the_first_difference_is_named(copied, capfd):
    folder = copied()
    lines = (folder / RESULTS).read_text().splitlines()
    eleventh = json.loads(lines[10])
    eleventh["faces"][0]["confidence"] += 0.0001
    lines[10] = json.dumps(eleventh)
    (folder / RESULTS).write_text("\n".join(lines) + "\n")
    assert main(["replay", str(folder), "--check"]) == 1
    err = capfd.readouterr().err
    assert f"frame {eleventh['frame']}: faces[0].confidence is " in err
    assert "recorded was" in err
    with edge.Replay(folder) as replay:
        assert replay.check().startswith(f"frame {eleventh['frame']}: faces[0].confidence")
    assert main(["replay", str(folder), "--jsonl", "-"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == len(lines)


def test_a_missing_result_is_a_difference(copied, capfd):
    folder = copied()
    lines = (folder / FRAMES).read_text().splitlines(keepends=True)
    (folder / FRAMES).write_text("".join(lines[:-1]))
    assert main(["replay", str(folder), "--check"]) == 1
    assert "not replayed, recorded was a result" in capfd.readouterr().err


def test_timings_are_no_difference_and_all_else_is():
    result = edge.Result(1, 2, (), {"total": 1.0})
    assert differs(result, {**result.to_dict(), "timings_ms": {}}) is None
    assert differs(result, {**result.to_dict(), "captured_ns": 3}) == "frame 1: captured_ns is 2, recorded was 3"
    assert "faces is a list of 0, recorded was a list of 1" in differs(result, {**result.to_dict(), "faces": [1]})


@pytest.mark.parametrize("change", ["digest", "version"])
def test_another_bundle_or_version_is_told_and_refused_with_check(copied, capfd, change):
    folder = copied(True)
    document = json.loads((folder / MANIFEST).read_text())
    if change == "digest":
        document["run"]["digest"] = "0" * 64
    else:
        document["run"]["versions"]["dlib"] = "19.0"
    (folder / MANIFEST).write_text(json.dumps(document))
    line = refused(capfd, "replay", folder, "--check")
    assert "nothing can be proven with" in line
    assert ("recorded with 000000000000" if change == "digest" else "recorded with 19.0") in line
    assert main(["replay", str(folder)]) == 0
    assert "not as recorded: " in capfd.readouterr().err


def test_damaged_recordings(copied, tmp_path, capfd):
    assert "no recording; give a folder" in refused(capfd, "replay", tmp_path / "none")
    folder, private = copied(), copied(True)
    picture = folder / PICTURES / "00000003.png"
    data = bytearray(picture.read_bytes())
    data[len(data) // 2] ^= 1
    picture.write_bytes(data)
    assert "00000003.png is not as it was recorded" in refused(capfd, "replay", folder, "--check")
    picture.unlink()
    assert "00000003.png can't be read" in refused(capfd, "replay", folder, "--check")
    tensors = private / TENSORS
    data = bytearray(tensors.read_bytes())
    data[100] ^= 1
    tensors.write_bytes(data)
    assert "is not as it was recorded" in refused(capfd, "replay", private, "--check")
    for text, told in (
        ("{", "is no JSON"),
        ("[]", "schema None"),
        ('{"schema": 99}', "schema 99, this version of edge reads 1"),
        ('{"schema": 1}', "is garbled"),
        ('{"schema": 1, "run": {}, "ended": null}', "is garbled"),
    ):
        (folder / MANIFEST).write_text(text)
        assert told in refused(capfd, "replay", folder)


# -- a bundle that sees windows ---------------------------------------------------------------------------------------

SIDE, STEPS = 16, 3


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """A bundle that sees a clip and its motion: the logits are the mean light and the mean motion of a window."""
    pytest.importorskip("onnx")
    import handmade
    from onnx import TensorProto, helper

    from edge.bundle import (
        ANSWER,
        FEATURE,
        HEAD,
        WINDOW,
        Alignment,
        Graph,
        InputSpec,
        Manifest,
        Normalisation,
        Stream,
        TensorSpec,
        Window,
        write,
    )
    from edge.flow.contract import DIS
    from edge.window import Cutter

    shapes = {"clip": (1, STEPS, 1, SIDE, SIDE), "flow": (1, STEPS, 3, SIDE, SIDE)}
    rings = {"clip": (1, STEPS, 1), "flow": (1, STEPS, 3)}
    answer = ((ANSWER, (1, 2)),)

    axes = {"a1": [1], "a23": [2, 3], "a134": [1, 3, 4]}
    weights = [helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in axes.items()]

    def model(nodes, inputs, outputs):
        return handmade.model(nodes, inputs, outputs, weights)

    def mean(one, axes, to, keep=0):
        return helper.make_node("ReduceMean", [one, axes], [to], keepdims=keep)

    def end(clip, flow):
        return [mean(flow, "a1", "moved", 1), helper.make_node("Concat", [clip, "moved"], [ANSWER], axis=1)]

    members = {
        f"{name}.onnx": model(
            [mean(name, "a23", FEATURE)], [(name, (1, *shapes[name][2:]))], [(FEATURE, (1, rings[name][2]))]
        )
        for name in shapes
    }
    members["head.onnx"] = model(
        [mean("clip_ring", "a1", "c"), mean("flow_ring", "a1", "f"), *end("c", "f")],
        [("clip_ring", rings["clip"]), ("flow_ring", rings["flow"])],
        answer,
    )
    members["window.onnx"] = model(
        [mean("clip", "a134", "c"), mean("flow", "a134", "f"), *end("c", "f")], list(shapes.items()), answer
    )
    graphs = {
        WINDOW: Graph(
            tuple(TensorSpec(*one) for one in shapes.items()), (TensorSpec(*answer[0]),), {"fp32": "window.onnx"}
        ),
        HEAD: Graph(
            tuple(TensorSpec(f"{name}_ring", ring) for name, ring in rings.items()),
            (TensorSpec(*answer[0]),),
            {"fp32": "head.onnx"},
        ),
        **{
            f"encode_{name}": Graph(
                (TensorSpec(name, (1, *shapes[name][2:])),),
                (TensorSpec(FEATURE, (1, rings[name][2])),),
                {"fp32": f"{name}.onnx"},
            )
            for name in shapes
        },
    }
    manifest = Manifest(
        name="moving",
        family="none",
        labels=("light", "motion"),
        inputs=tuple(
            InputSpec(
                name,
                name,
                shape,
                "float32",
                "grey" if name == "clip" else "bgr",
                "area",
                Normalisation("fixed", (128.0,) * shape[2], (40.0,) * shape[2]),
                Alignment((0.3, 0.4), (0.7, 0.4)),
            )
            for name, shape in shapes.items()
        ),
        graphs=graphs,
        temperature=1.0,
        abstain_below=0.5,
        tolerances={"tensor": 0.1, "fp32": 1e-4},
        data={},
        licence="none",
        metrics={},
        # Every other frame enters; a face that was away for longer starts anew.
        window=Window(STEPS + 1, 70.0, 300.0),
        streams=tuple(Stream(name, f"encode_{name}", f"{name}_ring", 1, STEPS) for name in shapes),
        flow=asdict(DIS()),
        files=dict.fromkeys(("golden.npz", *members), "0" * 64),
    )
    pictures = np.random.default_rng(0).integers(0, 255, (STEPS + 1, 48, 48, 3), dtype=np.uint8)
    eyes = np.tile(np.array([[14.0, 20.0], [34.0, 20.0]], np.float32), (STEPS + 1, 1, 1))
    tensors = Cutter(manifest).window(zip(pictures, eyes, strict=True))
    logits = np.array([[tensors["clip"].mean(), tensors["flow"].mean()]], np.float32)
    golden = {
        "labels": np.array(manifest.labels),
        "no_face": np.zeros((16, 16, 3), np.uint8),
        "picture/one": pictures,
        "eyes/one": eyes,
        **{f"tensor/one/{name}": tensor for name, tensor in tensors.items()},
        "logits/one": logits,
    }
    return write(tmp_path_factory.mktemp("moving") / "bundle", manifest, members, golden).where


@pytest.mark.parametrize("private", [False, True])
def test_windows_and_motion_are_replayed(moving, tmp_path, private):
    results = record(tmp_path / "run", bundle=moving, record_private=private)
    labels = [face["label"] for result in results for face in json.loads(result)["faces"]]
    assert None in labels, "no label before the window is full"
    assert {"light", "motion"} & set(labels)
    with edge.Replay(tmp_path / "run") as replay:
        assert [plain(result) for result in replay] == results
        assert replay.check() is None
        assert all("flow" in result.timings_ms for result in replay)
    if private:
        entries = [json.loads(line) for line in (tmp_path / "run" / FRAMES).read_text().splitlines()]
        given = [face["tensors"] for entry in entries for face in entry["faces"] if face["problems"] is not None]
        assert None in given, "not every frame enters the window"
        assert [sorted(one) for one in given if one is not None] == [["clip", "flow"]] * (
            len(given) - given.count(None)
        )


def test_a_window_bundle_gives_up_no_frame_to_a_budget(moving, tmp_path):
    """Its steps are about finding faces: what the network says stays what it was."""
    whole = record(tmp_path / "whole", bundle=moving)
    spared = record(tmp_path / "spared", bundle=moving, budget_ms=0.001)
    steps = [json.loads(result).pop("degraded", []) for result in spared]
    assert steps[0] == []
    assert steps[-1] == ["search_rarely", "follow_longer"]
    says = [[[face["label"] for face in json.loads(one)["faces"]] for one in run] for run in (whole, spared)]
    assert says[0] == says[1]


def test_one_picture_is_not_enough_for_a_window(moving, portrait):
    with pytest.raises(edge.OptionError, match="reads windows of 4 frames, and one picture is not enough"):
        edge.recognize(portrait, bundle=moving)


def test_a_tensor_that_would_fill_the_memory_is_refused(copied):
    folder = copied(True)
    lines = (folder / FRAMES).read_text().splitlines()
    first = json.loads(lines[0])
    tensor = first["faces"][0]["tensors"]["face"]
    tensor["shape"] = [1 << 20, 1 << 20]
    (folder / FRAMES).write_text(json.dumps(first) + "\n")
    with edge.Replay(folder) as replay, pytest.raises(edge.SourceError, match="frame 0 is not as it was recorded"):
        list(replay)
    bomb = zlib.compress(bytes(64 << 20), 1)
    tensor.update(shape=[1, 1, 48, 48], at=0, bytes=len(bomb), crc32=zlib.crc32(bomb))
    (folder / TENSORS).write_bytes(bomb)
    (folder / FRAMES).write_text(json.dumps(first) + "\n")
    with edge.Replay(folder) as replay, pytest.raises(edge.SourceError, match="frame 0 is not as it was recorded"):
        list(replay)
