"""From a corpus to examples: the robot's own crops, cached, resumed, and the same from any number of processes."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.bundle import Alignment, InputSpec, Normalisation
from edge.errors import OptionError
from edge.faces.detect import Detection, FaceDetector
from edge.faces.landmarks import Landmarks
from edge.flow import CLG, flow, flow_image
from edge.preprocess import face_crop
from edge.types import Box, Frame
from train import prepare as module
from train.datasets import fer2013
from train.datasets.errors import CorpusError
from train.datasets.samples import Corpus, Sample
from train.models import FAMILIES
from train.models.family import Window
from train.prepare import MIN_FACE, brighten, cached_file, prepare, windows

ROOT = Path(__file__).resolve().parents[2]
EYES = Alignment((0.316, 0.398), (0.684, 0.398))


def spec(kind="face", frames=1, side=48, colour="grey"):
    channels = 1 if colour == "grey" else 3
    time_axis = () if kind == "face" else (frames,)
    return InputSpec(
        kind, kind, (1, *time_axis, channels, side, side), "float32", colour, "area", Normalisation("per_image"), EYES
    )


FACE, CLIP = (spec(),), (spec("clip", 8, 64),)


def corpus(*samples, name="ours", root=Path("data")):
    return Corpus(name, root, ("happy", "sad"), tuple(samples), None, "")


def sample(source, label="happy", subject="S1", split=None, facts=()):
    path = source[0] if isinstance(source, tuple) else source
    return Sample(source, label, subject, path.stem, split, facts)


@pytest.fixture(scope="module")
def pictures(portrait, tmp_path_factory):
    """Six different frontal faces as files."""
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for i in range(6):
        matrix = cv2.getRotationMatrix2D((224, 118), 3 * i - 8, 0.9 + 0.05 * i)
        view = cv2.warpAffine(portrait, matrix, (448, 320), borderMode=cv2.BORDER_REPLICATE)
        files.append(folder / f"{i}.png")
        cv2.imwrite(str(files[-1]), view)
    return files


@pytest.fixture(scope="module")
def clip(make_clip):
    return make_clip(frames=20)


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    path = tmp_path_factory.mktemp("blank") / "blank.png"
    cv2.imwrite(str(path), np.full((200, 200, 3), 127, np.uint8))
    return path


def run(data, inputs, window, cache, **options):
    return prepare(data, inputs, window, cache, **{"workers": 1, "progress": False, **options})


def same(one, other):
    assert list(one.arrays) == list(other.arrays)
    for name in one.arrays:
        assert np.array_equal(one.arrays[name], other.arrays[name])
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.originals, other.originals)
    assert (one.subjects, one.sequences, one.splits) == (other.subjects, other.sequences, other.splits)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_becomes_the_crop_that_the_robot_would_cut(pictures, tmp_path):
    inputs = (spec(), replace(spec(side=96, colour="rgb"), name="large"))
    data = corpus(sample(pictures[0]), sample(pictures[1], "sad", "S2", "val"))
    examples = run(data, inputs, Window(1), tmp_path).examples
    assert (examples.corpus, examples.names) == ("ours", ("happy", "sad"))
    assert examples.labels.tolist() == [0, 1]
    assert (examples.subjects, examples.sequences, examples.splits) == (("S1", "S2"), ("0", "1"), (None, "val"))
    assert examples.originals.all()
    assert not examples.synthetic
    image = cv2.imread(str(pictures[1]))
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    landmarks = Landmarks()
    eyes = landmarks.eyes(landmarks.points(grey, FaceDetector(MIN_FACE).find(grey)[0].box))
    for one in inputs:
        assert examples.arrays[one.name].dtype == np.uint8
        assert np.array_equal(examples.arrays[one.name][1], face_crop(image, eyes, one))
    assert examples.arrays["large"].shape == (2, 96, 96, 3)


def test_of_two_faces_the_larger_is_taken(pictures, tmp_path):
    large = cv2.imread(str(pictures[0]))
    both = np.full((320, 700, 3), 90, np.uint8)
    both[:160, :224] = cv2.resize(large, (224, 160))
    both[:, 252:] = large
    path = tmp_path / "both.png"
    cv2.imwrite(str(path), both)
    crops = run(corpus(sample(path), sample(pictures[0])), FACE, Window(1), tmp_path / "cache").examples.arrays["face"]
    assert np.abs(crops[0].astype(int) - crops[1]).mean() < 4
    assert module._largest([Box(0, 0, 9, 9), Box(5, 5, 20, 20), Box(1, 1, 19, 19)]).width == 20


def test_grey_pictures_are_read(pictures, tmp_path):
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), cv2.imread(str(pictures[0]), cv2.IMREAD_GRAYSCALE))
    assert len(run(corpus(sample(path)), FACE, Window(1), tmp_path / "cache").examples) == 1


def test_a_crop_of_the_right_size_is_taken_as_it_is(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    path = tmp_path / "crop.png"
    cv2.imwrite(str(path), noise)
    assert np.array_equal(run(corpus(sample(path)), FACE, Window(1), tmp_path / "c").examples.arrays["face"][0], noise)
    with pytest.raises(CorpusError, match="no face found"):
        run(corpus(sample(path)), (spec(side=64),), Window(1), tmp_path / "c")


@pytest.mark.parametrize("form", ["npz", "csv", "folders"])
def test_fer2013_in_any_form(form, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 48, 48), dtype=np.uint8)
    if form == "npz":
        np.savez(tmp_path / "train.npz", x=pixels, y=np.arange(7))
    elif form == "csv":
        rows = [f"{i},{' '.join(map(str, one.ravel()))},Training" for i, one in enumerate(pixels)]
        (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "\n".join(rows) + "\n")
    else:
        for name, one in zip(fer2013.NAMES, pixels, strict=True):
            (tmp_path / "train" / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "train" / name / "1.png"), one)
    data = fer2013.parse(tmp_path)
    prepared = run(data, FACE, Window(1), tmp_path / "cache", jitter=2)
    examples = prepared.examples
    assert len(examples) == 21
    assert examples.originals.tolist() == [True, False, False] * 7
    for i in range(7):
        label = examples.labels[3 * i]
        assert np.array_equal(examples.arrays["face"][3 * i], pixels[label])
    # The face stands where FER2013 has it, at any size.
    large = run(data, FAMILIES["dam_cnn"].inputs(FAMILIES["dam_cnn"].config()), Window(1), tmp_path / "cache").examples
    assert large.arrays["face"].shape == (7, 224, 224, 3)


def test_jitter_disturbs_the_eyes_of_training_pictures_only(pictures, tmp_path):
    data = corpus(sample(pictures[0], split="train"), sample(pictures[1], split="test"), sample(pictures[2]))
    plain = run(data, FACE, Window(1), tmp_path).examples
    examples = run(data, FACE, Window(1), tmp_path, jitter=3).examples
    assert examples.originals.tolist() == [True, False, False, False, True, True, False, False, False]
    same(examples.subset(np.flatnonzero(examples.originals)), plain)
    assert examples.sequences == ("0",) * 4 + ("1",) + ("2",) * 4
    crops = examples.arrays["face"].astype(int)
    assert len({crop.tobytes() for crop in crops}) == 9
    # Moved by pixels, not replaced.
    assert all(0.5 < np.abs(crops[i] - crops[0]).mean() < 60 for i in (1, 2, 3))
    same(run(data, FACE, Window(1), tmp_path / "again", jitter=3).examples, examples)
    other = run(data, FACE, Window(1), tmp_path, jitter=3, seed=1).examples
    assert not np.array_equal(other.arrays["face"], examples.arrays["face"])


def test_the_size_of_the_jitter(monkeypatch):
    """Three pixels of standard deviation where the eyes are 90 apart, on every coordinate."""
    seen = []
    monkeypatch.setattr(module, "face_crop", lambda image, eyes, spec: seen.append(eyes) or image)
    eyes = np.array([[100, 50], [280, 50]], np.float32)
    module._jittered(np.zeros((9, 9, 3), np.uint8), eyes, FACE, 2000, np.random.default_rng(0))
    assert np.array_equal(seen[0], eyes)
    assert np.std(np.stack(seen[1:]) - eyes, axis=0) == pytest.approx(6, rel=0.06)


def test_gamma_brightens_dark_pictures_only(pictures, tmp_path):
    bright = cv2.imread(str(pictures[0]))
    dark = (bright // 4).astype(np.uint8)
    assert np.array_equal(brighten(np.full((9, 9, 3), 200, np.uint8), 1.5), np.full((9, 9, 3), 200))
    assert brighten(np.full((9, 9, 3), 60, np.uint8), 1.5)[0, 0, 0] == round(255 * (60 / 255) ** (1 / 1.5))
    path = tmp_path / "dark.png"
    cv2.imwrite(str(path), dark)
    means = [
        run(corpus(sample(path)), FACE, Window(1), tmp_path / "c", gamma=gamma).examples.arrays["face"].mean()
        for gamma in (1.0, 1.5)
    ]
    assert means[1] > 1.3 * means[0]


# -- sequences --------------------------------------------------------------------------------------------------------


def test_windows():
    def lists(*arguments):
        return [one.tolist() for one in windows(*arguments)]

    assert lists(8, 8, 0) == [list(range(8))]
    assert lists(15, 8, 0) == [[0, 2, 4, 6, 8, 10, 12, 14]]
    assert lists(20, 8, 0) == [[0, 3, 5, 8, 11, 14, 16, 19]]
    assert lists(3, 8, 0) == [[0, 0, 1, 1, 1, 1, 2, 2]]
    assert lists(1, 8, 0) == [[0] * 8]
    assert lists(20, 8, 8) == [list(range(8)), list(range(8, 16))]
    assert lists(16, 8, 4) == [list(range(8)), list(range(4, 12)), list(range(8, 16))]
    assert lists(7, 8, 8) == [[0, 1, 2, 3, 3, 4, 5, 6]]
    assert lists(9, 1, 0) == [[4]]
    assert lists(5, 1, 2) == [[0], [2], [4]]
    for frames in range(1, 60):
        for one in windows(frames, 8, 0):
            assert one[0] == 0
            assert one[-1] == frames - 1
            assert (np.diff(one) >= 0).all()
            assert np.ptp(np.diff(one)) <= 1


@pytest.fixture(scope="module")
def prepared_clip(clip, tmp_path_factory):
    """Every frame's crop, from which the windows' choices are checked."""
    cache = tmp_path_factory.mktemp("cache")
    return run(corpus(sample(clip)), (spec("clip", 20, 64),), Window(20), cache).examples.arrays["clip"][0]


def test_a_video_becomes_a_uniform_clip(clip, prepared_clip, tmp_path):
    examples = run(corpus(sample(clip)), CLIP, Window(8), tmp_path).examples
    assert examples.arrays["clip"].shape == (1, 8, 64, 64)
    assert np.array_equal(examples.arrays["clip"][0], prepared_clip[windows(20, 8, 0)[0]])
    # The face is held in place while the camera moves.
    assert np.abs(np.diff(examples.arrays["clip"][0].astype(int), axis=0)).mean() < 12


def test_segments_of_one_video_share_its_sequence(clip, prepared_clip, tmp_path):
    examples = run(corpus(sample(clip, "sad")), CLIP, Window(8, stride=4), tmp_path).examples
    assert examples.arrays["clip"].shape == (4, 8, 64, 64)
    for i in range(4):
        assert np.array_equal(examples.arrays["clip"][i], prepared_clip[4 * i : 4 * i + 8])
    assert examples.labels.tolist() == [1] * 4
    assert examples.sequences == ("clip",) * 4
    assert examples.originals.all()


def test_flows_lie_between_consecutive_crops_and_the_first_crop_is_dropped(clip, prepared_clip, tmp_path):
    inputs = (spec("clip", 4, 64), spec("flow", 4, 64, "rgb"))
    window = Window(5, stride=5, flows=True)
    examples = run(corpus(sample(clip)), inputs, window, tmp_path).examples
    assert examples.arrays["clip"].shape == (4, 4, 64, 64)
    assert examples.arrays["flow"].shape == (4, 4, 64, 64, 3)
    assert np.array_equal(examples.arrays["clip"][1], prepared_clip[6:10])
    for k, i in enumerate(range(5, 9)):
        wanted = flow_image(flow(prepared_clip[i], prepared_clip[i + 1], "dis"))
        assert np.array_equal(examples.arrays["flow"][1, k], wanted)
    alone = run(corpus(sample(clip)), inputs[1:], window, tmp_path, flow=CLG(iterations=5)).examples
    assert list(alone.arrays) == ["flow"]
    wanted = flow_image(flow(prepared_clip[0], prepared_clip[1], CLG(iterations=5)))
    assert np.array_equal(alone.arrays["flow"][0, 0], wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_what_it_eats(name, clip, pictures, tmp_path):
    family = FAMILIES[name]
    config = family.config()
    inputs, window = family.inputs(config), family.window(config)
    source = pictures[0] if window.length == 1 else clip
    examples = run(corpus(sample(source)), inputs, window, tmp_path).examples
    for one in inputs:
        channels = () if one.colour == "grey" else (3,)
        time_axis = () if one.kind == "face" else (one.shape[1],)
        assert examples.arrays[one.name].shape == (1, *time_axis, one.height, one.width, *channels)


def frames_of(clip, folder, absent=()):
    """The clip's frames as files, those in ``absent`` without the face."""
    capture = cv2.VideoCapture(str(clip))
    files = []
    while True:
        read, image = capture.read()
        if not read:
            break
        files.append(folder / f"{len(files):03}.png")
        cv2.imwrite(str(files[-1]), np.full_like(image, 80) if len(files) - 1 in absent else image)
    capture.release()
    return tuple(files)


