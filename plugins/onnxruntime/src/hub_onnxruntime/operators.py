"""Which operators a model uses, and who knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.graphs import all_nodes, opset_of

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 17  # per-channel QDQ needs 13, LayerNormalization 17; the three OCR networks (11, 12) were right at 17
RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})
RUNTIME_STANDARD = frozenset({
    "Affine", "Crop", "DynamicSlice", "ImageScaler", "LayerNormalization", "MeanVarianceNormalization",
    "MemcpyFromHost", "MemcpyToHost", "ParametricSoftplus", "Scale", "ScaledTanh", "SimplifiedLayerNormalization",
    "ThresholdedRelu",
})  # fmt: skip
"""Operators that ONNX Runtime has in ONNX's own domain at opsets where ONNX has none (LayerNormalization below 17)."""
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
ONNXRUNTIME = "onnxruntime>=1.20 | onnxruntime-gpu>=1.20"
"""What provides it: its builds for other devices are distributions of other names."""
RUNTIME_FORM, ORT_FORM = "onnxruntime", "ort"
"""Forms of the format that only ONNX Runtime opens: `.onnx` with its own operators, and its flatbuffer."""


def custom_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Returns the operators that neither the standard nor a local function defines, as `domain::Operator`, sorted."""
    import onnx

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    default = opsets.get("", opsets.get("ai.onnx", 1))
    used = {(node.domain, node.op_type) for node in all_nodes(model)}
    foreign = used - {(function.domain, function.name) for function in model.functions}
    return tuple(
        sorted(
            f"{domain or 'ai.onnx'}::{name}"
            for domain, name in foreign
            if not onnx.defs.has(name, opsets.get(domain, default), "" if domain == "ai.onnx" else domain)
        )
    )


def is_runtime_operator(name: str) -> bool:
    """Whether `domain::Operator` is one of ONNX Runtime's own, in its domains or from before ONNX had it."""
    domain, _, operator = name.partition("::")
    return domain in RUNTIME_DOMAINS or (domain == "ai.onnx" and operator in RUNTIME_STANDARD)


def foreign_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Returns the operators that neither the standard, nor a local function, nor ONNX Runtime defines, sorted."""
    return tuple(name for name in custom_operators(model) if not is_runtime_operator(name))


def kernel_versions() -> dict[str, list[tuple[int, int]]]:
    """Returns each standard operator that the installed ONNX Runtime has a kernel for -> its ranges of opsets.

    The list is the runtime's own (`get_all_opkernel_def`). An open range ends at 2147483647.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    ranges: dict[str, list[tuple[int, int]]] = {}
    for kernel in runtime.get_all_opkernel_def():
        if kernel.domain in ("", "ai.onnx"):
            low, high = kernel.version_range
            ranges.setdefault(kernel.op_name, []).append((low, high))
    return ranges


def without_kernel(model: onnx.ModelProto) -> list[str]:
    """Returns the standard operators that the installed ONNX Runtime has neither a CPU kernel nor a definition for.

    Each says which version of it the model uses, and which ones the runtime has. A Constant needs no kernel, nor does
    an operator that ONNX defines as a function of others.
    """
    import onnx

    ranges, missing = kernel_versions(), []
    for name in sorted({node.op_type for node in all_nodes(model) if node.domain in ("", "ai.onnx")} - {"Constant"}):
        if not onnx.defs.has(name, opset_of(model), ""):
            continue
        schema = onnx.defs.get_schema(name, opset_of(model), "")
        # onnx's stub lacks both
        composed = schema.has_function or schema.has_context_dependent_function  # type: ignore[attr-defined]
        there = sorted(set(ranges.get(name, [])))
        if not composed and not any(low <= schema.since_version <= high for low, high in there):
            missing.append(f"{name} of opset {schema.since_version} ({_kernel_words(there)})")
    return missing


def _kernel_words(ranges: list[tuple[int, int]]) -> str:
    import onnxruntime as ort

    if not ranges:
        return f"ONNX Runtime {ort.__version__} has it in no version"
    spans = (f"{low}" if low == high else f"{low} to {high}" if high < _OPEN else f"{low} on" for low, high in ranges)
    return f"ONNX Runtime {ort.__version__} has it of opset {', '.join(spans)}"


_OPEN = 2**31 - 1  # what ONNX Runtime writes as the end of a range that has none


def version_words(name: str) -> str:
    """Returns which opsets have an operator, for `ai.onnx::Operator` that the model's opset lacks; empty for none."""
    import onnx

    domain, _, operator = name.partition("::")
    schemas = onnx.defs.get_all_schemas_with_history() if domain == "ai.onnx" else []
    versions = [item for item in schemas if item.name == operator and item.domain == ""]
    if not versions:
        return ""
    gone = [item.since_version for item in versions if item.deprecated]
    first = min(item.since_version for item in versions)
    return f"{operator} is in ONNX from opset {first}" + (f" to {min(gone) - 1}" if gone else " on")


def refused_version(model: onnx.ModelProto) -> str:
    """Returns why the installed ONNX Runtime opens no model of this opset and IR version; empty where it does."""
    import onnx
    import onnxruntime as ort

    from hub_onnxquant.runtime_options import runtime_failures

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "tiny", [value], [result])
    opsets = [onnx.helper.make_opsetid("", opset_of(model) or 1)]
    tiny = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(tiny.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except runtime_failures() as error:
        return f"ONNX Runtime {ort.__version__}: {str(error).strip()}"
    return ""
