"""From a corpus on disk to what a network learns from, by the code that the robot runs: find, follow, mark, cut.

What is costly (finding faces) happens once for every sample, in parallel, into a cache of one ``.npz`` a sample. Its
name is a hash of the source's bytes and of every number that shapes the result, so a file that moves is still known, a
file that changes is not, and a run that was killed goes on where it was. The cache may be deleted at any time.

Sequences follow three rules (:func:`windows`, ``_Follower``). Every frame is looked at, as the robot would. A frame in
which the face is not found takes the eyes of the frame before (at the very start: of the first that has it), for at
most half a second; a sequence with a longer gap is listed as failed. A sequence with fewer frames than the network
wants repeats some of them.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edge.bundle import InputSpec
from edge.camera import open_source
from edge.errors import EdgeError, OptionError
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import DEFAULT_MODEL, MODELS, Landmarks
from edge.faces.track import Tracker
from edge.flow import Method, flow_image, named
from edge.flow import flow as motion
from edge.preprocess import crop_specs, face_crop
from edge.source import DEFAULT_FPS, check_frame, read_picture
from edge.types import Box, Frame, Image, Points
from train.arrays import read_arrays, write_arrays
from train.cluster import Map
from train.datasets.errors import CorpusError
from train.datasets.samples import Corpus, Sample, Skipped
from train.examples import Examples

if TYPE_CHECKING:  # A worker process would load torch for the sake of this one name.
    from train.models.family import Window

Pixels = npt.NDArray[np.uint8]

VERSION = 1
"""Part of every key: raise it when the same source and parameters would give other pixels."""

MIN_FACE = 40
"""Side, in pixels, of the smallest face that is found in a whole frame (the robot's own choice for pictures)."""

MEMORY_MAPPED = 256 << 20
"""An array larger than this, in bytes, is a memory-mapped file in the cache instead of memory."""

BRIDGED_NS = 500_000_000
"""A face that is not found is taken to be where it was for this long (nanoseconds of media time) and no longer."""

JITTER = 3 / 90
"""Standard deviation of the noise on each coordinate of each eye, as a share of the eyes' distance. Lopes et al. 2017
disturb by 3 pixels; that these are pixels of CK+'s frames, where the eyes are about 90 apart, is our reading. In a crop
of 48x48 it is 0.6 pixels, which turns it by about 3 degrees."""

DARK = 80.0
"""A sequence is dark when the mean grey level of its first frame is under this; the papers do not say what dark is."""

CROPPED = {"fer2013": ((0.316, 0.398), (0.684, 0.398))}
"""Corpora that are published as face crops, and where the eyes are in them, as shares of the side (the medians that
``train.models.cspp`` measured). No face is sought in them."""


@dataclass(frozen=True)
class Prepared:
    """A corpus ready to be learned from."""

    examples: Examples
    failed: tuple[Skipped, ...]
    """Samples that gave no example, in the corpus' order, each with the reason."""
    computed: int
    """Samples whose faces were sought in this run; the others came from the cache, or are published as crops."""


@dataclass(frozen=True)
class _Plan:
    """Everything but the source that fixes what a sample becomes."""

    inputs: tuple[InputSpec, ...]
    length: int
    stride: int
    flows: bool
    stills: int
    jitter: int
    flow: Method
    gamma: float
    landmarks: str
    seed: int

    def facts(self) -> bytes:
        """For a key: all of it that shapes pixels, with the versions of what is not this project's."""
        import dlib

        facts = {"version": VERSION, "opencv": cv2.__version__, "dlib": dlib.__version__, **asdict(self)}
        for entry in facts["inputs"]:
            del entry["normalisation"], entry["dtype"]  # come after the uint8 crop
        return json.dumps(facts, sort_keys=True).encode()


@dataclass(frozen=True)
class _Job:
    """One sample, as a worker needs it."""

    files: tuple[Path, ...]
    kind: str
    jitter: int
    cropped: bool


@dataclass(frozen=True)
class _Outcome:
    """What a worker did with a job."""

    key: str
    count: int = 0
    why: str | None = None
    computed: bool = False


class _NoExampleError(EdgeError):
    """A source that was read and gives no example, for a reason that will be the same next time."""


def prepare(
    corpus: Corpus,
    inputs: tuple[InputSpec, ...],
    window: Window,
    cache: Path,
    *,
    workers: int = 0,
    stills: int = 1,
    cropped: bool = False,
    jitter: int = 0,
    flow: str | Method = "dis",
    gamma: float = 1.0,
    landmarks: str = DEFAULT_MODEL,
    seed: int = 0,
    variation: str | None = None,
    progress: bool = True,
    spread: Map | None = None,
) -> Prepared:
    """Make examples of a corpus' samples.

    Of several faces the largest in the first frame that shows one is followed. MMI's frames that show the front and the
    profile side by side need no more than that: the detector sees fronts alone. Pictures of a corpus that is published
    as crops (FER2013), and grey pictures that have the input's very size, are taken as they are.

    Args:
        corpus: what is on disk.
        inputs: what the network eats; one array comes out for each, under its name.
        window: how a sequence becomes examples (see :func:`windows`). With ``flows``, frames i and i + 1 of an example
            give crop i + 1 and the motion between crops i and i + 1, as a picture.
        cache: folder to keep results in; made where missing.
        workers: processes; 0 is one a core, 1 is this very process. The examples do not depend on it.
        stills: how many frames around the middle of a sequence become examples, where the network sees single faces.
        cropped: the pictures are finished face crops, the eyes about where FER2013 has them: no face is sought.
        jitter: extra crops of each still picture, with disturbed eyes (Lopes et al. 2017; see ``JITTER``), right after
            the picture they are made of and not ``originals``. Pictures of a split other than ``train`` get none.
        flow: ``dis``, ``clg``, or one of them with its parameters.
        gamma: brighten dark sequences by x**(1/gamma), x in 0..1, before anything else (Saurav et al. 2020: 1.5 for
            AFEW). 1 leaves them.
        landmarks: ``5`` or ``68`` (see :mod:`edge.faces.landmarks`).
        seed: of the jitter.
        variation: name of the fact that becomes ``Examples.variations``; None leaves them out.
        progress: show a bar, on a terminal.
        spread: a ``map`` over a cluster (:func:`train.cluster.connected`) in the place of this machine's processes; the
            corpus and the cache must lie on a disk that all its machines share.

    Returns:
        Examples in the order of the corpus' samples, and what failed.

    Raises:
        OptionError: parameters that can't be, or inputs that do not fit the window.
        CorpusError: no sample gave an example, or a worker process died.
    """
    plan = _Plan(
        inputs,
        window.length,
        window.stride,
        window.flows,
        stills,
        jitter,
        named(flow) if isinstance(flow, str) else flow,
        gamma,
        landmarks,
        seed,
    )
    _check(plan, workers)
    rows = [sample for sample in corpus.samples if sample.kind == "array"]
    jobs = {i: _job(corpus, sample, plan, cropped) for i, sample in enumerate(corpus.samples) if sample.kind != "array"}
    outcomes = _run(jobs, plan, cache, workers, progress, spread)
    arrays = _ArrayFiles(plan) if rows else None
    failed: list[Skipped] = []
    kept: list[tuple[Sample, _Outcome]] = []
    for i, sample in enumerate(corpus.samples):
        outcome = outcomes[i] if i in outcomes else arrays.outcome(sample) if arrays else _Outcome("")
        if outcome.why is None:
            kept.append((sample, outcome))
        else:
            failed.append((sample.path, outcome.why))
    if not kept:
        raise CorpusError(_nothing(corpus, failed))
    pixels = _assemble(kept, plan, cache, arrays)
    owners = [sample for sample, outcome in kept for _ in range(outcome.count)]
    examples = Examples(
        corpus=corpus.name,
        names=corpus.names,
        arrays=pixels,
        labels=np.array([corpus.names.index(sample.label) for sample in owners], np.int64),
        subjects=tuple(sample.subject for sample in owners),
        sequences=tuple(sample.sequence for sample in owners),
        splits=tuple(sample.split for sample in owners),
        originals=np.concatenate([_originals(sample, outcome.count) for sample, outcome in kept]),
        variations=() if variation is None else tuple(sample.fact(variation) for sample in owners),
        flow=asdict(plan.flow) if plan.flows else None,
    )
    return Prepared(examples, tuple(failed), sum(outcome.computed for outcome in outcomes.values()))


def windows(frames: int, length: int, stride: int, stills: int = 1) -> list[npt.NDArray[np.intp]]:
    """Which frames of a sequence each example takes.

    ``stride`` 0: one example, its frames at equal distances, the first and the last kept (Saurav et al. 2020, section
    4.2); where the network sees one frame, the ``stills`` frames around the middle, one example each. Otherwise
    segments of ``length`` frames, one every ``stride`` frames, a rest that is shorter left out (Zhang et al. 2019,
    section III-A). A sequence that is shorter than ``length`` gives one example either way, spread over it evenly, so
    that frames are repeated.

    Args:
        frames: in the sequence, 1 or more.
        length: frames an example takes.
        stride: frames from one example's start to the next one's.
        stills: examples of a sequence where ``length`` is 1; no more than it has frames.

    Returns:
        One (length,) array of increasing places an example.
    """
    if stride and frames >= length:
        return [np.arange(start, start + length) for start in range(0, frames - length + 1, stride)]
    if length == 1:
        first = (frames - min(stills, frames)) // 2
        return [np.array([place]) for place in range(first, first + min(stills, frames))]
    return [np.floor(np.linspace(0, frames - 1, length) + 0.5).astype(np.intp)]


# -- before the work --------------------------------------------------------------------------------------------------


def _check(plan: _Plan, workers: int) -> None:
    if not plan.inputs:
        raise OptionError("no inputs to prepare; expected one or more; give the family's inputs(config)")
    if plan.length < 1 or plan.stride < 0 or (plan.flows and plan.length < 2):
        raise OptionError(
            f"a window of {plan.length} frames every {plan.stride}, flows {plan.flows}, can't be; "
            "expected 1 frame or more (2 for flows) and a stride of 0 or more"
        )
    if plan.landmarks not in MODELS:
        raise OptionError(f"landmarks {plan.landmarks!r} is unknown; expected one of {', '.join(MODELS)}")
    for name, value, least in (("workers", workers, 0), ("stills", plan.stills, 1), ("jitter", plan.jitter, 0)):
        if value < least:
            raise OptionError(f"{name} is {value}; expected {least} or more")
    if not plan.gamma > 0:
        raise OptionError(f"gamma is {plan.gamma}; expected a number above 0, as 1.5")
    time = plan.length - plan.flows
    for spec in plan.inputs:
        if spec.kind == "face" and plan.length == 1:
            continue
        if spec.kind not in ("clip", "flow") or plan.length == 1 or (spec.kind == "flow" and not plan.flows):
            raise OptionError(
                f"input {spec.name!r} is a {spec.kind}, and a window of {plan.length} frames (flows {plan.flows}) "
                "gives none; give the inputs and the window of one configuration"
            )
        if spec.shape[1] != time:
            raise OptionError(
                f"input {spec.name!r} wants {spec.shape[1]} frames and the window gives {time}; "
                "give the inputs and the window of one configuration"
            )


def _job(corpus: Corpus, sample: Sample, plan: _Plan, cropped: bool) -> _Job:
    jittered = plan.jitter if sample.kind == "picture" and sample.split in (None, "train") else 0
    return _Job(sample.files, sample.kind, jittered, cropped or corpus.name in CROPPED)


def _originals(sample: Sample, count: int) -> npt.NDArray[np.bool_]:
    """Segments of a video are all its own; of a picture's crops, the first is."""
    return np.arange(count) == 0 if sample.kind in ("picture", "array") else np.ones(count, bool)


def _nothing(corpus: Corpus, failed: Sequence[Skipped]) -> str:
    if not failed:
        return f"{corpus.root}: {corpus.name} has no samples; expected one or more; check the folder"
    why, count = Counter(why for _, why in failed).most_common(1)[0]
    where = next(path for path, reason in failed if reason == why)
    return (
        f"{corpus.root}: none of the {len(failed):,} samples of {corpus.name} gave an example ({count:,} x {why}, as "
        f"{where}); expected frontal faces in readable files; look at that file"
    )


# -- the work, in any number of processes -----------------------------------------------------------------------------


def _run(
    jobs: Mapping[int, _Job], plan: _Plan, cache: Path, workers: int, progress: bool, spread: Map | None
) -> dict[int, _Outcome]:
    workers = min(workers or _cores(), max(1, len(jobs)))
    bar = tqdm(total=len(jobs), desc="faces", unit="sample", leave=False, disable=None if progress else True)
    if spread is not None:
        with bar:
            outcomes = {}
            for i, outcome in spread(_Elsewhere(plan, cache.resolve()), list(jobs.items())):
                if outcome.why is None and not cached_file(cache, outcome.key).exists():
                    raise CorpusError(
                        f"{cache}: a worker's result did not arrive here; expected a disk that all machines of the "
                        "cluster share; give one with --cache"
                    )
                outcomes[i] = outcome
                bar.update()
            return outcomes
    if workers == 1:
        with bar:
            worker = _Worker(plan, cache)
            outcomes = {}
            for i, job in jobs.items():
                outcomes[i] = worker.do(job)
                bar.update()
            return outcomes
    outcomes = {}
    # Forked processes would inherit OpenCV's threads in whatever state they are in.
    context = multiprocessing.get_context("spawn")
    with bar, ProcessPoolExecutor(workers, context, _start, (plan, cache)) as pool:
        try:
            waiting = {pool.submit(_do, job): i for i, job in jobs.items()}
            for future in as_completed(waiting):
                outcomes[waiting[future]] = future.result()
                bar.update()
        except BrokenProcessPool as error:
            raise CorpusError(
                f"{cache}: a worker process died, of memory or of a damaged file; what was done is kept: "
                "run again, with fewer workers if it recurs"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return outcomes


def _cores() -> int:
    # A container or a batch system may grant fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_worker: _Worker


def _start(plan: _Plan, cache: Path) -> None:
    global _worker
    cv2.setNumThreads(1)  # the processes already are one a core
    _worker = _Worker(plan, cache)


def _do(job: _Job) -> _Outcome:
    return _worker.do(job)


@dataclass(frozen=True)
class _Elsewhere:
    """Does jobs in whatever process it finds itself in; models are loaded once in each."""

    plan: _Plan
    cache: Path

    def __call__(self, numbered: tuple[int, _Job]) -> tuple[int, _Outcome]:
        number, job = numbered
        return number, _Worker(self.plan, self.cache).do(job)


@lru_cache(maxsize=1)
def _models(landmarks: str) -> tuple[FaceDetector, Landmarks]:
    return FaceDetector(MIN_FACE), Landmarks(landmarks)


class _Worker:
    """Does jobs one after the other; its models are loaded once, by the first job that is not in the cache."""

    def __init__(self, plan: _Plan, cache: Path) -> None:
        self._plan, self._cache, self._facts = plan, cache, plan.facts()

    def do(self, job: _Job) -> _Outcome:
        """From the cache where it is there and whole, else from the source."""
        try:
            contents = _contents(job.files)
        except OSError as error:
            return _Outcome("", why=f"can't be read ({error.strerror})")
        own = json.dumps([job.kind, job.jitter, job.cropped]).encode()
        key = hashlib.sha256(self._facts + b"\0" + own + b"\0" + contents).hexdigest()
        file = cached_file(self._cache, key)
        found = _load(file, self._plan)
        if isinstance(found, str):
            return _Outcome(key, why=found)
        if found is not None:
            return _Outcome(key, _count(found))
        try:
            arrays = self._arrays(job, contents)
        except _NoExampleError as error:
            write_arrays(file, {"why": np.array(str(error))})
            return _Outcome(key, why=str(error), computed=True)
        except (EdgeError, cv2.error, ValueError) as error:  # ValueError: eyes that coincide
            return _Outcome(key, why=_reason(error, job), computed=True)
        write_arrays(file, arrays)
        return _Outcome(key, _count(arrays), computed=True)

    def _arrays(self, job: _Job, contents: bytes) -> dict[str, Pixels]:
        plan = self._plan
        if job.kind == "picture":
            if plan.length > 1:
                raise _NoExampleError(_still(plan))
            picture = brighten(check_frame(read_picture(job.files[0])), plan.gamma)
            rng = np.random.default_rng([plan.seed, *np.frombuffer(contents, np.uint32)])
            if job.cropped:
                return crops_of_crop(picture, plan.inputs, job.jitter, rng)
            if _fits(picture, plan.inputs):
                return crops_of_crop(picture, plan.inputs, job.jitter, rng, fits=True)
            return _jittered(picture, self._eyes(picture), plan.inputs, job.jitter, rng)
        return self._sequence(_frames(job, plan.gamma))

    @property
    def _loaded(self) -> tuple[FaceDetector, Landmarks]:
        return _models(self._plan.landmarks)

    def _eyes(self, picture: Image) -> Points:
        detector, landmarks = self._loaded
        grey = _grey(picture)
        boxes = [detection.box for detection in detector.find(grey)]
        if not boxes:
            raise _NoExampleError("no face found")
        return landmarks.eyes(landmarks.points(grey, _largest(boxes)))

    def _sequence(self, frames: Iterator[Frame]) -> dict[str, Pixels]:
        """Crops of every frame, then the examples' choice of them."""
        plan, follower = self._plan, _Follower(*self._loaded)
        specs = crop_specs(plan.inputs)
        crops: dict[str, list[Pixels]] = {name: [] for name in specs}
        for image, eyes in follower.follow(frames):
            for name, spec in specs.items():
                crops[name].append(face_crop(image, eyes, spec))
        (count,) = {len(one) for one in crops.values()}
        chosen = windows(count, plan.length, plan.stride, plan.stills)
        arrays = {}
        for spec in plan.inputs:
            own = crops[spec.name]
            if spec.kind == "face":
                arrays[spec.name] = np.stack([own[i] for (i,) in chosen])
            elif spec.kind == "clip":
                arrays[spec.name] = np.stack([np.stack([own[i] for i in one[int(plan.flows) :]]) for one in chosen])
            else:
                images = _Motion(own, plan.flow)
                pairs = [pairwise(one) for one in chosen]
                arrays[spec.name] = np.stack([np.stack([images.between(i, j) for i, j in one]) for one in pairs])
        return arrays


class _Motion:
    """Flow images between frames of one sequence; overlapping segments share them."""

    def __init__(self, crops: Sequence[Pixels], method: Method) -> None:
        self._crops, self._method = crops, method
        self._made: dict[tuple[int, int], Pixels] = {}

    def between(self, i: int, j: int) -> Pixels:
        """uint8 (H, W, 3)."""
        if (i, j) not in self._made:
            self._made[i, j] = flow_image(motion(self._crops[i], self._crops[j], self._method))
        return self._made[i, j]


class _Follower:
    """One face through a sequence: the largest of the first frame that shows one, then near where it was."""

    def __init__(self, detector: FaceDetector, landmarks: Landmarks) -> None:
        self._detector, self._landmarks = detector, landmarks
        self._tracker = Tracker()
        self._id: int | None = None
        self._known: Box | None = None

    def follow(self, frames: Iterator[Frame]) -> Iterator[tuple[Image, Points]]:
        """Every frame with the face's eyes in it.

        Raises:
            _NoExampleError: no face, or none for longer than may be bridged.
        """
        eyes: Points | None = None
        seen_ns = 0
        early: list[Image] = []  # frames before the first that shows the face
        for frame in frames:
            found = self._find(frame)
            if found is None and frame.captured_ns - seen_ns > BRIDGED_NS:
                since = "the start" if eyes is None else f"{seen_ns / 1e9:.2f} s"
                raise _NoExampleError(f"no face found for more than {BRIDGED_NS / 1e9:g} s from {since} on")
            if found is not None:
                eyes, seen_ns = found, frame.captured_ns
            if eyes is None:
                early.append(frame.image)
                continue
            for image in early:
                yield image, eyes
            early.clear()
            yield frame.image, eyes
        if eyes is None:
            raise _NoExampleError("no face found in any frame")

    def _find(self, frame: Frame) -> Points | None:
        grey = _grey(frame.image)
        near = self._detector.find_near(grey, [self._known]) if self._known else []
        boxes = [detection.box for detection in near or self._detector.find(grey)]
        tracks = self._tracker.update(boxes, frame.captured_ns)
        if self._id is None and tracks:
            self._id = max(tracks, key=lambda track: track.box.width * track.box.height).id
        for track in tracks:
            if track.id == self._id:
                self._known = track.box
                return self._landmarks.eyes(self._landmarks.points(grey, track.box))
        return None


def _frames(job: _Job, gamma: float) -> Iterator[Frame]:
    """The frames of a video, or of a run of pictures at 25 a second, brightened as the first one asks."""
    table: float | None = None
    if job.kind == "video":
        source = open_source(job.files[0])
        try:
            for frame in source:
                image = check_frame(frame.image)
                table = _exponent(image, gamma) if table is None else table
                yield replace(frame, image=_power(image, table))
        finally:
            source.close()
        return
    for index, path in enumerate(job.files):
        image = check_frame(read_picture(path))
        table = _exponent(image, gamma) if table is None else table
        yield Frame(index, round(index * 1e9 / DEFAULT_FPS), _power(image, table))


# -- pixels -----------------------------------------------------------------------------------------------------------


def brighten(image: Image, gamma: float) -> Image:
    """Gamma correction of a dark picture; any other is returned as it is.

    Args:
        image: uint8, BGR (H, W, 3).
        gamma: above 1 brightens.
    """
    return _power(image, _exponent(image, gamma))


def _exponent(image: Image, gamma: float) -> float:
    return 1 / gamma if _grey(image).mean() < DARK else 1.0


def _power(image: Image, exponent: float) -> Image:
    if exponent == 1:
        return image
    table = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table), np.uint8)


