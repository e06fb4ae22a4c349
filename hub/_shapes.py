"""Symbolic dimensions: fixed by the user, by the data, or (a batch alone) to one; never in silence."""

import math
from collections.abc import Iterable

import msgspec

from hub._request import did_you_mean
from hub.spec import (
    ConvertOptions,
    Dim,
    DimRange,
    HubError,
    Remark,
    ShapeNeeded,
    Signature,
    StepOutOfMemory,
    TensorSpec,
    UnknownName,
    UsageError,
)

Shapes = dict[str, tuple[int, ...]]


def check_names(signature: Signature, options: ConvertOptions) -> None:
    """Check that every shape and constant of the request names an input and fits it.

    Raises:
        UnknownName: There is no such input.
        UsageError: A shape or a range has another rank than the input, or contradicts a fixed dimension.
    """
    known = {spec.name: spec for spec in signature.inputs}
    for name in (*options.shapes, *options.ranges, *options.constants, *options.states):
        if name not in known:
            raise UnknownName(f"the model has no input {name!r}", hint=did_you_mean(name, known))
    for name, shape in options.shapes.items():
        _check_fits(known[name], shape)
    for name, sizes in options.ranges.items():
        for shape in (tuple(size.low for size in sizes), tuple(size.high for size in sizes)):
            _check_fits(known[name], shape)
    _check_same_symbols(signature, options)
    _check_states(signature, options)


def _check_same_symbols(signature: Signature, options: ConvertOptions) -> None:
    """Refuse two ranges for one symbol: the model says that it is one size, and no sample could have both."""
    known: dict[str, tuple[DimRange, str]] = {}
    for spec in signature.inputs:
        for dim, size in zip(spec.shape, options.ranges.get(spec.name, ()), strict=False):
            first, where = known.setdefault(dim.symbol, (size, spec.name)) if dim.symbol else (size, "")
            if first != size:
                message = f"{dim.symbol} is {first} in {where} and {size} in {spec.name}"
                hint = f"give the same sizes wherever the model says {dim.symbol}: it is one size there"
                raise UsageError(message, hint=hint)


def _check_states(signature: Signature, options: ConvertOptions) -> None:
    inputs, outputs = ({spec.name: spec for spec in side} for side in (signature.inputs, signature.outputs))
    for name, output in options.states.items():
        if output not in outputs:
            raise UnknownName(f"the model has no output {output!r}", hint=did_you_mean(output, outputs))
        before, after = inputs[name], outputs[output]
        if before.dtype != after.dtype or len(before.shape) != len(after.shape) or name in options.constants:
            raise UsageError(
                f"{after} cannot be fed to {before}", hint="give --state INPUT=OUTPUT of one type and rank"
            )


