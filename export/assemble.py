"""A checkpoint's network becomes a bundle: taken apart, written in every precision, measured, verified, moved in place.

checkpoint -> parts (lower) -> graphs (to_onnx) -> FP16, INT8 (precisions) -> lint -> figures -> bundle, or nothing
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edge import check
from edge.bundle import PRECISIONS, Bundle, Graph, Manifest, TensorSpec, Window, cases_of, write
from edge.engine import open_engine
from edge.errors import BundleError, OptionError
from edge.faces.detect import FaceDetector
from edge.types import Tensor
from edge.window import Windows
from export.accuracy import measure
from export.errors import ExportError
from export.faces import Gathered, gather
from export.figures import Figures, figures
from export.golden import golden_vectors
from export.lint import require
from export.lower import Lowered, Part, lower
from export.precisions import Made, Streamed, eighths, halves
from export.to_onnx import to_onnx
from export.weights import Weights
from train.checkpoint import Checkpoint
from train.datasets import PICTURES
from train.models.dam_cnn import DAMCNN

TOLERANCES = {
    # In the tensor's unit, standard deviations of the crop: two grey levels of a crop with ordinary contrast. Vector
    # instructions differ between processors, and OpenCV rounds interpolated pixels to whole grey levels.
    "tensor": 0.1,
    # On probabilities, from the network's own.
    "fp32": 1e-4,
    "fp16": 5e-3,
    # From what the graph answered at export: the integers are the same everywhere, but a value on the border between
    # two of them may fall to either side.
    "int8": 5e-2,
}
GAP_MS = 500.0
"""A face that was away for longer starts its window anew; training bridges as much (:mod:`train.prepare`)."""

CHECKED = 8
"""Windows that FP16's range is checked on; the golden ones, which reach values that faces don't, are among them."""

ALONE_BYTES = 64 << 20
"""A graph that shares its weights with no other keeps them inside its own file up to this size."""

LICENCES = {
    "fer2013": (
        "Weights trained on FER2013 (Kaggle's competition rules; the pictures' own rights are unclear): research use. "
        "Retrain on data of your own for anything else."
    )
}


@dataclass(frozen=True)
class Wishes:
    """What a bundle is to hold."""

    name: str | None = None
    """None is the folder's name."""
    precisions: tuple[str, ...] = ("fp32",)
    calibrate: Path | None = None
    """Folder of faces (see :func:`export.faces.gather`); INT8 needs one."""
    evaluate: Path | None = None
    """Folder of the corpus it was trained on; its test part is measured through ``edge``."""
    interval_ms: float | None = None
    """Of a window's frames; None is the family's."""


def export(
    checkpoint: Checkpoint, out: Path, wishes: Wishes = Wishes(), say: Callable[[str], None] = lambda line: None
) -> Bundle:
    """Write a bundle.

    Args:
        checkpoint: what was trained.
        out: the bundle's folder; must not exist.
        wishes: what it is to hold.
        say: is told what happens, line by line.

    Raises:
        EdgeError: an input that can't be used, a graph that is not the network or that TensorRT would refuse, a golden
            vector that is not reproduced, or ``out`` can't be written. No bundle is left.
    """
    _refuse_early(checkpoint, out, wishes)
    network = _running(checkpoint)
    lowered = lower(network, checkpoint.inputs)
    manifest = _manifest(checkpoint, network, lowered, wishes, wishes.name or out.name)
    faces = Gathered() if wishes.calibrate is None else gather(wishes.calibrate, manifest)
    samples = [*faces.fitting, *faces.judging]
    golden = golden_vectors(manifest, lambda tensors: answer(network, tensors))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{out.name}.making.", dir=out.parent)
    except OSError as error:
        raise BundleError(f"{out}: can't be written ({error.strerror}); choose another --out") from error
    with folder as place:
        kitchen = _Kitchen(Path(place), manifest, say)
        for part in lowered.parts:
            say(f"{part.role}: fp32")
            kitchen.first(part)
        kitchen.finish("fp32")
        cases = [_case(golden, manifest, name) for name in cases_of(golden)]
        if wishes.precisions != ("fp32",):
            kitchen.others(wishes.precisions, [*samples, *cases], faces)
        manifest = kitchen.manifest(wishes.precisions)
        # Measured on the very bytes that will ship, in a first copy that is thrown away.
        trial = write(Path(place) / "trial", manifest, kitchen.members, golden)
        _linted(trial)
        if "int8" in wishes.precisions:
            golden |= _answers(trial, "int8")
        say("measuring")
        made = figures(trial, lambda tensors: answer(network, tensors), [*cases, *samples])
        _faithful(made)
        metrics = {**manifest.metrics, "precisions": made.document()}
        if wishes.evaluate is not None:
            measured = measure(trial, trial.manifest.precisions, checkpoint.corpus, wishes.evaluate)
            for precision, found in measured.items():
                metrics["precisions"][precision]["test_agreement"] = found.pop("agreement")
                metrics["precisions"][precision]["accuracy"] = found["accuracy"]
            metrics[f"{checkpoint.corpus} test part"] = measured[wishes.precisions[0]]
        return write(out, replace(manifest, metrics=metrics), kitchen.members, golden, verify=[replays])


