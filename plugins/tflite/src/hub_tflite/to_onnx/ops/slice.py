"""Parts of tensors: slices, splits, reversals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.lazy import np
from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode

_END = 2**63 - 1  # past the last element, whatever the size
_BEGIN = -_END


class Masks(NamedTuple):
    """STRIDED_SLICE's options, a bit for each entry of its indices."""

    begin: int
    end: int
    ellipsis: int
    new_axis: int
    shrink: int


class Entry(NamedTuple):
    """What one entry of the indices does: it is of an axis of the input, or makes a new one."""

    place: int
    axis: int
    new: bool
    shrink: bool
    free_begin: bool
    free_end: bool


def _entries(masks: Masks, count: int, rank: int) -> list[Entry]:
    """Lay the entries out over the input's axes; the ellipsis takes all axes that no other entry takes."""
    bits = [[bool(mask >> place & 1) for mask in masks] for place in range(count)]
    taken = sum(not (ellipsis or new) for _, _, ellipsis, new, _ in bits)
    axis, found = 0, []
    for place, (begin, end, ellipsis, new, shrink) in enumerate(bits):
        if ellipsis:
            axis += rank - taken
            continue
        found.append(Entry(place, axis, new, shrink and not new, begin, end))
        axis += not new
    return found


@dataclass(frozen=True, slots=True)
class _Indices:
    """The begins, ends and strides, constants or not."""

    node: TfliteNode
    begin: Value
    end: Value
    strides: list[int]

    def start(self, entry: Entry) -> Value:
        """The start of one entry, a vector of one."""
        if entry.free_begin:
            return self.node.constant([0 if self.strides[entry.place] > 0 else _END])
        return self._pick(self.begin, entry)

    def stop(self, entry: Entry, *, offset: bool) -> Value:
        """The end of one entry, a vector of one."""
        if entry.free_end:
            return self.node.constant([_END if self.strides[entry.place] > 0 else _BEGIN])
        end = self._pick(self.end, entry)
        return self.node.emit("Add", self._pick(self.begin, entry), end) if offset else end

    def scalar(self, entry: Entry) -> Value:
        """The start of one entry, a scalar."""
        return self.node.reshape(self._pick(self.begin, entry), ())

    def _pick(self, indices: Value, entry: Entry) -> Value:
        return self.node.emit("Gather", self.node.int64(indices), self.node.constant([entry.place]))


@op("STRIDED_SLICE", 8)
def strided_slice(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode,
    x: Value,
    begin: Value,
    end: Value,
    strides: Value,
    *,
    begin_mask: int = 0,
    end_mask: int = 0,
    ellipsis_mask: int = 0,
    new_axis_mask: int = 0,
    shrink_axis_mask: int = 0,
    offset: bool = False,
) -> Value:
    """Numpy's basic indexing: slices, then single indices, then new axes."""
    masks = Masks(begin_mask, end_mask, ellipsis_mask, new_axis_mask, shrink_axis_mask)
    steps = node.integers(strides, "the strides")
    indices = _Indices(node, begin, end, steps)
    entries = _entries(masks, len(steps), node.rank(x))
    sliced = [e for e in entries if not (e.new or e.shrink or (e.free_begin and e.free_end and steps[e.place] == 1))]
    result = x
    if sliced:
        starts = node.emit("Concat", *(indices.start(e) for e in sliced), axis=0)
        stops = node.emit("Concat", *(indices.stop(e, offset=offset) for e in sliced), axis=0)
        axes, by = node.constant([e.axis for e in sliced]), node.constant([steps[e.place] for e in sliced])
        result = node.emit("Slice", x, starts, stops, axes, by)
    for entry in sorted((e for e in entries if e.shrink), key=lambda e: -e.axis):
        result = node.emit("Gather", result, indices.scalar(entry), axis=entry.axis)
    new = [
        entry.axis - sum(e.shrink for e in entries[:i]) + sum(e.new for e in entries[:i])
        for i, entry in enumerate(entries)
        if entry.new
    ]
    if new:
        result = node.emit("Unsqueeze", result, node.constant(new))
    return result if result is not x else node.emit("Identity", x)


@op("SLICE", 7)
def slice_(node: TfliteNode, x: Value, begin: Value, size: Value) -> Value:
    """A part of given size on every axis; -1 goes on to the end."""
    starts, sizes = node.int64(begin), node.int64(size)
    minus, end = node.constant([-1]), node.constant([_END])
    ends = node.emit("Where", node.emit("Equal", sizes, minus), end, node.emit("Add", starts, sizes))
    return node.emit("Slice", x, starts, ends)


@op("SPLIT", 4)
def split(node: TfliteNode, axis: Value, x: Value, *, num_splits: int) -> tuple[Value, ...]:
    """Equal parts of an axis."""
    (along,) = node.integers(axis, "the axis")
    return node.emits("Split", x, outputs=num_splits, axis=along, num_outputs=num_splits)


@op("SPLIT_V", 2)
def split_v(node: TfliteNode, x: Value, sizes: Value, axis: Value, *, num_splits: int) -> tuple[Value, ...]:
    """Parts of given sizes of an axis; one -1 takes what is left."""
    (along,) = node.integers(axis, "the axis")
    parts = node.integers(sizes, "the sizes")
    if -1 in parts:
        whole = node.shape(x)[along]
        refuse_if(whole is None, "the rest of an open size")
        parts[parts.index(-1)] = (whole or 0) - sum(part for part in parts if part != -1)
    return node.emits("Split", x, node.constant(parts), outputs=num_splits, axis=along)


