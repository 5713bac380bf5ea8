"""The bundle: a network, what it must be fed, what it answers, and the proof that it still does.

A bundle is a folder, or a zip of one, that holds ``manifest.json`` (:mod:`edge.manifest`), one ONNX file per graph and
precision, the files in which big graphs keep their weights, and ``golden.npz`` (inputs with the answers they must get).
This module alone reads and writes it, and trusts nothing in it: every file's hash is checked before its contents are
used, and what a graph says of itself before a runtime sees it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge import onnxfile
from edge.errors import BundleError
from edge.manifest import (
    ANSWER,
    FEATURE,
    GOLDEN,
    HEAD,
    PRECISIONS,
    SCHEMA,
    WINDOW,
    Alignment,
    Graph,
    InputSpec,
    Manifest,
    Normalisation,
    Stream,
    TensorSpec,
    Window,
    contradiction,
    digest,
    parse,
    to_document,
)
from edge.types import Tensor

__all__ = [
    "ANSWER",
    "DEFAULT",
    "FEATURE",
    "GOLDEN",
    "HEAD",
    "MANIFEST",
    "PACKAGED",
    "PRECISIONS",
    "SCHEMA",
    "WINDOW",
    "Alignment",
    "Bundle",
    "Graph",
    "GraphFile",
    "InputSpec",
    "Manifest",
    "Normalisation",
    "Stream",
    "TensorSpec",
    "Window",
    "cases_of",
    "contradiction",
    "packaged",
    "to_document",
    "write",
]

MANIFEST = "manifest.json"
DEFAULT = "face"
"""Name of the bundle that is used when none is asked for."""

PACKAGED = Path(__file__).parent / "bundles"
"""The folder of bundles that ship with the package; each is known by its folder's name."""

MAX_MEMBER_BYTES = 2 << 30
"""No single file of a bundle may be larger (2 GiB is also ONNX's own limit for one protobuf)."""

MAX_INFLATION = 20
"""A file of a zip that unpacks to more than this many times its packed size is a trap: weights hardly shrink."""

