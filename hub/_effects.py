"""What an edge declared, checked on what it wrote, by readers that are not the converter's own."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hub._steps import Step
from hub.spec import (
    ConvertOptions,
    Edge,
    EffectError,
    Identification,
    IoBinding,
    ModelSummary,
    Signature,
    State,
    TensorSpec,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Shape = tuple[int | None, ...]
Border = list[tuple[str, str, Shape]]
_DEFECT = "this is a defect of the edge; hub tries the next route where there is one"


def check_written(edge: Edge, path: Path) -> None:
    """Refuse a step that says it succeeded and left nothing.

    Raises:
        EffectError: There is no output.
    """
    if not path.exists():
        raise EffectError(f"{edge.id} reported success and wrote no file", hint=_DEFECT)


def check_state(step: Step, found: Identification, summary: ModelSummary) -> State:
    """Refuse an output that is not in a declared format and numerics; returns the state that it is in.

    Raises:
        EffectError: The header, or the reader, says something else.
    """
    if found.format != step.target.format:
        message = f"{step.edge.id} was to write {step.target.format}; the bytes are {found.format}"
        raise EffectError(message, hint=_DEFECT)
    state = step.ended_in(summary.state.numerics)
    if state is None:
        wanted, got = step.target.numerics.value, summary.state.numerics.value
        raise EffectError(f"{step.edge.id} was to write {wanted}; the file holds {got}", hint=_DEFECT)
    return state


def check_goal(edge: Edge, state: State, goals: Iterable[State]) -> None:
    """Refuse a result that is in another state than any that was asked for.

    Raises:
        EffectError: The last edge may end in several, and ended in one that nobody wants.
    """
    if not any(state.satisfies(goal) for goal in goals):
        words, found = " or ".join(goal.numerics.value for goal in goals), state.numerics.value
        raise EffectError(
            f"{edge.id} was to write {words}; the file holds {found}", hint=f"ask for it: --precision {found}"
        )


def check_carried_out(edge: Edge, border: Signature, left: ConvertOptions) -> None:
    """Refuse a result that what was asked for was not done to, though an edge on the route declared that it does it.

    Args:
        edge: The last one.
        border: The result's.
        left: The request in the result's terms: what was done is no longer in it.

    Raises:
        EffectError: An input is not frozen, a state not kept inside, or no input and output is of integers.
    """
    undone = [*left.constants, *left.states]
    if undone:
        raise EffectError(
            f"{', '.join(undone)} should have left the inputs; the result of {edge.id} has it", hint=_DEFECT
        )
    kinds = {spec.dtype.value for spec in (*border.inputs, *border.outputs)}
    if left.io_dtype and left.io_dtype not in kinds:
        message = (
            f"inputs and outputs should be {left.io_dtype}; the result of {edge.id} has {', '.join(sorted(kinds))}"
        )
        raise EffectError(message, hint=_DEFECT)


def check_files(edge: Edge, path: Path, summary: ModelSummary) -> None:
    """Refuse side files that the format's reader does not know, or that are not named after the output.

    Raises:
        EffectError: Such a file would be lost, or would fall over another model's, when the result is published.
    """
    known = {Path(file).resolve() for file in summary.files} | {path.resolve()}
    beside = [file for file in path.parent.iterdir() if file.name != path.name]
    strange = [file.name for file in beside if file.resolve() not in known or not file.name.startswith(path.stem)]
    if strange:
        raise EffectError(f"{edge.id} wrote {', '.join(sorted(strange))} besides {path.name}", hint=_DEFECT)


def check_operators(edge: Edge, summary: ModelSummary, options: ConvertOptions) -> None:
    """Refuse operators that the plain runtime does not have.

    Raises:
        EffectError: There are some, and `--allow-custom-ops` is off.
    """
    if summary.custom_operators and not options.allow_custom_ops:
        names = ", ".join(summary.custom_operators)
        raise EffectError(f"{edge.id} needs custom operators: {names}", hint="accept them: --allow-custom-ops")


def check_border(
    edge: Edge, before: Signature, after: Signature, bindings: tuple[IoBinding, ...], options: ConvertOptions
) -> None:
    """Refuse inputs or outputs that changed without a declared binding: name, order, dtype, rank, fixed dimensions.

    Raises:
        EffectError: Says what was expected and what is there.
    """
    for direction, old, new in (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs)):
        bound = {binding.source: binding for binding in bindings if binding.direction == direction}
        wanted = [_expected(spec, bound.get(spec.name), options) for spec in old if _kept(spec, bound)]
        found = [(spec.name, spec.dtype.value, tuple(dim.size for dim in spec.shape)) for spec in new]
        kept = not edge.keeps_dynamic or direction == "output" or _as_dynamic(wanted, found)
        if not kept or not _same(wanted, found):
            message = f"{edge.id} was to keep the {direction}s {_words(wanted)}; the result has {_words(found)}"
            raise EffectError(message, hint=_DEFECT)


def check_outputs(specs: Iterable[TensorSpec], outputs: Mapping[str, "npt.NDArray[np.generic]"], who: str) -> None:
    """Hold what a model gives against what its reader says that it gives: names, rank, fixed dimensions.

    Source and result may be run by the same wrapper, whose mistakes parity alone would not see.

    Raises:
        EffectError: They differ.
    """
    said = {spec.name: tuple(dim.size for dim in spec.shape) for spec in specs}
    given: dict[str, Shape] = {name: array.shape for name, array in outputs.items()}
    if set(said) != set(given) or not all(_agree(said[name], given[name]) for name in said):
        raise EffectError(
            f"{who} gives outputs {given}, its reader says {said}", hint="report it: a defect of the plugin"
        )


def _kept(spec: TensorSpec, bound: dict[str, IoBinding]) -> bool:
    return spec.name not in bound or bool(bound[spec.name].target)


def _expected(spec: TensorSpec, bound: IoBinding | None, options: ConvertOptions) -> tuple[str, str, Shape]:
    shape = _shape(spec, options)
    if bound is None:
        return spec.name, spec.dtype.value, shape
    lost = {axis: shape[axis] for axis in bound.dropped if shape[axis] != 1}
    if lost:
        sizes = ", ".join(f"axis {axis} of size {_size(size)}" for axis, size in lost.items())
        raise EffectError(f"the binding of {spec.name} drops {sizes}; only axes of size 1 can be", hint=_DEFECT)
    dtype = bound.dtype or spec.dtype
    return bound.target, dtype.value, bound.moved(shape)


def _shape(spec: TensorSpec, options: ConvertOptions) -> Shape:
    if spec.name in options.shapes:
        return tuple(options.shapes[spec.name])
    return tuple(dim.size for dim in spec.shape)


def _same(wanted: Border, found: Border) -> bool:
    if len(wanted) != len(found):
        return False
    return all(a[:2] == b[:2] and _agree(a[2], b[2]) for a, b in zip(wanted, found, strict=True))


def _as_dynamic(wanted: Border, found: Border) -> bool:
    """Whether every symbolic dimension is still one: an edge that keeps them may not fix one in silence."""
    pairs = [pair for a, b in zip(wanted, found, strict=False) for pair in zip(a[2], b[2], strict=False)]
    return all(after is None for before, after in pairs if before is None)


def _agree(first: Shape, second: Shape) -> bool:
    """Same rank, and no two fixed sizes that differ; a symbolic dimension agrees with any."""
    if len(first) != len(second):
        return False
    return all(None in (a, b) or a == b for a, b in zip(first, second, strict=True))


def _words(border: Border) -> str:
    return ", ".join(f"{name}: {dtype}[{'x'.join(_size(s) for s in shape)}]" for name, dtype, shape in border)


def _size(size: int | None) -> str:
    return "?" if size is None else str(size)
