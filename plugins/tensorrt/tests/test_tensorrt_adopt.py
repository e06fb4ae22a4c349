"""Files that somebody else quantized: what is looked through, and what is refused. No TensorRT is needed."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hub.spec import ConvertJob, ConvertOptions, ModelArtifact, Signature, State, UnsupportedModel, UsageError
from hub_tensorrt.adopt import adopt
from hub_tensorrt.precision.rules import check_rules
from plugins.tensorrt.tests.tensorrt_models import quantized


def adopted(model: Path, **shapes: tuple[int, ...]) -> tuple[Path, list[str]]:
    """What is written, and the codes of what is told."""
    none = Signature(inputs=(), outputs=())
    state = State(format="onnx")
    source = ModelArtifact(path=str(model), state=state, signature=none, sha256="", size_bytes=0)
    output = model.with_name("adopted.onnx")
    options = ConvertOptions(shapes=shapes)
    job = ConvertJob(target=state, source=source, output=str(output), scratch=str(model.parent), options=options)
    return output, [note.code for note in adopt(job).notes]


def run(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)})[0]
    return result


@pytest.mark.parametrize(("how", "told"), [({"cast": True}, "casts-stored"), ({"function": True}, "functions-inlined")])
def test_what_hides_behind_a_cast_or_in_a_function_is_seen(tmp_path: Path, how: dict[str, bool], told: str) -> None:
    good = quantized(tmp_path / "m.onnx", "int8", **how)
    path, codes = adopted(good)
    assert codes == [told]
    np.testing.assert_array_equal(run(path), run(good))
    written = onnx.load(path)
    assert not written.functions
    read = {name for node in written.graph.node for name in node.input}
    assert {tensor.name for tensor in written.graph.initializer} <= read
    assert {node.op_type for node in written.graph.node} == {"QuantizeLinear", "DequantizeLinear", "Conv"}
    bad = quantized(tmp_path / "bad.onnx", "uint8", **how)
    with pytest.raises(UnsupportedModel, match="TensorRT has no quantized uint8"):
        adopted(bad)
    if "function" in how:
        assert check_rules(onnx.load(bad))


def test_dimensions_are_fixed_where_the_request_fixes_them(tmp_path: Path) -> None:
    path, codes = adopted(quantized(tmp_path / "m.onnx", "int8", ("N", 3, "?", "?")), x=(2, 3, 8, 16))
    assert codes == ["dims-fixed", "dims-named"]
    graph = onnx.load(path).graph
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [2, 3, 8, 16]
    assert [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == [2, 8, 0, 0]
    with pytest.raises(UsageError, match="D is 8 and 16"):
        adopted(quantized(tmp_path / "m.onnx", "int8", (1, 3, "D", "D")), x=(1, 3, 8, 16))
