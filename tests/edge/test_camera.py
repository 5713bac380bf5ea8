"""Sources: what can't be read is told in one line; what can is delivered whole and in order."""

import threading
import time

import cv2
import numpy as np
import pytest

import edge
from edge.camera import FolderSource, PictureSource, VideoSource, open_source
from edge.source import SourceState, read_picture
from edge.synthetic import SyntheticSource


def refusal(source):
    """The message with which opening or reading a source fails."""
    with pytest.raises(edge.SourceError) as caught:
        opened = open_source(source)
        try:
            for _ in opened:
                pass
        finally:
            opened.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing(tmp_path):
    assert "no such file or folder; give a video, a picture" in refusal(tmp_path / "none.mp4")
    assert "no such file or folder" in refusal(f"file://{tmp_path}/none.mp4")
    assert "no such folder" in refusal(f"dir://{tmp_path}/none")


def test_empty_and_not_a_video(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert "is empty; expected a video or a picture" in refusal(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    assert "not a video or picture that can be read" in refusal(tmp_path / "text.mp4")


def test_a_video_without_its_end_is_not_taken_for_a_whole_one(make_clip, tmp_path):
    whole = make_clip(60, "clip.avi")
    data = whole.read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    message = refusal(tmp_path / "half.avi")
    assert "the file is truncated" in message
    assert "of 60 frames" in message
    mp4 = make_clip(60, "clip.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(mp4[: len(mp4) // 2])
    assert "not a video or picture that can be read" in refusal(tmp_path / "half.mp4")


def test_folders(tmp_path, portrait):
    assert "no picture in this folder" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    assert "no picture in this folder" in refusal(tmp_path)
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), portrait[: 100 if name == "a.jpg" else 200])
    frames = list(open_source(f"dir://{tmp_path}?fps=10"))
    assert [frame.image.shape[0] for frame in frames] == [100, 200]
    assert [frame.captured_ns for frame in frames] == [0, 100_000_000]
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:5000])
    assert "c.png: the picture is truncated" in refusal(tmp_path)


def test_pictures(tmp_path, portrait):
    path = tmp_path / "face.jpg"
    cv2.imwrite(str(path), portrait)
    source = open_source(path)
    assert isinstance(source, PictureSource)
    assert not source.follows
    (frame,) = source
    assert (frame.index, frame.captured_ns, frame.image.shape) == (0, 0, (512, 512, 3))
    path.write_bytes(path.read_bytes()[:9000])
    assert "face.jpg: the picture is truncated; copy it again" in refusal(path)
    with pytest.raises(edge.SourceError, match="can't be read"):
        read_picture(tmp_path / "none.jpg")


def test_a_grey_picture_becomes_three_channels(tmp_path, portrait):
    cv2.imwrite(str(tmp_path / "grey.png"), cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY))
    assert read_picture(tmp_path / "grey.png").shape == (512, 512, 3)


def test_videos_keep_every_frame_and_its_time(make_clip):
    path = make_clip(30)
    source = open_source(path)
    assert isinstance(source, VideoSource)
    assert source.fps == 25
    frames = list(source)
    source.close()
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.captured_ns for frame in frames] == [index * 40_000_000 for index in range(30)]
    assert frames[0].read_ns <= frames[-1].read_ns


def test_file_names_with_signs_of_a_uri(make_clip, tmp_path):
    odd = tmp_path / "a b?c#d%20e.mp4"
    odd.write_bytes(make_clip(5).read_bytes())
    assert len(list(open_source(f"file://{odd}"))) == 5
    assert len(list(open_source(odd))) == 5
    (tmp_path / "a b.mp4").write_bytes(odd.read_bytes())
    assert len(list(open_source(f"file://{tmp_path}/a%20b.mp4"))) == 5


def test_cameras_that_are_not_there():
    assert "/dev/video99: no such camera; cameras here: " in refusal(99)
    assert "/dev/video99: no such camera" in refusal("99")
    assert "/dev/video99: no such camera" in refusal("v4l2:///dev/video99")


def test_uris_that_are_not_understood():
    assert "unknown kind of source 'gopher'; expected file://, dir://, v4l2://, csi://, rtsp://" in refusal(
        "gopher://x"
    )
    assert "unknown option 'colour'; expected width, height, fps, frames" in refusal("synthetic://?colour=1")
    assert "fps='fast' is not a positive number" in refusal("synthetic://?fps=fast")
    assert "frames='-3' is not a positive number" in refusal("synthetic://?frames=-3")