def _grey(image: Image) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)


def _largest(boxes: Sequence[Box]) -> Box:
    return max(boxes, key=lambda box: box.width * box.height)


def _fits(picture: Image, inputs: Sequence[InputSpec]) -> bool:
    """Whether a picture already is the grey crop that every input asks for."""
    if any(spec.colour != "grey" or picture.shape[:2] != (spec.height, spec.width) for spec in inputs):
        return False
    return bool((picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all())


def crops_of_crop(
    picture: Image, inputs: Sequence[InputSpec], jitter: int, rng: np.random.Generator, fits: bool | None = None
) -> dict[str, Pixels]:
    """What a picture that is a face crop already becomes: itself where it fits, else cut by where its eyes must be.

    Args:
        picture: BGR uint8 (H, W, 3).
        inputs: ``face`` inputs.
        jitter: extra crops with disturbed eyes.
        rng: of the disturbance.
        fits: whether the picture has every input's size and colour; None finds out.

    Returns:
        By input name, uint8 (1 + jitter, height, width[, 3]).
    """
    fits = _fits(picture, inputs) if fits is None else fits
    where = inputs[0].alignment
    at = (where.left_eye, where.right_eye) if fits else CROPPED["fer2013"]
    eyes = (np.array(at) * (picture.shape[1], picture.shape[0]) - 0.5).astype(np.float32)
    arrays = _jittered(picture, eyes, inputs, jitter, rng)
    if fits:
        for array in arrays.values():
            array[0] = picture[..., 0]
    return arrays


def _jittered(
    picture: Image, eyes: Points, inputs: Sequence[InputSpec], jitter: int, rng: np.random.Generator
) -> dict[str, Pixels]:
    """The crop, and ``jitter`` more of it with disturbed eyes: the same disturbance for every input."""
    distance = float(np.hypot(*(eyes[1] - eyes[0])))
    noise = rng.normal(0, JITTER * distance, (jitter, 2, 2)).astype(np.float32)
    places = [eyes, *(eyes + one for one in noise)]
    return {spec.name: np.stack([face_crop(picture, place, spec) for place in places]) for spec in inputs}


def _still(plan: _Plan) -> str:
    return f"a still picture, where the network wants {plan.length} frames"


# -- the cache --------------------------------------------------------------------------------------------------------


def cached_file(cache: Path, key: str) -> Path:
    """Where the arrays of a key are kept: input names to uint8 arrays, or ``why`` there are none."""
    return cache / key[:2] / f"{key}.npz"


def _contents(files: Sequence[Path]) -> bytes:
    """A digest of the files' bytes in their order. Bytes and not times: a corpus that was copied is still known."""
    each = b""
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        each += digest.digest()
    return hashlib.sha256(each).digest()


def _load(file: Path, plan: _Plan) -> dict[str, Pixels] | str | None:
    """The cached arrays, or why there are none, or None where the file is missing, damaged or of other arrays."""
    stored = read_arrays(file)
    if stored is None:
        return None
    if list(stored) == ["why"]:
        return str(stored["why"])
    if not all(spec.name in stored for spec in plan.inputs):
        return None
    arrays = {spec.name: np.asarray(stored[spec.name]) for spec in plan.inputs}
    whole = all(arrays[s.name].dtype == np.uint8 and arrays[s.name].shape[1:] == _shape(s) for s in plan.inputs)
    return arrays if whole and len({len(array) for array in arrays.values()}) == 1 else None


def _shape(spec: InputSpec) -> tuple[int, ...]:
    """Of one example's pixels."""
    time = () if spec.kind == "face" else (spec.shape[1],)
    return (*time, spec.height, spec.width, *(() if spec.colour == "grey" else (3,)))


def _count(arrays: Mapping[str, Pixels]) -> int:
    return len(next(iter(arrays.values())))


def _reason(error: Exception, job: _Job) -> str:
    """The first line of an error, without the path that stands beside it in the list."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    for file in job.files:
        text = text.removeprefix(f"{file}: ")
    return text


class _ArrayFiles:
    """Samples that are rows of an array file: crops already, so they are read here, and the cache is left out."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._pixels = lru_cache(maxsize=None)(_read_array)

    def outcome(self, sample: Sample) -> _Outcome:
        """How many examples the row gives."""
        row = sample.fact("row")
        if self._plan.length > 1:
            return _Outcome("", why=_still(self._plan))
        if row is None or not 0 <= int(row) < len(self._pixels(sample.path)):
            return _Outcome("", why=f"no row {row} in this file")
        picture = self._pixels(sample.path)[int(row)]
        key = hashlib.sha256(picture.tobytes()).hexdigest()
        return _Outcome(key, 1 + (self._plan.jitter if sample.split in (None, "train") else 0))

    def arrays(self, sample: Sample, outcome: _Outcome) -> dict[str, Pixels]:
        """The row's crops."""
        grey = self._pixels(sample.path)[int(sample.fact("row") or 0)]
        picture = brighten(np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8), self._plan.gamma)
        rng = np.random.default_rng([self._plan.seed, *np.frombuffer(bytes.fromhex(outcome.key), np.uint32)])
        return crops_of_crop(picture, self._plan.inputs, outcome.count - 1, rng)


