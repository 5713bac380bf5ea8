"""The bundle: a network, what it must be fed, what it answers, and the proof that it still does.

A bundle is a folder, or a zip of one, that holds ``manifest.json``, one ONNX file per graph and precision, and
``golden.npz`` (inputs with the outputs they must give). Every fact that preprocessing and interpretation need is in the
manifest; nothing is ever read from a file's name. This module alone defines the format, reads it and writes it.

``edge`` knows kinds of input (``face``), never the family of a network.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edge.errors import BundleError
from edge.types import Tensor

SCHEMA = 1
"""Version of the manifest's schema that this module reads and writes."""

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
DEFAULT = "face"
"""Name of the bundle that is used when none is asked for."""

PACKAGED = Path(__file__).parent / "bundles"
"""The folder of bundles that ship with the package; each is known by its folder's name."""

MAX_MEMBER_BYTES = 2 << 30
"""No single file of a bundle may be larger (2 GiB is also ONNX's own limit for one protobuf)."""

_DAMAGED = (
    ValueError,
    RecursionError,
    RuntimeError,
    NotImplementedError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
)
"""What the readers of JSON, zip and npz raise of contents that are not what they should be."""

KINDS = ("face",)
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
    """One input tensor of a graph, and everything that makes it from a picture."""

    name: str
    kind: str
    """``face``: one aligned crop, NCHW with N = 1. ``clip``: T crops of one face, NTCHW. ``flow``: T flow images,
    NTCHW. This version of ``edge`` runs ``face``; the others are trained on."""
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
class OutputSpec:
    """One output tensor of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of a bundle, in the order in which they are written."""

    name: str
    family: str
    """Which network this is. For people: no code in ``edge`` looks at it."""
    labels: tuple[str, ...]
    """The expression of each logit, in order."""
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    graphs: Mapping[str, str]
    """ONNX file by precision (``fp32``, ``fp16``, ``int8``)."""
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
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 by file name."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its manifest checked, every file's hash verified, no graph loaded yet."""

    manifest: Manifest
    where: Path
    golden: Mapping[str, Tensor]
    """``labels``; ``picture/<case>`` uint8 (H, W, 3) and ``eyes/<case>`` float32 (2, 2) to ``tensor/<case>``; that to
    ``logits/<case>`` float32 (1, K); ``no_face``, a picture in which no face may be found."""
    _read: Callable[[str], bytes] = field(repr=False)

    @classmethod
    def open(cls, where: str | os.PathLike[str] | None = None) -> Bundle:
        """Open a bundle by the name of a packaged one, or by the path of a folder or zip.

        Raises:
            BundleError: not found, another schema, a missing or altered file, facts that contradict each other.
        """
        return _open(_locate(where))

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the golden cases, sorted."""
        return tuple(sorted(key.split("/", 1)[1] for key in self.golden if key.startswith("logits/")))

    def graph(self, precision: str) -> bytes:
        """The ONNX file of one precision.

        Raises:
            BundleError: the bundle has no such precision, or the file changed since it was opened.
        """
        member = self.manifest.graphs.get(precision)
        if member is None:
            raise BundleError(
                f"{self.where}: no {precision} graph in this bundle; it has {', '.join(self.manifest.graphs)}"
            )
        return _verified(self.where, member, self.manifest.files[member], self._read)


def packaged() -> tuple[str, ...]:
    """Names of the bundles that ship with the package."""
    return tuple(sorted(path.parent.name for path in PACKAGED.glob(f"*/{MANIFEST}")))


def _locate(where: str | os.PathLike[str] | None) -> Path:
    if where is None:
        return PACKAGED / DEFAULT
    if isinstance(where, str) and where in packaged():
        return PACKAGED / where
    if not isinstance(where, str | os.PathLike) or not os.fspath(where):
        raise BundleError(f"{where!r} is no bundle; give a folder or zip, or one of: {', '.join(packaged())}")
    path = Path(where)
    try:
        there = path.exists()
    except (OSError, ValueError) as error:
        raise BundleError(f"{str(path)[:200]}: can't be read ({error}); choose another bundle") from error
    if not there:
        raise BundleError(
            f"{path}: no such bundle; give a folder or zip with a {MANIFEST}, or one of: {', '.join(packaged())}"
        )
    return path


def _folder_reader(folder: Path) -> Callable[[str], bytes]:
    def read(member: str) -> bytes:
        path = folder / member
        if path.stat().st_size > MAX_MEMBER_BYTES:
            raise BundleError(f"{folder}: {member} is larger than {MAX_MEMBER_BYTES >> 30} GiB")
        return path.read_bytes()

    return read


def _zip_reader(archive: Path) -> Callable[[str], bytes]:
    # Members are read into memory and never unpacked to disk, so a path that climbs out has nowhere to go.
    with zipfile.ZipFile(archive) as opened:
        # `zip -r` of a folder puts the folder's name before every member's.
        names = opened.namelist()
        top = (
            ""
            if MANIFEST in names
            else next((name[: -len(MANIFEST)] for name in names if name.endswith("/" + MANIFEST)), "")
        )

    def read(member: str) -> bytes:
        member = top + member
        with zipfile.ZipFile(archive) as opened:
            if opened.getinfo(member).file_size > MAX_MEMBER_BYTES:
                raise BundleError(f"{archive}: {member} unpacks to more than {MAX_MEMBER_BYTES >> 30} GiB")
            return opened.read(member)

    return read


def _verified(where: Path, member: str, sha256: str, read: Callable[[str], bytes]) -> bytes:
    try:
        data = read(member)
    except (OSError, KeyError, *_DAMAGED) as error:
        raise BundleError(f"{where}: {member} is missing or unreadable; export or install the bundle again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(
            f"{where}: {member} is not the file that was exported (sha256 differs); export or install the bundle again"
        )
    return data


def _open(where: Path) -> Bundle:
    try:
        if where.is_dir():
            read = _folder_reader(where)
        elif where.is_file() and zipfile.is_zipfile(where):
            read = _zip_reader(where)
        else:
            raise BundleError(f"{where}: not a bundle; expected a folder or a zip with a {MANIFEST}")
        document = json.loads(read(MANIFEST))
    except (FileNotFoundError, KeyError) as error:
        raise BundleError(f"{where}: no {MANIFEST} in it; expected a bundle made by `python -m export`") from error
    except OSError as error:
        raise BundleError(f"{where}: can't be read ({error.strerror}); choose another bundle") from error
    except _DAMAGED as error:
        raise BundleError(f"{where}: {MANIFEST} is damaged ({error}); export or install the bundle again") from error
    manifest = _parse(document, where)
    for member in manifest.files:
        if member != GOLDEN:
            _verified(where, member, manifest.files[member], read)
    try:
        # allow_pickle stays off: a golden file may come from a stranger.
        with np.load(io.BytesIO(_verified(where, GOLDEN, manifest.files[GOLDEN], read)), allow_pickle=False) as stored:
            golden = {key: stored[key] for key in stored.files}
    except (OSError, *_DAMAGED) as error:
        raise BundleError(f"{where}: {GOLDEN} can't be read ({error}); export or install the bundle again") from error
    _check_golden(golden, manifest, where)
    return Bundle(manifest, where, golden, read)


def _parse(document: Any, where: Path) -> Manifest:
    """Build the manifest from its JSON, refusing whatever this version would misread."""
    if not isinstance(document, dict) or "schema" not in document:
        raise BundleError(f"{where}: {MANIFEST} has no schema version; expected a bundle made by `python -m export`")
    if document["schema"] != SCHEMA:
        raise BundleError(
            f"{where}: bundle schema {document['schema']!r}, this version of edge reads schema {SCHEMA}; "
            "export the bundle again with this version, or install the edge version it was made with"
        )
    if document.get("digest") != _digest(document):
        raise BundleError(f"{where}: {MANIFEST} was altered after export (digest differs); export the bundle again")
    try:
        manifest = Manifest(
            name=str(document["name"]),
            family=str(document["family"]),
            labels=tuple(document["labels"]),
            inputs=tuple(_input(entry) for entry in document["inputs"]),
            outputs=tuple(
                OutputSpec(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in document["outputs"]
            ),
            graphs=dict(document["graphs"]),
            temperature=float(document["temperature"]),
            abstain_below=float(document["abstain_below"]),
            tolerances=dict(document["tolerances"]),
            data=dict(document["data"]),
            licence=str(document["licence"]),
            metrics=dict(document["metrics"]),
            files=dict(document["files"]),
        )
        problem = contradiction(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(f"{where}: {MANIFEST} lacks or garbles {error}; export the bundle again") from error
    if problem:
        raise BundleError(f"{where}: {problem}; export the bundle again")
    return manifest


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


def contradiction(manifest: Manifest) -> str | None:
    """The first thing in a manifest that can't be, or None. Used by the reader and by the writer."""
    if len(manifest.labels) < 2 or len(set(manifest.labels)) != len(manifest.labels):
        return f"labels must be two or more different names, got {list(manifest.labels)}"
    if [output.shape for output in manifest.outputs] != [(1, len(manifest.labels))]:
        return f"expected one output of shape (1, {len(manifest.labels)}), one logit a label"
    if len(manifest.inputs) != 1:
        return f"expected one input, got {len(manifest.inputs)}"
    spec = manifest.inputs[0]
    for value, allowed, what in (
        (spec.kind, KINDS, "input kind"),
        (spec.colour, tuple(COLOURS), "colour"),
        (spec.dtype, DTYPES, "input dtype"),
        (spec.interpolation, INTERPOLATIONS, "interpolation"),
        (spec.normalisation.kind, ("per_image", "fixed"), "normalisation"),
    ):
        if value not in allowed:
            return f"{what} {value!r} is unknown to this version of edge; it knows {', '.join(allowed)}"
    if len(spec.shape) != 4 or spec.shape[:2] != (1, COLOURS[spec.colour]) or min(spec.shape) < 1:
        return f"a {spec.colour} face must have shape (1, {COLOURS[spec.colour]}, H, W), got {spec.shape}"
    if spec.normalisation.kind == "fixed" and not (
        len(spec.normalisation.mean) == len(spec.normalisation.std) == spec.channels and min(spec.normalisation.std) > 0
    ):
        return f"fixed normalisation needs {spec.channels} means and as many positive standard deviations"
    if spec.alignment.left_eye[0] >= spec.alignment.right_eye[0]:
        return "the left eye of the alignment must be left of the right one"
    if not spec.normalisation.min_std > 0:
        return "min_std must be positive"
    if not all(0 <= bound < 1 for bound in manifest.tolerances.values()):
        return "tolerances must be within 0..1: a larger one lets anything pass"
    if not 0 < manifest.temperature < 1000 or not 0 <= manifest.abstain_below <= 1:
        return "temperature must be positive and abstain_below within 0..1"
    listed = {GOLDEN, *manifest.graphs.values()}
    if not manifest.graphs or not listed <= set(manifest.files):
        return f"files must list {GOLDEN} and every graph with its sha256"
    for member in manifest.files:
        path = PurePosixPath(member)
        if path.is_absolute() or ".." in path.parts or "\\" in member:
            return f"file name {member!r} leaves the bundle's folder"
    if missing := {"tensor", *manifest.graphs} - set(manifest.tolerances):
        return f"no tolerance for {', '.join(sorted(missing))}"
    return None


