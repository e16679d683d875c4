"""int8 where the processor adds products of 8-bit numbers in 16 bits.

x86 without VNNI multiplies unsigned by signed numbers with VPMADDUBSW, which cuts the
sum of two products at 32,767; two of uint8 activations and int8 weights can reach
64,770. Unsigned weights take a slower way that is exact everywhere, and say the same:
128 is added to each and named as their zero.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from .session import open_session

__all__ = ["products_saturate", "unsigned"]

PROBE = "saturation.onnx"
"""MatMulInteger of an uint8 `a` `(1, 64)` and an int8 `b` `(64, 16)`, as `probe` makes it:
kept as a file, since making it at every start takes a tenth of a second."""
_DEPTH, _COLUMNS = 64, 16
_ZERO = np.uint8(128)


def products_saturate() -> bool:
    """Whether products of uint8 and int8 come out wrong on this processor."""
    session = open_session(resources.files(__package__).joinpath(PROBE).read_bytes(), threads=1)
    a, b = np.full((1, _DEPTH), 255, np.uint8), np.full((_DEPTH, _COLUMNS), 127, np.int8)
    (sums,) = session.run(None, {"a": a, "b": b})
    return bool((sums != 255 * 127 * _DEPTH).any())


def unsigned(graph: Path | bytes) -> bytes:
    """An int8 graph of `build_graph` with unsigned weights."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(graph) if isinstance(graph, bytes) else onnx.load(graph)
    constants = {constant.name: constant for constant in model.graph.initializer}
    zero = numpy_helper.from_array(np.array(_ZERO), "zero")
    for node in model.graph.node:
        if node.op_type == "DynamicQuantizeMatMul":
            weight = constants[node.input[1]]
            moved = numpy_helper.to_array(weight).view(np.uint8) ^ _ZERO  # adds 128
            weight.CopyFrom(numpy_helper.from_array(moved, weight.name))
            node.input.append(zero.name)
    model.graph.initializer.append(zero)
    return bytes(model.SerializeToString())


def probe() -> bytes:
    """The graph of `PROBE`."""
    from onnx import TensorProto, helper

    a = helper.make_tensor_value_info("a", TensorProto.UINT8, [1, _DEPTH])
    b = helper.make_tensor_value_info("b", TensorProto.INT8, [_DEPTH, _COLUMNS])
    sums = helper.make_tensor_value_info("sums", TensorProto.INT32, [1, _COLUMNS])
    node = helper.make_node("MatMulInteger", ["a", "b"], ["sums"])
    graph = helper.make_graph([node], "probe", [a, b], [sums])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())
