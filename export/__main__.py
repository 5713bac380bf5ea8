"""``python -m export CHECKPOINT --out BUNDLE``: a checkpoint becomes a verified bundle, or nothing at all."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge import check
from edge.arguments import Parser
from edge.bundle import ANSWER, WINDOW, Bundle, Graph, InputSpec, Manifest, TensorSpec, write
from edge.engine import open_engine
from edge.errors import EdgeError
from edge.faces.detect import FaceDetector
from edge.types import Tensor
from export.accuracy import measure
from export.golden import golden_vectors
from export.to_onnx import ExportError, to_onnx
from train.checkpoint import Checkpoint, load
from train.models.dam_cnn import DAMCNN

TOLERANCES = {
    # In the tensor's unit, standard deviations of the crop: two grey levels of a crop with ordinary contrast. Vector
    # instructions differ between processors, and OpenCV rounds interpolated pixels to whole grey levels.
    "tensor": 0.1,
    "fp32": 1e-4,
}
LICENCES = {
    "fer2013": (
        "Weights trained on FER2013 (Kaggle's competition rules; the pictures' own rights are unclear): research use. "
        "Retrain on data of your own for anything else."
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m export", description="Turn a checkpoint into a bundle.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder; must not exist")
    parser.add_argument("--name", help="the bundle's name (default: the folder's)")
    parser.add_argument(
        "--evaluate", type=Path, metavar="DATA", help="folder of the corpus: puts figures in the manifest"
    )
    options = parser.parse_args(arguments)
    try:
        bundle = export(load(options.checkpoint), options.out, name=options.name, evaluate=options.evaluate)
    except EdgeError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(f"{bundle.where}: {bundle.manifest.family}, {', '.join(bundle.manifest.labels)}")
    for corpus, figures in bundle.manifest.metrics.items():
        shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items() if isinstance(value, int | float))
        print(f"  {corpus}: {shown}")
    return 0


def export(checkpoint: Checkpoint, out: Path, *, name: str | None = None, evaluate: Path | None = None) -> Bundle:
    """Write a bundle.

    Args:
        checkpoint: what was trained.
        out: the bundle's folder; must not exist.
        name: the bundle's name; None is the folder's.
        evaluate: folder of the corpus it was trained on; its test part is measured through ``edge``.

    Raises:
        EdgeError: the graph is not the network, a golden vector is not reproduced, or ``out`` can't be written.
    """
    network, inputs = _exportable(checkpoint)
    outputs = (TensorSpec(ANSWER, (1, len(checkpoint.labels))),)
    graph = to_onnx(network, inputs, outputs)
    held_out = f"{checkpoint.corpus} held out of training"
    manifest = Manifest(
        name=name or out.name,
        family=checkpoint.family,
        labels=checkpoint.labels,
        inputs=inputs,
        graphs={
            WINDOW: Graph(
                tuple(TensorSpec(one.name, one.shape) for one in inputs), outputs, {"fp32": "model.fp32.onnx"}
            )
        },
        temperature=round(checkpoint.temperature, 6),
        abstain_below=round(checkpoint.abstain_below, 4),
        tolerances=TOLERANCES,
        data={
            "corpus": checkpoint.corpus,
            "config": checkpoint.config,
            "recipe": checkpoint.recipe,
            "epoch": checkpoint.epoch,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        },
        licence=LICENCES.get(checkpoint.corpus, "As the corpus it was trained on."),
        metrics={held_out: dict(checkpoint.held_out)} if checkpoint.held_out else {},
    )
    golden = golden_vectors(manifest, lambda tensors: _answer(network, tensors))
    members: dict[str, bytes | Path] = {"model.fp32.onnx": graph}
    if evaluate is not None:
        # Measured on the very bytes that will ship, in a first copy that is thrown away.
        figures: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            trial = write(Path(folder) / "trial", manifest, members, golden)
            figures = measure(trial, open_engine(trial), checkpoint.corpus, evaluate)
        manifest = replace(manifest, metrics={**manifest.metrics, f"{checkpoint.corpus} test part": figures})
    return write(out, manifest, members, golden, verify=[_same_as(network), _replays])


def _exportable(checkpoint: Checkpoint) -> tuple[torch.nn.Module, tuple[InputSpec, ...]]:
    """The network as it runs, and its inputs.

    Raises:
        ExportError: a family whose bundles this version can't make, or a run that has stages left.
    """
    inputs = checkpoint.inputs
    if [spec.kind for spec in inputs] != ["face"]:
        kinds = ", ".join(spec.kind for spec in inputs)
        raise ExportError(
            f"{checkpoint.family} eats {kinds}; this version makes bundles of families that eat one face: cspp, dam_cnn"
        )
    if not checkpoint.complete:
        raise ExportError(
            f"the checkpoint is from stage {checkpoint.stage!r}, and others follow; finish the run with --resume first"
        )
    network = checkpoint.network()
    if isinstance(network, DAMCNN) and network.mpvs is not None:
        network = network.inference()  # the decoders never leave the desktop
    return network, inputs


def _answer(network: torch.nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return np.asarray(network(*(torch.from_numpy(one) for one in tensors.values())).numpy())


def _same_as(network: torch.nn.Module) -> Callable[[Bundle], None]:
    def verify(bundle: Bundle) -> None:
        """The graph must answer what the network answers, on inputs it was not exported with."""
        engine = open_engine(bundle, "onnxruntime", "fp32")
        (spec,) = bundle.manifest.inputs
        generator = np.random.default_rng(1)
        for _ in range(8):
            tensor = generator.standard_normal(spec.shape).astype(np.float32)
            with torch.inference_mode():
                wanted = network(torch.from_numpy(tensor)).softmax(1).numpy()
            found = torch.from_numpy(engine.run({spec.name: tensor})[ANSWER]).softmax(1).numpy()
            difference = float(np.abs(found - wanted).max())
            if difference > TOLERANCES["fp32"]:
                raise ExportError(f"the graph differs from the network by {difference:.1e} in probability")

    return verify


def _replays(bundle: Bundle) -> None:
    check.require(bundle, check.check_preprocessing(bundle))
    check.require(bundle, check.check_engine(bundle, open_engine(bundle, "onnxruntime", "fp32")))
    check.require(bundle, check.check_detector(bundle, FaceDetector()))


if __name__ == "__main__":
    sys.exit(main())
