"""A graph as the rules read it: who makes a value, who takes it, its type, its shape, and whether it is a constant."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

SMALL = 1024
"""Elements of the largest initialiser that shape inference may want to read."""


class Graph:
    """One model, read once.

    Types and shapes are inferred from the inputs and initialisers alone: what the model itself says of its
    intermediate values may be out of date.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        """Read a model.

        Args:
            model: any model, broken ones as well.
            folder: where its external data lies; None where nobody knows, and then that data is not read.
        """
        self.model = model
        self.folder = folder
        self.graph = model.graph
        self.nodes = list(model.graph.node)
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [value for value in model.graph.input if value.name not in self.initializers]
        self.outputs = list(model.graph.output)
        self.output_names = {value.name for value in self.outputs}
        self.producers: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[tuple[NodeProto, int]]] = {}
        for node in self.nodes:
            self.producers |= {name: node for name in node.output if name}
            for index, name in enumerate(node.input):
                if name:
                    self.consumers.setdefault(name, []).append((node, index))

    @property
    def opset(self) -> int:
        """Of the default domain; 0 where the model names none."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    # --- types and shapes -------------------------------------------------------------------------------------------

    @cached_property
    def _inferred(self) -> tuple[dict[str, onnx.TypeProto], str | None, bool]:
        model = skeleton = self.skeleton
        complaint = None
        # Whatever onnx's C++ side raises, of several unrelated classes: it is what the user must hear.
        try:
            onnx.checker.check_model(skeleton)
        except Exception as error:
            # Nothing is inferred then: older versions of onnx die of a graph that their checker refuses.
            complaint = _first_line(error)
        else:
            try:
                model = shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True, data_prop=True)
            except Exception as error:
                complaint = _first_line(error)
                with contextlib.suppress(Exception):
                    model = shape_inference.infer_shapes(skeleton, data_prop=True)
        values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        return {value.name: value.type for value in values}, complaint, model is not skeleton

    @cached_property
    def skeleton(self) -> onnx.ModelProto:
        """The model without its weights' bytes: large and external initialisers stand among the inputs."""
        model = onnx.ModelProto(ir_version=self.model.ir_version, producer_name=self.model.producer_name)
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        graph = model.graph
        graph.name = self.graph.name or "graph"
        graph.node.extend(self.graph.node)
        graph.input.extend(self.graph.input)
        graph.output.extend(self.graph.output)
        graph.sparse_initializer.extend(self.graph.sparse_initializer)
        known = {value.name for value in graph.input}
        for tensor in self.graph.initializer:
            if count(tensor) <= SMALL and tensor.data_location != TensorProto.EXTERNAL:
                graph.initializer.append(tensor)
            elif tensor.name not in known:
                known.add(tensor.name)
                graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        return model

    @property
    def complaint(self) -> str | None:
        """What ONNX's own checker or strict shape inference says, one line; None if nothing."""
        return self._inferred[1]

    @property
    def is_inferred(self) -> bool:
        """Whether there are types and shapes at all: not where ONNX's own checker refuses the model."""
        return self._inferred[2]

    def type(self, name: str) -> int | None:
        """Element type (TensorProto.DataType) of a value; None where it can't be told."""
        if name in self.initializers:
            return self.initializers[name].data_type
        kind = self._inferred[0].get(name)
        return kind.tensor_type.elem_type or None if kind is not None and kind.HasField("tensor_type") else None

    def shape(self, name: str) -> Shape | None:
        """Shape of a value, None for each dimension that is not fixed; None where not even the rank is known."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        kind = self._inferred[0].get(name)
        return None if kind is None else dimensions(kind)

    def is_static(self, name: str) -> bool:
        """Every dimension fixed."""
        shape = self.shape(name)
        return shape is not None and None not in shape

    # --- constants --------------------------------------------------------------------------------------------------

    def is_constant(self, name: str) -> bool:
        """An initialiser, a Constant node's output, or an Identity of one."""
        for _ in self.nodes:  # as many Identities as there are nodes, should they run in a circle
            if name in self.initializers:
                return True
            node = self.producers.get(name)
            if node is None or node.op_type != "Identity" or not node.input:
                return node is not None and node.op_type == "Constant"
            name = node.input[0]
        return name in self.initializers

    def constant(self, name: str) -> Array | None:
        """A constant's value; None where it is none, or its bytes are out of reach or damaged."""
        if not self.is_constant(name):
            return None
        while name not in self.initializers and self.producers[name].op_type == "Identity":
            name = self.producers[name].input[0]
        if name in self.initializers:
            return self.array(self.initializers[name])
        for entry in self.producers[name].attribute:
            if entry.name == "value":
                return self.array(entry.t)
            if entry.name in ("value_float", "value_int", "value_floats", "value_ints"):
                return np.asarray(helper.get_attribute_value(entry))
        return None

    def array(self, tensor: TensorProto) -> Array | None:
        """A tensor's values; None where its bytes are out of reach or damaged."""
        if tensor.data_location == TensorProto.EXTERNAL and (
            self.folder is None or external_fault(tensor, self.folder) is not None
        ):
            return None
        try:
            return np.asarray(numpy_helper.to_array(tensor, base_dir=str(self.folder or "")))
        # A shape that doesn't fit the bytes, a type that this onnx doesn't know: several unrelated classes.
        except Exception:
            return None

    def tensors(self) -> Iterator[tuple[str, TensorProto]]:
        """Every tensor that the model stores, with a name to find it by."""
        for tensor in self.graph.initializer:
            yield tensor.name, tensor
        for node in self.nodes:
            for entry in node.attribute:
                if entry.type == AttributeProto.TENSOR:
                    yield label(node), entry.t

    # --- neighbours -------------------------------------------------------------------------------------------------

    def maker(self, name: str, *ops: str) -> NodeProto | None:
        """The node that makes a value, if it is one of these operators."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type in ops else None

    def takers(self, node: NodeProto) -> list[tuple[NodeProto, int]]:
        """Who takes a node's first output, and as which input."""
        return self.consumers.get(node.output[0], []) if node.output else []


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def label(node: NodeProto) -> str:
    """A node's name, or what tells it apart where it has none."""
    return node.name or f"{node.op_type} that makes {next(iter(node.output), 'nothing')!r}"