MODEST_BYTES = 64 << 20
"""... unless it stays under this."""

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

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A graph that was found to be what the manifest says, ready for a runtime."""

    model: bytes
    """The ONNX file."""
    weights: Mapping[str, Tensor]
    """By initialiser: the weights that lie in other files of the bundle, views of bytes whose hash was checked."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its manifest and golden vectors checked; a graph's file is checked when it is asked for."""

    manifest: Manifest
    where: Path
    golden: Mapping[str, Tensor]
    """``labels``; then by case, a window of T frames (1 for a face): ``picture/<case>`` uint8 (T, H, W, 3) and
    ``eyes/<case>`` float32 (T, 2, 2) to ``tensor/<case>/<input>``; those to ``logits/<case>`` float32 (1, K), or to
    ``logits.<precision>/<case>`` in a precision that answers something else; ``no_face``, a picture in which no face
    may be found."""
    _read: Callable[[str], bytes] = field(repr=False)
    _shared: weakref.WeakValueDictionary[str, Bytes] = field(
        repr=False, compare=False, default_factory=weakref.WeakValueDictionary
    )

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
        return cases_of(self.golden)

    def window(self, case: str) -> dict[str, Tensor]:
        """The inputs of the graph ``window`` in a golden case, by name."""
        return {spec.name: np.ascontiguousarray(self.golden[f"tensor/{case}/{spec.name}"]) for spec in self.inputs}

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The manifest's."""
        return self.manifest.inputs

    def graph(self, name: str, precision: str, *, cpu: bool = False) -> GraphFile:
        """A graph in one precision, its bytes checked, its inputs, outputs and files those that the manifest says.

        Args:
            name: of the graph.
            precision: ``fp32``, ``fp16`` or ``int8``.
            cpu: prefer the form for a CPU's kernels, where there is one.

        Raises:
            BundleError: there is no such graph or precision, a file changed since the export, or the graph is not what
                the manifest says.
        """
        graph = self.manifest.graphs.get(name)
        files = {} if graph is None else {**graph.files, **(graph.cpu if cpu else {})}
        member = files.get(precision)
        if graph is None or member is None:
            there = ", ".join(self.manifest.precisions if graph is not None else self.manifest.graphs)
            what = f"{precision} graph" if name == WINDOW else f"{precision} graph {name!r}"
            raise BundleError(f"{self.where}: no {what} in this bundle; it has {there}")
        model = _verified(self.where, member, self.manifest.files[member], self._read)
        try:
            facts = onnxfile.read(model)
        except onnxfile.OnnxFileError as error:
            raise BundleError(f"{self.where}: {member} is no ONNX file ({error}); export the bundle again") from error
        found = [(one.name, one.shape, one.dtype) for one in (*facts.inputs, *facts.outputs)]
        wanted = [(one.name, one.shape, one.dtype) for one in (*graph.inputs, *graph.outputs)]
        if found != wanted:
            raise BundleError(f"{self.where}: {member} has {found}, the manifest says {wanted}; export it again")
        if facts.hidden:
            raise BundleError(f"{self.where}: {member} keeps weights in places that no export uses; refused")
        return GraphFile(model, {one.name: self._weight(member, one) for one in facts.external})

    def verify(self) -> None:
        """Check the hash of every file, also of those that nothing here will use.

        Raises:
            BundleError: naming the first file that is missing or altered.
        """
        for member, sha256 in self.manifest.files.items():
            _verified(self.where, member, sha256, self._read)

    def _weight(self, graph: str, place: onnxfile.External) -> Tensor:
        sha256 = self.manifest.files.get(place.location)
        if sha256 is None:
            raise BundleError(
                f"{self.where}: {graph} wants weights from {place.location!r}, which is no file of this bundle; refused"
            )
        data = self._shared.get(place.location)
        if data is None:
            data = np.frombuffer(_verified(self.where, place.location, sha256, self._read), np.uint8)
            self._shared[place.location] = data
        try:
            dtype = np.dtype(place.dtype)
        except TypeError as error:
            raise BundleError(f"{self.where}: {graph} has weights of {place.dtype}; export it again") from error
        count = 1
        for side in place.shape:
            count *= side
        size = count * dtype.itemsize
        if min(place.shape, default=1) < 1 or place.offset < 0 or place.length not in (-1, size):
            raise BundleError(f"{self.where}: {graph} garbles the place of {place.name!r}; export it again")
        if place.offset + size > len(data):
            raise BundleError(f"{self.where}: {graph} wants more of {place.location} than there is; export it again")
        return data[place.offset : place.offset + size].view(dtype).reshape(place.shape)


