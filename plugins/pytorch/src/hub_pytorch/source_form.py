"""The source form: a Python file that hub wrote, its weights beside it. Describing one reads it and never runs it."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import msgspec

from hub.spec import (
    ConvertJob,
    DescribeJob,
    Dim,
    DType,
    HubError,
    IoBinding,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    Signature,
    State,
    StepOutput,
    TensorSpec,
    UnsupportedModel,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    NamedCall = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]

SUFFIX = ".py"
NO_CONSTANTS = "a PyTorch source freezes no inputs"
CONSTANTS_HINT = "freeze them in its own code"
_HINT = "convert the model to .py again, or name its builder: package.module:build"
# What safetensors calls the types that decide on the numerics, by their names in the header.
_HALVES = {"F16": Numerics.FP16, "BF16": Numerics.BF16}
_SIGNS = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.MatMult: "matmul",
    ast.Pow: "pow",
    ast.FloorDiv: "floordiv",
    ast.Mod: "remainder",
}

Row = tuple[str, str, tuple[int | str, ...]]


class SourceTables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of a source file.

    Attributes:
        signature: Its inputs and outputs.
        sizes: Open dimension -> a size at which the network runs.
        operators: What it calls, with counts.
    """

    signature: Signature
    sizes: dict[str, int]
    operators: dict[str, int]


class StoredTensor(TypedDict):
    """A tensor as the header of a safetensors file has it."""

    dtype: str
    shape: list[int]


def is_source(path: Path) -> bool:
    """Whether a builder is a source file rather than a reference to a function."""
    return path.suffix == SUFFIX


def describe_source(job: DescribeJob) -> ModelSummary:
    """Describe a source file from its text and from the header of its weights.

    Raises:
        ModelUnreadable: It is no Python, lacks its tables, or its weights are missing or damaged.
        UsageError: A submodule of it is asked for, or a dtype that is not that of its input.
    """
    if job.submodule:
        hint = "convert the whole, or name a builder of the submodule: package.module:build"
        raise UsageError(f"{job.file.name} is a PyTorch source, of which hub takes no submodules", hint=hint)
    tables = read_tables(job.file)
    held = {spec.name: spec.dtype for spec in tables.signature.inputs}
    wrong = [name for name, dtype in job.dtypes.items() if held.get(name) != dtype]
    if wrong:
        raise UsageError(f"{job.file.name} says the dtypes of its inputs itself, and others for {', '.join(wrong)}")
    header = weights_header(weights_path(job.file))
    files = (job.file, weights_path(job.file))
    floats = {name for name in {item["dtype"] for item in header.values()} if "F" in name}
    return ModelSummary(
        state=State(
            format="pytorch",
            numerics=_HALVES.get(floats.pop(), Numerics.FP32) if len(floats) == 1 else Numerics.FP32,
            form="builder",
        ),
        signature=tables.signature,
        operators=tables.operators,
        parameters=sum(_elements(item["shape"]) for item in header.values()),
        size_bytes=sum(file.stat().st_size for file in files),
        files=tuple(str(file.resolve()) for file in files),
    )


def weights_path(path: Path) -> Path:
    """Where the weights of a source file lie."""
    return path.with_suffix(".safetensors")


