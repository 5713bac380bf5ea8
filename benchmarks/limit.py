"""Against the limit: what a graph must do at least, and how long that takes on this machine and, on paper, on others.

Two floors. **Compute**: two operations a multiply-add, over the rate of a large product of matrices. **Memory**: every
weight, input and output moved once, over the bandwidth of a copy of just as many bytes; what lies between the layers
is taken to stay in the processor. No run can be faster than the greater of the two. A *prediction* is something else:
it adds up the layers, each at a stated share of a data sheet's figures, and a stated time to start each kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from edge.bundle import Bundle

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""An element's, by precision."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation that takes time: a convolution, a product of matrices, a recurrent layer, or a pool."""

    name: str
    kind: str
    macs: int
    """Multiply-adds."""
    weights: int
    """Elements of its constants."""
    read: int
    """Elements of what it is given."""
    written: int
    """Elements of what it gives."""


@dataclass(frozen=True, slots=True)
class Count:
    """What one graph does for one run."""

    graph: str
    layers: tuple[Layer, ...]
    parameters: int
    """Elements of the floating-point weights."""
    inputs: int
    outputs: int
    nodes: int

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return sum(layer.macs for layer in self.layers)

    def bytes(self, precision: str) -> int:
        """Every weight, input and output once; what goes in and out of a bundle's graph is fp32."""
        return self.parameters * BYTES[precision] + 4 * (self.inputs + self.outputs)


def count(bundle: Bundle, graph: str) -> Count:
    """Count a bundle's graph in its first precision: quantising changes the bytes, not the work.

    Raises:
        ImportError: onnx isn't installed.
        BundleError: the bundle has no such graph, or it can't be trusted.
    """
    import onnx

    file = bundle.graph(graph, bundle.manifest.precisions[0])
    model = onnx.load_model_from_string(file.model)
    return of_model(model, graph, {name: value.shape for name, value in file.weights.items()})


