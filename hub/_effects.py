"""What an edge declared, checked on what it wrote, by readers that are not the converter's own."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hub._account import FLOAT32_WORDS
from hub._bindings import Chain
from hub._candidate import Candidate
from hub._steps import Step
from hub.spec import (
    ConvertOptions,
    Dim,
    DType,
    Edge,
    EffectError,
    Identification,
    IoBinding,
    ModelSummary,
    Numerics,
    QuantRecipe,
    Signature,
    State,
    TensorSpec,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_DEFECT = "report it to the plugin's authors"


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


def check_layers(edge: Edge, summary: ModelSummary) -> None:
    """Refuse a precision that the reader's own list of layers contradicts, where every operator is in the list.

    Raises:
        EffectError: It calls the file narrower than float32 and every layer float32, or the other way round.
    """
    numerics, words = summary.state.numerics, {layer.precision for layer in summary.layers}
    floats = words <= FLOAT32_WORDS and numerics not in _FLOAT_PRODUCTS
    narrow = words <= set(Numerics) - {Numerics.FP32} and numerics == Numerics.FP32
    listed = {layer.operator for layer in summary.layers}
    if words and (floats or narrow) and summary.operators.keys() <= listed:
        message = f"the reader calls what {edge.id} wrote {numerics.value}, and lists every layer in "
        raise EffectError(f"{message}{', '.join(sorted(words))}", hint=_DEFECT)


_FLOAT_PRODUCTS = {Numerics.FP32, Numerics.INT8_WEIGHTS, Numerics.INT4_WEIGHTS}
"""Numerics in which every layer may well compute in float32."""


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


def check_carried_out(edge: Edge, source: Signature, result: Candidate, layout: str) -> None:
    """Refuse a result that what was asked for was not done to, though an edge on the route declared that it does it.

    Args:
        edge: The last one.
        source: Inputs and outputs of the route's source.
        result: The result; what was done is no longer in its options.
        layout: What was asked for; empty for the source's own.

    Raises:
        EffectError: An input is not frozen, a state not kept inside, an image in another layout, no input and output
            is of integers, or the reader does not tell the devices that it is built for.
    """
    signature, left = result.summary.signature, result.options
    undone = [*left.constants, *left.states]
    if undone:
        raise EffectError(
            f"{', '.join(undone)} should have left the inputs; the result of {edge.id} has it", hint=_DEFECT
        )
    kinds = {spec.dtype.value for spec in (*signature.inputs, *signature.outputs)}
    if left.io_dtype and left.io_dtype not in kinds:
        message = (
            f"inputs and outputs should be {left.io_dtype}; the result of {edge.id} has {', '.join(sorted(kinds))}"
        )
        raise EffectError(message, hint=_DEFECT)
    if left.build_for and "built for" not in result.summary.versions:
        message = (
            f"it should be built for {', '.join(left.build_for)}; what {edge.id} wrote does not say for what it is"
        )
        raise EffectError(message, hint=f"{_DEFECT}: their reader is to tell `versions['built for']`")
    check_layout(edge, source, result.chain, layout)


def check_layout(edge: Edge, source: Signature, chain: Chain, layout: str) -> None:
    """Refuse a result whose images are in another layout than the one that was asked for.

    A tensor of rank 4 whose reader tells no layout is NCHW. Axes that were dropped on the way are none of the layout's.

    Raises:
        EffectError: Names the first input, and the layout that it has.
    """
    for spec in source.inputs if layout else ():
        found = _axes(spec, chain)
        wanted = "".join(axis for axis in layout.upper() if axis in found)
        if found != wanted:
            message = f"{spec.name} should be {wanted}; the result of {edge.id} has it in {found}"
            raise EffectError(message, hint=_DEFECT)


_IMAGE_RANK = 4


def _axes(spec: TensorSpec, chain: Chain) -> str:
    """The letters of an input's axes behind the declared changes; empty where they are none of an image, or gone."""
    letters = (spec.layout or "NCHW") if len(spec.shape) == _IMAGE_RANK else ""
    name = spec.name
    for bindings in chain if letters else ():
        bound = next((item for item in bindings if (item.direction, item.source) == ("input", name)), None)
        name = bound.target if bound else name
        letters = "".join(bound.moved(tuple(letters))) if bound and name else letters if name else ""
    return letters


def check_recipe(edge: Edge, recipe: QuantRecipe | None, planned: State, found: State) -> None:
    """Refuse a recipe for another precision than the one that was planned or is in the file.

    Raises:
        EffectError: The receipt would name a quantization that was not done.
    """
    if recipe and recipe.numerics not in {planned.numerics, found.numerics}:
        message = f"the recipe of {edge.id} is for {recipe.numerics}; the file holds {found.numerics}"
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


def check_bindings(who: str, bindings: tuple[IoBinding, ...], options: ConvertOptions) -> None:
    """Refuse an input or output that left the signature without being asked to, or otherwise than it was asked to.

    What is dropped is compared with nothing, so an edge's word is not enough for it: an input leaves where the request
    freezes it to that value or keeps it as a state, and an output where it is such a state's.

    Args:
        who: The edge, for the message.
        bindings: What it declares.
        options: The request, in the terms of what the edge started from.

    Raises:
        EffectError: Names the input or output, and what was asked.
    """
    kept = {bound.state for bound in bindings if bound.direction == "input" and not bound.target}
    for bound in bindings:
        name, asked = bound.source, Fate()
        if bound.direction == "input" and not bound.target:
            asked = Fate(options.constants.get(name), options.states.get(name, ""))
        found = Fate(bound.constant, bound.state)
        unasked = not bound.target and asked == Fate() and (bound.direction == "input" or name not in kept)
        if found != asked or unasked:
            done = "dropped" if found == Fate() else str(found)
            message = f"{who} declares the {bound.direction} {name} {done}; it was to be {asked}"
            raise EffectError(message, hint=_DEFECT)


