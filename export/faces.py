"""Real faces to calibrate a network with, as the robot would hand them to it: by ``edge``'s own preprocessing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edge.bundle import InputSpec, Manifest
from edge.camera import open_source
from edge.errors import EdgeError, OptionError, SourceError
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.faces.track import Tracker
from edge.preprocess import to_tensor
from edge.source import Source, check_frame
from edge.sources.files import FolderSource
from edge.types import Image, Points, Tensor
from edge.window import ON_TIME, Cutter
from train.data import detect
from train.datasets import PICTURES
from train.datasets.samples import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from train.examples import Examples
from train.loop import split
from train.onset import neutral_shapes, onsets
from train.recipe import Recipe

COUNT = 2560
"""Faces that calibrate a network of single faces, those among them that judge."""

FITTED = 512
"""At most so many fit INT8's ranges; where there are fewer than twice as many, a half."""

ENOUGH = 500
"""So many faces that were held out of training can judge alone; fewer are joined by some that were learnt."""

WINDOWS = 16
"""Windows that calibrate a network that sees windows: each holds many images."""

MIN_FACE = 40
"""Side, in pixels, of the smallest face that is looked for."""

EVERY = 10
"""Of a video, a network of single faces gets one frame in so many: neighbours are nearly the same."""

MARKED = 400
"""Stills of a corpus of crops of which clips are made (:mod:`train.onset`), neutral ones among them."""


@dataclass(frozen=True)
class Gathered:
    """Inputs of the graph ``window``, by name: faces, or windows of them."""

    fitting: list[dict[str, Tensor]] = field(default_factory=list)
    """From these INT8's ranges are taken."""
    judging: list[dict[str, Tensor]] = field(default_factory=list)
    """On these it is chosen. Faces that the network has not learnt from, where they are known: of what it knows by
    heart it is so sure that rounding changes nothing."""


def gather(where: Path, manifest: Manifest, *, seed: int = 0) -> Gathered:
    """Real faces for the graph ``window`` from a folder of pictures and videos, or from FER2013's.

    Args:
        where: searched with all its folders. A network that sees windows takes videos, and folders of numbered frames;
            of FER2013 it takes clips whose motion is made up, where the network is one of grey clips.
        manifest: what the network eats.
        seed: of the choice among more faces than are wanted.

    Returns:
        At most ``COUNT`` faces or ``WINDOWS`` windows, each part in an order that mixes their sources.

    Raises:
        OptionError: no such folder, nothing to read in it, or no face in what is there.
    """
    if not where.exists():
        raise OptionError(f"--calibrate {where}: no such folder; give one of pictures or videos with faces")
    wanted = COUNT if manifest.window is None else WINDOWS
    if detect(where) == "fer2013" and _has_crops(where):
        gathered = _crops(where, manifest, seed)
        if gathered.fitting:
            return gathered
    found, looked = _seen(where, manifest)
    if not found:
        what = "face" if manifest.window is None else f"face through {manifest.window.length} frames"
        raise OptionError(
            f"--calibrate {where}: no {what} found in {looked}; expected frontal faces, {MIN_FACE} pixels or larger"
        )
    order = np.random.default_rng(seed).permutation(len(found))[:wanted]
    return _shared_out([found[i] for i in order])