def test_the_synthetic_camera_repeats_itself_exactly():
    one, two = SyntheticSource(frames=5), open_source("synthetic://?frames=5")
    for first, second in zip(one, two, strict=True):
        assert first.captured_ns == second.captured_ns
        assert np.array_equal(first.image, second.image)


def test_a_plain_folder_is_a_source(tmp_path, portrait):
    cv2.imwrite(str(tmp_path / "a.png"), portrait)
    assert isinstance(open_source(str(tmp_path)), FolderSource)


def test_damage_in_the_middle_of_a_video_is_skipped_and_counted(make_clip, tmp_path):
    data = bytearray(make_clip(60).read_bytes())
    start = data.index(b"mdat")
    middle = start + (data.index(b"moov") - start) // 2
    data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    (tmp_path / "hurt.mp4").write_bytes(data)
    source = open_source(tmp_path / "hurt.mp4")
    frames = list(source)
    source.close()
    health = source.health
    assert health.corrupt > 0
    assert health.frames == len(frames)
    assert health.frames + health.corrupt == 60
    assert frames[-1].index == 59
    assert [frame.captured_ns for frame in frames] == [frame.index * 40_000_000 for frame in frames]
    assert health.state is SourceState.ENDED
    with edge.Recognizer(tmp_path / "hurt.mp4") as recognizer:
        assert [result.frame for result in recognizer] == [frame.index for frame in frames]


def test_a_video_may_change_its_size(tmp_path, portrait):
    """Every frame comes; OpenCV brings it to the size of the first."""
    small, large = portrait[:384, :384], cv2.resize(portrait[:384, :384], (640, 640))
    pictures = [small] * 6 + [large] * 6 + [cv2.resize(small, (200, 200))] * 6
    (tmp_path / "mixed.mjpeg").write_bytes(b"".join(cv2.imencode(".jpg", one)[1].tobytes() for one in pictures))
    with edge.Recognizer(tmp_path / "mixed.mjpeg") as recognizer:
        pairs = list(recognizer.with_frames())
    assert [frame.image.shape for frame, _ in pairs] == [(384, 384, 3)] * 18
    assert all(result.faces for _, result in pairs)
    assert {face.id for _, result in pairs for face in result.faces} == {1}


def test_pictures_handed_over_may_change_their_size(portrait):
    face = portrait[:384, :384]
    sizes = [384, 640, 300]
    with edge.Recognizer(cv2.resize(face, (side, side)) for side in sizes for _ in range(6)) as watching:
        pairs = list(watching.with_frames())
    assert [frame.image.shape[0] for frame, _ in pairs] == [side for side in sizes for _ in range(6)]
    assert sum(bool(result.faces) for _, result in pairs) >= 15


def test_closing_while_a_video_is_read(make_clip):
    path = make_clip(200)
    for _ in range(20):
        source = open_source(path)
        reader = threading.Thread(target=lambda source=source: [None for _ in source])
        reader.start()
        time.sleep(0.005)
        source.close()
        source.close()
        reader.join(2)
        assert not reader.is_alive()
        assert source.health.state is SourceState.ENDED


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("v4l2:///dev/video99?width=1280&height=720&fps=30&mjpg=1", "/dev/video99: no such camera"),
        ("v4l2:///dev/video99?wide=1", "unknown option 'wide'; expected width, height, fps, mjpg, frozen, give_up"),
        ("v4l2:///dev/video99?width=12.5", "width='12.5' is not a positive number"),
        ("v4l2:///dev/video99?width=nan", "width='nan' is not a positive number"),
        ("v4l2:///dev/video99?frozen=-1", "frozen='-1' is not a number from 0"),
        ("csi://", "expected the camera's number, as in csi://0"),
        ("csi://left", "expected the camera's number, as in csi://0"),
        ("csi://0?turn=1", "unknown option 'turn'; expected width, height, fps, flip, frozen, give_up"),
        ("csi://0?flip=8", "flip='8' is not a whole number from 0 below 8"),
        ("dir:///tmp?fsp=3", "unknown option 'fsp'; expected fps"),
        ("rtsp://", "not an address; expected rtsp://user:password@host:554/path"),
        ("http://", "not an address; expected http://user:password@host/path"),
    ],
)
def test_options_of_cameras(uri, message):
    assert message in refusal(uri)