def of_model(model: Any, graph: str, elsewhere: Mapping[str, tuple[int, ...]] | None = None) -> Count:
    """Count a model, an ``onnx.ModelProto`` with fixed shapes.

    Args:
        model: in floating point; layers may take their weights through DequantizeLinear.
        graph: its name.
        elsewhere: shapes of the weights that lie in other files.
    """
    from onnx import TensorProto, helper, shape_inference

    shapes: dict[str, tuple[int, ...]] = {}
    model = shape_inference.infer_shapes(model, strict_mode=False)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        shapes[value.name] = tuple(one.dim_value for one in value.type.tensor_type.shape.dim)
    constants = {one.name: tuple(one.dims) for one in model.graph.initializer} | dict(elsewhere or {})
    floats = {
        one.name: prod(one.dims)
        for one in model.graph.initializer
        if one.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8) and one.dims
    }
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    layers = []
    for node in model.graph.node:
        written = sum(prod(shapes.get(name, (0,))) for name in node.output if name)
        given = [name for name in node.input if name and name not in constants]
        read = sum(prod(shapes.get(name, (0,))) for name in given)
        weights = sum(prod(constants[name]) for name in node.input if name in constants)
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        out = prod(shapes.get(node.output[0], (0,)))
        shape_of = {**shapes, **constants}
        if node.op_type == "Conv":
            macs = out * prod(shape_of[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            macs = prod(shape_of[node.input[0]]) * prod(shape_of[node.input[1]][1:])
        elif node.op_type == "Gemm":
            macs = out * shape_of[node.input[0]][0 if attributes.get("transA") else 1]
        elif node.op_type == "MatMul":
            macs = out * shape_of[node.input[0]][-1]
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            steps, batch = shape_of[node.input[0]][:2]
            macs = steps * batch * sum(prod(shape_of[name]) for name in node.input[1:3])
        elif node.op_type in (
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "ReduceMean",
            "ReduceMax",
        ):
            macs = 0
        else:
            continue  # cheap, and fused with what comes before by every runtime
        layers.append(Layer(node.name or node.output[0], node.op_type, macs, weights, read, written))
    return Count(
        graph=graph,
        layers=tuple(layers),
        parameters=sum(floats.values()),
        inputs=sum(prod(shapes[one.name]) for one in model.graph.input if one.name not in constants),
        outputs=sum(prod(shapes[one.name]) for one in model.graph.output),
        nodes=len(model.graph.node),
    )


@dataclass(frozen=True, slots=True)
class Floor:
    """The least time of one run, milliseconds."""

    compute_ms: float
    memory_ms: float

    @property
    def ms(self) -> float:
        """The greater."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def bound(self) -> str:
        """``compute`` or ``memory``."""
        return "compute" if self.compute_ms >= self.memory_ms else "memory"


def floor(counted: Count, precision: str, gop_s: float, gb_s: float) -> Floor:
    """The floor of a graph.

    Args:
        counted: the graph.
        precision: its own.
        gop_s: operations, 10^9 a second, two a multiply-add.
        gb_s: bytes, 10^9 a second.
    """
    return Floor(2 * counted.macs / gop_s / 1e6, counted.bytes(precision) / gb_s / 1e6)


@dataclass(frozen=True, slots=True)
class Board:
    """A data sheet's figures, at their most; the rates are of the GPU alone, dense (not sparse)."""

    name: str
    gb_s: float
    """Memory, 10^9 bytes a second."""
    fp32_tflops: float
    """CUDA cores: two a core and cycle."""
    fp16_tflops: float
    """Tensor cores."""
    int8_tops: float
    """Tensor cores."""

    def tops(self, precision: str) -> float:
        """Operations in a precision, 10^12 a second."""
        return {"fp32": self.fp32_tflops, "fp16": self.fp16_tflops, "int8": self.int8_tops}[precision]


BOARDS = (
    # NVIDIA's data sheets of the modules. They state sparse INT8 (Thor: sparse FP4); dense is half, FP16 half of that.
    # Orin: 1024 operations a tensor core and cycle in INT8. Fp32 is 2 x CUDA cores x clock.
    Board("Orin Nano 8 GB, 15 W", 68.0, 1.28, 10.0, 20.0),  # 1024 cores, 32 tensor cores, 625 MHz: 40 TOPS sparse
    Board("Orin Nano 8 GB, Super", 102.0, 2.09, 16.7, 33.4),  # the same at 1020 MHz: 67 TOPS sparse
    Board("Orin NX 16 GB", 102.4, 1.88, 15.0, 30.1),  # the same at 918 MHz; 100 TOPS sparse with both DLAs
    Board("AGX Orin 64 GB", 204.8, 5.32, 42.6, 85.2),  # 2048, 64 and 1300 MHz; 275 TOPS sparse with both DLAs
    Board("Thor T5000", 273.0, 8.06, 259.0, 517.0),  # 2560 cores, 1575 MHz: 2070 TFLOPS sparse FP4
)

BANDWIDTH_SHARE = 0.7
"""Of the data sheet's bandwidth that a kernel gets."""
COMPUTE_SHARE = 0.25
"""Of the data sheet's rate that one small layer at batch 1 gets."""
START_US = 8.0
"""To start a kernel and to wait for the one before."""

ASSUMPTIONS = (
    f"each layer alone takes the greater of its bytes (weights, inputs, outputs) at {BANDWIDTH_SHARE:.0%} of the data "
    f"sheet's bandwidth and its operations at {COMPUTE_SHARE:.0%} of the data sheet's dense rate, and {START_US:g} us "
    "to be started; element-wise layers are fused into them; clocks at their most; no transfer of the input; the GPU "
    "is nobody else's. The floor beside it assumes nothing but the data sheet."
)


def predicted_ms(counted: Count, precision: str, board: Board) -> float:
    """One run on a board, by the stated assumptions: a prediction, never a measurement."""
    size, total = BYTES[precision], 0.0
    for layer in counted.layers:
        moved = (layer.weights + layer.read + layer.written) * size / (board.gb_s * BANDWIDTH_SHARE) / 1e6
        done = 2 * layer.macs / (board.tops(precision) * COMPUTE_SHARE) / 1e9
        total += max(moved, done) + START_US / 1e3
    return total


def board_floor(counted: Count, precision: str, board: Board) -> Floor:
    """The floor of a graph by a data sheet."""
    return floor(counted, precision, board.tops(precision) * 1e3, board.gb_s)


def document(counted: Count) -> dict[str, Any]:
    """For JSON."""
    return {**asdict(counted), "layers": [asdict(one) for one in counted.layers], "macs": counted.macs}