def answer(network: torch.nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
    """The network's logits (1, K) for a window's inputs, given by name in the order of its arguments."""
    with torch.inference_mode():
        return np.asarray(network(*(torch.from_numpy(one) for one in tensors.values())).numpy(), np.float32)


def replays(bundle: Bundle) -> None:
    """Every check that a device will make.

    Raises:
        BundleError: naming the first that fails.
    """
    check.require(bundle, check.check_preprocessing(bundle))
    for precision in bundle.manifest.precisions:
        engine = open_engine(bundle, "onnxruntime", precision)
        check.require(bundle, check.check_engine(bundle, engine))
        check.require(bundle, check.check_window(bundle, engine))
        engine.close()
    check.require(bundle, check.check_detector(bundle, FaceDetector()))


def _refuse_early(checkpoint: Checkpoint, out: Path, wishes: Wishes) -> None:
    """What would only be found after minutes of work."""
    if unknown := [one for one in wishes.precisions if one not in PRECISIONS]:
        raise OptionError(f"precision {unknown[0]!r} is unknown; expected some of {', '.join(PRECISIONS)}")
    if not wishes.precisions or len(set(wishes.precisions)) != len(wishes.precisions):
        raise OptionError(f"expected some of {', '.join(PRECISIONS)}, each once, got {list(wishes.precisions)}")
    if "int8" in wishes.precisions and wishes.calibrate is None:
        raise OptionError("int8 needs faces to calibrate with; give a folder of pictures or videos: --calibrate DIR")
    if out.exists():
        raise BundleError(f"{out}: already exists; remove it or choose another --out")
    if not checkpoint.complete:
        raise ExportError(
            f"the checkpoint is from stage {checkpoint.stage!r}, and others follow; finish the run with --resume first"
        )
    if wishes.evaluate is not None and checkpoint.corpus not in PICTURES:
        raise OptionError(
            f"--evaluate reads the face crops of {', '.join(sorted(PICTURES))}, and the checkpoint was trained on "
            f"{checkpoint.corpus}; leave it out"
        )
    if wishes.evaluate is not None and [spec.kind for spec in checkpoint.inputs] != ["face"]:
        raise OptionError(
            f"--evaluate is for networks that read one face, and {checkpoint.family} reads windows; leave it out"
        )
    if any(spec.kind == "flow" for spec in checkpoint.inputs) and checkpoint.flow is None:
        raise ExportError("the checkpoint does not say which optical flow it learnt from; train it again")


def _running(checkpoint: Checkpoint) -> torch.nn.Module:
    """The network as it runs."""
    network = checkpoint.network()
    if isinstance(network, DAMCNN) and network.mpvs is not None:
        network = network.inference()  # the decoders never leave the desktop
    return network


def _manifest(
    checkpoint: Checkpoint, network: torch.nn.Module, lowered: Lowered, wishes: Wishes, name: str
) -> Manifest:
    """Everything but files and figures."""
    window = None
    if lowered.streams:
        family = checkpoint.table.window(checkpoint.table.config(**checkpoint.config))
        interval = family.interval_ms if wishes.interval_ms is None else wishes.interval_ms
        if not 0 <= interval < GAP_MS:
            raise OptionError(f"--interval-ms {interval:g}: expected 0 or more, and less than {GAP_MS:g}")
        window = Window(family.length, interval, GAP_MS)
    held_out = f"{checkpoint.corpus} held out of training"
    return Manifest(
        name=name,
        family=checkpoint.family,
        labels=checkpoint.labels,
        inputs=checkpoint.inputs,
        graphs={
            part.role: Graph(
                tuple(TensorSpec(*one) for one in part.inputs), tuple(TensorSpec(*one) for one in part.outputs), {}
            )
            for part in lowered.parts
        },
        window=window,
        streams=lowered.streams,
        flow=checkpoint.flow if any(spec.kind == "flow" for spec in checkpoint.inputs) else None,
        temperature=round(checkpoint.temperature, 6),
        abstain_below=round(checkpoint.abstain_below, 4),
        tolerances=TOLERANCES,
        data={
            "corpus": checkpoint.corpus,
            "synthetic motion": checkpoint.synthetic,
            "config": checkpoint.config,
            "recipe": checkpoint.recipe,
            "epoch": checkpoint.epoch,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        },
        licence=LICENCES.get(checkpoint.corpus, "As the corpus it was trained on."),
        metrics={held_out: dict(checkpoint.held_out)} if checkpoint.held_out else {},
    )


class _Kitchen:
    """Makes the files of a bundle, one precision after the other, in a folder of its own."""

    def __init__(self, folder: Path, manifest: Manifest, say: Callable[[str], None]) -> None:
        self._folder, self._facts, self._say = folder, manifest, say
        self._running: dict[str, onnx.ModelProto] = {}
        self._files: dict[str, dict[str, str]] = {name: {} for name in manifest.graphs}
        self._cpu: dict[str, dict[str, str]] = {name: {} for name in manifest.graphs}
        self._stores: dict[str, Weights] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self.members: dict[str, bytes | Path] = {}

    def first(self, part: Part) -> None:
        """A part in FP32."""
        model = to_onnx(part)
        require(model, f"{part.role}, fp32")
        if part.role in self._facts.running:
            self._running[part.role] = model
            kept = onnx.ModelProto()
            kept.CopyFrom(model)
            model = kept
        self._add(part.role, "fp32", model, self._files)

    def others(self, precisions: Sequence[str], ranged: list[Mapping[str, Tensor]], faces: Gathered) -> None:
        """The running graphs in other precisions.

        Args:
            precisions: those that are wanted.
            ranged: windows, odd ones among them, that FP16's range is checked on.
            faces: real windows, that INT8 is fitted to and judged on.
        """
        streams = self._facts.streams
        some = Streamed(self._running, streams, ranged[-CHECKED:])
        fitting = Streamed(self._running, streams, faces.fitting) if "int8" in precisions else some
        judging = Streamed(self._running, streams, faces.judging) if "int8" in precisions else some
        for precision in precisions:
            for graph in self._facts.running if precision != "fp32" else ():
                self._say(f"{graph}: {precision}")
                made = halves(graph, some) if precision == "fp16" else eighths(graph, fitting, judging, self._say)
                self._keep(graph, precision, made)
            self.finish(precision)

    def _keep(self, graph: str, precision: str, made: Made) -> None:
        require(made.model, f"{graph}, {precision}")
        self._add(graph, precision, made.model, self._files)
        if made.cpu is not None:
            kept = onnx.ModelProto()
            kept.CopyFrom(made.cpu)
            self._add(graph, precision, kept, self._cpu, ".cpu")
        self._records.setdefault(precision, {})[graph] = dict(made.record)

    def _add(
        self, graph: str, precision: str, model: onnx.ModelProto, files: dict[str, dict[str, str]], form: str = ""
    ) -> None:
        name = f"{graph}.{precision}{form}.onnx"
        # One face's graph is handier as one file; where several share weights, they lie beside them once.
        if not self._facts.streams and not form and precision != "int8" and model.ByteSize() < ALONE_BYTES:
            self.members[name] = bytes(model.SerializeToString(deterministic=True))
        else:
            store = self._stores.get(precision)
            if store is None:
                store = self._stores[precision] = Weights(self._folder / f"weights.{precision}.bin")
            self.members[name] = store.add(model)
        files[graph][precision] = name

    def finish(self, precision: str) -> None:
        """No more graphs of a precision come."""
        if store := self._stores.pop(precision, None):
            store.close()
            self.members[store.path.name] = store.path

    def manifest(self, precisions: Sequence[str]) -> Manifest:
        """With the files, those of precisions that were not asked for left out."""
        facts = self._facts
        graphs = {}
        for name, graph in facts.graphs.items():
            # A window graph that doesn't run on the robot is the reference, in FP32 whatever else is asked for.
            wanted = precisions if name in facts.running else ("fp32",)
            graphs[name] = replace(
                graph,
                files={one: file for one, file in self._files[name].items() if one in wanted},
                cpu={one: file for one, file in self._cpu[name].items() if one in wanted},
            )
        used = {file for graph in graphs.values() for file in (*graph.files.values(), *graph.cpu.values())}
        for name in [name for name in self.members if name.endswith(".onnx") and name not in used]:
            del self.members[name]
        weights = {f"weights.{one}.bin" for one in {name.split(".")[1] for name in used}}
        for name in [name for name in self.members if name.endswith(".bin") and name not in weights]:
            del self.members[name]
        return replace(
            facts,
            graphs=graphs,
            tolerances={name: bound for name, bound in facts.tolerances.items() if name in ("tensor", *precisions)},
            data={**facts.data, "precisions": {one: self._records[one] for one in precisions if one in self._records}},
        )


def _case(golden: Mapping[str, Tensor], manifest: Manifest, name: str) -> dict[str, Tensor]:
    return {spec.name: golden[f"tensor/{name}/{spec.name}"] for spec in manifest.inputs}


def _answers(trial: Bundle, precision: str) -> dict[str, Tensor]:
    """What a precision answers to the golden cases, where it isn't what the network does."""
    windows = Windows(open_engine(trial, "onnxruntime", precision))
    found = {}
    for case in trial.cases:
        logits = windows.stream(trial.window(case))
        assert logits is not None
        found[f"logits.{precision}/{case}"] = logits[None]
    return found


def _linted(trial: Bundle) -> None:
    """The files as they lie there, and where they say that their weights are; those for a CPU are not TensorRT's."""
    for graph in trial.manifest.graphs.values():
        for file in graph.files.values():
            model = onnx.load(trial.where / file, load_external_data=False)
            require(model, file, folder=trial.where)


def _faithful(made: Figures) -> None:
    """The graphs must be the network."""
    for precision, bound in (("fp32", TOLERANCES["fp32"]), ("fp16", TOLERANCES["fp16"])):
        found = made.parity.get(precision, 0.0)
        if found > bound:
            raise ExportError(
                f"the {precision} graph differs from the network by {found:.1e} in probability, allowed {bound:.0e}"
            )
