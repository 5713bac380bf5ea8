"""Sources: what can't be read is told in one line; what can is delivered whole and in order."""

import cv2
import numpy as np
import pytest

import edge
from edge.camera import FolderSource, PictureSource, VideoSource, open_source
from edge.source import read_picture
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
