"""Describe PyTorch files: signature, operators, size, and what will be in the way. Runs in a worker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hub.spec import (
    DescribeJob,
    Dim,
    DType,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    Remark,
    Signature,
    State,
    StepError,
    TensorSpec,
    UnsupportedModel,
)
from hub_pytorch.edges import EXPORT_FAILS, TFLITE_BYTES
from hub_pytorch.export import TracedInputs, eager_inputs, export_eager, fixed_specs
from hub_pytorch.load import load_eager, load_torchscript, number_inputs
from hub_pytorch.numerics import quantized_numerics
from hub_pytorch.reference import ModelReference, reference_for
from hub_pytorch.script import hidden_state, nodes_of, script_inputs, state_message
from hub_pytorch.sniff import identify
from hub_pytorch.source_form import describe_source, is_source
from hub_torchprogram import (
    dtype_of,
    exported_signature,
    fixed_spec,
    flat_outputs,
    is_data_dependent,
    load_exported,
    mutated_state,
    sample,
    sized,
    spec_of,
    stored_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

_CONTROL_FLOW = frozenset({"cond", "while_loop", "map_impl"})
_HALF = {DType.FLOAT16: Numerics.FP16, DType.BFLOAT16: Numerics.BF16}
_RANDOM = ("aten.rand", "aten.randn", "aten.bernoulli", "aten.normal", "aten.multinomial", "aten.randint")
# The place of the argument that says whether the operator trains.
_TRAINING_FLAG = {"aten.dropout.default": 2, "aten.batch_norm.default": 5, "aten.feature_dropout.default": 2}


def describe(job: DescribeJob) -> ModelSummary:
    """Describe a PyTorch file.

    A TorchScript file and a builder without example inputs do not say their shapes: the job must.

    Raises:
        ModelRefused: Only running a pickle would tell.
        ModelUnreadable: Truncated or damaged, or weights without an architecture.
        ModelNotFound: The builder does not exist.
        ShapeNeeded: Nothing says the shape of an input.
    """
    form = job.form or _form(job.file)
    return describe_source(job) if is_source(job.file) else _DESCRIBERS[form](job)


def _form(path: Path) -> str:
    with path.open("rb") as file:
        found = identify(path, file.read(65536))
    if found is None:
        raise ModelUnreadable(
            f"{path.name} is no PyTorch file", hint="export one with torch.export.save(program, path)"
        )
    return found.form


def _describe_pt2(job: DescribeJob) -> ModelSummary:
    exported = load_exported(job.file, allow_pickle=job.allow_pickle)
    signature = exported_signature(exported, stored_names(job.file))
    return summary_of(exported, signature, "", (job.file,))


def summary_of(
    exported: torch.export.ExportedProgram, signature: Signature, form: str, files: Sequence[Path]
) -> ModelSummary:
    """Summarise an ExportedProgram that came out of these files."""
    import torch

    operators = Counter(_operator(node) for node in exported.graph.nodes if node.op == "call_function")
    operators.pop("", None)
    tensors = [item for item in [*exported.state_dict.values(), *exported.constants.values()] if hasattr(item, "numel")]
    return ModelSummary(
        state=State(format="pytorch", numerics=quantized_numerics(exported) or _numerics(tensors), form=form),
        signature=signature,
        operators=dict(sorted(operators.items())),
        custom_operators=tuple(sorted(name for name in operators if "::" in name)),
        parameters=sum(item.numel() for item in tensors),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
        versions={"torch": str(torch.__version__)},
        findings=tuple(_findings(exported, tensors)),
    )


def _operator(node: torch.fx.Node) -> str:
    """`conv2d` for an operator of PyTorch, `domain::name` for somebody's own, empty for bookkeeping."""
    namespace, _, rest = str(node.target).partition(".")
    if namespace in {"aten", "prims", "quantized_decomposed"}:
        return rest.partition(".")[0]
    if namespace in _CONTROL_FLOW:
        return namespace
    return f"{namespace}::{rest.partition('.')[0]}" if hasattr(node.target, "_schema") else ""


def _numerics(tensors: Sequence[torch.Tensor]) -> Numerics:
    kinds = {str(item.dtype).removeprefix("torch.") for item in tensors if item.is_floating_point()}
    return _HALF.get(DType(kinds.pop()), Numerics.FP32) if len(kinds) == 1 and kinds <= {*_HALF} else Numerics.FP32


def _findings(exported: torch.export.ExportedProgram, tensors: Sequence[torch.Tensor]) -> list[Remark]:
    return [finding for check in _CHECKS if (finding := check(exported, tensors))]


def _hidden_buffers(exported: torch.export.ExportedProgram, _: Sequence[torch.Tensor]) -> Remark | None:
    changed = mutated_state(exported)
    if not changed:
        return None
    return Remark(
        "blocker",
        "hidden-state",
        f"the program changes its own tensors while it runs: {', '.join(changed)}",
        "make the state an input and an output of forward, and export again",
    )


