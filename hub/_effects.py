"""What an edge declared, checked on what it wrote, by readers that are not the converter's own."""

from pathlib import Path

from hub.spec import (
    ConvertOptions,
    Edge,
    EffectError,
    Identification,
    IoBinding,
    ModelSummary,
    Signature,
    TensorSpec,
)

Border = list[tuple[str, str, tuple[int, ...] | None]]
_DEFECT = "this is a defect of the edge; hub tries the next route where there is one"


def check_written(edge: Edge, path: Path) -> None:
    """Refuse a step that says it succeeded and left nothing.

    Raises:
        EffectError: There is no output.
    """
    if not path.exists():
        raise EffectError(f"{edge.id} reported success and wrote no file", hint=_DEFECT)


def check_state(edge: Edge, found: Identification, summary: ModelSummary) -> None:
    """Refuse an output that is not in the declared format and numerics.

    Raises:
        EffectError: The header, or the reader, says something else.
    """
    if found.format != edge.target.format:
        raise EffectError(f"{edge.id} was to write {edge.target.format}; the bytes are {found.format}", hint=_DEFECT)
    if summary.state.numerics != edge.target.numerics:
        wanted, got = edge.target.numerics.value, summary.state.numerics.value
        raise EffectError(f"{edge.id} was to write {wanted}; the file holds {got}", hint=_DEFECT)


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
    """Refuse inputs or outputs that changed without a declared binding: name, order, dtype, fixed shape.

    Raises:
        EffectError: Says what was expected and what is there.
    """
    for direction, old, new in (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs)):
        bound = {binding.source: binding for binding in bindings if binding.direction == direction}
        wanted = [_expected(spec, bound.get(spec.name), options) for spec in old if _kept(spec, bound)]
        found = [(spec.name, spec.dtype.value, _shape(spec, options)) for spec in new]
        if not _same(wanted, found, dynamic=edge.keeps_dynamic and direction == "input"):
            message = f"{edge.id} was to keep the {direction}s {_words(wanted)}; the result has {_words(found)}"
            raise EffectError(message, hint=_DEFECT)


def _kept(spec: TensorSpec, bound: dict[str, IoBinding]) -> bool:
    return spec.name not in bound or bool(bound[spec.name].target)


def _expected(
    spec: TensorSpec, bound: IoBinding | None, options: ConvertOptions
) -> tuple[str, str, tuple[int, ...] | None]:
    shape = _shape(spec, options)
    if bound is None:
        return spec.name, spec.dtype.value, shape
    dtype = bound.dtype or spec.dtype
    moved = tuple(shape[axis] for axis in bound.permutation) if shape and bound.permutation else shape
    return bound.target, dtype.value, moved


def _shape(spec: TensorSpec, options: ConvertOptions) -> tuple[int, ...] | None:
    if spec.name in options.shapes:
        return tuple(options.shapes[spec.name])
    return spec.fixed_shape if spec.is_static else None


def _same(wanted: Border, found: Border, *, dynamic: bool) -> bool:
    """Compare. A fixed shape may become symbolic; a symbolic one may become fixed unless `dynamic`."""
    if len(wanted) != len(found):
        return False
    pairs = zip(wanted, found, strict=True)
    return all(a[:2] == b[:2] and _shapes_agree(a[2], b[2], dynamic=dynamic) for a, b in pairs)


def _shapes_agree(wanted: tuple[int, ...] | None, found: tuple[int, ...] | None, *, dynamic: bool) -> bool:
    return found is None or (not dynamic if wanted is None else wanted == found)


def _words(border: Border) -> str:
    return ", ".join(f"{name}: {dtype}{list(shape) if shape is not None else ''}" for name, dtype, shape in border)
