"""Brings an ONNX model into the `static` form that converters take: fixed shapes, no `If`, float32, one file.

Input and output names, order and element types stay. Everything that is done is said in a note.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hub.spec import DType, ShapeNeeded, StepError, UnknownName, UnsupportedModel, UsageError
from hub_onnxruntime.describe import CONTROL_FLOW, custom_operators, is_static_form
from hub_onnxruntime.files import all_nodes, external_tensors, load, load_structure, save
from hub_onnxruntime.float64 import narrow_float64
from hub_onnxruntime.folding import fold_control_flow, infer
from hub_onnxruntime.graphs import add_constant, drop_initializer_inputs, name_nodes
from hub_onnxruntime.signature import TensorInfo, inputs_of, outputs_of, real_inputs, tensor_info
from hub_onnxruntime.simplify import Oracle, Rejected, random_feeds, simplify

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds

MIN_OPSET = 17  # per-channel QDQ needs 13, LayerNormalization 17; the three OCR networks (11, 12) were right at 17
_NUMERIC = frozenset(dtype.value for dtype in DType) - {DType.STRING.value, DType.UNKNOWN.value}
MIN_IR = 8  # the IR version that came with opset 17

Shapes = Mapping[str, tuple[int, ...]]
Constants = Mapping[str, int | float | bool]


class Prepared(NamedTuple):
    """What `prepare` did: notes in order, and the inputs that were frozen away."""

    notes: list[str]
    frozen: dict[str, int | float | bool]


def _check_names(given: Mapping[str, object], infos: list[TensorInfo], what: str) -> None:
    names = [info.name for info in infos]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1) or names
            raise UnknownName(
                f"{what} names input {name!r}; the model has {', '.join(names)}",
                hint=f"Did you mean --{what} {near[0] if near else 'INPUT'}=...?",
            )


def _check_shape(info: TensorInfo, shape: tuple[int, ...]) -> None:
    wanted = info.shape if info.shape is not None else shape
    fits = len(wanted) == len(shape)
    fits = fits and all(size > 0 and dim in (size, str(dim)) for dim, size in zip(wanted, shape, strict=True))
    if not fits:
        has, asked = "x".join(map(str, wanted)), "x".join(map(str, shape))
        raise UsageError(
            f"shape {asked} does not fit input {info.name!r}, which is {has or 'a scalar'}",
            hint=f"Keep the fixed sizes and the rank: --shape {info.name}={has}.",
        )


def _symbol_sizes(infos: list[TensorInfo], shapes: Shapes) -> dict[str, int]:
    """Returns symbol -> size, and refuses two sizes for one symbol."""
    sizes: dict[str, int] = {}
    for info in infos:
        for dim, size in zip(info.shape or (), shapes.get(info.name, ()), strict=False):
            if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                raise UsageError(
                    f"dim {dim!r} is {sizes[dim]} in one input and {size} in {info.name!r}",
                    hint="Give every dim of one name the same size.",
                )
    return sizes


def full_shapes(infos: list[TensorInfo], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns every input's fixed shape: as given, or as the model has it, or from a dim that another input fixed.

    Raises:
        ShapeNeeded: A dim is left open; the hint has the exact flags.
        UnknownName: `shapes` names an input that does not exist.
        UsageError: A given shape contradicts the model.
    """
    _check_names(shapes, infos, "shape")
    for info in infos:
        if info.name in shapes:
            _check_shape(info, shapes[info.name])
    sizes = _symbol_sizes(infos, shapes)
    known = {info.name: shapes.get(info.name) or _sized(info, sizes) for info in infos}
    open_ones = [info for info in infos if known[info.name] is None]
    if open_ones:
        flags = " ".join(f"--shape {info.name}={'x'.join(map(str, info.shape or ('?',)))}" for info in open_ones)
        names = ", ".join(repr(info.name) for info in open_ones)
        raise ShapeNeeded(f"inputs without a fixed shape: {names}", hint=f"Give numbers for the names in: {flags}")
    return {name: shape for name, shape in known.items() if shape is not None}


def _sized(info: TensorInfo, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    if info.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else sizes.get(dim) for dim in info.shape]
    fixed = tuple(dim for dim in dims if dim is not None)
    return fixed if len(fixed) == len(dims) else None