def _training_mode(exported: torch.export.ExportedProgram, _: Sequence[torch.Tensor]) -> Remark | None:
    found = sorted({_operator(node) for node in exported.graph.nodes if _is_training(node)})
    if not found:
        return None
    return Remark(
        "blocker",
        "training-mode",
        f"exported in training mode: {', '.join(found)} would act as in training",
        "call model.eval() before torch.export.export, and export again",
    )


def _is_training(node: torch.fx.Node) -> bool:
    index = _TRAINING_FLAG.get(str(node.target))
    return index is not None and len(node.args) > index and node.args[index] is True


def _randomness(exported: torch.export.ExportedProgram, _: Sequence[torch.Tensor]) -> Remark | None:
    found = sorted({_operator(node) for node in exported.graph.nodes if str(node.target).startswith(_RANDOM)})
    if not found:
        return None
    message = f"draws random numbers: {', '.join(found)}; no two runs agree, so parity cannot be shown"
    return Remark("blocker", "random", message, "draw the numbers outside, as an input")


def _doubles(_: torch.export.ExportedProgram, tensors: Sequence[torch.Tensor]) -> Remark | None:
    count = sum(str(item.dtype) == "torch.float64" for item in tensors)
    message = f"{count} weights are float64; mobile targets compute in float32"
    hint = "ONNX keeps them; on the way to TFLite they become float32, and the receipt says so"
    return Remark("finding", "float64-inside", message, hint) if count else None


def _own_operators(exported: torch.export.ExportedProgram, _: Sequence[torch.Tensor]) -> Remark | None:
    found = sorted({_operator(node) for node in exported.graph.nodes if "::" in _operator(node)})
    if not found:
        return None
    message = f"operators that PyTorch itself does not have: {', '.join(found)}"
    return Remark("finding", "custom-operators", message, "no exporter knows them: write them in PyTorch's own")


def _large(_: torch.export.ExportedProgram, tensors: Sequence[torch.Tensor]) -> Remark | None:
    size = sum(item.nbytes for item in tensors)
    message = f"the weights take {size / 2**30:.2f} GiB"
    hint = "ONNX gets them in a file of their own, MODEL.onnx.data; TFLite cannot hold them: its files end at 2 GiB"
    return Remark("finding", "large-model", message, hint) if size >= TFLITE_BYTES else None


def _control_flow(exported: torch.export.ExportedProgram, _: Sequence[torch.Tensor]) -> Remark | None:
    found = [str(node.target) for node in exported.graph.nodes if str(node.target) in _CONTROL_FLOW]
    message = f"holds control flow on values: {', '.join(found)}"
    return Remark("finding", "control-flow", message) if found else None


_CHECKS: tuple[Callable[[torch.export.ExportedProgram, Sequence[torch.Tensor]], Remark | None], ...] = (
    _hidden_buffers,
    _training_mode,
    _randomness,
    _own_operators,
    _doubles,
    _control_flow,
    _large,
)


def _describe_torchscript(job: DescribeJob) -> ModelSummary:
    """Describe a TorchScript file by its schema, and by one run at the shapes that the user gave."""
    import torch

    reference = reference_for(job.path, "torchscript", job)
    script = load_torchscript(job.file, job.submodule)
    graph = script.inlined_graph
    operators = Counter(node.kind().removeprefix("aten::") for node in nodes_of(graph) if "aten::" in node.kind())
    state = State(format="pytorch", form="torchscript")
    known = hidden_state(script)  # its shapes do not matter: it cannot be converted
    return ModelSummary(
        state=state,
        signature=Signature(inputs=(), outputs=()) if known else script_signature(script, reference),
        operators=dict(sorted(operators.items())),
        parameters=sum(item.numel() for item in script.parameters()),
        size_bytes=job.file.stat().st_size,
        files=(str(job.file.resolve()),),
        versions={"torch": str(torch.__version__)},
        findings=tuple(_script_findings(script, graph)),
    )


def script_signature(script: torch.jit.ScriptModule, reference: ModelReference) -> Signature:
    """Inputs and outputs of a script at the shapes that the reference gives.

    Numbers among the inputs are scalars; a number without a default value is tried as 1 to learn the outputs.

    Raises:
        ShapeNeeded: An input has no shape.
        UnsupportedModel: It does not run at these shapes.
    """
    import torch

    found = script_inputs(script)
    scalars = {name: () for name in found.required if name in found.numbers}
    full = msgspec.structs.replace(
        reference, shapes=reference.shapes | scalars, dtypes=reference.dtypes | found.numbers
    )
    inputs = fixed_specs(found.wanted(full), full)
    feeds = {spec.name: 1 if spec.name in scalars else sample(spec) for spec in inputs}
    try:
        with torch.no_grad():
            names, tensors = flat_outputs(script(**feeds))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        shapes = ", ".join(map(str, inputs))
        raise UnsupportedModel(f"the model does not run on {shapes}: {reason}", hint="give other shapes") from error
    return Signature(inputs=inputs, outputs=tuple(map(spec_of, names, tensors)))


