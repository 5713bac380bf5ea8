"""TensorRT's plans, kept: what a plan was built from and for, and nothing used that was built from or for else.

Beside each plan ``NAME.plan`` lies ``NAME.json`` with its key, its sha256 and figures of its build. That file is
written last: a plan without one is what a build left that was killed, and counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.bundle import GOLDEN, Bundle
from edge.cache import cache_folder, own_folder, read_own, write_own
from edge.errors import BackendError, BundleError

RECIPE = 1
"""Version of how plans are built. One that was built in another way is built again."""

TOLD_AFTER_S = 1.0
"""Whoever waits this long for another build is told so."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a plan may run: TensorRT builds for one version of itself and one kind of GPU."""

    tensorrt: str
    """Version, as ``10.3.0``."""
    sm: str
    """Compute capability, as ``8.7``."""
    gpu: str
    """Its name: boards with the same capability differ in size, and tactics were chosen for one."""
    l4t: str
    """Jetson Linux release, as ``36.4.3``; empty elsewhere."""

    def __str__(self) -> str:
        system = f", Jetson Linux {self.l4t}" if self.l4t else ""
        return f"TensorRT {self.tensorrt} on {self.gpu} (SM {self.sm}{system})"


@dataclass(frozen=True, slots=True)
class Key:
    """Everything that a plan depends on."""

    graph: str
    precision: str
    onnx: str
    """sha256 of the graph's file."""
    weights: str
    """sha256 over those of all files of the bundle that can hold its weights."""
    place: Place
    recipe: int = RECIPE

    @property
    def stem(self) -> str:
        """Name of its files, without suffix."""
        facts = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        readable = re.sub(r"[^A-Za-z0-9_]", "_", self.graph)[:40]
        return f"{readable}.{self.precision}.{hashlib.sha256(facts.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a plan that lies there whole."""

    key: Key
    sha256: str
    size: int
    """Bytes."""
    seconds: float
    """That its build took."""
    built: str
    """When, UTC."""


def key_of(bundle: Bundle, graph: str, precision: str, place: Place) -> Key:
    """The key of a graph's plan.

    Hashes are the manifest's, which its digest covers: a plan is built from files that were found to have them.

    Raises:
        BundleError: the bundle has no such graph in this precision.
    """
    manifest = bundle.manifest
    facts = manifest.graphs.get(graph)
    member = None if facts is None else facts.files.get(precision)
    if member is None:
        raise BundleError(f"{bundle.where}: no {precision} graph {graph!r} in this bundle")
    graphs = {name for one in manifest.graphs.values() for name in (*one.files.values(), *one.cpu.values())}
    # All files of weights: which of them a graph uses, only the graph itself says.
    weights = sorted((name, sha) for name, sha in manifest.files.items() if name not in graphs and name != GOLDEN)
    return Key(graph, precision, manifest.files[member], hashlib.sha256(repr(weights).encode()).hexdigest(), place)


def command(bundle: Bundle, precision: str | None = None) -> str:
    """What to type to build a bundle's plans."""
    wanted = "" if precision is None else f" --precisions {precision}"
    return f"python -m export.to_tensorrt {bundle.where}{wanted}"