def _read_array(file: Path) -> Pixels:
    from train.datasets import fer2013

    if file.suffix.lower() == ".csv":
        rows = (np.array(text.split(), np.uint8) for _, _, _, text in fer2013._rows(file))
        return np.stack([row.reshape(fer2013.SIDE, fer2013.SIDE) for row in rows])
    return fer2013._arrays(file, file.name)[0]


def _assemble(
    kept: Sequence[tuple[Sample, _Outcome]], plan: _Plan, cache: Path, arrays: _ArrayFiles | None
) -> dict[str, Pixels]:
    """One array an input, in memory or, where it is large, in a file of the cache that is mapped into memory."""
    total = sum(outcome.count for _, outcome in kept)
    parts = json.dumps([[outcome.key, outcome.count] for _, outcome in kept])
    digest = hashlib.sha256(plan.facts() + parts.encode()).hexdigest()
    finished: dict[str, Pixels] = {}
    filling: dict[str, Pixels] = {}
    parted: dict[str, tuple[Path, Path]] = {}
    for spec in plan.inputs:
        shape = (total, *_shape(spec))
        if int(np.prod(shape, dtype=np.int64)) <= MEMORY_MAPPED:
            filling[spec.name] = np.empty(shape, np.uint8)
            continue
        file = cache / "assembled" / f"{digest}-{spec.name}.npy"
        if file.exists():
            finished[spec.name] = np.load(file, mmap_mode="r")
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        parted[spec.name] = part, file
        filling[spec.name] = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
    if filling:
        start = 0
        for sample, outcome in kept:
            if sample.kind == "array" and arrays is not None:
                own = arrays.arrays(sample, outcome)
            else:
                loaded = _load(cached_file(cache, outcome.key), plan)
                if not isinstance(loaded, dict):
                    raise CorpusError(f"{cache}: changed while it was read; expected it left alone; run again")
                own = loaded
            for name, array in filling.items():
                array[start : start + outcome.count] = own[name]
            start += outcome.count
    for name, (part, file) in parted.items():
        mapped = filling.pop(name)
        assert isinstance(mapped, np.memmap)
        mapped.flush()
        os.replace(part, file)
        finished[name] = np.load(file, mmap_mode="r")
    return {spec.name: (finished | filling)[spec.name] for spec in plan.inputs}
