"""Small IRs, built operator by operator, and what tests ask of a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hub.spec import ConvertJob, ConvertOptions, ModelArtifact, Numerics, RuntimeOptions, State, StepOutput
from hub_openvino.convert.edges import CONVERTING
from hub_openvino.describe import describe
from hub_openvino.session import OpenvinoSession
from hub_openvino.silence import silence_telemetry

silence_telemetry()

Array = npt.NDArray[Any]
WEIGHTS = np.random.default_rng(5).standard_normal((8, 3, 3, 3)).astype(np.float32)


def saved(model: Any, path: Path, *, half: bool = False) -> Path:
    import openvino

    openvino.save_model(model, str(path), compress_to_fp16=half)
    return path


def built(results: list[Any], parameters: list[Any]) -> Any:
    import openvino

    return openvino.Model(results, parameters, "built")


def parameter(name: str, shape: list[int], kind: Any = np.float32) -> Any:
    from openvino import opset13 as ops

    made = ops.parameter(shape, kind, name=name)
    made.output(0).get_tensor().set_names({name})
    return made


def named(node: Any, *names: str) -> Any:
    node.output(0).get_tensor().set_names(set(names))
    return node


def fake_quantize(value: Any, low: float, high: float, levels: int = 256) -> Any:
    from openvino import opset13 as ops

    bounds = [np.float32(number) for number in (low, high, low, high)]
    return ops.fake_quantize(value, *bounds, levels)


def quantized_weights(weights: Array, kind: str = "i8") -> Any:
    """Stored integers -> Convert -> Multiply, as OpenVINO writes weights."""
    import openvino
    from openvino import opset13 as ops

    most = 7 if kind == "i4" else 127
    scale = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True).astype(np.float32) / most
    rounded = np.round(weights / scale).astype(np.int8)
    stored = ops.constant(rounded, openvino.Type.i4) if kind == "i4" else ops.constant(rounded)
    return ops.multiply(ops.convert(stored, "f32"), ops.constant(scale))


def convolution(value: Any, weights: Any) -> Any:
    from openvino import opset13 as ops

    return ops.convolution(value, weights, [1, 1], [1, 1], [1, 1], [1, 1])


def network(activation: Any = None, weights: Any = None, *, second_float: bool = False) -> Any:
    """Conv + Relu (+ Conv), with what a test puts before the convolution and for its weights."""
    from openvino import opset13 as ops

    x = parameter("x", [1, 3, 16, 16])
    first = ops.relu(
        convolution(activation(x) if activation else x, ops.constant(WEIGHTS) if weights is None else weights)
    )
    last = convolution(first, ops.constant(np.ones((4, 8, 1, 1), np.float32))) if second_float else first
    return built([ops.result(named(last, "y"))], [x])


def convert(
    edge_id: str, source: Path, output: Path, signature: Any, numerics: Numerics = Numerics.FP32, **options: Any
) -> StepOutput:
    """Run one edge in this process."""
    edge = next(edge for edge in CONVERTING if edge.id == edge_id)
    state = State(format=edge.accepts[0].format, form=edge.accepts[0].form, numerics=numerics)
    artifact = ModelArtifact(path=str(source), state=state, signature=signature, sha256="", size_bytes=0)
    scratch = output.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    job = ConvertJob(
        target=edge.gives.states(numerics)[0],
        source=artifact,
        output=str(output),
        scratch=str(scratch),
        options=ConvertOptions(**options),
    )
    return edge.convert(job)


def numerics(path: Path) -> Numerics:
    return describe(path).state.numerics


def session(path: Path, **options: Any) -> OpenvinoSession:
    return OpenvinoSession(path, RuntimeOptions(**options))


OPENVINO = State(format="openvino")


def dense() -> Any:
    """A matrix product with int8 weights."""
    from openvino import opset13 as ops

    x = parameter("x", [2, 64])
    weights = np.random.default_rng(3).standard_normal((32, 64)).astype(np.float32)
    y = ops.matmul(x, quantized_weights(weights), transpose_a=False, transpose_b=True)
    return built([ops.result(named(y, "y"))], [x])
