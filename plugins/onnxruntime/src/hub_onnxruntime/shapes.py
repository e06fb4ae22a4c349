"""Shapes of a graph's inputs: what the user gave, checked; what follows from it; names for what stays open."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hub.spec import Remark, ShapeNeeded, UnknownName, UsageError
from hub_onnxgraph.signature import ANONYMOUS, TensorInfo

if TYPE_CHECKING:
    import onnx_ir as ir

Dims = tuple[int | str, ...]
Shapes = Mapping[str, tuple[int, ...]]
OpenShapes = Mapping[str, Dims | None]


def check_names(given: Mapping[str, object], infos: list[TensorInfo], what: str) -> None:
    """Refuses names that are no input.

    Raises:
        UnknownName: With the nearest name in its hint.
    """
    names = [info.name for info in infos]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1) or names
            raise UnknownName(
                f"{what} names input {name!r}; the model has {', '.join(names)}",
                hint=f"Did you mean --{what} {near[0] if near else 'INPUT'}=...?",
            )


def open_shapes(infos: list[TensorInfo], shapes: Shapes) -> OpenShapes:
    """Returns every input's shape: as given, or as the model has it with the dims that another input fixed.

    An input whose rank is unknown and that nobody gave a shape is None.

    Raises:
        UnknownName: `shapes` names an input that does not exist.
        UsageError: A given shape contradicts the model, or another input's.
    """
    check_names(shapes, infos, "shape")
    for info in infos:
        if info.name in shapes:
            shape = shapes[info.name]
            wanted = info.shape if info.shape is not None else shape
            fits = len(wanted) == len(shape)
            fits = fits and all(size > 0 and dim in (size, str(dim)) for dim, size in zip(wanted, shape, strict=True))
            if not fits:
                has, asked = "x".join(map(str, wanted)), "x".join(map(str, shape))
                raise UsageError(
                    f"shape {asked} does not fit input {info.name!r}, which is {has or 'a scalar'}",
                    hint=f"Keep the fixed sizes and the rank: --shape {info.name}={has}.",
                )
    sizes: dict[str, int] = {}
    for info in infos:
        for dim, size in zip(info.shape or (), shapes.get(info.name, ()), strict=False):
            if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                raise UsageError(
                    f"dim {dim!r} is {sizes[dim]} in one input and {size} in {info.name!r}",
                    hint="Give every dim of one name the same size.",
                )
    return {info.name: shapes[info.name] if info.name in shapes else _sized(info, sizes) for info in infos}


def full_shapes(infos: list[TensorInfo], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns every input's fixed shape: as `open_shapes`, with nothing left open.

    Raises:
        ShapeNeeded: A dim is left open; the hint has the exact flags.
        UnknownName: `shapes` names an input that does not exist.
        UsageError: A given shape contradicts the model.
    """
    known = {name: _fixed(shape) for name, shape in open_shapes(infos, shapes).items()}
    open_ones = [info for info in infos if known[info.name] is None]
    if open_ones:
        flags = " ".join(f"--shape {info.name}={'x'.join(map(str, info.shape or ('?',)))}" for info in open_ones)
        names = ", ".join(repr(info.name) for info in open_ones)
        raise ShapeNeeded(f"inputs without a fixed shape: {names}", hint=f"Give numbers for the names in: {flags}")
    return {name: shape for name, shape in known.items() if shape is not None}


def _sized(info: TensorInfo, sizes: Mapping[str, int]) -> Dims | None:
    if info.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else sizes.get(dim, dim) for dim in info.shape)


def _fixed(shape: Dims | None) -> tuple[int, ...] | None:
    sizes = tuple(dim for dim in shape or () if isinstance(dim, int))
    return sizes if shape is not None and len(sizes) == len(shape) else None


def write_shapes(graph: ir.Graph, shapes: OpenShapes) -> list[Remark]:
    """Writes shapes into the inputs, symbols by name, and forgets every shape that was derived from other ones."""
    import onnx_ir as ir

    changed = []
    for value in graph.inputs:
        wanted = shapes[str(value.name)]
        if wanted is None:
            continue
        if value.shape is None or sum(map(_is_fixed, value.shape)) != sum(map(_is_fixed, wanted)):
            text = f"fixed input {value.name!r} to {'x'.join(map(str, wanted)) or 'a scalar'}"
            changed.append(Remark("note", "input-fixed", text))
        value.shape = ir.Shape(wanted)
    if changed:
        for value in graph.outputs:
            value.shape = None
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None
    return changed


def _is_fixed(dim: int | str | ir.SymbolicDim) -> bool:
    """Whether a dim is a size; exporters also write 0 and -1 for one that they do not know."""
    return isinstance(dim, int) and dim > 0


def name_dims(graph: ir.Graph, infos: list[TensorInfo]) -> list[Remark]:
    """Gives each open dim of an input that says nothing (unset, 0, `?`) a name of its own, `<input>_dim<index>`.

    Outputs whose dims say nothing lose them: shape inference writes what follows from the inputs.
    """
    silent = sum(_silent_dims(value) for value in graph.inputs)
    write_shapes(graph, {info.name: info.shape for info in infos})
    for value in graph.outputs:
        if _silent_dims(value):
            value.shape = None
    return [Remark("note", "dims-named", f"gave {silent} open dims that had no name one each")] if silent else []


def _silent_dims(value: ir.Value) -> int:
    words = (dim if isinstance(dim, int) else dim.value or "" for dim in value.shape or ())
    return sum(word in ANONYMOUS if isinstance(word, str) else word <= 0 for word in words)
