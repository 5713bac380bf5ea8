"""The front door, with the real detector, landmarks, network and a real face."""

import threading
import time

import numpy as np
import pytest

import edge
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.faces.watch import Apart
from edge.synthetic import SyntheticSource


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_the_portrait_smiles(portrait):
    with edge.Recognizer() as recognizer:
        result = recognizer.process(portrait)
    (face,) = result.faces
    assert face.label == "happy"
    assert face.confidence == max(face.probabilities.values()) > 0.8
    assert sum(face.probabilities.values()) == pytest.approx(1)
    assert list(face.probabilities) == list(recognizer.bundle.manifest.labels)
    x, y = face.box.centre
    assert abs(x - 224) < 15
    assert abs(y - 118) < 25
    assert set(result.timings_ms) == {"detect", "landmarks", "align", "infer", "smooth", "total"}
    parts = sum(spent for stage, spent in result.timings_ms.items() if stage != "total")
    assert parts <= result.timings_ms["total"] * 1.001


@pytest.mark.parametrize("landmarks", ["68", "5"])
def test_a_clip_from_end_to_end(landmarks, make_clip):
    with edge.Recognizer(f"file://{make_clip(40)}", landmarks=landmarks) as recognizer:
        results = list(recognizer)
        assert recognizer.dropped == 0
    assert [result.frame for result in results] == list(range(40))
    with_face = [result for result in results if result.faces]
    assert len(with_face) >= 38
    assert {face.id for result in results for face in result.faces} == {1}
    assert {face.label for result in with_face for face in result.faces} == {"happy"}
    assert with_face[0].faces[0].state is edge.FaceState.WARMING_UP
    assert with_face[-1].faces[0].state is edge.FaceState.OK


def test_no_face_no_guess():
    """The demo's camera looks away: results go on, without faces; the face that comes back is a new one."""
    source = SyntheticSource(fps=30)
    with edge.Recognizer() as recognizer:
        seen = {}
        for frame in source:
            result = recognizer.process(frame.image, frame.captured_ns)
            seen[frame.index] = result
            if not source.face_in_view(frame.captured_ns / 1e9) and 0.52 < frame.captured_ns / 1e10 < 0.73:
                assert not any(face.visible for face in result.faces), f"frame {frame.index} shows no face"
                assert result.faces == () or frame.captured_ns < 6.1e9, "a face that went is lost, then forgotten"
    in_view = [index for index in seen if source.face_in_view(index / 30)]
    assert sum(any(face.visible for face in seen[index].faces) for index in in_view) / len(in_view) > 0.97
    assert {face.id for result in seen.values() for face in result.faces} == {1, 2}


def test_pictures_of_noise_and_of_nothing():
    with edge.Recognizer() as recognizer:
        noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        assert recognizer.process(noise).faces == ()
        assert recognizer.process(np.zeros((16, 16, 3), np.uint8)).faces == ()


def test_the_same_clip_gives_the_same_results(make_clip):
    path = make_clip(25)

    def run():
        with edge.Recognizer(path) as recognizer:
            return [{**result.to_dict(), "timings_ms": None} for result in recognizer]

    assert run() == run()


def test_searching_near_known_faces_finds_what_searching_everywhere_does(portrait):
    source = SyntheticSource(frames=60)
    with edge.Recognizer() as near, edge.Recognizer() as everywhere:
        everywhere._pipeline.watcher = Apart(FaceDetector(60), Landmarks("5"))
        for frame in source:
            one = near.process(frame.image, frame.captured_ns)
            other = everywhere.process(frame.image, frame.captured_ns)
            assert len(one.faces) == len(other.faces) == 1
            assert one.faces[0].box.iou(other.faces[0].box) > 0.5


def test_a_second_face_is_found_within_eight_tenths_of_a_second(portrait):
    face = portrait[20:240, 110:340]
    canvas = np.full((360, 640, 3), 90, np.uint8)
    canvas[60:280, 40:270] = face
    both = canvas.copy()
    both[60:280, 370:600] = face[:, ::-1]
    with edge.Recognizer() as recognizer:
        for frame in range(10):
            assert len(recognizer.process(canvas, frame * 40_000_000).faces) == 1
        counts = [len(recognizer.process(both, frame * 40_000_000).faces) for frame in range(10, 40)]
    assert counts.index(2) * 40 <= 800
    assert set(counts[counts.index(2) :]) == {2}


def test_process_keeps_time():
    with edge.Recognizer() as recognizer:
        frame = np.zeros((32, 32, 3), np.uint8)
        assert recognizer.process(frame, 1000).captured_ns == 1000
        with pytest.raises(edge.OptionError, match="captured_ns 999 is before the last frame's 1000"):
            recognizer.process(frame, 999)


def test_process_from_several_threads(portrait):
    with edge.Recognizer() as recognizer:
        results = []

        def work():
            for _ in range(10):
                results.append(recognizer.process(portrait))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(result.frame for result in results) == list(range(40))
    assert {face.id for result in results for face in result.faces} == {1}


