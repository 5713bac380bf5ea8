"""Small ONNX graphs, node by node."""

import onnx
from onnx import TensorProto, helper


def model(nodes, inputs, outputs, weights=()) -> bytes:
    """A checked graph of float32 inputs and outputs, each (name, shape); of the weights those that a node reads."""

    def named(which):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in which]

    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, "g", named(inputs), named(outputs), [one for one in weights if one.name in used])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())
