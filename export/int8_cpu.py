"""INT8 in the form that ONNX Runtime's CPU kernels fuse: the same integers as TensorRT's (:mod:`export.int8`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.calibration import LEVELS, WEIGHTED, Ranges
from export.errors import ExportError
from export.int8 import scale_of
from export.onnxgraph import COMMUTES, assembled, makers_of, output_axis, readers_of


def for_cpu(model: onnx.ModelProto, sums: Ranges | None = None) -> onnx.ModelProto:
    """The same integers in the form that ONNX Runtime's CPU kernels fuse; TensorRT would refuse it.

    - A convolution whose result goes through a ReLU (and ``COMMUTES``) to a quantisation gets that quantisation
      directly behind it, which makes it one integer kernel, and pools behind it work on integers.
    - After a ReLU no value is negative: unsigned eight bits with zero-point 0 clip at 0 on their own, and a Clip at 127
      does what signed ones do.
    - CPUs without VNNI add two products in 16 bits. Values up to 127 never overflow those; a layer that reads signed
      ones, which its kernel shifts to 0..255, gets its weights in seven bits.
    - A fully connected layer with a float32 result is summed in integers and scaled afterwards: ONNX Runtime 1.31 and
      1.23 don't fuse one that another float32 layer follows.
    - A residual sum that is quantised next adds eight bits to eight: TensorRT adds the convolution's own sums, for
      which ONNX Runtime has no kernel, and would compute that convolution in floats. Here that one value is rounded
      once more. All three tensors are unsigned, since the kernel wants one type; signed ones with zero-point 128.
    - The other biases become INT32, which the fused kernels ask for.

    Args:
        model: of :func:`to_int8` with ``high="fp32"``. It is not changed.
        sums: the ranges of what residual sums add (:func:`export.calibration.calibrate`); None leaves those
            convolutions in floats.

    Returns:
        A model that gives the same numbers, but for rounding in the kernels that fuse and before residual sums.

    Raises:
        ExportError: the model's high precision is FP16, for which the CPU has few kernels.
    """
    constants = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and constants[node.input[1]].data_type != TensorProto.FLOAT:
            raise ExportError("the CPU form wants float32 scales; expected to_int8(..., high='fp32')")
    return _ForCPU(model, sums or {}).model


class _ForCPU:
    """Finds what can move, then writes the graph anew in one pass."""

    def __init__(self, model: onnx.ModelProto, sums: Ranges) -> None:
        self._model, self._sums = model, sums
        self._constants = {one.name: one for one in model.graph.initializer}
        self._makers, self._readers = makers_of(model), readers_of(model)
        self._outputs = {one.name for one in model.graph.output}
        self._made = dict(self._constants)
        for name, value in (("uint8_zero", 0), ("uint8_127", LEVELS - 1), ("uint8_128", LEVELS)):
            self._made[name] = numpy_helper.from_array(np.array(value, np.uint8), name)
        self._nodes: list[onnx.NodeProto] = []
        self._early = self._find_early()
        self._renamed: dict[str, str] = {}
        self._integers: dict[str, tuple[str, str]] = {}
        """The integers behind a tensor that was quantised at once, and their zero-point."""
        self._zeros: dict[str, str] = {}
        """The zero-point of each INT8 tensor of the old graph that is unsigned in the new one."""
        for node in model.graph.node:
            self._write(node)
        read = self._outputs | {name for node in self._nodes for name in node.input}
        alive = [node for node in self._nodes if not read.isdisjoint(node.output)]
        self.model = assembled(model, alive, self._made)

    def _is_layer(self, node: onnx.NodeProto | None) -> bool:
        """Whether this is a weighted operation whose activation and weight come out of a DequantizeLinear."""
        if node is None or node.op_type not in WEIGHTED:
            return False
        sources = [self._makers.get(name) for name in node.input[:2]]
        return all(one is not None and one.op_type == "DequantizeLinear" for one in sources)

    def _find_early(self) -> dict[str, tuple[str, str]]:
        """A layer's name to the tensor (its own or its ReLU's) that is quantised at once, and the scale's name."""
        found = {}
        for node in self._model.graph.node:
            branch = self._branch(node)
            if not self._is_layer(node) and branch is None:
                continue
            result = node.output[0]
            readers = self._readers.get(result, [])
            if len(readers) == 1 and readers[0].op_type == "Relu" and result not in self._outputs:
                result = readers[0].output[0]
            scale = self._one_scale(result)
            if scale is not None:
                found[node.name] = (result, scale)
                if branch is not None:
                    name = f"{branch.output[0]}_scale"
                    self._made[name] = numpy_helper.from_array(scale_of(self._sums[branch.output[0]]), name)
                    found[branch.name] = (branch.output[0], name)
        return found

    def _branch(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The layer whose float result a residual sum adds to what was quantised, where its range is known."""
        if node.op_type != "Add" or any(name in self._constants for name in node.input):
            return None
        makers = [self._makers.get(name) for name in node.input]
        layers = [one for one in makers if one is not None and self._is_layer(one)]
        if len(layers) != 1 or not any(one is not None and one.op_type == "DequantizeLinear" for one in makers):
            return None
        (branch,) = layers
        alone = len(self._readers.get(branch.output[0], [])) == 1 and branch.output[0] not in self._outputs
        return branch if alone and branch.output[0] in self._sums else None

    def _one_scale(self, name: str) -> str | None:
        """The one scale with which a tensor is quantised everywhere it goes; None if it is read otherwise."""
        names = [name]
        scales: dict[float, str] = {}
        while names:
            one = names.pop()
            readers = self._readers.get(one, [])
            if one in self._outputs or not readers:
                return None
            for node in readers:
                if node.op_type in COMMUTES:
                    names.extend(node.output)
                elif node.op_type == "QuantizeLinear":
                    scales.setdefault(float(numpy_helper.to_array(self._constants[node.input[1]])), node.input[1])
                else:
                    return None
        return next(iter(scales.values())) if len(scales) == 1 else None

    def _positive(self, name: str) -> bool:
        """Whether no value can be negative."""
        node = self._makers.get(name)
        if node is None:
            return False
        if node.op_type == "Relu":
            return True
        data = node.input if node.op_type == "Concat" else node.input[:1]
        return node.op_type in COMMUTES and all(self._positive(one) for one in data)

    def _settled(self, name: str, scale: float) -> bool:
        """Whether all values of a tensor were quantised with this scale on the way, so that none exceeds 127."""
        for result, scale_name in self._early.values():
            if result == name:
                return float(numpy_helper.to_array(self._constants[scale_name])) == scale
        node = self._makers.get(name)
        if node is None or node.op_type not in COMMUTES:
            return False
        data = node.input if node.op_type == "Concat" else node.input[:1]
        return all(self._settled(one, scale) for one in data)

    def _write(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.input):
            copy.input[index] = self._renamed.get(name, name)
        if node.op_type == "Relu":
            maker = self._makers.get(node.input[0])
            if maker is not None and self._early.get(maker.name, ("", ""))[0] == node.output[0]:
                # The unsigned quantisation behind the layer clips at 0 already.
                self._renamed[node.output[0]] = self._renamed[node.input[0]]
                return
        if node.op_type == "QuantizeLinear":
            self._write_quantise(node, copy)
            return
        if node.op_type == "DequantizeLinear" and node.input[0] in self._zeros:
            copy.input[2] = self._zeros[node.input[0]]
        if self._is_layer(node):
            if node.op_type != "Conv" and node.name not in self._early:
                self._write_integer(node, copy.output[0])
                return
            if self._reads_signed(node):
                self._narrow_weight(node, copy)
            self._add_bias(node, copy)
        self._nodes.append(copy)
        if node.name in self._early:
            result, scale = self._early[node.name]
            layer = node.output[0]
            unsigned = self._positive(result)
            self._renamed[layer] = self._pair(layer, scale, unsigned=unsigned)

    def _write_quantise(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        if copy.input[0] in self._integers:
            self._renamed[node.output[0]], self._zeros[node.output[0]] = self._integers[copy.input[0]]
            return
        if not self._positive(node.input[0]):
            self._nodes.append(copy)
            return
        self._zeros[node.output[0]] = "uint8_zero"
        copy.input[2] = "uint8_zero"
        self._nodes.append(copy)
        scale = float(numpy_helper.to_array(self._constants[node.input[1]]))
        if not self._settled(node.input[0], scale):
            self._renamed[node.output[0]] = self._clip(node.output[0])

    def _pair(self, name: str, scale: str, *, unsigned: bool) -> str:
        zero = "uint8_zero" if unsigned else "uint8_128"
        integers, result = f"{name}_at_once", f"{name}_at_once_dequantised"
        self._nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [integers], name=f"{integers}_q"))
        if unsigned:
            integers = self._clip(integers)
        self._nodes.append(helper.make_node("DequantizeLinear", [integers, scale, zero], [result], name=f"{result}_q"))
        self._integers[result] = integers, zero
        return result

    def _clip(self, name: str) -> str:
        clipped = f"{name}_clipped"
        self._nodes.append(helper.make_node("Clip", [name, "uint8_zero", "uint8_127"], [clipped], name=f"{name}_clip"))
        return clipped

    def _write_integer(self, node: onnx.NodeProto, output: str) -> None:
        """A fully connected layer with a float32 result: summed as integers, then scaled."""
        activation, _ = self._sources(node)
        integers = self._renamed.get(activation.input[0], activation.input[0])
        zero = self._zeros.get(activation.input[0], activation.input[2])
        step, tag = self._step(node), f"{node.name}_summed"
        matrix = self._integers_of(node)
        if output_axis(node) == 0:
            matrix = np.ascontiguousarray(matrix.T)
        self._made[f"{tag}_weight"] = numpy_helper.from_array(matrix, f"{tag}_weight")
        self._made[f"{tag}_scale"] = numpy_helper.from_array(step, f"{tag}_scale")
        self._nodes.append(helper.make_node("MatMulInteger", [integers, f"{tag}_weight", zero], [tag], name=tag))
        if len(node.input) > 2:
            shift = np.rint(numpy_helper.to_array(self._constants[node.input[2]]) / step).astype(np.int32)
            self._made[f"{tag}_bias"] = numpy_helper.from_array(shift, f"{tag}_bias")
            self._nodes.append(helper.make_node("Add", [tag, f"{tag}_bias"], [f"{tag}_all"], name=f"{tag}_all"))
            tag = f"{tag}_all"
        self._nodes.append(helper.make_node("Cast", [tag], [f"{tag}_real"], name=f"{tag}_real", to=TensorProto.FLOAT))
        scale = f"{node.name}_summed_scale"
        self._nodes.append(helper.make_node("Mul", [f"{tag}_real", scale], [output], name=f"{node.name}_scaled"))

    def _sources(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto]:
        """The nodes that dequantise a layer's activation and weight."""
        return self._makers[node.input[0]], self._makers[node.input[1]]

    def _reads_signed(self, node: onnx.NodeProto) -> bool:
        """Whether a layer's activation is not in 0..127 here."""
        activation, _ = self._sources(node)
        return self._zeros.get(activation.input[0]) != "uint8_zero"

    def _integers_of(self, node: onnx.NodeProto) -> npt.NDArray[np.int8]:
        """A layer's weight."""
        _, weight = self._sources(node)
        integers = numpy_helper.to_array(self._constants[weight.input[0]])
        return np.rint(integers / 2).astype(np.int8) if self._reads_signed(node) else integers

    def _scale_of(self, node: onnx.NodeProto) -> npt.NDArray[np.float32]:
        """What one unit of a layer's weight is worth, by output channel."""
        _, weight = self._sources(node)
        scale = numpy_helper.to_array(self._constants[weight.input[1]])
        return np.asarray(scale * 2 if self._reads_signed(node) else scale, np.float32)

    def _narrow_weight(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        _, old = self._sources(node)
        tag = f"{node.name}_narrow"
        parts = [f"{tag}_int8", f"{tag}_scale", *old.input[2:]]
        self._made[parts[0]] = numpy_helper.from_array(self._integers_of(node), parts[0])
        self._made[parts[1]] = numpy_helper.from_array(self._scale_of(node), parts[1])
        new = helper.make_node("DequantizeLinear", parts, [f"{tag}_dequantised"], name=f"{tag}_dequantise")
        new.attribute.extend(old.attribute)
        self._nodes.append(new)
        copy.input[1] = new.output[0]

    def _step(self, node: onnx.NodeProto) -> npt.NDArray[np.float32]:
        """What one unit of a layer's integer sums is worth, by output channel."""
        activation, _ = self._sources(node)
        scale = numpy_helper.to_array(self._constants[activation.input[1]])
        return np.asarray(scale * self._scale_of(node), np.float32)

    def _add_bias(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        if len(node.input) < 3 or node.input[2] not in self._constants:
            return
        step = self._step(node)
        value = numpy_helper.to_array(self._constants[node.input[2]])
        if value.shape != step.shape:
            return
        tag = f"{node.name}_bias"
        parts = (f"{tag}_int32", f"{tag}_scale", f"{tag}_zero")
        self._made[parts[0]] = numpy_helper.from_array(np.rint(value / step).astype(np.int32), parts[0])
        self._made[parts[1]] = numpy_helper.from_array(step, parts[1])
        self._made[parts[2]] = numpy_helper.from_array(np.zeros(len(step), np.int32), parts[2])
        result = f"{tag}_dequantised"
        self._nodes.append(helper.make_node("DequantizeLinear", parts, [result], name=f"{tag}_dequantise", axis=0))
        copy.input[2] = result
