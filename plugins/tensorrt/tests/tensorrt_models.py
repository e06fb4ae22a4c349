"""Small ONNX models, for the plugin's tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
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


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    stored: dict[str, "np.typing.NDArray[np.generic]"],
    inputs: Sequence[tuple[str, list[int | str]]],
    outputs: Sequence[tuple[str, list[int | str]]],
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
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
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
