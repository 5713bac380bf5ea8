"""Torch modules as ONNX graphs, for the tests of what is done to graphs."""

import io
from collections.abc import Mapping, Sequence

import onnx
import torch


def graph_of(
    module: torch.nn.Module, inputs: Mapping[str, tuple[int, ...]], outputs: Sequence[str] = ("logits",)
) -> onnx.ModelProto:
    """A module in evaluation mode as a graph; ``inputs`` are shapes by name."""
    buffer = io.BytesIO()
    program = torch.onnx.export(
        module.eval(),
        tuple(torch.zeros(shape) for shape in inputs.values()),
        dynamo=True,
        opset_version=18,
        input_names=list(inputs),
        output_names=list(outputs),
        verbose=False,
    )
    program.save(buffer)
    return onnx.load_from_string(buffer.getvalue())
