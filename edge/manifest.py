"""The facts of a bundle: what its graphs eat and answer, how pixels become tensors, how answers become statements.

Everything that preprocessing and interpretation need is here; nothing is ever read from a file's name. ``edge`` knows
kinds of input (``face``, ``clip``, ``flow``), never the family of a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from edge.errors import OptionError
from edge.flow.contract import METHODS

SCHEMA = 2
"""Version of the manifest's schema that this version reads and writes."""

GOLDEN = "golden.npz"
WINDOW, HEAD = "window", "head"
"""Names of graphs: the one that sees a whole window at once, and the one that reads the rings of features."""

ANSWER = "logits"
"""Name of the output that holds one logit a label."""

FEATURE = "feature"
"""Name of an encoder's output."""

KINDS = ("face", "clip", "flow")
PRECISIONS = ("fp32", "fp16", "int8")
COLOURS = {"grey": 1, "bgr": 3, "rgb": 3}
DTYPES = ("float32",)
INTERPOLATIONS = ("area", "linear")


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How grey levels 0..255 become the network's numbers.

    ``per_image``: ``(x - mean(x)) / max(std(x), min_std)`` over the whole picture (the intensity normalisation of
    Li et al. 2019, section 4.1; it takes global light and contrast out). ``fixed``: ``(x - mean[c]) / std[c]``.
    """

    kind: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    min_std: float = 1.0
    """Grey levels. Keeps the noise of a nearly flat picture from being blown up."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the eyes' centres are put, as fractions of the crop's width and height (0 is its left or top edge)."""

    left_eye: tuple[float, float]
    """The eye on the left in the picture (the person's right eye)."""
    right_eye: tuple[float, float]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input tensor of the window graph, and everything that makes it from a picture."""

    name: str
    kind: str
    """``face``: one aligned crop, (1, C, H, W). ``clip``: T crops of one face, (1, T, C, H, W). ``flow``: T flow images
    of one face, (1, T, C, H, W)."""
    shape: tuple[int, ...]
    dtype: str
    colour: str
    """``grey``, ``bgr`` or ``rgb``."""
    interpolation: str
    """``area``: sampled on a finer grid and averaged, so that a large face does not alias. ``linear``: bilinear."""
    normalisation: Normalisation
    alignment: Alignment

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return self.shape[-3]

    @property
    def height(self) -> int:
        """Height of the crop in pixels."""
        return self.shape[-2]

    @property
    def width(self) -> int:
        """Width of the crop in pixels."""
        return self.shape[-1]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Graph:
    """One network, in every precision that it comes in."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, str]
    """ONNX file by precision (``fp32``, ``fp16``, ``int8``)."""
    cpu: Mapping[str, str] = field(default_factory=dict)
    """Where a CPU's kernels want a precision written in another way: the same numbers, in a file of their own."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which frames of a face make a window."""

    length: int
    """Frames it spans. With flow images it is one more than an input's T: the first frame gives no crop, only motion
    to the second."""
    interval_ms: float
    """A frame enters at least this long after the one before it; 0 takes every frame."""
    gap_ms: float
    """A face that was away for longer than this starts its window anew."""