def test_frames_are_a_video(clip, prepared_clip, tmp_path):
    files = frames_of(clip, tmp_path)
    examples = run(corpus(sample(files)), CLIP, Window(8), tmp_path / "cache").examples
    assert np.array_equal(examples.arrays["clip"][0], prepared_clip[windows(20, 8, 0)[0]])


@pytest.mark.parametrize(
    ("absent", "why"),
    [
        ({7, 8, 9}, None),
        ({0, 1}, None),
        ({18, 19}, None),
        (set(range(3, 18)), "no face found for more than 0.5 s from 0.08 s on"),
        (set(range(14)), "no face found for more than 0.5 s from the start on"),
        (set(range(20)), "no face found for more than 0.5 s from the start on"),
    ],
)
def test_a_short_gap_is_bridged_and_a_long_one_is_not(absent, why, clip, pictures, tmp_path):
    files = frames_of(clip, tmp_path, absent)
    data = corpus(sample(files), sample(clip))
    prepared = run(data, CLIP, Window(8), tmp_path / "cache")
    if why is None:
        assert len(prepared.examples) == 2
        assert not prepared.failed
        # Frames are neither left out nor made up: the blank ones are cut like the others.
        flat = np.ptp(prepared.examples.arrays["clip"][0], axis=(1, 2)) == 0
        assert flat.tolist() == [i in absent for i in windows(20, 8, 0)[0]]
    else:
        assert prepared.failed == ((files[0], why),)
        assert prepared.examples.sequences == ("clip",)


