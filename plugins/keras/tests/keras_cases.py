"""Drive the plugin as hub's worker does, and read its results with runtimes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hub.spec import (
    ConvertJob,
    ConvertOptions,
    DescribeJob,
    ModelArtifact,
    ModelSummary,
    Numerics,
    RuntimeOptions,
    Signature,
    State,
    StepOutput,
)
from hub_keras.edges import EDGES
from hub_keras.formats import KerasFormat
from hub_keras.runtime import KerasRuntime

Arrays = dict[str, np.ndarray[Any, Any]]


def describe(path: Path) -> ModelSummary:
    return KerasFormat().describe(DescribeJob(path=str(path)))


def artifact(path: Path, summary: ModelSummary) -> ModelArtifact:
    return ModelArtifact(
        path=str(path), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )


def convert(
    edge: str, path: Path, output: Path, options: ConvertOptions | None = None, calibration: str = ""
) -> StepOutput:
    scratch = output.parent / f"{output.name}.scratch"
    scratch.mkdir()
    nothing = Signature(inputs=(), outputs=())
    source = ModelArtifact(path=str(path), state=State(format="keras"), signature=nothing, sha256="", size_bytes=0)
    step = next(item for item in EDGES if item.id == edge)
    return step.convert(
        ConvertJob(
            target=step.gives.states(Numerics.FP32)[0],
            source=source,
            output=str(output),
            scratch=str(scratch),
            options=options or ConvertOptions(),
            calibration=calibration,
        )
    )


def reference(path: Path, feeds: Arrays) -> Arrays:
    summary = describe(path)
    session = KerasRuntime().open(artifact(path, summary), RuntimeOptions())
    try:
        return session.run(feeds)
    finally:
        session.close()


def interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(str(path))
    opened.allocate_tensors()
    return opened


def operators_of(path: Path) -> list[str]:
    """The main graph's operators as LiteRT lists them: another reader than the one that wrote the file."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # which would add nodes of their own
    opened = Interpreter(str(path), experimental_op_resolver_type=kernels)
    return [detail["op_name"] for detail in opened._get_ops_details()]


def interface(path: Path) -> tuple[list[str], list[str]]:
    """Input and output tensor names in order, checked to be those of the one signature."""
    opened = interpreter(path)
    inputs = [detail["name"] for detail in opened.get_input_details()]
    outputs = [detail["name"] for detail in opened.get_output_details()]
    ((key, entries),) = opened.get_signature_list().items()
    assert key == "serving_default"
    assert sorted(entries["inputs"]) == sorted(inputs)
    assert sorted(entries["outputs"]) == sorted(outputs)
    return inputs, outputs


def run_tflite(path: Path, feeds: Arrays) -> Arrays:
    runner = interpreter(path).get_signature_runner("serving_default")
    return {name: np.array(value) for name, value in runner(**feeds).items()}


def relative_error(results: Arrays, expected: Arrays) -> float:
    assert results.keys() == expected.keys()
    errors = []
    for name, value in expected.items():
        assert results[name].shape == value.shape
        assert results[name].dtype == value.dtype
        errors.append(float(np.abs(results[name] - value).max() / np.abs(value).max()))
    assert errors
    assert np.all(np.isfinite(errors))
    return max(errors)


def cosine(results: Arrays, expected: Arrays) -> float:
    pairs = [(results[name].ravel().astype(float), value.ravel().astype(float)) for name, value in expected.items()]
    return min(float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in pairs)