def _shared_out(mixed: list[dict[str, Tensor]]) -> Gathered:
    fitted = max(1, min(len(mixed) // 2, FITTED))
    return Gathered(mixed[:fitted], mixed[fitted:] or mixed)


def _has_crops(where: Path) -> bool:
    return any((where / name).exists() for name in ("train.npz", "fer2013.csv", "icml_face_data.csv"))


def _crops(where: Path, manifest: Manifest, seed: int) -> Gathered:
    """FER2013's own crops of the training part, as they are or set in motion; nothing where none can be set in motion.

    Of crops as they are, those judge that the network's own run held out.
    """
    faces = PICTURES["fer2013"](where, "train")
    (spec,) = manifest.inputs if len(manifest.inputs) == 1 else (None,)
    if spec is None or (spec.colour != "grey" and spec.kind != "face"):
        raise OptionError(f"--calibrate {where}: FER2013 holds grey stills; give videos of faces to this network")
    order = np.random.default_rng(seed).permutation(len(faces))
    if spec.kind == "clip":
        some = faces.subset(order[:MARKED])
        clips = onsets(some, spec.shape[1], (spec.height, spec.width), seed, neutral=neutral_shapes(some))
        made = [
            {spec.name: np.stack([to_tensor(crop, spec) for crop in clip], axis=1)}
            for clip in clips.examples.arrays[spec.name][:WINDOWS]
        ]
        return _shared_out(made) if made else Gathered()
    unseen = _unseen(faces, manifest)
    fitting = [i for i in order if i not in unseen][: max(1, min(len(order) // 2, FITTED))]
    judging = [i for i in order if i in unseen]
    if len(judging) < ENOUGH:
        judging = [i for i in order if i not in set(fitting)][: COUNT - FITTED] or fitting
    return Gathered(_tensors(faces.arrays["face"][fitting], spec), _tensors(faces.arrays["face"][judging], spec))


def _unseen(faces: Examples, manifest: Manifest) -> set[int]:
    """Places of the faces that the network's own run held out of learning; none where it learnt from another corpus."""
    if manifest.data.get("corpus") != faces.corpus or not manifest.data.get("recipe"):
        return set()
    known = {entry.name for entry in fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in manifest.data["recipe"].items() if name in known})
    _, held_out = split(faces, recipe)
    places = {name: i for i, name in enumerate(faces.sequences)}
    return {places[name] for name in held_out.sequences}


def _tensors(pixels: npt.NDArray[np.uint8], spec: InputSpec) -> list[dict[str, Tensor]]:
    size = spec.width, spec.height
    crops = [
        cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) if one.shape != size[::-1] else one for one in pixels
    ]
    if spec.channels == 3:
        crops = [np.repeat(crop[..., None], 3, axis=-1) for crop in crops]
    return [{spec.name: to_tensor(crop, spec)} for crop in crops]


def _seen(where: Path, manifest: Manifest) -> tuple[list[dict[str, Tensor]], str]:
    """What the detector finds in pictures and videos, and how many there were."""
    files = sorted(path for path in ([where] if where.is_file() else where.rglob("*")) if path.is_file())
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if not videos and not pictures:
        raise OptionError(f"--calibrate {where}: no picture or video in it; give some with faces")
    places: list[Path] = [*videos, *pictures]
    if manifest.window is not None:
        places = [*videos, *sorted({path.parent for path in pictures})]
    looked = f"{len(videos)} videos and {len(pictures)} pictures"
    detector, landmarks, cutter = FaceDetector(MIN_FACE), Landmarks(), Cutter(manifest)
    wanted = COUNT if manifest.window is None else WINDOWS
    share = max(1, -(-wanted // len(places)))
    found: list[dict[str, Tensor]] = []
    for place in tqdm(places, desc="calibration", unit="file", leave=False, disable=None):
        try:
            source: Source = FolderSource(place) if place.is_dir() else open_source(place)
        except SourceError:
            continue  # a damaged file among many is no reason to stop; none at all is
        with_faces = _faces(source, manifest, detector, landmarks)
        try:
            for frames, _ in zip(with_faces, range(share), strict=False):
                found.append(cutter.window(frames))
        except EdgeError:
            pass
        finally:
            source.close()
        if len(found) >= wanted:
            break
    return found, looked


def _faces(
    source: Source, manifest: Manifest, detector: FaceDetector, landmarks: Landmarks
) -> Iterator[list[tuple[Image, Points]]]:
    """Windows of one face each, one after the other; no frame is in two of them."""
    window = manifest.window
    length = 1 if window is None else window.length
    every = EVERY if window is None and source.fps > 0 and source.follows else 1
    tracker, windows, entered = Tracker(), dict[int, deque[tuple[Image, Points]]](), dict[int, int]()
    for number, frame in enumerate(source):
        if number % every:
            continue
        image = check_frame(frame.image)
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
        boxes = [detection.box for detection in detector.find(grey)]
        for track in tracker.update(boxes, frame.captured_ns):
            own = windows.setdefault(track.id, deque(maxlen=length))
            if window is not None and own:
                away_ms = (frame.captured_ns - entered[track.id]) / 1e6
                if away_ms > window.gap_ms:
                    own.clear()
                elif away_ms < ON_TIME * window.interval_ms:
                    continue
            entered[track.id] = frame.captured_ns
            own.append((image, landmarks.eyes(landmarks.points(grey, track.box))))
            if len(own) == length:
                yield list(own)
                own.clear()