def test_the_largest_face_is_followed_and_no_other_takes_its_place():
    """The large face is never the detector's first; when it is away, the small one is not taken for it."""
    small, large = Box(10, 10, 40, 40), Box(100, 20, 90, 90)
    views = [[small, large], [small, large], [small], [small, large]]

    class Detector:
        def find(self, grey):
            return [Detection(box, 1.0) for box in views[grey[0, 0]]]

        def find_near(self, grey, known):
            return [one for one in self.find(grey) if any(one.box.iou(box) > 0.5 for box in known)]

    class Marks:
        def points(self, grey, box):
            return np.array([box.centre, box.centre], np.float32)

        def eyes(self, points):
            return points

    frames = (Frame(i, 40_000_000 * i, np.full((200, 200, 3), i, np.uint8)) for i in range(4))
    followed = list(module._Follower(Detector(), Marks()).follow(frames))
    assert [int(image[0, 0, 0]) for image, _ in followed] == [0, 1, 2, 3]
    assert all(eyes[0].tolist() == list(large.centre) for _, eyes in followed)


def test_a_short_blank_sequence_fails(blank, clip, tmp_path):
    prepared = run(corpus(sample((blank,) * 3), sample(clip)), CLIP, Window(8), tmp_path)
    assert prepared.failed == ((blank, "no face found in any frame"),)