Value = TypeVar("Value", int, str, list[int])


def attribute(node: NodeProto, name: str, default: Value) -> Value:
    """An attribute's value, of the default's type; the default where there is none, or one of another type.

    That its type is wrong is what ONNX's own checker reports.
    """
    for entry in node.attribute:
        if entry.name != name:
            continue
        if isinstance(default, int):
            return entry.i if entry.type == AttributeProto.INT else default
        if isinstance(default, str):
            return entry.s.decode("utf-8", "replace") if entry.type == AttributeProto.STRING else default
        return list(entry.ints) if entry.type == AttributeProto.INTS else default
    return default


def given(node: NodeProto, index: int) -> str:
    """The name of an input, empty where it was left out."""
    return node.input[index] if index < len(node.input) else ""


def dimensions(kind: onnx.TypeProto) -> Shape | None:
    """A type's shape, None for each dimension that is not fixed; None without a rank."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(entry.dim_value if entry.HasField("dim_value") else None for entry in kind.tensor_type.shape.dim)


def count(tensor: TensorProto) -> int:
    """Elements, by the tensor's shape."""
    total = 1
    for size in tensor.dims:
        total *= size
    return total


def item_bits(kind: int) -> int | None:
    """Bits of one stored element; None for text and types that this onnx doesn't know."""
    if kind in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None
    if type_is_packed(kind):
        return 4
    try:
        return int(helper.tensor_dtype_to_np_dtype(kind).itemsize) * 8
    except (KeyError, ValueError, TypeError):
        return None


def type_is_packed(kind: int) -> bool:
    """Two elements a byte."""
    return kind in {getattr(TensorProto, name, -1) for name in ("INT4", "UINT4", "FLOAT4E2M1")}


def external_fault(tensor: TensorProto, folder: Path | None) -> str | None:
    """What is wrong with where a tensor's external data lies; None if nothing.

    Raw bytes are little-endian from ``offset``, ``length`` of them (ONNX, ExternalData.md). A bundle is one folder, so
    a location is a bare file name; anything else could reach files that are none of the model's.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location in ("", ".", "..") or any(letter in location for letter in '/\\:\0"'):
        return f"its external data lies at {location!r}, which is no bare file name"
    numbers = {key: entries[key] for key in ("offset", "length") if key in entries}
    if wrong := {key: value for key, value in numbers.items() if not re.fullmatch("[0-9]{1,18}", value)}:
        return f"its external data has {', '.join(f'{key} {value!r}' for key, value in wrong.items())}"
    bits = item_bits(tensor.data_type)
    needed = (count(tensor) * bits + 7) // 8 if bits else None
    offset, length = int(numbers.get("offset", "0")), numbers.get("length")
    if needed is not None and length is not None and int(length) != needed:
        return f"its external data has {length} bytes, its shape and type want {needed}"
    if folder is None:
        return None
    path = folder / location
    if path.is_symlink() or not path.is_file():
        return f"its external data's file {location} is absent, or no plain file"
    end = offset + (int(length) if length is not None else needed or 0)
    if end > (size := path.stat().st_size):
        return f"its external data ends at byte {end} of {location}, which has {size}"
    return None
