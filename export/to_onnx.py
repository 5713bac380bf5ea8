"""A trained network's part as an ONNX graph with fixed shapes, ready for any runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

import onnx
import torch

from export.errors import ExportError

if TYPE_CHECKING:
    from export.lower import Part

OPSET = 18
"""TensorRT 10.0's parser reads opsets 9 to 20; 18 is the lowest that torch's exporter writes without converting."""


def to_onnx(part: Part) -> onnx.ModelProto:
    """Export with batch 1, float32 and static shapes; the same weights give the same bytes.

    Args:
        part: one of :func:`export.lower.lower`'s.

    Returns:
        The model, all weights inside it: more than 2 GiB of them can't be serialised as they are, see
        :mod:`export.weights`.

    Raises:
        ExportError: the network has an operation that has no ONNX form.
    """
    module, inputs, outputs = part.module, part.inputs, part.outputs
    examples = tuple(torch.zeros(shape) for _, shape in inputs)
    # The exporter talks a lot, on three channels, about nothing the user can act on.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=[name for name, _ in inputs],
                output_names=[name for name, _ in outputs],
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(f"the network can't be exported to ONNX: {str(error).splitlines()[0]}") from error
    if program is None:
        raise ExportError("the network can't be exported to ONNX: the exporter gave no graph")
    model: onnx.ModelProto = program.model_proto
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
    return model
