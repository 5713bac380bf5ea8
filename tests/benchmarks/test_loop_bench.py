"""The loop's benchmark: a clip of its own, figures of the loop that ships, and what they must at least be."""

import json

import cv2
import numpy as np
import pytest

import edge
from benchmarks.loop import (
    at_pace,
    main,
    network_at_pace,
    parts_alone,
    report,
    resident_mb,
    seen,
    talking_head,
    whole_loop,
    work,
    write_clip,
)
from edge.types import Box, Face, FaceState, Result


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "talking_head.mp4"
    write_clip(path, 60)
    return path


def test_the_talking_head_is_the_same_each_time_and_moves():
    one, other = (list(talking_head(3)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert one[0].shape == (336, 596, 3)
    assert one[0].dtype == np.uint8
    assert np.abs(one[0].astype(int) - one[2]).mean() > 1


def test_a_talking_head_keeps_its_face_its_id_and_its_label(clip):
    found = whole_loop(str(clip), {"landmarks": "5"})
    assert found["frames"] == 60
    assert found["with_face"] >= 0.97
    assert found["ids"] == 1
    assert found["label_changes_per_100"] <= 5
    assert set(found["stages_ms"]) == {"detect", "landmarks", "align", "infer", "smooth", "total"}
    assert len(found["age_ms"]) == 60
    assert min(found["age_ms"]) > 0
    assert found["first_result_s"] < 5


def test_the_parts_are_those_that_ship(clip):
    assert set(parts_alone(str(clip), {"landmarks": "5"}, 10)) == {"read", "look", "answer"}


def test_the_cost_of_a_frame_is_flat(clip):
    """In time of a core, so that another load on the machine does not count."""
    spent = work(str(clip), {"landmarks": "5"})
    assert spent["p99"] <= 2 * spent["p50"]


def test_at_a_cameras_pace_every_picture_is_answered(clip, capsys):
    found = at_pace(str(clip), 50, 1.6, {"landmarks": "5"})
    assert found["given"] == found["results"] == 80, "the clip's 60 frames, and again from its beginning"
    assert 0 < found["age_ms"]["p50"] <= found["age_ms"]["p99"]
    assert 0 < found["network_ms"]["p50"] < found["age_ms"]["p50"], (
        "a result is no younger than the network's part of it"
    )
    assert main(["--pace", "50", "--seconds", "0.5", "--video", str(clip)]) == 0
    told = capsys.readouterr().out
    assert "25 results of 25 pictures at 50 a second" in told
    assert "bare network at that pace" in told


def test_a_video_without_a_face_says_so_at_a_pace(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "grey.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 240))
    for _ in range(3):
        writer.write(np.full((240, 320, 3), 128, np.uint8))
    writer.release()
    with pytest.raises(SystemExit, match="no face is found in it"):
        network_at_pace(str(tmp_path / "grey.mp4"), 50, 0.1, {"landmarks": "5"})


def test_changes_are_counted_by_face():
    def result(frame, *faces):
        box = Box(0, 0, 9, 9)
        made = tuple(Face(number, box, label, 0.5, {}, state) for number, label, state in faces)
        return Result(frame, frame, made, {})

    ok, lost = FaceState.OK, FaceState.LOST
    found = seen(
        [
            result(0, (1, "happy", ok), (2, "sad", ok)),
            result(1, (1, "happy", ok), (2, "happy", ok)),
            result(2, (1, "happy", lost)),
            result(3),
        ]
    )
    assert found == {"with_face": 0.5, "ids": 2, "label_changes_per_100": 25.0}


def test_memory(clip):
    assert 20 < resident_mb() <= resident_mb(peak=True)


def test_from_the_command_line(clip, tmp_path, capsys):
    target = tmp_path / "found.json"
    assert main(["--seconds", "0", "--video", str(clip), "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["rounds"] == 1
    assert report(found) in capsys.readouterr().out
    assert 0 < found["stages_ms"]["total"]["p50"] <= found["stages_ms"]["total"]["p99"]
    assert main(["--video", str(tmp_path / "none.mp4")]) == 2
    assert "none.mp4" in capsys.readouterr().err


def test_the_loop_alone_stays_small(clip):
    """In a process of its own, with the smaller landmarks: under 200 MB."""
    import subprocess
    import sys

    code = (
        "import sys; from benchmarks.loop import whole_loop, resident_mb;"
        "whole_loop(sys.argv[1], {'landmarks': '5'}); print(resident_mb(peak=True))"
    )
    root = str(__import__("pathlib").Path(edge.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, str(clip)], capture_output=True, text=True, cwd=root, timeout=60)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 200