class Fate(NamedTuple):
    """What becomes of an input besides being fed."""

    constant: float | None = None
    state: str = ""

    def __str__(self) -> str:
        if self.state:
            return f"fed from {self.state} inside"
        return "kept" if self.constant is None else f"frozen to {self.constant}"


def check_signature(
    edge: Edge, before: Signature, after: Signature, bindings: tuple[IoBinding, ...], options: ConvertOptions
) -> None:
    """Refuse inputs or outputs that changed without a declared binding: name, order, dtype, rank, sizes.

    An input's dimension is fixed where it was, or where the request fixes it, and open where it was: a reader that
    calls a fixed one open would have the receipt promise sizes that nobody tried. An output's may be open where the
    reader cannot follow it; each run holds what comes out against what it says.

    Raises:
        EffectError: Says what was expected and what is there.
    """
    for direction, old, new in (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs)):
        bound = {binding.source: binding for binding in bindings if binding.direction == direction}
        kept = [spec for spec in old if spec.name not in bound or bound[spec.name].target]
        asked = [_asked(spec, options) for spec in kept]
        for spec in asked:
            _check_dropped(spec, bound.get(spec.name))
        own = [_expected(spec, bound.get(spec.name)) for spec in kept]
        wanted = [_expected(spec, bound.get(spec.name)) for spec in asked]
        fits = _output_fits if direction == "output" else _open_fits if edge.keeps(options) else _fixed_fits
        if (
            len(wanted) != len(new)
            or not all(map(_alike, wanted, new))
            or not all(
                fits(*dims)
                for specs in zip(own, wanted, new, strict=True)
                for dims in zip(*(spec.shape for spec in specs), strict=True)
            )
        ):
            message = f"{edge.id} was to keep the {direction}s {_words(wanted)}; the result has {_words(new)}"
            raise EffectError(message, hint=_DEFECT)


def _alike(wanted: TensorSpec, found: TensorSpec) -> bool:
    return (wanted.name, wanted.dtype, len(wanted.shape)) == (found.name, found.dtype, len(found.shape))


def _output_fits(own: Dim, wanted: Dim, found: Dim) -> bool:  # noqa: ARG001 the three share a signature
    return None in (wanted.size, found.size) or wanted.size == found.size


def _fixed_fits(own: Dim, wanted: Dim, found: Dim) -> bool:  # noqa: ARG001
    return wanted.size is None or wanted.size == found.size


def _open_fits(own: Dim, wanted: Dim, found: Dim) -> bool:
    """A size is the one that it was, or that the request gives; a symbol was one, and goes as far as it did."""
    if found.size is not None or own.size is not None:
        return found.size is not None and found.size == wanted.size
    return found.high is None or (own.high is not None and own.high <= found.high)


def misfit(specs: Iterable[TensorSpec], arrays: Mapping[str, "npt.NDArray[np.generic]"], *, dtypes: bool) -> str:
    """How arrays differ from what a model's reader says of them; empty where they do not.

    Args:
        specs: The model's inputs or outputs.
        arrays: By name.
        dtypes: Whether element types count too, where numpy has them.
    """
    known = {spec.name: spec for spec in specs}
    missing, strange = known.keys() - arrays.keys(), arrays.keys() - known.keys()
    if missing or strange:
        return f"{', '.join(arrays) or 'nothing'}, not {', '.join(known)}"
    for name, spec in known.items():
        array = arrays[name]
        sizes = len(spec.shape) == array.ndim and all(
            dim.size in (None, size) for dim, size in zip(spec.shape, array.shape, strict=True)
        )
        kind = not dtypes or spec.dtype in _NO_NUMPY or array.dtype.name == spec.dtype.value
        if not sizes or not kind:
            return f"{name}: {array.dtype.name}[{'x'.join(map(str, array.shape))}], not {spec}"
    return ""


_NO_NUMPY = {DType.BFLOAT16, DType.FLOAT8E4M3FN, DType.INT4, DType.STRING, DType.UNKNOWN}


def _check_dropped(spec: TensorSpec, bound: IoBinding | None) -> None:
    for axis in bound.dropped if bound else ():
        if spec.shape[axis].size != 1:
            message = f"the binding of {spec.name} drops axis {axis} of size {spec.shape[axis]}"
            raise EffectError(f"{message}; only axes of size 1 can be", hint=_DEFECT)


def _asked(spec: TensorSpec, options: ConvertOptions) -> TensorSpec:
    if spec.name not in options.shapes:
        return spec
    return msgspec.structs.replace(spec, shape=tuple(map(Dim.of, options.shapes[spec.name])))


def _expected(spec: TensorSpec, bound: IoBinding | None) -> TensorSpec:
    if bound is None:
        return spec
    shape = bound.shape or bound.moved(spec.shape)
    return msgspec.structs.replace(spec, name=bound.target, dtype=bound.dtype or spec.dtype, shape=shape)


def _words(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(f"{spec.name}: {spec.dtype.value}[{'x'.join(map(_in_words, spec.shape))}]" for spec in specs)


def _in_words(dim: Dim) -> str:
    return f"{dim}<={dim.high}" if dim.high is not None else str(dim)
