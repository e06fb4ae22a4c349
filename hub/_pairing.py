"""Inputs and outputs of two models of which no receipt tells: which is which, and what changes between them."""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from hub.spec import DType, IoBinding, Remark, Signature, TensorSpec, UsageError

_USUAL = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1), (0, 2, 3, 4, 1), (0, 4, 1, 2, 3))
"""Orders of axes that formats differ in: channels first and last."""

_BY_PLACE = "by its place alone: others have its sizes too"


class SignaturePairs(NamedTuple):
    """What becomes of one model's inputs and outputs in another.

    Attributes:
        bindings: Everything that is not simply the same.
        shapes: Sizes of the first model's inputs that the second fixes.
        told: How those were found that have another name, axes or element type.
        own: From real numbers to the first model's own integers: `bindings` begin with the numbers that these stand
            for, as the second may have another scale for them, or none.
    """

    bindings: tuple[IoBinding, ...]
    shapes: Mapping[str, tuple[int, ...]]
    told: tuple[Remark, ...]
    own: tuple[IoBinding, ...] = ()


class _Pair(NamedTuple):
    one: TensorSpec
    other: TensorSpec
    how: str


def paired(
    one: Signature, other: Signature, frozen: Mapping[str, float] | None = None, *, who: tuple[str, str] = ("A", "B")
) -> SignaturePairs:
    """Pair inputs and outputs: by name, by name without what exporters put around it, by sizes, else by place.

    Args:
        one: The first model's.
        other: The second's.
        frozen: Inputs of the first that are constants; what the second has none of.
        who: What to call the two.

    Raises:
        UsageError: They take other inputs.
    """
    frozen = frozen or {}
    own = tuple(_own_integers(one))
    one = Signature(inputs=tuple(map(_real, one.inputs)), outputs=tuple(map(_real, one.outputs)))
    given = [spec for spec in one.inputs if spec.name not in frozen or spec.name in {s.name for s in other.inputs}]
    if len(given) != len(other.inputs):
        message = f"{who[0]} takes {', '.join(map(str, given))}; {who[1]} takes {', '.join(map(str, other.inputs))}"
        raise UsageError(message, hint=f"give models of the same inputs, or freeze some of {who[0]}'s: --constant")
    gone = [spec.name for spec in one.inputs if spec not in given]
    bindings = [IoBinding(direction="input", source=name, target="", constant=frozen[name]) for name in gone]
    shapes, told, guessed = {}, [], False
    for is_input, ones, others in ((True, given, other.inputs), (False, one.outputs, other.outputs)):
        for pair in _in_pairs(ones, others, who):
            binding = _binding(is_input, pair, who)
            if binding:
                bindings.append(binding)
                told.append(_words(pair, binding, who[1]))
                guessed |= pair.how == _BY_PLACE
            if is_input and pair.other.is_static and not pair.one.is_static:
                back = _inverse(binding.permutation if binding else ())
                sizes = pair.other.fixed_shape
                shapes[pair.one.name] = tuple(sizes[axis] for axis in back) if back else sizes
    text = f"no receipt says which input and output is which: {'; '.join(told)}"
    if guessed:
        hint = "give models whose inputs and outputs have the same names, if these are others"
        remark = Remark("warning", "paired-by-place", text, hint)
    else:
        remark = Remark("note", "paired-without-receipt", text)
    return SignaturePairs(tuple(bindings), shapes, (remark,) if told else (), own)


def _holds_integers(spec: TensorSpec) -> bool:
    return spec.quant is not None and not spec.dtype.is_float and len(spec.quant.scale) == 1


def hold_alike(one: Signature, other: Signature) -> bool:
    """Whether inputs and outputs of one name hold integers of the same scale in both, or in none."""
    held = [
        {spec.name: spec.quant for spec in (*item.inputs, *item.outputs) if _holds_integers(spec)}
        for item in (one, other)
    ]
    return held[0] == held[1]


def _own_integers(signature: Signature) -> Iterator[IoBinding]:
    sides: tuple[tuple[Literal["input", "output"], tuple[TensorSpec, ...]], ...]
    sides = ("input", signature.inputs), ("output", signature.outputs)
    for direction, spec in ((direction, spec) for direction, specs in sides for spec in specs):
        if spec.quant and _holds_integers(spec):
            scale, zero_point = spec.quant.scale[0], spec.quant.zero_point[0]
            yield IoBinding(
                direction=direction, source=spec.name, target=spec.name, dtype=spec.dtype, scale=scale,
                zero_point=zero_point,
            )  # fmt: skip