def _check_golden(golden: Mapping[str, Tensor], manifest: Manifest, where: Path) -> None:
    labels = tuple(str(label) for label in np.atleast_1d(golden.get("labels", ())))
    if labels != manifest.labels:
        raise BundleError(
            f"{where}: labels {list(manifest.labels)} are not the ones the golden vectors were made with "
            f"({list(labels)}); export the bundle again"
        )
    cases = [key.split("/", 1)[1] for key in golden if key.startswith("logits/")]
    wanted = {f"{part}/{case}" for part in ("picture", "eyes", "tensor") for case in cases} | {"no_face"}
    if not cases or not wanted <= set(golden):
        raise BundleError(f"{where}: {GOLDEN} lacks {', '.join(sorted(wanted - set(golden))) or 'every case'}")
    (spec,), (output,) = manifest.inputs, manifest.outputs
    forms: dict[str, tuple[tuple[int, ...], str]] = {
        "eyes": ((2, 2), "float32"),
        "tensor": (spec.shape, spec.dtype),
        "logits": (output.shape, output.dtype),
    }
    for key, value in golden.items():
        part = key.split("/", 1)[0]
        if part in forms and (value.shape, value.dtype.name) != forms[part]:
            raise BundleError(f"{where}: {GOLDEN} has {key} of {value.shape} {value.dtype}; expected {forms[part]}")
        if part in ("picture", "no_face") and (value.ndim != 3 or value.dtype != np.uint8 or min(value.shape) < 3):
            raise BundleError(f"{where}: {GOLDEN} has {key} of {value.shape} {value.dtype}; expected a BGR picture")
        if part == "eyes" and np.ptp(value, axis=0).max() < 1:
            raise BundleError(f"{where}: {GOLDEN} has {key} where both eyes are one point")


