"""ONNX Runtime's settings as hub uses them, the devices of the installed build, and how it says that it failed."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import DeviceMissing, processor

if TYPE_CHECKING:
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

_SIGN = b"QuantizeLinear"
"""Name of an operator that every file has whose activations are integers, DynamicQuantizeLinear included."""


def needs_exact(path: Path, content: bytes = b"") -> bool:
    """Whether a file's activations are integers, on a processor that saturates.

    Where weights alone are integers, nothing saturates, and `EXACT` breaks ONNX Runtime 1.32: it moves zero points.
    """
    if processor().has_integer_dot is not False:
        return False
    return _SIGN in content if content else _has_sign(path)


def _has_sign(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(_SIGN) >= 0


UNSOUND_FP8 = ("ReluQuantRewrite",)
"""Optimizers of ONNX Runtime 1.32 to leave out where activations are fp8. It takes fp8's zero point for the lowest
value and drops the Relu before a QuantizeLinear: a digits network has -0.4 dB with it, 18.1 without."""

_FP8 = frozenset({17, 18, 19, 20})  # onnx.TensorProto.FLOAT8E4M3FN to FLOAT8E5M2FNUZ


def quantizes_to_fp8(path: Path, content: bytes = b"") -> bool:
    """Whether a file has QuantizeLinear, and stores tensors in fp8."""
    import onnx

    if content:
        model = onnx.ModelProto.FromString(content) if _SIGN in content else None
    else:
        model = onnx.load(path, load_external_data=False) if _has_sign(path) else None
    return model is not None and any(tensor.data_type in _FP8 for tensor in model.graph.initializer)


def session_options(variant: str, threads: int, *, exact: bool = False) -> ort.SessionOptions:
    """Returns deterministic CPU settings; `threads` of 0 means ONNX Runtime's default; see `EXACT`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, VARIANTS[variant])
    options.use_deterministic_compute = True
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    if exact:
        options.add_session_config_entry(EXACT, "1")
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