def _script_findings(script: torch.jit.ScriptModule, graph: torch.Graph) -> list[Remark]:
    found = []
    if hidden_state(script):
        message, hint = state_message(script)
        found.append(Remark("blocker", "hidden-state", message, hint))
    if any(node.kind() in {"prim::If", "prim::Loop"} for node in nodes_of(graph)):
        message = "holds control flow; what depends on tensor values will be refused, what depends on shapes is fixed"
        found.append(Remark("finding", "control-flow", message))
    return found


def _describe_eager(job: DescribeJob) -> ModelSummary:
    form = job.form or _form(job.file)
    reference = reference_for(job.path, form, job)
    module, example = load_eager(reference, allow_pickle=job.allow_pickle)
    files = [job.file, *([Path(reference.weights)] if reference.weights else [])]
    inputs = eager_inputs(module, example, reference)
    if any(spec.name in number_inputs(module) for spec in inputs.specs):  # torch.export would freeze them: run instead
        summary = _summary_by_running(module, inputs, form, files)
    else:
        summary = _summary_by_exporting(module, example, reference, (form, files))
    # what the weights take: a builder's own file is a reference to code, a few bytes long
    weights = sum(item.nbytes for item in (*module.parameters(), *module.buffers()))
    return msgspec.structs.replace(summary, size_bytes=weights)


def _summary_by_exporting(
    module: torch.nn.Module, example: object, reference: ModelReference, rest: tuple[str, Sequence[Path]]
) -> ModelSummary:
    """Export to learn the operators; where torch.export refuses, run instead and say so.

    Raises:
        UnsupportedModel: Control flow depends on values: no exporter takes that.
    """
    try:
        return summary_of(*export_eager(module, example, reference), *rest)
    except (UnsupportedModel, StepError) as error:
        if is_data_dependent(error):
            raise
        summary = _summary_by_running(module, eager_inputs(module, example, reference), *rest)
        finding = Remark("finding", EXPORT_FAILS, error.message, "where the target is ONNX, hub traces it instead")
        return msgspec.structs.replace(summary, findings=(finding,))


def _summary_by_running(
    module: torch.nn.Module, inputs: TracedInputs, form: str, files: Sequence[Path]
) -> ModelSummary:
    import torch

    return ModelSummary(
        state=State(format="pytorch", numerics=_numerics(list(module.parameters())), form=form),
        signature=Signature(inputs=inputs.specs, outputs=outputs_by_running(module, inputs)),
        parameters=sum(item.numel() for item in module.parameters()),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
        versions={"torch": str(torch.__version__)},
    )


def outputs_by_running(module: torch.nn.Module, inputs: TracedInputs) -> tuple[TensorSpec, ...]:
    """A module's outputs, learned from a run; with open dimensions from a second run at other sizes."""
    names, shapes, kinds = _run_at(module, inputs.traced)
    if not inputs.sizes:
        return tuple(map(fixed_spec, names, kinds, shapes))
    other = {symbol: size + 1 + index for index, (symbol, size) in enumerate(inputs.sizes.items())}
    _, moved, _ = _run_at(module, tuple(sized(spec, other) for spec in inputs.specs))
    symbols = {(size, other[symbol]): symbol for symbol, size in inputs.sizes.items()}
    specs = []
    for name, kind, before, after in zip(names, kinds, shapes, moved, strict=True):
        pairs = enumerate(zip(before, after, strict=True))
        dims = [a if a == b else symbols.get((a, b), f"{name}_dim{axis}") for axis, (a, b) in pairs]
        specs.append(TensorSpec(name=name, dtype=kind, shape=tuple(map(Dim.of, dims))))
    return tuple(specs)


def _run_at(
    module: torch.nn.Module, specs: Sequence[TensorSpec]
) -> tuple[tuple[str, ...], list[tuple[int, ...]], list[DType]]:
    """Names, shapes and types of the outputs of one run."""
    import torch

    numbers = number_inputs(module)
    feeds = {spec.name: 1 if spec.name in numbers else sample(spec) for spec in specs}
    with torch.no_grad():
        names, tensors = flat_outputs(module(**feeds))
    return names, [tuple(tensor.shape) for tensor in tensors], [dtype_of(tensor.dtype) for tensor in tensors]


def _describe_weights(job: DescribeJob) -> ModelSummary:
    hint = f"name the function that builds its network: hub convert package.module:build --weights {job.file.name} ..."
    raise ModelUnreadable(f"{job.file.name} holds weights without a network", hint=hint)


_DESCRIBERS: dict[str, Callable[[DescribeJob], ModelSummary]] = {
    "": _describe_pt2,
    "torchscript": _describe_torchscript,
    "builder": _describe_eager,
    "pickle": _describe_eager,
    "weights": _describe_weights,
}