def cases_of(golden: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the cases in golden vectors, sorted."""
    return tuple(sorted(key.split("/", 1)[1] for key in golden if key.startswith("logits/")))


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
            info = opened.getinfo(member)
            if info.file_size > MAX_MEMBER_BYTES:
                raise BundleError(f"{archive}: {member} unpacks to more than {MAX_MEMBER_BYTES >> 30} GiB")
            if info.file_size > max(MODEST_BYTES, MAX_INFLATION * info.compress_size):
                raise BundleError(
                    f"{archive}: {member} unpacks to {info.file_size / max(1, info.compress_size):.0f} times its size: "
                    "no network does; unpack it yourself if you trust it, and give the folder"
                )
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
    manifest = _checked(document, where)
    try:
        # allow_pickle stays off: a golden file may come from a stranger.
        with np.load(io.BytesIO(_verified(where, GOLDEN, manifest.files[GOLDEN], read)), allow_pickle=False) as stored:
            golden = {key: stored[key] for key in stored.files}
    except (OSError, *_DAMAGED) as error:
        raise BundleError(f"{where}: {GOLDEN} can't be read ({error}); export or install the bundle again") from error
    _check_golden(golden, manifest, where)
    return Bundle(manifest, where, golden, read)


def _checked(document: object, where: Path) -> Manifest:
    """Build the manifest from its JSON, refusing whatever this version would misread."""
    if not isinstance(document, dict) or "schema" not in document:
        raise BundleError(f"{where}: {MANIFEST} has no schema version; expected a bundle made by `python -m export`")
    if document["schema"] != SCHEMA:
        raise BundleError(
            f"{where}: bundle schema {document['schema']!r}, this version of edge reads schema {SCHEMA}; "
            "export the bundle again with this version, or install the edge version it was made with"
        )
    if document.get("digest") != digest(document):
        raise BundleError(f"{where}: {MANIFEST} was altered after export (digest differs); export the bundle again")
    try:
        manifest = parse(document)
        problem = contradiction(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(f"{where}: {MANIFEST} lacks or garbles {error}; export the bundle again") from error
    if problem:
        raise BundleError(f"{where}: {problem}; export the bundle again")
    return manifest


def _check_golden(golden: Mapping[str, Tensor], manifest: Manifest, where: Path) -> None:
    labels = tuple(str(label) for label in np.atleast_1d(golden.get("labels", ())))
    if labels != manifest.labels:
        raise BundleError(
            f"{where}: labels {list(manifest.labels)} are not the ones the golden vectors were made with "
            f"({list(labels)}); export the bundle again"
        )
    cases = cases_of(golden)
    frames = 1 if manifest.window is None else manifest.window.length
    forms: dict[str, tuple[tuple[int, ...], str]] = {
        key: ((1, len(manifest.labels)), "float32") for key in golden if key.startswith("logits.")
    }
    for case in cases:
        forms[f"eyes/{case}"] = (frames, 2, 2), "float32"
        forms[f"logits/{case}"] = (1, len(manifest.labels)), "float32"
        for spec in manifest.inputs:
            forms[f"tensor/{case}/{spec.name}"] = spec.shape, spec.dtype
    pictures = {f"picture/{case}" for case in cases}
    missing = ({*forms} | pictures | {"no_face"}) - set(golden)
    if not cases or missing:
        raise BundleError(f"{where}: {GOLDEN} lacks {', '.join(sorted(missing)) if cases else 'every case'}")
    for key, form in forms.items():
        value = golden[key]
        if (value.shape, value.dtype.name) != form:
            raise BundleError(f"{where}: {GOLDEN} has {key} of {value.shape} {value.dtype}; expected {form}")
        if key.startswith("eyes/") and np.ptp(value, axis=1).max(axis=1).min() < 1:
            raise BundleError(f"{where}: {GOLDEN} has {key} where both eyes are one point")
    for key in {"no_face"} | pictures:
        value = golden[key] if key == "no_face" else golden[key][:1]
        if key != "no_face" and golden[key].shape[:1] != (frames,):
            raise BundleError(f"{where}: {GOLDEN} has {key} of {golden[key].shape}; expected {frames} pictures")
        shape = value.shape if key == "no_face" else value.shape[1:]
        if len(shape) != 3 or shape[2] != 3 or value.dtype != np.uint8 or min(shape) < 3:
            raise BundleError(f"{where}: {GOLDEN} has {key} of {value.shape} {value.dtype}; expected BGR pictures")


def write(
    target: str | os.PathLike[str],
    manifest: Manifest,
    members: Mapping[str, bytes | Path],
    golden: Mapping[str, Tensor],
    verify: Sequence[Callable[[Bundle], None]] = (),
) -> Bundle:
    """Write a bundle folder atomically: it is there whole and verified, or not at all.

    Args:
        target: folder to create; must not exist.
        manifest: the facts; ``files`` is filled in here.
        members: ONNX files, and files of weights, by name. A path is copied.
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
        for name, data in {**members, GOLDEN: stored.getvalue()}.items():
            if isinstance(data, Path):
                shutil.copyfile(data, staging / name)
            else:
                (staging / name).write_bytes(data)
        files = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
        document = to_document(replace(manifest, files=files))
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


def _sha256(path: Path) -> str:
    digested = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digested.update(block)
    return digested.hexdigest()
