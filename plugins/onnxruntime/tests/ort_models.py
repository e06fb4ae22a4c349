"""Models in the forms that ONNX Runtime alone opens, and int8 models made directly with its own quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, version_converter

from hub.spec import ConvertJob, ModelArtifact, Numerics, Signature, State, StepOutput
from hub_onnxruntime.optimize import OPTIMIZING
from plugins.onnxruntime.tests import onnx_graphs as graphs
from tests.zoo import data, fetch

Feeds = dict[str, Any]


def sample(name: str) -> Feeds:
    """One real sample of a model of the zoo."""
    arrays = data.feeds(name, "test", 1)
    return {key: rows if not name.startswith("vad") else np.asarray(rows[0]) for key, rows in arrays.items()}


def convert(edge: str, source: Path, folder: Path) -> tuple[Path, StepOutput]:
    """Runs one optimizing edge as the engine does."""
    step = next(item for item in OPTIMIZING if item.id == edge)
    (state,) = step.gives.states(Numerics.FP32)
    target, scratch = folder / "out" / ("m.ort" if state.form == "ort" else "m.onnx"), folder / "scratch"
    for made in (target.parent, scratch):
        made.mkdir(parents=True)
    artifact = ModelArtifact(
        path=str(source),
        state=State(format="onnx"),
        signature=Signature(inputs=(), outputs=()),
        sha256="",
        size_bytes=0,
    )
    job = ConvertJob(target=state, source=artifact, output=str(target), scratch=str(scratch))
    return target, step.convert(job)


def plain_run(path: Path, feeds: Feeds) -> list[Any]:
    """Runs a model without hub."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def qdq(name: str, folder: Path, **options: Any) -> Path:
    """A model of the zoo in QDQ form, written by ONNX Runtime's own `quantize_static` on one real sample.

    Unsigned activations and signed weights, which is what its x86 kernels fuse, unless `options` say otherwise.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
        def __init__(self) -> None:
            self._left = [sample(name)]

        def get_next(self) -> Feeds | None:
            return self._left.pop() if self._left else None

    raised, prepared, quantized = (folder / f"{name}.{word}.onnx" for word in ("raised", "prepared", "qdq"))
    onnx.save(version_converter.convert_version(onnx.load(fetch.path(name)), 17), raised)
    quant_pre_process(str(raised), str(prepared), skip_symbolic_shape=True)
    settings = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, **options}
    settings["op_types_to_quantize"] = ["Conv", "MatMul", "Gemm"]
    extra = {"QDQDisableWeightAdjustForInt32Bias": True}
    quantize_static(str(prepared), str(quantized), Reader(), per_channel=True, extra_options=extra, **settings)
    return quantized


def dynamic(source: Path, folder: Path) -> Path:
    """A model with int8 weights whose activations are quantized at run time, by ONNX Runtime's own quantizer."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(source), str(folder / "dynamic.onnx"))
    return folder / "dynamic.onnx"


def half(source: Path, folder: Path) -> Path:
    """A model in float16 with float32 borders, by ONNX Runtime's own converter."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), folder / "half.onnx")
    return folder / "half.onnx"


def _stored(generator: np.random.Generator, *shape: int) -> Any:
    return (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def attention(folder: Path, width: int = 32, heads: int = 4) -> Path:
    """One block of self-attention and a residual layer normalization, written as exporters write BERT's."""
    random = np.random.default_rng(0)
    stored: dict[str, Any] = {
        "split": np.array([0, 0, heads, width // heads]),
        "join": np.array([0, 0, width]),
        "root": np.array(np.sqrt(width // heads), np.float32),
        "gain": 1 + 0.1 * _stored(random, width),
        "shift": 0.1 * _stored(random, width),
    }
    nodes = []
    for word in "qkv":
        stored |= {f"{word}_w": _stored(random, width, width), f"{word}_b": 0.1 * _stored(random, width)}
        order = [0, 2, 3, 1] if word == "k" else [0, 2, 1, 3]
        nodes += [
            helper.make_node("MatMul", ["normed", f"{word}_w"], [f"{word}_m"]),
            helper.make_node("Add", [f"{word}_b", f"{word}_m"], [f"{word}_a"]),
            helper.make_node("Reshape", [f"{word}_a", "split"], [f"{word}_r"]),
            helper.make_node("Transpose", [f"{word}_r"], [word], perm=order),
        ]
    stored |= {"o_w": _stored(random, width, width), "o_b": 0.1 * _stored(random, width)}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["normed"], epsilon=1e-5),
        *nodes,
        helper.make_node("MatMul", ["q", "k"], ["qk"]),
        helper.make_node("Div", ["qk", "root"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "join"], ["joined"]),
        helper.make_node("MatMul", ["joined", "o_w"], ["o_m"]),
        helper.make_node("Add", ["o_b", "o_m"], ["o_a"]),
        helper.make_node("Add", ["o_a", "normed"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "gain", "shift"], ["y"], epsilon=1e-5),
    ]
    border = [graphs.value("x", ["batch", "tokens", width])], [graphs.value("y", ["batch", "tokens", width])]
    return graphs.saved(graphs.model(nodes, *border, stored), folder / "attention.onnx")