@op("PACK", 4)
def pack(node: TfliteNode, *xs: Value, axis: int, values_count: int) -> Value:
    """Inputs as slices of a new axis."""
    refuse_if(values_count not in {0, len(xs)}, f"{values_count} values and {len(xs)} inputs")
    return node.emit("Concat", *(node.emit("Unsqueeze", x, node.constant([axis])) for x in xs), axis=axis)


@op("UNPACK", 4)
def unpack(node: TfliteNode, x: Value, *, axis: int, num: int) -> tuple[Value, ...]:
    """The slices of an axis."""
    return tuple(node.emit("Gather", x, node.constant(place), axis=axis) for place in range(num))


def reversed_along(node: TfliteNode, x: Value, axes: Sequence[int]) -> Value:
    """Write a slice that runs backwards over some axes."""
    count = len(axes)
    bounds = [node.constant([bound] * count) for bound in (_END, _BEGIN)]
    return node.emit("Slice", x, *bounds, node.constant(list(axes)), node.constant([-1] * count))


@op("REVERSE_V2", 3)
def reverse(node: TfliteNode, x: Value, axes: Value) -> Value:
    """Backwards along axes."""
    along = node.integers(axes, "the axes")
    return reversed_along(node, x, along) if along else node.emit("Identity", x)


@op("REVERSE_SEQUENCE")
def reverse_sequence(node: TfliteNode, x: Value, lengths: Value, *, seq_dim: int, batch_dim: int = 0) -> Value:
    """The first elements of each row backwards; ONNX has it for the first two axes."""
    rank = node.rank(x)
    order = [batch_dim % rank, seq_dim % rank]
    order += [axis for axis in range(rank) if axis not in order]
    back = [order.index(axis) for axis in range(rank)]
    front = node.transpose(x, order) if order != back or order != sorted(order) else x
    result = node.emit("ReverseSequence", front, node.int64(lengths), batch_axis=0, time_axis=1)
    return node.transpose(result, back) if front is not x else result


@op("MIRROR_PAD", 3)
def mirror_pad(node: TfliteNode, x: Value, paddings: Value, *, mode: int) -> Value:
    """The reflection around the border, without (0) or with (1) the border itself; ONNX has the first."""
    refuse_if(mode not in {0, 1}, f"mode {mode}")
    around = np.asarray(node.integers(paddings, "the padding")).reshape(-1, 2)
    if mode == 0:
        return node.emit("Pad", x, node.constant(around.T.reshape(-1)), mode="reflect")
    for axis, (before, after) in enumerate(around.tolist()):
        along, back = node.constant([axis]), node.constant([-1])
        parts = [x]
        if before:
            parts.insert(0, node.emit("Slice", x, node.constant([before - 1]), node.constant([_BEGIN]), along, back))
        if after:
            parts.append(node.emit("Slice", x, node.constant([_END]), node.constant([-after - 1]), along, back))
        x = node.emit("Concat", *parts, axis=axis) if len(parts) > 1 else x
    return x


@op("DYNAMIC_UPDATE_SLICE", 5)
def dynamic_update_slice(node: TfliteNode, x: Value, update: Value, start: Value) -> Value:
    """X with the update written over it at a place, which is moved so that the update fits (StableHLO)."""
    whole, part = node.sizes(x), node.sizes(update)
    last = node.constant([w - p for w, p in zip(whole, part, strict=True)])
    place = node.emit("Min", node.emit("Max", node.int64(start), node.constant([0])), last)
    grid = np.stack(np.meshgrid(*map(np.arange, part), indexing="ij"), axis=-1).astype(np.int64)
    return node.emit("ScatterND", x, node.emit("Add", node.constant(grid), place), update)


@op("STABLEHLO_PAD")
def stablehlo_pad(
    node: TfliteNode,
    x: Value,
    value: Value,
    *,
    edge_padding_low: list[int],
    edge_padding_high: list[int],
    interior_padding: list[int],
) -> Value:
    """Padding at the edges; negative padding crops."""
    refuse_if(any(interior_padding), "padding between elements")
    return node.emit("Pad", x, node.constant([*edge_padding_low, *edge_padding_high]), node.reshape(value, ()))


@op("DILATE")
def dilate(node: TfliteNode, x: Value, steps: Value, value: Value) -> Value:
    """A constant between the elements: each gets an axis of its own, is padded there, and the last padding is cut."""
    sizes, factors = node.sizes(x), node.integers(steps, "the dilations")
    paired = node.reshape(x, [part for size in sizes for part in (size, 1)])
    ends = [part for factor in factors for part in (0, factor - 1)]
    padded = node.emit("Pad", paired, node.constant([0] * len(ends) + ends), node.reshape(value, ()))
    full = node.reshape(padded, [size * factor for size, factor in zip(sizes, factors, strict=True)])
    last = [(size - 1) * factor + 1 for size, factor in zip(sizes, factors, strict=True)]
    return node.emit("Slice", full, node.constant([0] * len(last)), node.constant(last))


@op("STABLEHLO_COMPOSITE")
def stablehlo_composite(
    node: TfliteNode,
    *xs: Value,
    decomposition_subgraph_index: int,
    name: bytes | str = "",
    composite_attributes: list[int] = [],  # noqa: B006 - read only
    composite_attributes_format: int = 0,
    version: int = 0,
) -> tuple[Value, ...]:
    """What its decomposition says; name, version and attributes only tell kernels that know the whole."""
    del name, composite_attributes, composite_attributes_format, version
    return tuple(node.inline(decomposition_subgraph_index, xs))