class Plans:
    """The plans of this machine.

    Args:
        folder: None is ``plans`` in the user's cache (:func:`edge.cache.cache_folder`).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "plans"

    def find(self, key: Key) -> Facts | None:
        """The facts of a whole plan of that key, or None.

        Raises:
            BackendError: there is one that is not to be trusted.
        """
        try:
            document = json.loads(read_own(self.folder / f"{key.stem}.json"))
            facts = _facts(document)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None
        there = facts.key == key and (self.folder / f"{key.stem}.plan").is_file()
        return facts if there else None

    def read(self, key: Key, bundle: Bundle) -> bytes:
        """A plan, found to be this process' own and what its build wrote.

        Args:
            key: of the plan.
            bundle: that it belongs to, for the message.

        Raises:
            BackendError: there is none, or one for another place, or it is not to be trusted, and what to type.
        """
        facts = self.find(key)
        if facts is None:
            raise BackendError(
                f"{self._missing(key)}; type: {command(bundle, key.precision)} (takes minutes), "
                "or type: --backend onnxruntime"
            )
        path = self.folder / f"{key.stem}.plan"
        try:
            plan = read_own(path)
        except FileNotFoundError:
            plan = b""
        if hashlib.sha256(plan).hexdigest() != facts.sha256:
            raise BackendError(
                f"{path}: not the plan that was built (sha256 differs), so it is not used; "
                f"type: {command(bundle, key.precision)}"
            )
        return plan

    def save(self, key: Key, plan: bytes | memoryview, seconds: float) -> Facts:
        """Keep a plan, and forget those of the same graph that this GPU had under another TensorRT or system.

        Raises:
            BackendError: it can't be written.
        """
        folder = own_folder(self.folder)
        facts = Facts(
            key,
            hashlib.sha256(plan).hexdigest(),
            len(plan),
            round(seconds, 2),
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        write_own(folder / f"{key.stem}.plan", plan)
        write_own(folder / f"{key.stem}.json", json.dumps(asdict(facts), indent=2).encode())
        for other in self.all():
            same = (other.key.graph, other.key.precision, other.key.onnx, other.key.weights)
            if (
                other.key != key
                and same == (key.graph, key.precision, key.onnx, key.weights)
                and (other.key.place.gpu, other.key.place.sm) == (key.place.gpu, key.place.sm)
            ):
                self.remove(other.key)
        return facts

    def remove(self, key: Key) -> None:
        """Forget a plan: first what makes it whole."""
        for suffix in ("json", "plan"):
            (self.folder / f"{key.stem}.{suffix}").unlink(missing_ok=True)

    def all(self) -> tuple[Facts, ...]:
        """Every whole plan, sorted by name."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                facts = _facts(json.loads(read_own(path)))
            except (OSError, BackendError, ValueError, KeyError, TypeError):
                continue
            if path.stem == facts.key.stem and path.with_suffix(".plan").is_file():
                found.append(facts)
        return tuple(found)

    @contextmanager
    def lock(self, tell: Callable[[str], None] = lambda line: None) -> Iterator[None]:
        """Hold the cache for a build; a second build waits, as both would disturb each other's timings.

        What a killed build left is removed. The lock ends with the process that holds it, however that ends.

        Args:
            tell: is told in a line when there is something to wait for.

        Raises:
            BackendError: the cache can't be written.
        """
        import fcntl

        folder = own_folder(self.folder)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            begun, told = time.monotonic(), False
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told and time.monotonic() - begun > TOLD_AFTER_S:
                        told = True
                        tell(f"another build uses {folder}; waiting for it")
                    time.sleep(0.1)
            for path in folder.glob("*.partial"):
                path.unlink(missing_ok=True)
            for path in folder.glob("*.plan"):
                if not path.with_suffix(".json").exists():
                    path.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    def timing(self, place: Place) -> bytes:
        """What TensorRT measured in earlier builds at this place; empty where there is nothing to be trusted."""
        try:
            return read_own(self._timing(place))
        except (FileNotFoundError, BackendError):
            return b""

    def save_timing(self, place: Place, data: bytes | memoryview) -> None:
        """Keep what TensorRT measured.

        Raises:
            BackendError: it can't be written.
        """
        own_folder(self.folder)
        write_own(self._timing(place), data)

    def _timing(self, place: Place) -> Path:
        # Only the very same TensorRT and GPU may read it (NvInfer.h, ITimingCache).
        name = hashlib.sha256(json.dumps(asdict(place), sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"timing.{name}"

    def _missing(self, key: Key) -> str:
        """Why there is no plan of a key, in words."""
        for other in self.all():
            if (other.key.graph, other.key.precision) != (key.graph, key.precision):
                continue
            if (other.key.onnx, other.key.weights) == (key.onnx, key.weights):
                if other.key.place != key.place:
                    return f"the {key.precision} plan is for {other.key.place}; here is {key.place}"
                return f"the {key.precision} plan was built in an older way"
        return f"no {key.precision} plan of graph {key.graph!r} was built for {key.place}"


def _facts(document: dict[str, Any]) -> Facts:
    key = document["key"]
    place = Place(**{name: str(value) for name, value in key["place"].items()})
    return Facts(
        Key(
            str(key["graph"]),
            str(key["precision"]),
            str(key["onnx"]),
            str(key["weights"]),
            place,
            int(key["recipe"]),
        ),
        str(document["sha256"]),
        int(document["size"]),
        float(document["seconds"]),
        str(document["built"]),
    )