def _elements(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def weights_header(path: Path) -> dict[str, StoredTensor]:
    """Name -> `dtype` and `shape`, from the header of a safetensors file.

    Raises:
        ModelUnreadable: It is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, StoredTensor] = json.loads(file.read(min(size, path.stat().st_size)))
    except (OSError, ValueError) as error:
        hint = f"keep {path.name} beside the Python file of that name"
        raise ModelUnreadable(f"the weights {path.name} cannot be read: {error}", hint=hint) from error
    return {name: item for name, item in header.items() if name != "__metadata__"}


def read_tables(path: Path) -> SourceTables:
    """Read a source file's tables without running it.

    Raises:
        ModelUnreadable: It is no Python, or lacks one of them.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = dict(_constants(tree))
        inputs, outputs = (
            tuple(map(_spec, msgspec.convert(found[name], tuple[Row, ...]))) for name in ("INPUTS", "OUTPUTS")
        )
        sizes = msgspec.convert(found.get("SIZES", {}), dict[str, int])
    except (SyntaxError, ValueError, KeyError, msgspec.ValidationError) as error:
        raise ModelUnreadable(f"{path.name} does not say its inputs and outputs: {error}", hint=_HINT) from error
    operators = Counter(_operators(tree))
    signature = Signature(inputs=inputs, outputs=outputs)
    return SourceTables(signature=signature, sizes=sizes, operators=dict(sorted(operators.items())))


def _constants(tree: ast.Module) -> Iterator[tuple[str, object]]:
    for item in tree.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            yield item.targets[0].id, ast.literal_eval(item.value)


def _spec(row: Row) -> TensorSpec:
    name, dtype, shape = row
    return TensorSpec(name=name, dtype=DType(dtype), shape=tuple(map(Dim.of, shape)))


def _operators(tree: ast.Module) -> Iterator[str]:
    """What the classes call: functions of torch by name, signs by their functions' names, layers by their classes."""
    for item in (node for top in tree.body if isinstance(top, ast.ClassDef) for node in ast.walk(top)):
        if isinstance(item, ast.BinOp):
            yield _SIGNS.get(type(item.op), "")
        called = item.func if isinstance(item, ast.Call) else None
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id != "self":
            yield called.attr


def build_source(path: Path) -> torch.nn.Module:
    """Run a source file's `build()`: whoever names a Python file to be run or converted asks for that.

    Returns:
        The module in evaluation mode.

    Raises:
        ModelUnreadable: It does not run, or its weights do not fit.
    """
    spec = importlib.util.spec_from_file_location(f"hub_source_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelUnreadable(f"{path.name} is no Python file", hint=_HINT)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        network: torch.nn.Module = module.build().eval()
    except (ImportError, NameError, AttributeError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise ModelUnreadable(f"{path.name} does not build its network: {error}", hint=_HINT) from error
    return network


def source_call(path: Path) -> NamedCall:
    """A source file as a function from tensors by input name to tensors by output name. Raises as `build_source`."""
    module, signature = build_source(path), read_tables(path).signature

    def call(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        results = module(*(feeds[spec.name] for spec in signature.inputs))
        given = results if isinstance(results, tuple) else (results,)
        return dict(zip((spec.name for spec in signature.outputs), given, strict=True))

    return call


def export_source(job: ConvertJob) -> StepOutput:
    """Export a source file to `.pt2`; its open dimensions stay open, except those that the request fixes.

    Raises:
        ModelUnreadable: It does not run, or lacks its tables.
        UnsupportedModel: torch.export fixes a dimension that is open, or an input is to be frozen.
        StepError: torch.export failed for another reason.
    """
    from hub_torchprogram import save_exported

    exported, signature = _exported(job)
    save_exported(exported, signature, Path(job.output))
    return StepOutput()


def _exported(job: ConvertJob) -> tuple[torch.export.ExportedProgram, Signature]:
    from hub_pytorch.from_onnx import export_positional

    tables, signature = _asked(job)
    return export_positional(build_source(Path(job.source.path)), signature.inputs, tables.sizes), signature


def _asked(job: ConvertJob) -> tuple[SourceTables, Signature]:
    """A source's tables, and its signature with the shapes that the request fixes."""
    options = job.options
    if options.constants:
        names = ", ".join(options.constants)
        raise UnsupportedModel(f"{NO_CONSTANTS} ({names})", hint=CONSTANTS_HINT)
    tables = read_tables(Path(job.source.path))
    inputs = tuple(_fixed(spec, options.shapes) for spec in tables.signature.inputs)
    return tables, msgspec.structs.replace(tables.signature, inputs=inputs)


def trace_source(job: ConvertJob) -> StepOutput:
    """Trace a source file to ONNX; its open dimensions stay open as far as the trace holds them.

    Raises:
        ModelUnreadable: It does not run, or lacks its tables.
        UnsupportedModel: Control flow depends on values, which a trace would bake in; an operator has no ONNX form; or
            an input is to be frozen.
    """
    from hub_pytorch.export import TracedInputs
    from hub_pytorch.trace_onnx import trace
    from hub_torchprogram import flat_outputs, is_data_dependent, module_of, words

    tables, signature = _asked(job)
    try:
        _exported(job)
    except HubError as error:
        if is_data_dependent(error):
            raise
    network = build_source(Path(job.source.path))

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return flat_outputs(network(*tensors))[1]

    sides = (signature.inputs, signature.outputs)
    inputs, outputs = (words([spec.name for spec in side]) for side in sides)
    specs = tuple(msgspec.structs.replace(spec, name=word) for spec, word in zip(signature.inputs, inputs, strict=True))
    notes = trace(module_of(call, network), TracedInputs(specs, tables.sizes), outputs, Path(job.output))
    return StepOutput(
        notes=notes, bindings=(*_renames("input", sides[0], inputs), *_renames("output", sides[1], outputs))
    )


def _renames(
    direction: Literal["input", "output"], specs: Sequence[TensorSpec], names: Sequence[str]
) -> Iterator[IoBinding]:
    for spec, name in zip(specs, names, strict=True):
        if spec.name != name:
            reason = "torch.onnx takes no such name"
            yield IoBinding(direction=direction, source=spec.name, target=name, reason=reason)


def _fixed(spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]]) -> TensorSpec:
    shape = shapes.get(spec.name)
    return spec if shape is None else msgspec.structs.replace(spec, shape=tuple(map(Dim.of, shape)))
