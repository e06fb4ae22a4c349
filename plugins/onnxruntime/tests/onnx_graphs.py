"""Small ONNX graphs for tests, each with one property that models in the field have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
Dims = Sequence[int | str | None]


def value(name: str, dims: Dims, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, list(dims))


def model(nodes: Any, inputs: Any, outputs: Any, stored: dict[str, Any] | None = None, opset: int = 17) -> Any:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(proto: Any, path: Path) -> Path:
    onnx.save(proto, path)
    return path


def dense(dims: Dims = (1, 4)) -> Any:
    """y = x @ w, [..., 4] -> [..., 3]."""
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model([node], [value("x", dims)], [value("y", [*dims[:-1], 3])], {"w": weights})


def float64_inside(border: int = FLOAT) -> Any:
    """y = x * 0.1 computed in float64, with a constant beyond float32's range that saturates."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x64"], to=DOUBLE),
        helper.make_node("Mul", ["x64", "tenth"], ["scaled"]),
        helper.make_node("Min", ["scaled", "huge"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["y"], to=border),
    ]
    stored = {"tenth": np.array(0.1), "huge": np.array(1e300)}
    return model(nodes, [value("x", ["n", 4], border)], [value("y", ["n", 4], border)], stored)


def branch(name: str, nodes: Any) -> Any:
    return helper.make_graph(nodes, name, [], [value(f"{name}_out", ["n", 4])])


def on_flag() -> Any:
    """y = -x, or with the flag x + 1 for a batch below 3 and x - 1 for a larger one: an `If` inside an `If`."""
    shared = numpy_helper.from_array(np.float32(1.0), "one")
    inner = [
        branch("small", [helper.make_node("Add", ["x", "one"], ["small_out"])]),
        branch("large", [helper.make_node("Sub", ["x", "one"], ["large_out"])]),
    ]
    nested = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Less", ["batch", "three"], ["is_small"]),
        helper.make_node("If", ["is_small"], ["then_out"], then_branch=inner[0], else_branch=inner[1]),
    ]
    outer = helper.make_node(
        "If",
        ["flag"],
        ["y"],
        then_branch=branch("then", nested),
        else_branch=branch("else", [helper.make_node("Neg", ["x"], ["else_out"])]),
    )
    inputs = [value("x", ["n", 4]), value("flag", [], TensorProto.BOOL)]
    proto = model([outer], inputs, [value("y", ["n", 4])], {"zero": np.int64(0), "three": np.int64(3)})
    proto.graph.initializer.append(shared)
    return proto


def custom_operator() -> Any:
    nodes = [helper.make_node("Wobble", ["x"], ["y"], domain="com.example")]
    proto = model(nodes, [value("x", [1, 4])], [value("y", [1, 4])])
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    return proto


def external(path: Path, location: str, *, write: bool = True) -> Path:
    """Saves `dense` with its weights in another file, under the location given."""
    proto = dense()
    tensor = proto.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    path.write_bytes(proto.SerializeToString())
    if write:
        (path.parent / location).write_bytes(raw)
    return path


HALF_WEIGHTS = [np.random.default_rng(0).standard_normal(shape).astype(np.float16) for shape in ((16, 16), (16, 32))]


def half_network(kind: str, border: int = FLOAT) -> Any:
    """Two products with a ReLU behind each.

    Args:
        kind: `both` are computed in float16; the `first` alone, the second has weights in float32; or none, and the
            weights are `stored` in it.
        border: Element type of input and output.
    """
    nodes, now, kind_now = [], "x", border
    for place in range(2):
        wanted = TensorProto.FLOAT16 if (place == 0 and kind == "first") or kind == "both" else FLOAT
        weight = f"w{place}"
        if wanted != kind_now:
            nodes.append(helper.make_node("Cast", [now], [f"cast{place}"], to=wanted))
            now, kind_now = f"cast{place}", wanted
        if kind == "stored":
            nodes.append(helper.make_node("Cast", [weight], [f"{weight}_float"], to=FLOAT))
            weight = f"{weight}_float"
        nodes.append(helper.make_node("MatMul", [now, weight], [f"product{place}"]))
        nodes.append(helper.make_node("Relu", [f"product{place}"], [f"active{place}"]))
        now = f"active{place}"
    nodes.append(helper.make_node("Cast", [now], ["y"], to=border))
    second = HALF_WEIGHTS[1].astype(np.float32) if kind == "first" else HALF_WEIGHTS[1]
    stored = {"w0": HALF_WEIGHTS[0], "w1": second}
    return model(nodes, [value("x", ["n", 16], border)], [value("y", ["n", 32], border)], stored)