def fix_shapes(model: Any, shapes: Shapes) -> list[str]:
    """Writes fixed shapes into the inputs and forgets every shape that was derived from the open ones."""
    changed = []
    for value in real_inputs(model.graph):
        info = tensor_info(value)
        if info.shape != shapes[info.name]:
            changed.append(f"fixed input {info.name!r} to {'x'.join(map(str, shapes[info.name])) or 'a scalar'}")
        shape = value.type.tensor_type.shape
        shape.SetInParent()
        del shape.dim[:]
        for size in shapes[info.name]:
            shape.dim.add().dim_value = size
    if changed:
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return changed


def freeze_inputs(model: Any, constants: Constants, shapes: Shapes) -> list[str]:
    """Turns inputs into constants; they leave the graph's inputs."""
    import numpy as np

    notes = []
    for value in real_inputs(model.graph):
        info = tensor_info(value)
        if info.name in constants:
            array = np.full(shapes[info.name], constants[info.name], dtype=info.dtype)
            model.graph.input.remove(value)
            add_constant(model.graph, info.name, array)
            notes.append(f"froze input {info.name!r} to {constants[info.name]}: it is no longer an input")
    return notes


def inline_functions(model: Any) -> tuple[Any, list[str]]:
    """Replaces calls of the model's local functions by their bodies."""
    import onnx

    count = len(model.functions)
    if not count:
        return model, []
    return onnx.inliner.inline_local_functions(model), [f"inlined {count} local functions"]


def _opset(model: Any) -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def raise_ir(model: Any) -> list[str]:
    """Raises the IR version to the least that the opset needs and that allows stored tensors that are no inputs."""
    before = int(model.ir_version)
    model.ir_version = max(before, MIN_IR)
    return [f"raised the IR version from {before} to {MIN_IR}"] if before < MIN_IR else []


def raise_opset(model: Any, target: int = MIN_OPSET) -> tuple[Any, list[str]]:
    """Raises the opset to the least that converters are tested with.

    Raises:
        Rejected: ONNX's version converter does not manage it.
    """
    import onnx

    before, converter = _opset(model), onnx.version_converter
    if not 0 < before < target:
        return model, []
    try:
        raised = converter.convert_version(model, target)
    except (RuntimeError, ValueError, converter.ConvertError) as error:
        raise Rejected(f"opset {before} could not be raised to {target}: {str(error).strip()[:200]}") from error
    return raised, [f"raised the opset from {before} to {target}"]


def _original_feeds(model: Any, constants: Constants, shapes: Shapes, seed: int) -> Feeds:
    """Returns random inputs for the original file: the prepared inputs, and the frozen ones with their value."""
    import numpy as np

    feeds = random_feeds(model, seed)
    return feeds | {
        info.name: np.full(shapes[info.name], constants[info.name], dtype=info.dtype)
        for info in inputs_of(model.graph)
        if info.name in constants
    }


def _check_operators(model: Any) -> None:
    foreign = custom_operators(model)
    if foreign:
        raise UnsupportedModel(
            f"operators that ONNX does not define: {', '.join(foreign)}",
            hint="Export the model again without them, or write a hub plugin that converts them.",
        )


def _check_types(infos: list[TensorInfo]) -> None:
    odd = [f"{info.name} ({info.dtype})" for info in infos if info.dtype not in _NUMERIC]
    if odd:
        raise UnsupportedModel(
            f"inputs or outputs that are no tensors of numbers: {', '.join(odd)}",
            hint="Export the part of the model that takes and gives numbers; keep strings and sequences outside.",
        )


def load_static(path: Path, shapes: Shapes, constants: Constants) -> tuple[Any, dict[str, tuple[int, ...]], list[str]]:
    """Loads a model into one piece and fixes every input's shape.

    Returns:
        The model, every input's shape (frozen inputs included), and notes.
    """
    outside = external_tensors(load_structure(path))
    model = load(path)
    notes = [f"took {len(outside)} tensors of external data into the file"] if outside else []
    _check_operators(model)
    infos = inputs_of(model.graph)
    _check_types([*infos, *outputs_of(model.graph)])
    _check_names(constants, infos, "constant")
    scalars = {name: (1,) * len(_shape_of(infos, name)) for name in constants if not _is_static(infos, name)}
    fixed = full_shapes(infos, scalars | dict(shapes))
    dropped = drop_initializer_inputs(model)
    if dropped:
        notes.append(f"took {dropped} stored tensors out of the list of inputs")
    return model, fixed, notes + fix_shapes(model, fixed)


