"""Reads what there is to know of an ONNX file, with the onnx package alone and without running anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hub.spec import DescribeJob, Dim, DType, Finding, ModelSummary, Signature, State, TensorSpec
from hub_onnxruntime.files import all_nodes, all_tensors, external_files, load_structure
from hub_onnxruntime.float64 import is_double_inside
from hub_onnxruntime.large import forget_data
from hub_onnxruntime.numerics import find_numerics, layers_of, numerics_of, operator_key
from hub_onnxruntime.signature import TensorInfo, dtype_name, inputs_of, outputs_of

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training"})
MIN_OPSET = 17  # per-channel QDQ needs 13, LayerNormalization 17; the three OCR networks (11, 12) were right at 17
RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_DTYPES = frozenset(dtype.value for dtype in DType)


def tensor_spec(info: TensorInfo) -> TensorSpec:
    """Makes the contract's record of one input or output; an unknown rank becomes one symbolic dim `<name>_rank`."""
    dtype = DType(info.dtype) if info.dtype in _DTYPES else DType.UNKNOWN
    shape = (f"{info.name}_rank",) if info.shape is None else info.shape
    return TensorSpec(name=info.name, dtype=dtype, shape=tuple(Dim.of(dim) for dim in shape))


def signature_of(graph: Any) -> Signature:
    """Returns the inputs that must be fed and the outputs, in the file's order."""
    return Signature(
        inputs=tuple(map(tensor_spec, inputs_of(graph))),
        outputs=tuple(map(tensor_spec, outputs_of(graph))),
    )


