"""What TensorRT's ONNX parser takes, version by version.

Sources, "table" below: the operator tables of onnx-tensorrt (docs/operators.md) for 10.0 (opsets 9 to 20), for 10.15
(9 to 24) and for 11.2 (9 to 24); its changelog; its static checks (onnxOpCheckers.cpp). Where a table for a version in
between is not known, the older and stricter one holds for it. TensorRT knows more operators than are listed here: this
is what our networks need and what is common beside it; another is added with its row of the table, not by trial.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from export.lint.contract import OLDEST, Version

FLOAT, HALF, BRAIN = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
INT8, INT32, INT64, BOOL = TensorProto.INT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL

OPSET_FLOOR = 9
OPSET_CEILINGS: tuple[tuple[Version, int], ...] = (((10, 0), 20), ((10, 15), 24))
"""First version, and the highest opset its table names. NVIDIA's opset guide says 25 for 11.x, the 11.2 table 24."""

FLOATS = frozenset({FLOAT, HALF, BRAIN})
INTEGERS = frozenset({INT32, INT64})
ANY = FLOATS | INTEGERS | {BOOL}
TENSORS = ANY | {INT8}
"""Types a tensor may have at all. The table also has UINT8 (inputs and outputs only), DOUBLE (clamped to FLOAT), and
FP8, INT4, FP4 (no Orin has them): none of them is ours."""


@dataclass(frozen=True)
class Op:
    """One operator's row."""

    types: frozenset[int] = FLOATS
    """Of its data, inputs and outputs alike."""
    constants: frozenset[int] = frozenset()
    """Inputs that tell a shape, axes or indices; they must be constants for the shapes to be static."""
    weights: frozenset[int] = frozenset()
    """Inputs that must be weights: constants, dequantised or cast constants."""
    outputs: int = 1
    """How many of its outputs TensorRT has; the others are for training or unpooling. 99: any number."""
    since: Version = OLDEST


def _at(*places: int) -> frozenset[int]:
    return frozenset(places)


_PLAIN = (  # noqa: SIM905
    "Abs AveragePool Ceil Celu Clip Cos DepthToSpace Div Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalMaxPool "
    "GridSample HardSigmoid HardSwish InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax LRN MatMul Max "
    "MaxPool Mean Min Mul Neg Pow PRelu Reciprocal Relu Round Selu Sigmoid Sign Sin Softmax Softplus Softsign "
    "SpaceToDepth Sqrt Sub Sum Tan Tanh Add"
).split()
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

OPS: dict[str, Op] = {
    **dict.fromkeys(_PLAIN, Op()),
    # "`axes` must be an initializer".
    **{f"Reduce{name}": Op(constants=_at(1)) for name in _REDUCTIONS},
    "Conv": Op(weights=_at(1, 2)),
    "ConvTranspose": Op(weights=_at(1, 2)),
    "Cast": Op(ANY),
    "Concat": Op(ANY),
    "Constant": Op(ANY | {INT8}),
    "ConstantOfShape": Op(constants=_at(0)),
    "Expand": Op(ANY, constants=_at(1)),
    "Flatten": Op(ANY),
    "Gather": Op(ANY, constants=_at(1)),
    "Identity": Op(ANY | {INT8}),
    "Pad": Op(constants=_at(1, 3)),
    "Reshape": Op(ANY, constants=_at(1)),
    "Resize": Op(constants=_at(1, 2, 3)),
    "Slice": Op(ANY, constants=_at(1, 2, 3, 4)),
    "Split": Op(ANY, constants=_at(1), outputs=99),
    "Squeeze": Op(ANY, constants=_at(1)),
    "Swish": Op(since=(11, 0)),  # onnx-tensorrt#1054
    "Tile": Op(ANY, constants=_at(1)),
    "Transpose": Op(ANY),
    "Unsqueeze": Op(ANY, constants=_at(1)),
    "And": Op(frozenset({BOOL})),
    "Or": Op(frozenset({BOOL})),
    "Not": Op(frozenset({BOOL})),
    "Equal": Op(FLOATS | {BOOL}),
    "Greater": Op(FLOATS | {BOOL}),
    "GreaterOrEqual": Op(FLOATS | {BOOL}),
    "Less": Op(FLOATS | {BOOL}),
    "LessOrEqual": Op(FLOATS | {BOOL}),
    "Where": Op(FLOATS | {BOOL}),
    # Their types have rules of their own, in quantised.py.
    "QuantizeLinear": Op(FLOATS | {INT8}),
    "DequantizeLinear": Op(FLOATS | {INT8}),
}

REFUSED: dict[str, str] = {
    "Loop": "it can't hold a convolution (TensorRT#4424, #1081) and runs slowly (#1925); unroll it in the network",
    "Scan": "it becomes a loop, which can't hold a convolution and runs slowly; unroll it in the network",
    "If": "a graph with fixed shapes has nothing to decide; take the branch before the export",
    "LSTM": "it becomes a loop, which runs slowly (TensorRT#1925); write its steps out in the network",
    "GRU": "it becomes a loop, which runs slowly (TensorRT#1925); write its steps out in the network",
    "RNN": "it becomes a loop, which runs slowly (TensorRT#1925); write its steps out in the network",
    "QLinearConv": "the table says N; quantise with QuantFormat.QDQ",
    "QLinearMatMul": "the table says N; quantise with QuantFormat.QDQ",
    "ConvInteger": "the table says N; quantise with QuantFormat.QDQ",
    "MatMulInteger": "the table says N; quantise with QuantFormat.QDQ",
    "DynamicQuantizeLinear": "the table says N; calibrate and quantise statically",
    "Shape": "with fixed shapes it is a constant; fold it before the export",
    "AffineGrid": "the table says N; compute the grid before the export",
}
"""Operators with a reason of their own; the parser knows some of them."""

PAD_MODES = frozenset({"constant", "edge", "reflect", "wrap"})
RESIZE_MODES = frozenset({"nearest", "linear"})
RESIZE_COORDINATES = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)
RESIZE_NEAREST = frozenset({"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"})


def opset_ceiling(version: Version) -> int:
    """The highest opset that a version's table names."""
    return [ceiling for first, ceiling in OPSET_CEILINGS if first <= version][-1]


def type_name(kind: int) -> str:
    """As ONNX writes it: FLOAT16. Numbers that ONNX doesn't know stay numbers."""
    try:
        return str(TensorProto.DataType.Name(kind))
    except ValueError:
        return f"type {kind}"