@dataclass(frozen=True, slots=True)
class Stream:
    """How one input is computed once per image instead of once per window."""

    input: str
    """Name of the :class:`InputSpec`."""
    encoder: str
    """Name of the graph that eats the newest ``receptive`` images, (1, C, H, W) or (1, receptive, C, H, W), and answers
    ``feature``. With ``state`` it eats the newest image alone."""
    ring: str
    """Name of the head's input that takes the last ``steps`` features, oldest first: (1, steps, ...)."""
    receptive: int
    """Images that a feature depends on; no feature counts before as many were seen."""
    steps: int
    state: tuple[tuple[str, str], ...] = ()
    """What the encoder remembers of the images before: names of its other inputs, each with the output that is its
    value at the next image. Float32; zeros at the start of a window."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of a bundle, in the order in which they are written."""

    name: str
    family: str
    """Which network this is. For people: no code in ``edge`` looks at it."""
    labels: tuple[str, ...]
    """The expression of each logit, in order."""
    inputs: tuple[InputSpec, ...]
    """Of the graph ``window``, in order: one ``face``, or a ``clip``, a ``flow``, or both."""
    graphs: Mapping[str, Graph]
    """``window`` and, where it sees several images, the encoders that ``streams`` names, ``head``, and others."""
    temperature: float
    """Logits are divided by this before the softmax (Guo et al. 2017)."""
    abstain_below: float
    """A smoothed confidence under this is ``uncertain``, 0..1."""
    tolerances: Mapping[str, float]
    """Largest allowed difference from the golden vectors: ``tensor`` for preprocessing (in the tensor's own unit),
    and one on probabilities for each precision."""
    data: Mapping[str, Any]
    """What it was trained on and how."""
    licence: str
    metrics: Mapping[str, Any]
    """Measured figures, through ``edge``'s own preprocessing and engine."""
    window: Window | None = None
    """None for ``face``."""
    streams: tuple[Stream, ...] = ()
    """One an input; empty for ``face``."""
    flow: Mapping[str, Any] | None = None
    """Name and every parameter of the optical flow (:mod:`edge.flow`); None without a ``flow`` input."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 by file name."""

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the graphs that run on a robot: the whole network for a face, encoders and head for a window."""
        return (*(stream.encoder for stream in self.streams), HEAD) if self.streams else (WINDOW,)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that every running graph has."""
        return tuple(one for one in PRECISIONS if all(one in self.graphs[name].files for name in self.running))

    def input(self, name: str) -> InputSpec:
        """The input of that name."""
        return next(spec for spec in self.inputs if spec.name == name)


def parse(document: Mapping[str, Any]) -> Manifest:
    """The manifest of its JSON object.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError: something is missing or garbled.
    """
    window = document["window"]
    return Manifest(
        name=str(document["name"]),
        family=str(document["family"]),
        labels=tuple(document["labels"]),
        inputs=tuple(_input(entry) for entry in document["inputs"]),
        graphs={
            str(name): Graph(
                tuple(_tensor(one) for one in entry["inputs"]),
                tuple(_tensor(one) for one in entry["outputs"]),
                dict(entry["files"]),
                dict(entry["cpu"]),
            )
            for name, entry in document["graphs"].items()
        },
        window=None
        if window is None
        else Window(int(window["length"]), float(window["interval_ms"]), float(window["gap_ms"])),
        streams=tuple(
            Stream(
                str(one["input"]),
                str(one["encoder"]),
                str(one["ring"]),
                int(one["receptive"]),
                int(one["steps"]),
                tuple((str(before), str(after)) for before, after in one.get("state", ())),
            )
            for one in document["streams"]
        ),
        flow=None if document["flow"] is None else dict(document["flow"]),
        temperature=float(document["temperature"]),
        abstain_below=float(document["abstain_below"]),
        tolerances=dict(document["tolerances"]),
        data=dict(document["data"]),
        licence=str(document["licence"]),
        metrics=dict(document["metrics"]),
        files=dict(document["files"]),
    )


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"])


def _input(entry: Mapping[str, Any]) -> InputSpec:
    normalisation, alignment = entry["normalisation"], entry["alignment"]
    return InputSpec(
        name=entry["name"],
        kind=entry["kind"],
        shape=tuple(entry["shape"]),
        dtype=entry["dtype"],
        colour=entry["colour"],
        interpolation=entry["interpolation"],
        normalisation=Normalisation(
            normalisation["kind"],
            tuple(normalisation["mean"]),
            tuple(normalisation["std"]),
            float(normalisation["min_std"]),
        ),
        alignment=Alignment(tuple(alignment["left_eye"]), tuple(alignment["right_eye"])),
    )