def with_inferred_shapes(model: Any) -> Any:
    """Returns the model with ONNX's shape inference applied, or as it was where that fails."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return model  # a reader reports; what the file says itself still holds


def _known_operators(model: Any) -> set[tuple[str, str]]:
    import onnx

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    used = {(node.domain, node.op_type) for node in all_nodes(model)}
    local = {(function.domain, function.name) for function in model.functions}
    default = opsets.get("", opsets.get("ai.onnx", 1))
    standard = {key for key in used if onnx.defs.has(key[1], opsets.get(key[0], default), _schema_domain(key[0]))}
    return local | standard


def _schema_domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def custom_operators(model: Any) -> tuple[str, ...]:
    """Returns the operators that neither the standard nor a local function defines, as `domain::Operator`, sorted."""
    known = _known_operators(model)
    used = {(node.domain, node.op_type) for node in all_nodes(model)}
    return tuple(sorted(f"{domain or 'ai.onnx'}::{name}" for domain, name in used - known))


def parameter_count(model: Any) -> int:
    """Returns the number of elements of every stored tensor: initializers, and constants inside nodes."""
    return sum(math.prod(tensor.dims) for tensor in all_tensors(model))


def _custom_findings(model: Any) -> list[Finding]:
    foreign = custom_operators(model)
    runtime = [name for name in foreign if name.split("::")[0] in RUNTIME_DOMAINS]
    others = [name for name in foreign if name not in runtime]
    findings = []
    if others:
        message = f"operators that ONNX does not define: {', '.join(others)}"
        hint = "Export the model again without them, or write a hub plugin that converts them."
        findings.append(Finding(code="custom-operators", message=message, hint=hint, blocking=True))
    if runtime:
        message = f"operators that only ONNX Runtime has: {', '.join(runtime)}"
        findings.append(
            Finding(code="runtime-operators", message=message, hint="Use the model before ORT optimized it.")
        )
    return findings


def _control_flow_findings(model: Any) -> list[Finding]:
    counts = Counter(node.op_type for node in all_nodes(model) if node.op_type in CONTROL_FLOW)
    if not counts:
        return []
    found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    hint = "If nodes are folded once shapes and constants are fixed (--shape, --constant); Loop and Scan stay."
    return [Finding(code="control-flow", message=f"control flow inside: {found}", hint=hint)]


def _flag_findings(model: Any) -> list[Finding]:
    """Names scalar integer inputs of a model with `If`: they choose a branch, so a random value for them fails."""
    if not any(node.op_type == "If" for node in all_nodes(model)):
        return []
    flags = [info.name for info in inputs_of(model.graph) if info.shape in ((), (1,)) and "float" not in info.dtype]
    hint = "Freeze it to the value that you use: --constant {name}=VALUE."
    message = "input {name!r} chooses between branches of the graph"
    return [
        Finding(code="flag-input", message=message.format(name=name), hint=hint.format(name=name)) for name in flags
    ]


def _float64_findings(model: Any) -> list[Finding]:
    count = sum(dtype_name(tensor.data_type) == "float64" for tensor in all_tensors(model))
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    count += sum(dtype_name(value.type.tensor_type.elem_type) == "float64" for value in values)
    if not count:
        return []
    hint = "Float64 that is not an input or output becomes float32 when the graph is prepared."
    return [Finding(code="float64-inside", message=f"{count} tensors are float64", hint=hint)]


def _dim_findings(model: Any) -> list[Finding]:
    findings = []
    for info in inputs_of(model.graph):
        symbols = [dim for dim in info.shape or () if isinstance(dim, str)]
        if symbols or info.shape is None:
            what = f"dims {', '.join(symbols)}" if info.shape is not None else "rank"
            hint = f"Give its size where a target cannot keep it: --shape {info.name}=<sizes joined by x>."
            findings.append(
                Finding(code="dynamic-dims", message=f"input {info.name!r} leaves its {what} open", hint=hint)
            )
    return findings


def _first_few(names: Sequence[str]) -> str:
    more = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "")


def _float_findings(model: Any) -> list[Finding]:
    found = find_numerics(model)
    if not found.left_float:
        return []
    message = f"{len(found.left_float)} multiplying operators stay in float: {_first_few(found.left_float)}"
    return [Finding(code="left-in-float", message=message)]


def _type_findings(model: Any) -> list[Finding]:
    values = [*inputs_of(model.graph), *outputs_of(model.graph)]
    odd = [f"{info.name} ({info.dtype})" for info in values if info.dtype not in _DTYPES]
    if not odd:
        return []
    message = f"inputs or outputs that are no plain tensors: {', '.join(odd)}"
    hint = "Export the model with tensor outputs (scikit-learn: options={'zipmap': False})."
    return [Finding(code="not-a-tensor", message=message, hint=hint, blocking=True)]


_FEW = 5
_FINDERS = (
    _custom_findings,
    _type_findings,
    _control_flow_findings,
    _flag_findings,
    _float_findings,
    _float64_findings,
    _dim_findings,
)


def _versions(model: Any) -> dict[str, str]:
    versions = {f"opset {entry.domain or 'ai.onnx'}": str(entry.version) for entry in model.opset_import}
    versions["ir"] = str(model.ir_version)
    if model.producer_name:
        versions["producer"] = f"{model.producer_name} {model.producer_version}".strip()
    return versions


def is_static_form(model: Any) -> bool:
    """Whether every input has a fixed shape and no `If` is left."""
    shapes = all(info.is_static for info in inputs_of(model.graph))
    return shapes and not any(node.op_type == "If" for node in all_nodes(model))


def opset_of(model: Any) -> int:
    """Returns the version of the standard operators that the model uses; 0 where it uses none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def is_prepared_form(model: Any) -> bool:
    """Whether importers can start from it: a recent opset, standard operators only, no functions, every rank known.

    Open dims, `If`, `Loop` and `Scan` may be in it. Float64 is left at the border only.
    """
    recent = opset_of(model) >= MIN_OPSET and not model.functions
    ranked = all(info.shape is not None for info in inputs_of(model.graph))
    return recent and ranked and not custom_operators(model) and not is_double_inside(model)


def _form_of(model: Any, claimed: str) -> str:
    holds = {"static": is_static_form, "prepared": is_prepared_form}.get(claimed)
    return claimed if holds and holds(model) else ""


def summarize(path: Path, form: str = "") -> ModelSummary:
    """Reads an ONNX file. `form` is the form it is expected to be in; it is checked, not believed.

    Raises:
        HubError: As `hub_onnxruntime.files.load_structure` and `external_path`.
    """
    bare = load_structure(path)
    files = [path, *external_files(bare, path.parent)]
    forget_data(bare)
    model = with_inferred_shapes(bare)
    return ModelSummary(
        state=State(format="onnx", numerics=numerics_of(model), form=_form_of(model, form)),
        signature=signature_of(model.graph),
        operators=dict(sorted(Counter(map(operator_key, all_nodes(model))).items())),
        custom_operators=custom_operators(model),
        parameters=parameter_count(model),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
        versions=_versions(model),
        findings=tuple(finding for finder in _FINDERS for finding in finder(model)),
        layers=layers_of(model),
    )


class OnnxFormat:
    """The reader of ONNX files."""

    name = "onnx"
    suffixes = (".onnx",)
    process = "onnx"

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Reads a model. See `summarize`."""
        return summarize(job.file, job.form)