def _digest(document: Mapping[str, Any]) -> str:
    facts = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def to_document(manifest: Manifest) -> dict[str, Any]:
    """The manifest as the JSON object that is written, schema and digest included."""
    document = json.loads(json.dumps({"schema": SCHEMA, **asdict(manifest)}))
    document["digest"] = _digest(document)
    return dict(document)


def write(
    target: str | os.PathLike[str],
    manifest: Manifest,
    members: Mapping[str, bytes],
    golden: Mapping[str, Tensor],
    *,
    verify: Sequence[Callable[[Bundle], None]] = (),
) -> Bundle:
    """Write a bundle folder atomically: it is there whole and verified, or not at all.

    Args:
        target: folder to create; must not exist.
        manifest: the facts; ``files`` is filled in here.
        members: ONNX files by the names that ``manifest.graphs`` gives them.
        golden: as described at :class:`Bundle`.
        verify: called with the finished bundle before it is moved into place; an exception leaves nothing behind.

    Raises:
        BundleError: the target exists, can't be written to, or the parts contradict each other.
    """
    target = Path(target)
    if target.exists():
        raise BundleError(f"{target}: already exists; remove it or choose another --out")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BundleError(f"{target}: can't be written ({error.strerror}); choose another --out") from error
    try:
        stored = io.BytesIO()
        np.savez_compressed(stored, **dict(golden))  # type: ignore[arg-type]  # its stub sees only allow_pickle
        contents = {**members, GOLDEN: stored.getvalue()}
        files = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
        document = to_document(replace(manifest, files=files))
        for name, data in contents.items():
            (staging / name).write_bytes(data)
        (staging / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        staging.chmod(0o755)
        bundle = _open(staging)
        for check in verify:
            check(bundle)
        staging.rename(target)
    except OSError as error:
        raise BundleError(f"{target}: can't be written ({error.strerror}); choose another --out") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return _open(target)