def to_document(manifest: Manifest) -> dict[str, Any]:
    """The manifest as the JSON object that is written, schema and digest included."""
    document = json.loads(json.dumps({"schema": SCHEMA, **asdict(manifest)}))
    document["digest"] = digest(document)
    return dict(document)


def digest(document: Mapping[str, Any]) -> str:
    """sha256 over everything in the document but the digest itself."""
    facts = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def contradiction(manifest: Manifest) -> str | None:
    """The first thing in a manifest that can't be, or None. Used by the reader and by the writer."""
    if len(manifest.labels) < 2 or len(set(manifest.labels)) != len(manifest.labels):
        return f"labels must be two or more different names, got {list(manifest.labels)}"
    for spec in manifest.inputs:
        if problem := _input_problem(spec):
            return problem
    if problem := _graph_problem(manifest) or _stream_problem(manifest) or _flow_problem(manifest):
        return problem
    if not all(0 <= bound < 1 for bound in manifest.tolerances.values()):
        return "tolerances must be within 0..1: a larger one lets anything pass"
    if not 0 < manifest.temperature < 1000 or not 0 <= manifest.abstain_below <= 1:
        return "temperature must be positive and abstain_below within 0..1"
    listed = {GOLDEN}.union(*({*graph.files.values(), *graph.cpu.values()} for graph in manifest.graphs.values()))
    if not manifest.precisions or not listed <= set(manifest.files):
        return f"files must list {GOLDEN} and every graph with its sha256, and all that run must share a precision"
    for member in manifest.files:
        path = PurePosixPath(member)
        if path.is_absolute() or ".." in path.parts or "\\" in member or not path.name:
            return f"file name {member!r} leaves the bundle's folder"
    if missing := {"tensor", *manifest.precisions} - set(manifest.tolerances):
        return f"no tolerance for {', '.join(sorted(missing))}"
    return None


def _input_problem(spec: InputSpec) -> str | None:
    for value, allowed, what in (
        (spec.kind, KINDS, "input kind"),
        (spec.colour, tuple(COLOURS), "colour"),
        (spec.dtype, DTYPES, "input dtype"),
        (spec.interpolation, INTERPOLATIONS, "interpolation"),
        (spec.normalisation.kind, ("per_image", "fixed"), "normalisation"),
    ):
        if value not in allowed:
            return f"{what} {value!r} is unknown to this version of edge; it knows {', '.join(allowed)}"
    channels = COLOURS[spec.colour]
    shape = f"(1, {channels}, H, W)" if spec.kind == "face" else f"(1, T, {channels}, H, W)"
    length = 4 if spec.kind == "face" else 5
    if len(spec.shape) != length or spec.shape[0] != 1 or spec.channels != channels or min(spec.shape) < 1:
        return f"a {spec.colour} {spec.kind} must have shape {shape}, got {spec.shape}"
    if spec.kind == "flow" and spec.channels != 3:
        return "a flow image has three channels, x, y and magnitude"
    if spec.normalisation.kind == "fixed" and not (
        len(spec.normalisation.mean) == len(spec.normalisation.std) == spec.channels and min(spec.normalisation.std) > 0
    ):
        return f"fixed normalisation needs {spec.channels} means and as many positive standard deviations"
    if spec.alignment.left_eye[0] >= spec.alignment.right_eye[0]:
        return "the left eye of the alignment must be left of the right one"
    if not spec.normalisation.min_std > 0:
        return "min_std must be positive"
    return None


