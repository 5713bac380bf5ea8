"""A trained network as an ONNX graph with fixed shapes, ready for any runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from edge.bundle import InputSpec, TensorSpec
from edge.errors import EdgeError

OPSET = 18
"""TensorRT 10.0's parser reads opsets 9 to 20; 18 is the lowest that torch's exporter writes without converting."""


class ExportError(EdgeError):
    """A network that can't become a graph, or a graph that isn't the network."""


def to_onnx(network: nn.Module, inputs: Sequence[InputSpec], outputs: Sequence[TensorSpec]) -> bytes:
    """Export with batch 1 and static shapes; batch normalisation is folded into the convolutions.

    Args:
        network: in evaluation mode; takes the inputs in order and returns one tensor.
        inputs: names and shapes.
        outputs: names and shapes.

    Returns:
        The ONNX file's bytes.

    Raises:
        ExportError: the network has an operation that has no ONNX form.
    """
    examples = tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in inputs)
    # The exporter talks a lot, on three channels, about nothing the user can act on.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(f"the network can't be exported to ONNX: {str(error).splitlines()[0]}") from error
    if program is None:
        raise ExportError("the network can't be exported to ONNX: the exporter gave no graph")
    model = program.model_proto
    if left := [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]:
        raise ExportError(f"batch normalisation was not folded: {', '.join(left)}")
    # Names and stack traces of the exporting machine are nobody's business.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    return bytes(model.SerializeToString())
