"""Small ONNX models, for the plugin's tests."""

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper as values
from onnx import TensorProto, helper

from hub.spec import (
    ConvertJob,
    ConvertOptions,
    DescribeJob,
    DimRange,
    ModelArtifact,
    ModelSummary,
    Numerics,
    State,
    StepOutput,
)
from hub_onnxruntime.describe import signature_of
from hub_tensorrt.build import build
from hub_tensorrt.describe import TensorrtFormat
from hub_tensorrt.libraries import RTX


def convolution(path: Path, batch: int | str = 1) -> Path:
    """Convolution, Relu, product: [batch, 3, 8, 8] to [batch, 10]."""
    random = np.random.default_rng(0)
    stored = {
        "w": random.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
        "b": random.standard_normal(8).astype(np.float32) / 5,
        "m": random.standard_normal((512, 10)).astype(np.float32) / 20,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "m"], ["y"], name="product"),
    ]
    return write(path, nodes, stored, [("x", [batch, 3, 8, 8])], [("y", [batch, 10])])


def refused(path: Path, fault: str) -> Path:
    """A model that TensorRT does not take, for one reason."""
    node = helper.make_node
    if fault in {"operator", "custom", "string"}:
        nodes = {
            "operator": [node("Det", ["x"], ["y"])],
            "custom": [node("Frobnicate", ["x"], ["y"], domain="com.example")],
            "string": [node("Cast", ["x"], ["s"], to=TensorProto.STRING), node("Cast", ["s"], ["y"], to=1)],
        }[fault]
        return write(path, nodes, {}, [("x", [1, 3, 8, 8])], [("y", None)], opset=21)
    kind = {"int16": np.int16, "uint4": ml_dtypes.uint4}.get(fault, np.int8)
    stored = {
        "s": np.float32(0.05) * np.ones((), np.float32),
        "z": np.full((), 3 if fault == "asymmetric" else 0, kind),
        "w": np.ones((8, 3, 3, 3), np.int8),
        "b": np.ones(8, np.int32),
    }
    bias = fault == "int32-bias"
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        node("DequantizeLinear", ["w", "s"], ["e"], name="e"),
        *([node("DequantizeLinear", ["b", "s"], ["f"], name="f")] if bias else []),
        node("Conv", ["d", "e", *(["f"] if bias else [])], ["y"], name="conv"),
    ]
    return write(path, nodes, stored, [("x", [1, 3, 8, 8])], [("y", None)], opset=21)


def quantized(
    path: Path, kind: str, shape: Sequence[int | str] = (1, 3, 8, 8), *, cast: bool = False, function: bool = False
) -> Path:
    """A convolution between pairs of QuantizeLinear and DequantizeLinear, zero points 0.

    Args:
        path: Where to write it.
        kind: Type of the activation's zero point.
        shape: Of the input.
        cast: Whether the activation's scale is stored in float16, behind a Cast.
        function: Whether all of it is a function of the file.
    """
    node, random = helper.make_node, np.random.default_rng(0)
    stored = {
        "s": np.full((), 0.03, np.float32),
        "z": np.zeros((), kind),
        "w": random.integers(-100, 100, (8, 3, 3, 3)).astype(np.int8),
        "v": np.full((), 0.01, np.float32),
    }
    nodes = [
        *([node("Cast", ["t"], ["s"], to=TensorProto.FLOAT)] if cast else []),
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        node("DequantizeLinear", ["w", "v"], ["e"], name="e"),
        node("Conv", ["d", "e"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    if cast:
        stored["t"] = stored.pop("s").astype(np.float16)
    path = write(path, nodes, stored, [("x", list(shape))], [("y", [shape[0], 8, *shape[2:]])], opset=21)
    if not function:
        return path
    model, opset = onnx.load(path), helper.make_opsetid("", 21)
    body = helper.make_function("local", "Block", ["x", *stored], ["y"], nodes, [opset])
    del model.graph.node[:]
    model.graph.node.append(node("Block", ["x", *stored], ["y"], domain="local", name="call"))
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("local", 1))
    onnx.save(model, path)
    return path


def weights_only(path: Path) -> Path:
    """A convolution of floats whose weights alone are int8."""
    stored = {
        "w": np.random.default_rng(0).integers(-100, 100, (8, 3, 3, 3)).astype(np.int8),
        "v": np.full(8, 0.01, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "v"], ["e"], name="e", axis=0),
        helper.make_node("Conv", ["x", "e"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    return write(path, nodes, stored, [("x", [1, 3, 8, 8])], [("y", [1, 8, 8, 8])], opset=21)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    stored: dict[str, npt.NDArray[np.generic]],
    inputs: Sequence[tuple[str, list[int | str]]],
    outputs: Sequence[tuple[str, list[int | str] | None]],
    opset: int = 17,
) -> Path:
    """Write a graph of float32 inputs and outputs."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [values.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(model, path)
    return path


def built(
    model: Path,
    numerics: Numerics = Numerics.FP32,
    build_for: tuple[str, ...] = (),
    ranges: dict[str, tuple[DimRange, ...]] | None = None,
) -> tuple[Path, StepOutput]:
    """Build a plan of an ONNX file in this process, without the core; returns it with what the step says."""
    folder = model.with_name("built")
    folder.mkdir(exist_ok=True)
    found = signature_of(onnx.load(model).graph)
    state = State(format="onnx", numerics=numerics, form="tensorrt")
    job = ConvertJob(
        target=State(format="tensorrt", numerics=numerics),
        source=ModelArtifact(path=str(model), state=state, signature=found, sha256="", size_bytes=0),
        output=str(folder / "out.engine"),
        scratch=str(model.parent),
        options=ConvertOptions(build_for=build_for, ranges=ranges or {}),
    )
    return folder / "out.engine", build(job, RTX)


def described(plan: Path) -> ModelSummary:
    """What the reader says of a plan."""
    return TensorrtFormat().describe(DescribeJob(path=str(plan)))