def test_a_still_is_no_clip(pictures, clip, tmp_path):
    prepared = run(corpus(sample(pictures[0]), sample(clip)), CLIP, Window(8), tmp_path)
    assert prepared.failed == ((pictures[0], "a still picture, where the network wants 8 frames"),)


# -- the cache --------------------------------------------------------------------------------------------------------


def test_what_is_missing_or_damaged_is_made_again_and_nothing_else(pictures, tmp_path):
    data = corpus(*(sample(path) for path in pictures))
    first = run(data, FACE, Window(1), tmp_path)
    assert first.computed == 6
    files = sorted(tmp_path.glob("??/*.npz"))
    assert len(files) == 6
    assert all(file.parent.name == file.name[:2] for file in files)
    assert run(data, FACE, Window(1), tmp_path).computed == 0
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:700])
    damaged = bytearray(files[2].read_bytes())
    damaged[400] ^= 255
    files[2].write_bytes(damaged)
    np.savez(files[3], face=np.zeros((1, 3, 3), np.uint8))
    again = run(data, FACE, Window(1), tmp_path)
    assert again.computed == 4
    same(again.examples, first.examples)


def test_a_file_that_moves_is_known_and_one_that_changes_is_not(pictures, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(pictures[0].read_bytes())
    assert run(corpus(sample(path)), FACE, Window(1), tmp_path / "c").computed == 1
    moved = path.rename(tmp_path / "b.png")
    assert run(corpus(sample(moved)), FACE, Window(1), tmp_path / "c").computed == 0
    moved.write_bytes(pictures[1].read_bytes())
    assert run(corpus(sample(moved)), FACE, Window(1), tmp_path / "c").computed == 1


def test_every_parameter_that_shapes_pixels_is_in_the_key(make_clip, tmp_path, monkeypatch):
    clip, flows = make_clip(frames=6), (spec("flow", 4, 64, "rgb"),)

    def computed(inputs=flows, window=Window(5, 5, True), **options):  # noqa: B008
        return run(corpus(sample(clip)), inputs, window, tmp_path, **options).computed

    assert computed() == 1
    assert computed() == 0
    assert computed(inputs=(replace(flows[0], normalisation=Normalisation("fixed", (0.0,) * 3, (1.0,) * 3)),)) == 0
    changed = [
        {"inputs": (spec("flow", 4, 56, "rgb"),)},
        {"inputs": (replace(flows[0], interpolation="linear"),)},
        {"inputs": (replace(flows[0], alignment=Alignment((0.3, 0.4), (0.7, 0.4))),)},
        {"window": Window(5, 0, True)},
        {"window": Window(5, 4, True)},
        {"flow": "clg"},
        {"flow": CLG(alpha=11.0)},
        {"gamma": 1.5},
        {"landmarks": "68"},
        {"seed": 1},
    ]
    for options in changed:
        assert computed(**options) == 1, options
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert computed() == 1


def test_a_killed_run_goes_on_where_it_was(pictures, clip, tmp_path):
    """Killed without warning once the first results are there; the next run does the rest, to the same end."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/train')\n"
        "import test_prepare as t\n"
        "files = [Path(one) for one in sys.argv[2:]]\n"
        "t.run(t.corpus(*map(t.sample, files)), t.FACE, t.Window(1), Path(sys.argv[1]))\n"
    )
    cache = tmp_path / "cache"
    sources = [*pictures[:2], clip, *pictures[2:]]
    process = subprocess.Popen([sys.executable, "-c", code, str(cache), *map(str, sources)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(list(cache.glob("??/*.npz"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(cache.glob("??/*.npz")))
    assert 2 <= done < 7
    data = corpus(*map(sample, sources))
    resumed = run(data, FACE, Window(1), cache)
    assert resumed.computed == 7 - done
    same(resumed.examples, run(data, FACE, Window(1), tmp_path / "other").examples)


def test_sources_that_can_not_be_used_are_listed(pictures, clip, blank, tmp_path):
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(pictures[0].read_bytes()[:9000])
    empty, text, absent, small = (tmp_path / name for name in ("empty.jpg", "text.mp4", "absent.png", "small.png"))
    empty.touch()
    text.write_text("not a video")
    cv2.imwrite(str(small), np.zeros((8, 8, 3), np.uint8))
    cut = tmp_path / "cut.avi"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    bad = [truncated, empty, text, absent, small, cut, blank]
    prepared = run(corpus(*(sample(path) for path in [*bad, pictures[0]])), FACE, Window(1), tmp_path / "cache")
    assert [path for path, _ in prepared.failed] == bad
    reasons = dict(prepared.failed)
    assert "truncated" in reasons[truncated]
    assert "empty" in reasons[empty]
    assert "not a video" in reasons[text]
    assert "can't be read" in reasons[absent]
    assert "8x8" in reasons[small]
    assert reasons[blank] == "no face found"
    assert all("\n" not in why and str(tmp_path) not in why for why in reasons.values())
    assert len(prepared.examples) == 1


def test_failures_that_will_recur_are_remembered(blank, pictures, tmp_path):
    data = corpus(sample(blank), sample(pictures[0]))
    first = run(data, FACE, Window(1), tmp_path)
    again = run(data, FACE, Window(1), tmp_path)
    assert (first.computed, again.computed) == (2, 0)
    assert first.failed == again.failed == ((blank, "no face found"),)


def test_when_nothing_works_the_message_says_why(blank, tmp_path):
    with pytest.raises(CorpusError, match=r"none of the 1 samples of ours .*1 x no face found, as .*blank\.png"):
        run(corpus(sample(blank)), FACE, Window(1), tmp_path)
    with pytest.raises(CorpusError, match="has no samples"):
        run(corpus(), FACE, Window(1), tmp_path)


def test_large_arrays_are_mapped_from_files(pictures, tmp_path, monkeypatch):
    data = corpus(*(sample(path) for path in pictures[:2]))
    plain = run(data, FACE, Window(1), tmp_path, jitter=1).examples
    assert not isinstance(plain.arrays["face"], np.memmap)
    monkeypatch.setattr(module, "MEMORY_MAPPED", 4 * 48 * 48 - 1)
    for _ in range(2):
        mapped = run(data, FACE, Window(1), tmp_path, jitter=1).examples
        assert isinstance(mapped.arrays["face"], np.memmap)
        same(mapped, plain)
    (file,) = (tmp_path / "assembled").iterdir()
    assert file.suffix == ".npy"
    other = run(corpus(*(sample(path) for path in pictures[1:3])), FACE, Window(1), tmp_path, jitter=1).examples
    assert not np.array_equal(other.arrays["face"], plain.arrays["face"])


def test_two_processes_make_what_one_makes(pictures, clip, blank, tmp_path):
    stills = corpus(*(sample(path) for path in [pictures[0], blank, *pictures[1:4]]))
    one, two = (run(stills, FACE, Window(1), tmp_path / str(n), jitter=2, workers=n) for n in (1, 2))
    same(one.examples, two.examples)
    assert (one.failed, one.computed) == (two.failed, two.computed)
    stored = [sorted(file.name for file in (tmp_path / str(n)).glob("??/*.npz")) for n in (1, 2)]
    assert stored[0] == stored[1]


def test_two_processes_make_the_same_flows(clip, make_clip, tmp_path):
    inputs, window = (spec("clip", 4, 64), spec("flow", 4, 64, "rgb")), Window(5, 5, True)
    data = corpus(sample(clip), sample(make_clip(frames=12, start=1.0)))
    one, two = (run(data, inputs, window, tmp_path / str(n), workers=n) for n in (1, 2))
    same(one.examples, two.examples)
    assert two.computed == 2


def test_a_worker_needs_no_torch():
    code = "import sys, train.prepare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_variations_come_from_a_fact(pictures, tmp_path):
    data = corpus(sample(pictures[0], facts=(("gender", "f"),)), sample(pictures[1]))
    assert run(data, FACE, Window(1), tmp_path, variation="gender").examples.variations == ("f", None)
    assert run(data, FACE, Window(1), tmp_path).examples.variations == ()


@pytest.mark.parametrize(
    ("inputs", "window", "options", "says"),
    [
        ((), Window(1), {}, "no inputs"),
        (FACE, Window(8), {}, "'face' is a face, and a window of 8 frames"),
        (CLIP, Window(1), {}, "'clip' is a clip, and a window of 1 frames"),
        (CLIP, Window(9), {}, "wants 8 frames and the window gives 9"),
        ((spec("flow", 8, 64, "rgb"),), Window(8), {}, r"\(flows False\) gives none"),
        (FACE, Window(1, flows=True), {}, "2 for flows"),
        (FACE, Window(1), {"jitter": -1}, "jitter is -1; expected 0 or more"),
        (FACE, Window(1), {"workers": -1}, "workers is -1"),
        (FACE, Window(1), {"gamma": 0.0}, "gamma is 0.0; expected a number above 0"),
        (FACE, Window(1), {"landmarks": "98"}, "landmarks '98' is unknown"),
        (FACE, Window(1), {"flow": "farneback"}, "flow 'farneback' is unknown"),
    ],
)
def test_parameters_that_can_not_be_are_refused(inputs, window, options, says, pictures, tmp_path):
    with pytest.raises(OptionError, match=says):
        run(corpus(sample(pictures[0])), inputs, window, tmp_path, **options)


def test_the_cache_is_by_two_letters():
    assert cached_file(Path("cache"), "ab12") == Path("cache/ab/ab12.npz")


def test_stills_around_the_middle_of_a_sequence():
    """Two pictures a sequence, for MMI's onset, apex, offset (Li et al. 2019)."""
    assert [place.tolist() for place in windows(10, 1, 0, 2)] == [[4], [5]]
    assert [place.tolist() for place in windows(10, 1, 0)] == [[4]]
    assert [place.tolist() for place in windows(2, 1, 0, 5)] == [[0], [1]]