def _real(spec: TensorSpec) -> TensorSpec:
    """What integers stand for, as a tensor."""
    return msgspec.structs.replace(spec, dtype=DType.FLOAT32, quant=None) if _holds_integers(spec) else spec


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=lambda axis: order[axis])


def _words(pair: _Pair, binding: IoBinding, other: str) -> str:
    changes = [
        f"axes {list(binding.permutation)}" if binding.permutation else "",
        f"{binding.dtype.value} in steps of {binding.scale:.4g}" if binding.dtype and binding.scale else "",
    ]
    said = "".join(f", {change}" for change in changes if change)
    return f"{pair.one.name} is {other}'s {pair.other.name} ({pair.how}{said})"


def _in_pairs(ones: Sequence[TensorSpec], others: Sequence[TensorSpec], who: tuple[str, str]) -> Iterator[_Pair]:
    """Pair specs; those of either that are left over are left out.

    Raises:
        UsageError: One has no counterpart of its sizes.
    """
    left, free = list(ones), list(others)
    for how, named in (("by name", str), ("by name", _stem)):
        for spec in tuple(left):
            found = [item for item in free if named(item.name) == named(spec.name)]
            alike = [item for item in left if named(item.name) == named(spec.name)]
            if len(found) == len(alike) == 1:
                left.remove(spec)
                free.remove(found[0])
                yield _Pair(spec, found[0], how)
    for spec in tuple(left):
        found = [item for item in free if _fits(spec, item)]
        if len(found) == 1 and sum(_fits(item, found[0]) for item in left) == 1:
            left.remove(spec)
            free.remove(found[0])
            yield _Pair(spec, found[0], "alone has its sizes")
    for spec, item in zip(left, free, strict=False):
        if not _fits(spec, item):
            raise _other(spec, item, who)
        yield _Pair(spec, item, _BY_PLACE)


def _stem(name: str) -> str:
    """A name without what TensorFlow's exporter puts around it."""
    return re.sub(r":\d+$", "", name).removeprefix("serving_default_")


def _fits(one: TensorSpec, other: TensorSpec) -> bool:
    kinds = [spec.dtype.is_float or spec.quant is not None for spec in (one, other)]
    return kinds[0] == kinds[1] and next(_orders(one, other), None) is not None


def _orders(one: TensorSpec, other: TensorSpec) -> Iterator[tuple[int, ...]]:
    """Orders of the first's axes in which its sizes are the second's, the likeliest first: an open one fits any."""
    rank = len(one.shape)
    if rank != len(other.shape):
        return
    fixed = one.is_static and other.is_static
    orders: Collection[tuple[int, ...]] = (
        tuple(range(rank)),
        *(order for order in _USUAL if len(order) == rank),
        *(itertools.permutations(range(rank)) if fixed else ()),
    )
    for order in orders:
        pairs = ((one.shape[axis].size, wanted.size) for axis, wanted in zip(order, other.shape, strict=True))
        if all(size is None or wanted is None or size == wanted for size, wanted in pairs):
            yield order


def _other(one: TensorSpec, other: TensorSpec, who: tuple[str, str]) -> UsageError:
    return UsageError(f"{who[0]} has {one}, {who[1]} has {other}", hint="give models of the same inputs and outputs")


def _binding(is_input: bool, pair: _Pair, who: tuple[str, str]) -> IoBinding | None:
    """The change from one to the other; None for none."""
    one, other = pair.one, pair.other
    order = next(_orders(one, other), None)
    if order is None:
        raise _other(one, other, who)
    permutation = () if order == tuple(range(len(order))) else order
    quant = other.quant if _holds_integers(other) else None
    if one.name == other.name and one.dtype == other.dtype and not permutation:
        return None
    return IoBinding(
        direction="input" if is_input else "output",
        source=one.name,
        target=other.name,
        reason=pair.how,
        dtype=other.dtype if other.dtype != one.dtype else None,
        permutation=permutation,
        scale=quant.scale[0] if quant else 0.0,
        zero_point=quant.zero_point[0] if quant else 0,
    )
