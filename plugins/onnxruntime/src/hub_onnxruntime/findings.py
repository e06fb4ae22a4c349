"""What stands in a conversion's way, found before the slow part: each with what hub does about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hub.spec import DType, Remark
from hub_onnxgraph.graphs import all_nodes, all_tensors, opset_of
from hub_onnxgraph.numerics import find_numerics
from hub_onnxgraph.signature import dtype_name, inputs_of, outputs_of
from hub_onnxruntime import large
from hub_onnxruntime.files import external_tensors
from hub_onnxruntime.onnx2tf_edge import TFLITE_BYTES
from hub_onnxruntime.operators import (
    CONTROL_FLOW,
    MIN_OPSET,
    custom_operators,
    foreign_operators,
    is_runtime_operator,
    refused_version,
    version_words,
    without_kernel,
)

if TYPE_CHECKING:
    import onnx

DTYPES = frozenset(dtype.value for dtype in DType if dtype is not DType.FLOAT8E4M3FN)  # which stays inside


def _foreign_findings(model: onnx.ModelProto) -> list[Remark]:
    others = foreign_operators(model)
    if not others:
        return []
    versions = [words for name in others if (words := version_words(name))]
    message = f"operators that neither ONNX of this opset nor ONNX Runtime defines: {', '.join(others)}"
    message += f"; {'; '.join(versions)}, and the model uses opset {opset_of(model)}" if versions else ""
    hint = "Export the model again without them, or write a hub plugin that converts them."
    hint = "Export the model again with an opset that has them." if len(versions) == len(others) else hint
    return [Remark("blocker", "custom-operators", message, hint)]


def _runtime_findings(model: onnx.ModelProto) -> list[Remark]:
    runtime = [name for name in custom_operators(model) if is_runtime_operator(name)]
    if not runtime:
        return []
    message = f"operators that only ONNX Runtime has: {', '.join(runtime)}"
    hint = "For another target, use the model before ONNX Runtime optimized or quantized it."
    return [Remark("finding", "runtime-operators", message, hint)]


def _control_flow_findings(model: onnx.ModelProto) -> list[Remark]:
    counts = Counter(node.op_type for node in all_nodes(model) if node.op_type in CONTROL_FLOW)
    if not counts:
        return []
    found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    hint = "What fixed shapes and constants decide is folded (--shape, --constant); what values decide stays."
    return [Remark("finding", "control-flow", f"control flow inside: {found}", hint)]


def _flag_findings(model: onnx.ModelProto) -> list[Remark]:
    """Names scalar integer inputs of a model with `If`: they choose a branch, so a random value for them fails."""
    if not any(node.op_type == "If" for node in all_nodes(model)):
        return []
    flags = [info.name for info in inputs_of(model.graph) if info.shape in ((), (1,)) and "float" not in info.dtype]
    hint = "Freeze it to the value that you use: --constant {name}=VALUE."
    message = "input {name!r} chooses between branches of the graph"
    return [Remark("finding", "flag-input", message.format(name=name), hint.format(name=name)) for name in flags]


def _float64_findings(model: onnx.ModelProto) -> list[Remark]:
    count = sum(dtype_name(tensor.data_type) == "float64" for tensor in all_tensors(model))
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    count += sum(dtype_name(value.type.tensor_type.elem_type) == "float64" for value in values)
    if not count:
        return []
    hint = "Float64 that is not an input or output becomes float32 when the graph is prepared."
    return [Remark("finding", "float64-inside", f"{count} tensors are float64", hint)]


def _rank_findings(model: onnx.ModelProto) -> list[Remark]:
    return [
        Remark(
            "finding",
            "rank-open",
            f"input {info.name!r} leaves its rank open",
            f"Give its sizes where a target needs them: --shape {info.name}=<sizes joined by x>.",
        )
        for info in inputs_of(model.graph)
        if info.shape is None
    ]


def _first_few(names: Sequence[str]) -> str:
    more = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "")


def _float_findings(model: onnx.ModelProto) -> list[Remark]:
    found = find_numerics(model)
    if not found.left_float:
        return []
    message = f"{len(found.left_float)} multiplying operators stay in float: {_first_few(found.left_float)}"
    return [Remark("finding", "left-in-float", message)]


def _type_findings(model: onnx.ModelProto) -> list[Remark]:
    values = [*inputs_of(model.graph), *outputs_of(model.graph)]
    odd = [f"{info.name} ({info.dtype})" for info in values if info.dtype not in DTYPES]
    if not odd:
        return []
    message = f"inputs or outputs that are no plain tensors: {', '.join(odd)}"
    hint = "Export the model with tensor outputs (scikit-learn: options={'zipmap': False})."
    return [Remark("blocker", "not-a-tensor", message, hint)]


def _version_findings(model: onnx.ModelProto) -> list[Remark]:
    refusal = refused_version(model)
    if refusal:
        message = f"opset {opset_of(model)} in IR version {model.ir_version}: {refusal}"
        hint = "Upgrade onnxruntime, or save the model with an older opset and IR version."
        return [Remark("blocker", "newer-than-runtime", message, hint)]
    if 0 < opset_of(model) < MIN_OPSET:
        hint = f"hub raises it to {MIN_OPSET} when it prepares the graph, and compares the result with the original."
        return [Remark("finding", "old-opset", f"the model uses opset {opset_of(model)}", hint)]
    return []


def _kernel_findings(model: onnx.ModelProto) -> list[Remark]:
    missing = without_kernel(model)
    if not missing:
        return []
    message = f"operators without a CPU kernel: {', '.join(missing)}"
    hint = "The model cannot run here, and nothing can be compared with it: save it with another opset."
    return [Remark("finding", "no-kernel", message, hint)]


def _function_findings(model: onnx.ModelProto) -> list[Remark]:
    if not model.functions:
        return []
    names = _first_few([function.name for function in model.functions])
    message = f"{len(model.functions)} local functions: {names}"
    return [Remark("finding", "local-functions", message, "They are inlined when the graph is prepared.")]


def external_findings(model: onnx.ModelProto) -> list[Remark]:
    """Says which data files belong to a model, as it is written in the file."""
    tensors = external_tensors(model)
    if not tensors:
        return []
    files = sorted({tensor.location for tensor in tensors})
    message = f"{len(tensors)} tensors are stored in {_first_few(files)}"
    limit = large.LARGE_BYTES / 2**30
    hint = f"Keep them beside the model. Results below {limit:.3g} GiB are one file; above, weights go to FILE.data."
    return [Remark("finding", "external-data", message, hint)]


def size_findings(size: int) -> list[Remark]:
    """Says what becomes of a model of that many bytes, external data included."""
    if size < large.LARGE_BYTES:
        return []
    message = f"the model takes {size / 2**30:.2f} GiB"
    hint = "Its weights stay in files while hub works on the graph, and no simplifying tool is run."
    if size >= TFLITE_BYTES:
        hint += " TFLite cannot hold it: its files end at 2 GiB."
    return [Remark("finding", "large-model", message, hint)]


_FEW = 5
FINDERS = (
    _foreign_findings,
    _runtime_findings,
    _type_findings,
    _version_findings,
    _kernel_findings,
    _function_findings,
    _control_flow_findings,
    _flag_findings,
    _float_findings,
    _float64_findings,
    _rank_findings,
)
ORT_FINDERS = (_foreign_findings, _type_findings, _kernel_findings, _float_findings)
"""Those that say something of an `.ort` file, which cannot be prepared or lifted to another opset any more."""