def test_one_use_at_a_time(make_clip):
    path = make_clip(5)
    with edge.Recognizer(path) as recognizer:
        next(iter(recognizer))
        with pytest.raises(edge.OptionError, match="already in use by 'iterate'"):
            recognizer.latest()
        with pytest.raises(edge.OptionError, match="already in use by 'iterate'"):
            recognizer.process(np.zeros((32, 32, 3), np.uint8))
    with edge.Recognizer() as recognizer, pytest.raises(edge.OptionError, match="has no source"):
        next(iter(recognizer))


def test_closing_twice_and_using_after(make_clip):
    recognizer = edge.Recognizer(make_clip(50))
    results = iter(recognizer)
    next(results)
    begun = time.monotonic()
    recognizer.close()
    recognizer.close()
    assert time.monotonic() - begun < 2
    with pytest.raises(edge.ClosedError, match=r"clip\.mp4: the recognizer was closed before the end"):
        list(results)
    with pytest.raises(edge.ClosedError, match="closed; make a new one"):
        recognizer.latest()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edge-")]


def test_leaving_the_loop_early_leaves_no_thread(make_clip):
    with edge.Recognizer(make_clip(100)) as recognizer:
        for result in recognizer:
            if result.frame == 3:
                break
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("edge-")])


def test_a_truncated_clip_gives_its_frames_and_then_the_error(make_clip, tmp_path):
    data = make_clip(60, "clip.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    results = []
    with edge.Recognizer(tmp_path / "half.avi") as recognizer:
        with pytest.raises(edge.SourceError, match="truncated"):
            for result in recognizer:
                results.append(result)
    assert 20 < len(results) < 40


def test_a_stage_that_raises_reaches_the_consumer_at_once(make_clip, monkeypatch):
    for half in ("look", "answer"):
        for consume in (lambda r: list(r), lambda r: [r.latest(1e6) for _ in iter(int, 1)]):
            recognizer = edge.Recognizer(make_clip(50))
            whole, broke = getattr(recognizer._pipeline, half), []

            def fail(one, half=half, whole=whole, broke=broke):
                if (one if half == "look" else one.frame).index > 2:
                    broke.append(time.monotonic())
                    raise RuntimeError("stage broke")
                return whole(one)

            monkeypatch.setattr(recognizer._pipeline, half, fail)
            with recognizer, pytest.raises(RuntimeError, match="stage broke"):
                consume(recognizer)
            assert time.monotonic() - broke[0] < 1


def test_latest_is_fresh_or_raises(make_clip):
    with edge.Recognizer(make_clip(50)) as recognizer:
        first = recognizer.latest(max_age_ms=1000)
        wait_until(lambda: recognizer.latest(max_age_ms=1000).frame > first.frame)
        with pytest.raises(edge.StaleResultError, match=r"newest result is \d+ ms old, allowed 0 ms"):
            recognizer.latest(max_age_ms=0)
        wait_until(lambda: recognizer._newest.ended)
        time.sleep(0.15)
        with pytest.raises(edge.StaleResultError, match="the source has ended"):
            recognizer.latest(max_age_ms=100)


def test_latest_plays_a_file_at_its_own_speed(make_clip):
    with edge.Recognizer(make_clip(50)) as recognizer:
        recognizer.latest(1000)
        begun = time.monotonic()
        wait_until(lambda: recognizer._newest.ended)
        assert 1.5 < time.monotonic() - begun < 4, "50 frames at 25 a second last two seconds"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "backend 'cuda' is unknown; expected one of auto, onnxruntime, tensorrt"),
        ({"precision": "int4"}, "precision 'int4' is unknown; expected one of auto, fp32, fp16, int8"),
        ({"landmarks": "7"}, "landmarks '7' is unknown; expected one of 5, 68"),
        ({"drop": "newest"}, "drop 'newest' is unknown; expected one of wait, drop_oldest"),
        ({"min_face": 4}, "min_face is 4; expected a whole number of pixels, 20 or more"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(edge.OptionError, match=message):
        edge.Recognizer(**options)


def test_no_substitutes(face_bundle):
    with pytest.raises(edge.BackendError, match="tensorrt backend .* type: --backend onnxruntime"):
        edge.Recognizer(backend="tensorrt")
    with pytest.raises(edge.BundleError, match="no fp16 graph in this bundle; it has fp32"):
        edge.Recognizer(bundle=face_bundle, precision="fp16")


def test_every_visible_face_of_60_pixels(shared):
    """Counts and places were read off the photographs by eye; faces of 36 to 60 pixels are a bonus."""
    expected = {
        "2007_007763.jpg": 7,
        "2008_001322.jpg": 3,
        "2008_002506.jpg": 3,
        "2008_004176.jpg": 7,
        "2009_004587.jpg": 2,
    }
    for name, count in expected.items():
        with edge.Recognizer(shared / "media" / name) as recognizer:
            (result,) = recognizer
        assert len(result.faces) == count, name
        assert all(face.state is not edge.FaceState.WARMING_UP for face in result.faces)
