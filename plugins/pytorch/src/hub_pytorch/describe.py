"""Describe PyTorch files: signature, operators, size, and what will be in the way. Runs in a worker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.spec import (
    DescribeJob,
    Dim,
    DType,
    Finding,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    Signature,
    State,
    TensorSpec,
)
from hub_pytorch.export import export_built, export_reference
from hub_pytorch.load import (
    build,
    example_specs,
    exported_signature,
    forward_inputs,
    load_exported,
    load_pickled,
    load_torchscript,
    stored_names,
)
from hub_pytorch.reference import Reference, read_reference
from hub_pytorch.script import hidden_state, script_inputs, state_message
from hub_pytorch.sniff import identify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HALF = {DType.FLOAT16: Numerics.FP16, DType.BFLOAT16: Numerics.BF16}
_RANDOM = ("aten.rand", "aten.randn", "aten.bernoulli", "aten.normal", "aten.multinomial", "aten.randint")
_TRAINING_FLAG = {"aten.dropout.default": 2, "aten.batch_norm.default": 5, "aten.feature_dropout.default": 2}


def describe(job: DescribeJob) -> ModelSummary:
    """Describe a PyTorch file.

    A TorchScript file and a builder without example inputs do not say their shapes: their inputs are described with
    one symbolic dimension `<input>_shape` and a finding `shape-unknown`.

    Raises:
        ModelRefused: Only running a pickle would tell.
        ModelUnreadable: Truncated or damaged, or weights without an architecture.
        ModelNotFound: The builder does not exist.
    """
    form = job.form or _form(job.file)
    return _DESCRIBERS[form](job)


def _form(path: Path) -> str:
    with path.open("rb") as file:
        found = identify(path, file.read(65536))
    if found is None:
        raise ModelUnreadable(
            f"{path.name} is no PyTorch file", hint="export one with torch.export.save(program, path)"
        )
    return found.form


def _describe_pt2(job: DescribeJob) -> ModelSummary:
    exported = load_exported(job.file)
    signature = exported_signature(exported, stored_names(job.file))
    return summary_of(exported, signature, "", (job.file,))


def summary_of(exported: Any, signature: Signature, form: str, files: Sequence[Path]) -> ModelSummary:
    """Summarise an ExportedProgram that came out of these files."""
    import torch

    operators = Counter(_operator(node) for node in exported.graph.nodes if node.op == "call_function")
    operators.pop("", None)
    tensors = [item for item in [*exported.state_dict.values(), *exported.constants.values()] if hasattr(item, "numel")]
    return ModelSummary(
        state=State(format="pytorch", numerics=_numerics(tensors), form=form),
        signature=signature,
        operators=dict(sorted(operators.items())),
        custom_operators=tuple(sorted(name for name in operators if "::" in name)),
        parameters=sum(item.numel() for item in tensors),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
        versions={"torch": torch.__version__},
        findings=tuple(_findings(exported, tensors)),
    )


def _operator(node: Any) -> str:
    target = str(node.target)
    if target.startswith("aten."):
        return target.split(".")[1]
    return "" if "getitem" in target or "sym_size" in target else target.replace(".", "::", 1)


def _numerics(tensors: Sequence[Any]) -> Numerics:
    kinds = {str(item.dtype).removeprefix("torch.") for item in tensors if item.is_floating_point()}
    return _HALF.get(DType(kinds.pop()), Numerics.FP32) if len(kinds) == 1 and kinds <= {*_HALF} else Numerics.FP32


def _findings(exported: Any, tensors: Sequence[Any]) -> list[Finding]:
    return [finding for check in _CHECKS if (finding := check(exported, tensors))]


def _hidden_buffers(exported: Any, _: Sequence[Any]) -> Finding | None:
    changed = sorted({*exported.graph_signature.buffers_to_mutate.values(), *_mutated_inputs(exported)})
    if not changed:
        return None
    return Finding(
        code="hidden-state",
        message=f"the program changes its own tensors while it runs: {', '.join(changed)}",
        hint="make the state an input and an output of forward, and export again",
        blocking=True,
    )


def _mutated_inputs(exported: Any) -> list[str]:
    # A program that is not functionalized yet still holds in-place operators on its buffers and constants.
    owned = {
        spec.arg.name: spec.target
        for spec in exported.graph_signature.input_specs
        if spec.kind.name in {"BUFFER", "CONSTANT_TENSOR"}
    }
    in_place = [
        node for node in exported.graph.nodes if getattr(getattr(node.target, "_schema", None), "is_mutable", 0)
    ]
    return [owned[node.args[0].name] for node in in_place if getattr(node.args[0], "name", None) in owned]


def _training_mode(exported: Any, _: Sequence[Any]) -> Finding | None:
    found = sorted({_operator(node) for node in exported.graph.nodes if _is_training(node)})
    if not found:
        return None
    return Finding(
        code="training-mode",
        message=f"exported in training mode: {', '.join(found)} would act as in training",
        hint="call model.eval() before torch.export.export, and export again",
        blocking=True,
    )


def _is_training(node: Any) -> bool:
    index = _TRAINING_FLAG.get(str(node.target))
    return index is not None and len(node.args) > index and node.args[index] is True


def _randomness(exported: Any, _: Sequence[Any]) -> Finding | None:
    found = sorted({_operator(node) for node in exported.graph.nodes if str(node.target).startswith(_RANDOM)})
    if not found:
        return None
    message = f"draws random numbers: {', '.join(found)}; no two runs agree, so parity cannot be shown"
    return Finding(code="random", message=message, hint="draw the numbers outside, as an input", blocking=True)


def _doubles(_: Any, tensors: Sequence[Any]) -> Finding | None:
    count = sum(str(item.dtype) == "torch.float64" for item in tensors)
    message = f"{count} weights are float64; mobile targets compute in float32"
    return Finding(code="float64-inside", message=message) if count else None


def _control_flow(exported: Any, _: Sequence[Any]) -> Finding | None:
    found = [
        str(node.target) for node in exported.graph.nodes if str(node.target) in {"cond", "while_loop", "map_impl"}
    ]
    message = f"holds control flow on values: {', '.join(found)}"
    return Finding(code="control-flow", message=message) if found else None


_CHECKS: tuple[Callable[[Any, Sequence[Any]], Finding | None], ...] = (
    _hidden_buffers,
    _training_mode,
    _randomness,
    _doubles,
    _control_flow,
)


def _unknown_shapes(names: Sequence[str]) -> tuple[tuple[TensorSpec, ...], Finding]:
    specs = tuple(
        TensorSpec(name=name, dtype=DType.UNKNOWN, shape=(Dim(symbol=f"{name}_shape", low=0),)) for name in names
    )
    flags = " ".join(f"--shape {name}=1x3x224x224" for name in names)
    message = "the file does not say the shapes and dtypes of its inputs"
    return specs, Finding(code="shape-unknown", message=message, hint=f"give them: {flags}")


def _describe_torchscript(job: DescribeJob) -> ModelSummary:
    return describe_script(job.file, Reference(file=job.path), (job.file,))


def describe_script(path: Path, reference: Reference, files: Sequence[Path]) -> ModelSummary:
    """Describe a TorchScript file, or a submodule of it; exactly, once the reference gives its inputs' shapes."""
    import torch

    script = load_torchscript(path, reference.submodule)
    inputs = script_inputs(script)
    names = [name for name in (*inputs.required, *inputs.optional) if name not in reference.constants]
    form = "torchscript" if len(files) == 1 else "builder"
    if not hidden_state(script) and all(name in reference.inputs for name in inputs.required if name in names):
        return summary_of(*export_reference(reference), form, files)
    specs, unknown = _unknown_shapes([name for name in names if name not in inputs.numbers])
    numbers = tuple(TensorSpec(name=name, dtype=DType.INT64, shape=()) for name in names if name in inputs.numbers)
    graph = script.inlined_graph
    operators = Counter(node.kind().removeprefix("aten::") for node in graph.nodes() if node.kind()[:6] == "aten::")
    return ModelSummary(
        state=State(format="pytorch", form=form),
        signature=Signature(inputs=specs + numbers, outputs=_script_outputs(script)),
        operators=dict(sorted(operators.items())),
        parameters=sum(item.numel() for item in script.parameters()),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
        versions={"torch": torch.__version__},
        findings=(*_script_findings(script, graph), unknown),
    )