def _shape_of(infos: list[TensorInfo], name: str) -> tuple[int | str, ...]:
    return next(info.shape or () for info in infos if info.name == name)


def _is_static(infos: list[TensorInfo], name: str) -> bool:
    return next(info.is_static for info in infos if info.name == name)


def _fold(model: Any) -> tuple[Any, list[str]]:
    model, folded = fold_control_flow(model)
    return model, [f"folded {folded} If nodes"] if folded else []


def _without_raising(model: Any) -> tuple[Any, list[str]]:
    return model, [f"kept opset {_opset(model)}"]


# Two ways, the first that gives a right model is taken: not every graph survives the version converter.
_WAYS: tuple[Callable[[Any], tuple[Any, list[str]]], ...] = (raise_opset, _without_raising)


def _simplified(model: Any, oracle: Oracle, scratch: Path) -> tuple[Any, list[str]]:
    reasons: list[str] = []
    for way in _WAYS:
        copy = model.__class__.FromString(model.SerializeToString())
        try:
            lifted, notes = way(infer(copy))
            result = simplify(infer(lifted), oracle, scratch)
        except Rejected as reason:
            reasons.append(str(reason))
        else:
            return result.model, [*reasons, *notes, *result.notes]
    raise StepError(
        f"no way of simplifying the graph kept what it computes: {' | '.join(reasons)}",
        hint="Export the model again with a newer exporter, or with fixed shapes.",
    )


def _finish(model: Any) -> tuple[Any, list[str]]:
    """Infers shapes, makes names unique, and checks the declared form."""
    import onnx

    del model.graph.value_info[:]
    model = infer(model)
    renamed = name_nodes(model)
    onnx.checker.check_model(model, full_check=True)
    if not is_static_form(model):
        count = sum(node.op_type == "If" for node in all_nodes(model))
        raise UnsupportedModel(
            f"{count} If nodes depend on values that only a run gives",
            hint="Freeze the input that they depend on: --constant INPUT=VALUE, or give shapes that decide them.",
        )
    return model, _open_notes(model) + ([f"gave {renamed} operators names of their own"] if renamed else [])


def _open_notes(model: Any) -> list[str]:
    notes = []
    values = (*model.graph.value_info, *model.graph.output)
    open_ones = [value.name for value in values if not tensor_info(value).is_static]
    if open_ones:
        notes.append(f"{len(open_ones)} tensors keep a shape that depends on values, first {open_ones[0]!r}")
    loops = sum(node.op_type in CONTROL_FLOW for node in all_nodes(model))
    if loops:
        notes.append(f"{loops} Loop or Scan nodes stay")
    return notes


def prepare(source: Path, target: Path, scratch: Path, shapes: Shapes, constants: Constants, seed: int = 0) -> Prepared:
    """Writes the static form of `source` to `target`.

    Args:
        source: The ONNX file, external data beside it. It is only read.
        target: The file to write.
        scratch: A folder for intermediate files.
        shapes: Input -> fixed shape, at least for every input with an open dim.
        constants: Input -> value that it is frozen to.
        seed: For the random inputs on which the simplified graph is compared with the original.

    Raises:
        HubError: The model cannot be read, has operators that ONNX does not define, lacks a shape, or cannot be brought
            into the static form without changing what it computes.
    """
    model, fixed, notes = load_static(source, shapes, constants)
    feeds = _original_feeds(model, constants, fixed, seed)
    notes += raise_ir(model) + freeze_inputs(model, constants, fixed)
    for step in (inline_functions, _fold):
        model, said = step(model)
        notes += said
    oracle = Oracle(source, feeds, scratch)
    model, said = _simplified(model, oracle, scratch)
    notes += oracle.notes + said + narrow_float64(model)
    model, said = _finish(model)
    save(model, target)
    return Prepared(notes + said, dict(constants))