def _check_fits(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    fits = len(shape) == len(spec.shape) and all(
        dim.size in (None, size) and size > 0 for dim, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        message = f"shape {'x'.join(map(str, shape))} does not fit the model's {spec}"
        names = "" if spec.is_static else " with your numbers in place of the names"
        raise UsageError(
            message, hint=f"give {_flag(spec)}{names}" if names else "leave out --shape: its sizes are fixed"
        )


def bounded(signature: Signature, options: ConvertOptions) -> Signature:
    """A signature whose symbolic dimensions go as far as the request says: a range is tried at both its ends."""

    def within(spec: TensorSpec) -> TensorSpec:
        if spec.name not in options.ranges:
            return spec
        sizes = zip(spec.shape, options.ranges[spec.name], strict=True)
        dims = (dim if dim.symbol is None else Dim(symbol=dim.symbol, low=s.low, high=s.high) for dim, s in sizes)
        return msgspec.structs.replace(spec, shape=tuple(dims))

    return msgspec.structs.replace(signature, inputs=tuple(map(within, signature.inputs)))


def check_ranges(signature: Signature, options: ConvertOptions) -> None:
    """Refuse open inputs of which the request does not say the sizes, where a result takes no other.

    Raises:
        ShapeNeeded: With the flags to give.
    """
    given = {*options.shapes, *options.ranges, *options.constants}
    rest = [spec for spec in signature.inputs if not spec.is_static and spec.name not in given]
    if rest:
        raise ShapeNeeded(
            f"the target takes a range of sizes only; none is given for {'; '.join(map(str, rest))}",
            hint=range_flags(signature, rest, options),
        )


def range_flags(signature: Signature, specs: Iterable[TensorSpec], options: ConvertOptions) -> str:
    """The flags that give some inputs a range of sizes: usual ones, where the request has none under the same name."""
    leading = {spec.shape[0].symbol for spec in signature.inputs if spec.shape}
    known = {
        dim.symbol: size
        for spec in signature.inputs
        for dim, size in zip(spec.shape, options.ranges.get(spec.name, ()), strict=False)
        if dim.symbol
    }

    def size(dim: Dim) -> str:
        if dim.symbol is None or dim.symbol in known:
            return str(known[dim.symbol] if dim.symbol else dim)
        low, best, high = (1, 4, 8) if dim.symbol in leading else (32, 64, 128)
        low = max(dim.low, min(low, dim.high or low))
        high = max(low, min(high, dim.high or high))
        return str(DimRange(low=low, best=max(low, min(best, high)), high=high))

    flags = (f"--shape {spec.name}={'x'.join(map(size, spec.shape))}" for spec in specs)
    return f"add {' '.join(flags)}, with your smallest, usual and largest sizes"


def open_inputs(signature: Signature, options: ConvertOptions) -> list[TensorSpec]:
    """Inputs with a dimension that neither the model nor the request fixes."""
    given = {*options.shapes, *options.constants}
    return [spec for spec in signature.inputs if not spec.is_static and spec.name not in given]


def tell_open(signature: Signature, options: ConvertOptions, target: str, *, stay: bool) -> tuple[Remark, ...]:
    """Say which dimensions are open, and what becomes of them on the way to a target."""
    found = open_inputs(signature, options)
    text = f"open dimensions: {', '.join(map(str, found))}"
    fixed = f"on the way to {target} they are fixed; {' '.join(f'--shape {spec.name}=...' for spec in found)} says how"
    return (Remark("finding", "dynamic-dims", text, f"they stay open in {target}" if stay else fixed),) if found else ()


GUESSES = (64, 32, 16, 128, 224, 320, 8, 512)
"""Sizes at which a model whose dimensions stay open is tried when nobody names one: small first, as they cost less."""


def fix_shapes(
    signature: Signature, options: ConvertOptions, data: Shapes, guess: int = 0
) -> tuple[Shapes, tuple[Remark, ...]]:
    """Find a fixed shape for every input that stays an input.

    Args:
        signature: The source's inputs and outputs.
        options: The request: shapes and constants.
        data: Shapes that the calibration or test data has.
        guess: Size of symbolic dimensions that nobody names, the batch left out; 0 to refuse them.

    Returns:
        Shapes by input, and a note for each that the user did not give.

    Raises:
        ShapeNeeded: A dimension other than the batch is symbolic and neither user nor data says its size.
        UsageError: A sample of these sizes is larger than this machine's memory (`StepOutOfMemory` at a guess).
    """
    inputs = [spec for spec in signature.inputs if spec.name not in options.constants]
    given = {**{s.name: s.fixed_shape for s in inputs if s.is_static}, **options.shapes}
    open_specs = [spec for spec in inputs if spec.name not in given]
    from_data = {spec.name: data[spec.name] for spec in open_specs if spec.name in data}
    for spec in open_specs:
        _check_within(spec, from_data.get(spec.name, ()), options)
    given |= {
        name: tuple(size.best for size in sizes) for name, sizes in options.ranges.items() if name not in from_data
    }
    open_specs = [spec for spec in open_specs if spec.name not in given]
    rest = [spec for spec in open_specs if spec.name not in from_data]
    alike = _of_equal_symbols(inputs, rest, {**from_data, **given})
    batch = _batch_of_one(inputs, [spec for spec in rest if spec.name not in alike], guess)
    notes = [
        *(
            Remark("note", "shape-from-data", f"fixed {name} to {_x(shape)}, the shape of the data")
            for name, shape in from_data.items()
        ),
        *(
            Remark("note", "shape-from-inputs", f"fixed {name} to {_x(shape)}, by the sizes of the other inputs")
            for name, shape in alike.items()
        ),
        *(_chosen(name, shape, guessed=bool(guess)) for name, shape in batch.items()),
    ]
    known = {**batch, **alike, **from_data, **given}
    fixed = {spec.name: known[spec.name] for spec in inputs}
    check_affordable(fixed, StepOutOfMemory if guess else UsageError)
    return fixed, tuple(notes)


def check_affordable(shapes: Shapes, kind: type[HubError] = UsageError) -> None:
    """Refuse sizes of which this machine cannot hold one sample, before anything of that size is made.

    Args:
        shapes: Sizes of the arrays of one sample, by name.
        kind: What to raise.

    Raises:
        HubError: Of that kind, with the bytes that it would need.
    """
    import psutil

    sizes = {name: math.prod(shape) * _DRAWN_BYTES for name, shape in shapes.items()}
    needed, free = sum(sizes.values()), psutil.virtual_memory().available
    if needed > free:
        largest = max(sizes, key=sizes.__getitem__)
        message = f"one sample with {largest}={_x(shapes[largest])} needs {needed} bytes, and {free} are free"
        raise kind(message, hint=f"give smaller sizes: --shape {largest}=...")


_DRAWN_BYTES = 8
"""Of one element while it is drawn, as numpy draws float64 and int64."""


def _check_within(spec: TensorSpec, shape: tuple[int, ...], options: ConvertOptions) -> None:
    sizes = options.ranges.get(spec.name, ())
    if any(not size.low <= found <= size.high for found, size in zip(shape, sizes, strict=False)):
        raise UsageError(
            f"the data has {_x(shape)} for {spec.name}, outside {'x'.join(map(str, sizes))}",
            hint="widen --shape, or give other data",
        )


def _chosen(name: str, shape: tuple[int, ...], *, guessed: bool) -> Remark:
    """A size that hub chose, and how to give another."""
    if guessed:
        text = f"{name} is tried at {_x(shape)}, a size of hub's choice"
        return Remark("note", "size-guessed", text, "real inputs: --test DATA")
    text = f"fixed the batch of {name} to 1: {_x(shape)}"
    return Remark("note", "batch-fixed", text, f"another: --shape {name}=...")


def _of_equal_symbols(inputs: Iterable[TensorSpec], rest: list[TensorSpec], known: Shapes) -> Shapes:
    """Shapes whose symbols all stand in an input of known shape too."""
    pairs = [pair for s in inputs if s.name in known for pair in zip(s.shape, known[s.name], strict=True)]
    sizes = {dim.symbol: size for dim, size in pairs if dim.symbol}
    found = {spec.name: tuple(dim.size or sizes.get(dim.symbol or "", 0) for dim in spec.shape) for spec in rest}
    return {name: shape for name, shape in found.items() if all(shape)}


def _batch_of_one(inputs: Iterable[TensorSpec], rest: list[TensorSpec], guess: int) -> Shapes:
    """Shapes with batch 1 where the leading dimension is the only symbolic one, or with a guess for the others."""
    symbols = {dim.symbol for spec in rest for dim in spec.shape if dim.symbol}
    leading = {spec.shape[0].symbol for spec in inputs if spec.shape}
    if guess:
        return {spec.name: tuple(_guessed(dim, leading, guess) for dim in spec.shape) for spec in rest}
    if not symbols <= leading or len(symbols) > 1:
        raise ShapeNeeded(
            f"the target needs fixed shapes; unknown in {'; '.join(map(str, rest))}",
            hint=f"add {' '.join(map(_flag, rest))} with your numbers in place of the names",
        )
    return {spec.name: tuple(dim.size or max(1, dim.low) for dim in spec.shape) for spec in rest}


def _guessed(dim: Dim, leading: set[str | None], guess: int) -> int:
    if dim.size is not None:
        return dim.size
    return max(dim.low, 1 if dim.symbol in leading else min(guess, dim.high or guess))


AFFORDABLE_ELEMENTS = 1 << 20
"""Elements of an input up to which the upper end of a bounded dimension is run: 4 MiB of floats."""


def other_sizes(signature: Signature, shapes: Shapes, fixed: Iterable[str]) -> list[Shapes]:
    """Shapes at other sizes, for dimensions that are still open: what is said of a range is tried at its ends.

    The upper end where it is bounded and affordable, else twice the first size; the lower end where the model says one
    (one that says no bounds takes any size by its own words only).

    Args:
        signature: The model's inputs and outputs.
        shapes: The shapes at the first size.
        fixed: Inputs whose shape the request fixes.

    Returns:
        Shapes for every input in `shapes`, each time others; empty when no dimension is open.
    """
    kept = set(fixed)
    open_specs = [spec for spec in signature.inputs if spec.name in shapes and spec.name not in kept]
    plain = all(dim.symbol.isidentifier() for spec in open_specs for dim in spec.shape if dim.symbol)
    found: list[Shapes] = []
    for choose in (_upper, _lower) if plain else (_doubled,):  # a size that hangs on another has no end of its own
        sizes = {spec.name: choose(spec, shapes[spec.name]) for spec in open_specs}
        if shapes | sizes not in (shapes, *found):
            check_affordable(shapes | sizes)
            found.append(shapes | sizes)
    return found


def _upper(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    top = tuple(dim.high or _twice(dim, size) for dim, size in zip(spec.shape, shape, strict=True))
    return top if math.prod(top) <= AFFORDABLE_ELEMENTS and top != shape else _doubled(spec, shape)


def _doubled(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_twice(dim, size) for dim, size in zip(spec.shape, shape, strict=True))


def _lower(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(
        dim.low if dim.symbol and (dim.high or dim.low > 1) else size
        for dim, size in zip(spec.shape, shape, strict=True)
    )


def _twice(dim: Dim, size: int) -> int:
    if dim.size is not None:
        return size
    return 2 * size if dim.high is None or 2 * size <= dim.high else max(dim.low, size // 2)


def _flag(spec: TensorSpec) -> str:
    return f"--shape {spec.name}={'x'.join(map(str, spec.shape))}"


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
