"""ONNX Runtime's settings as hub uses them, the devices of the installed build, and how it says that it failed."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import DeviceMissing, processor
from hub_onnxgraph.graphs import graphs

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

# Variant -> name of ONNX Runtime's graph optimization level. The first is the default.
VARIANTS = {
    "optimized": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "plain": "ORT_DISABLE_ALL",
}
OPTIMIZED_DATA = "session.optimized_model_external_initializers_file_name"
_PROVIDER = "ExecutionProvider"
_FATAL_ONLY = 4  # ONNX Runtime's log severity; what goes wrong also arrives as an exception


def runtime_failures() -> tuple[type[Exception], ...]:
    """Returns the exceptions with which ONNX Runtime refuses or fails; it has no common base that is documented."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidGraph", "InvalidArgument", "InvalidProtobuf", "NotImplemented", "NoSuchFile", "EPFail")
    return (*(getattr(state, name) for name in (*names, "RuntimeException")), RuntimeError, ValueError)


EXACT = "session.x64quantprecision"
"""ONNX Runtime's word. On x86 it turns s8 activations into u8, and multiplies u8 by s8 in pairs that saturate in 16
bits where there is no VNNI: a digits network has 4 dB with it. With `1` the weights become u8 there, which is exact."""

SIGNED = "session.qdqisint8allowed"
"""ONNX Runtime's word. With `1` s8 activations stay s8; s8 by s8 is exact without VNNI, in twice the time of u8 by u8.
For products of two activations, of which `EXACT` turns neither: one that is transposed between its QuantizeLinear and
its DequantizeLinear stays s8 beside the other's u8 (an attention layer has 10 dB)."""

_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_SIGN = b"QuantizeLinear"
"""Name of an operator that every file has whose activations are integers, DynamicQuantizeLinear included."""


def exact_setting(path: Path, content: bytes = b"") -> str:
    """Returns what has a file's int8 computed exactly: `EXACT`, `SIGNED`, or nothing where nothing saturates.

    Where weights alone are integers, nothing saturates, and `EXACT` breaks ONNX Runtime 1.32: it moves zero points.
    """
    if processor().has_integer_dot is not False:
        return ""
    model = _quantizing(path, content)
    return "" if model is None else SIGNED if _multiplies_signed(model) else EXACT


def _quantizing(path: Path, content: bytes) -> onnx.ModelProto | None:
    """The model, without external data, where its activations are integers or fp8."""
    import onnx

    if content:
        return onnx.ModelProto.FromString(content) if _SIGN in content else None
    return onnx.load(path, load_external_data=False) if _has_sign(path) else None


def _multiplies_signed(model: onnx.ModelProto) -> bool:
    """Whether all quantized activations are s8, and two activations are multiplied."""
    from onnx import TensorProto

    types = {tensor.name: tensor.data_type for graph in graphs(model.graph) for tensor in graph.initializer}
    fed: set[str] = set()
    zero_points, pairs = set(), 0
    for graph in graphs(model.graph):
        fed.update({value.name for value in graph.input} - types.keys())
        for node in graph.node:
            if fed.isdisjoint(node.input):
                continue
            fed.update(filter(None, node.output))
            if node.op_type == "QuantizeLinear":
                zero_points.add(types.get(node.input[2]) if node.input[2:] else TensorProto.UINT8)
            pairs += node.op_type in _PRODUCTS and node.input[1] in fed
    return pairs > 0 and zero_points == {TensorProto.INT8}


def _has_sign(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(_SIGN) >= 0


UNSOUND_FP8 = ("ReluQuantRewrite", "ClipQuantRewrite")
"""Optimizers of ONNX Runtime 1.32 to leave out where activations are fp8. The first takes fp8's zero point for the
lowest value and drops the Relu before a QuantizeLinear: a digits network has -0.4 dB with it, 18.1 without. The second
knows the ranges of int8 and uint8 alone and fails where the model is opened."""

_FP8 = frozenset({17, 18, 19, 20})  # onnx.TensorProto.FLOAT8E4M3FN to FLOAT8E5M2FNUZ


def quantizes_to_fp8(path: Path, content: bytes = b"") -> bool:
    """Whether a file has QuantizeLinear, and stores tensors in fp8."""
    model = _quantizing(path, content)
    return model is not None and any(tensor.data_type in _FP8 for tensor in model.graph.initializer)


def session_options(variant: str, threads: int, *, exact: str = "") -> ort.SessionOptions:
    """Returns deterministic CPU settings; `threads` of 0 means ONNX Runtime's default; `exact` see `exact_setting`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, VARIANTS[variant])
    options.use_deterministic_compute = True
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    if exact:
        options.add_session_config_entry(exact, "1")
    return options


def provider_of(device: str) -> str:
    """Returns the execution provider for a device: `cpu`, or what the installed ONNX Runtime has besides.

    Raises:
        DeviceMissing: It has none of that name.
    """
    import onnxruntime as ort

    there = {name.removesuffix(_PROVIDER).lower(): name for name in ort.get_available_providers()}
    there.pop("azure", None)  # sends the model to a service: no device of this machine
    if device.lower() not in there:
        raise DeviceMissing(
            f"ONNX Runtime {ort.__version__} has no device {device!r} here; it has {', '.join(sorted(there))}",
            hint="Install the build of ONNX Runtime for that device, such as onnxruntime-gpu, in place of onnxruntime.",
        )
    return str(there[device.lower()])