def _graph_problem(manifest: Manifest) -> str | None:
    kinds = sorted(spec.kind for spec in manifest.inputs)
    if kinds not in (["face"], ["clip"], ["flow"], ["clip", "flow"]):
        return f"expected one face, or a clip, a flow or both, as inputs, got {kinds}"
    whole = manifest.graphs.get(WINDOW)
    wanted = tuple(TensorSpec(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs)
    if whole is None or whole.inputs != wanted:
        return f"expected a graph {WINDOW!r} whose inputs are {[spec.name for spec in wanted]}, of their shapes"
    answer = (TensorSpec(ANSWER, (1, len(manifest.labels))),)
    for name in {WINDOW, HEAD} & set(manifest.graphs):
        if manifest.graphs[name].outputs != answer:
            return f"graph {name!r}: expected one output {ANSWER!r} of shape (1, {len(manifest.labels)})"
    for name, graph in manifest.graphs.items():
        if unknown := {*graph.files} - {*PRECISIONS} or {*graph.cpu} - {*graph.files}:
            return f"graph {name!r}: precision {min(unknown)!r} is unknown; expected some of {', '.join(PRECISIONS)}"
    return None


def _stream_problem(manifest: Manifest) -> str | None:
    clips = [spec.name for spec in manifest.inputs if spec.kind != "face"]
    if sorted(stream.input for stream in manifest.streams) != sorted(clips):
        return f"expected one stream for each of {clips}, got {[stream.input for stream in manifest.streams]}"
    if not clips:
        return None if manifest.window is None else "a face has no window"
    window, head = manifest.window, manifest.graphs.get(HEAD)
    if (
        window is None
        or head is None
        or sorted(one.name for one in head.inputs) != sorted(stream.ring for stream in manifest.streams)
    ):
        return f"clips need a window, and a graph {HEAD!r} with one input for each stream's ring"
    rings = {one.name: one for one in head.inputs}
    flows = any(spec.kind == "flow" for spec in manifest.inputs)
    for stream in manifest.streams:
        spec, encoder = manifest.input(stream.input), manifest.graphs.get(stream.encoder)
        single = stream.receptive == 1 or stream.state
        images = (1, *spec.shape[2:]) if single else (1, stream.receptive, *spec.shape[2:])
        names = [before for before, _ in stream.state]
        if (
            encoder is None
            or encoder.inputs[:1] != (TensorSpec(spec.name, images),)
            or [one.name for one in encoder.inputs[1:]] != names
        ):
            return f"expected a graph {stream.encoder!r} with inputs {[spec.name, *names]}, the first of shape {images}"
        if [one.name for one in encoder.outputs] != [FEATURE, *(after for _, after in stream.state)] or (
            rings[stream.ring].shape != (1, stream.steps, *encoder.outputs[0].shape[1:])
        ):
            return f"{stream.encoder!r} must answer {FEATURE!r}, and {stream.ring!r} hold {stream.steps} of them"
        for before, after in zip(encoder.inputs[1:], encoder.outputs[1:], strict=True):
            if before.shape != after.shape or {before.dtype, after.dtype} != {"float32"}:
                return (
                    f"{stream.encoder!r}: state {before.name!r} must come out again, as {after.name!r}, as it went in"
                )
        if len({spec.name, FEATURE, *(name for pair in stream.state for name in pair)}) != 2 + 2 * len(stream.state):
            return f"{stream.encoder!r}: inputs, outputs and states must have names of their own"
        if stream.receptive < 1 or stream.steps < 1 or stream.receptive + stream.steps - 1 != spec.shape[1]:
            return f"{stream.input!r}: {stream.receptive} images an entry and {stream.steps} entries make another T"
        if window.length != spec.shape[1] + flows:
            return f"{stream.input!r}: a window of {window.length} frames can't give {spec.shape[1]} images"
    if not 0 <= window.interval_ms < window.gap_ms < 60_000:
        return "the window's interval_ms must be 0 or more, and its gap_ms longer"
    return None


def _flow_problem(manifest: Manifest) -> str | None:
    wanted = any(spec.kind == "flow" for spec in manifest.inputs)
    if wanted != (manifest.flow is not None):
        return "a flow input needs the optical flow's name and parameters, and only that does"
    if manifest.flow is not None:
        facts = dict(manifest.flow)
        name = facts.pop("name", None)
        if name not in METHODS:
            return f"optical flow {name!r} is unknown to this version of edge; it knows {', '.join(METHODS)}"
        try:
            METHODS[name](**facts)
        except (TypeError, OptionError) as error:
            return f"the optical flow's parameters can't be ({error})"
    return None