def _script_outputs(script: Any) -> tuple[TensorSpec, ...]:
    kind = str(script.forward.schema.returns[0].type)
    count = kind.count("Tensor")
    names = ["output"] if count == 1 and not kind.startswith("(") else [f"output_{index}" for index in range(count)]
    return _unknown_shapes(names)[0]


def _script_findings(script: Any, graph: Any) -> list[Finding]:
    found = []
    if hidden_state(script):
        message, hint = state_message(script)
        found.append(Finding(code="hidden-state", message=message, hint=hint, blocking=True))
    if graph.findAllNodes("prim::If") or graph.findAllNodes("prim::Loop"):
        message = "holds control flow; what depends on tensor values will be refused, what depends on shapes is fixed"
        found.append(Finding(code="control-flow", message=message))
    return found


def _describe_builder(job: DescribeJob) -> ModelSummary:
    reference = read_reference(job.file)
    files = [job.file, *map(Path, reference.files)]
    if reference.file:
        return describe_script(Path(reference.file), reference, files)
    module, example = build(reference)
    return _describe_module(module, example, reference, ("builder", files))


def _describe_pickle(job: DescribeJob) -> ModelSummary:
    module = load_pickled(job.file, allow_pickle=job.allow_pickle)
    return _describe_module(module, None, Reference(), ("pickle", [job.file]))


def _describe_module(module: Any, example: Any, reference: Reference, origin: tuple[str, list[Path]]) -> ModelSummary:
    form, files = origin
    given = {spec.name for spec in example_specs(module, example)} if example is not None else set()
    names = [*given] or [name for name in forward_inputs(module) if name not in reference.constants]
    if given or all(name in reference.inputs for name in names):
        return summary_of(*export_built(module, example, reference), form, files)
    specs, unknown = _unknown_shapes(names)
    return ModelSummary(
        state=State(format="pytorch", form=form),
        signature=Signature(inputs=specs, outputs=()),
        parameters=sum(item.numel() for item in module.parameters()),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
        findings=(unknown,),
    )


def _describe_weights(job: DescribeJob) -> ModelSummary:
    hint = f"name the function that builds its network: hub convert package.module:build --weights {job.file.name} ..."
    raise ModelUnreadable(f"{job.file.name} holds weights without a network", hint=hint)


_DESCRIBERS: dict[str, Callable[[DescribeJob], ModelSummary]] = {
    "": _describe_pt2,
    "torchscript": _describe_torchscript,
    "builder": _describe_builder,
    "pickle": _describe_pickle,
    "weights": _describe_weights,
}
