"""Custom operators whose meaning is public, written as plain operators.

They are those that MediaPipe adds to its runtime; each docstring says what the operator computes, as
`mediapipe/util/tflite/operations` and `tflite/delegates/gpu/common/mediapipe` have it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hub.spec import UnsupportedModel
from hub_tflite.plain.writer import INTEGER, TRUTH, PlainWriter
from hub_tflitefile.schema import code_of, operator_name

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT, OperatorT

_SAME, _VALID = 1, 2
"""`TfLitePadding` of the runtime, which is what raw options hold; the schema counts from 0."""
_PLANE, _SPACE = 2, 3
_POINTS = 2
"""The version that the three operators on landmarks have in MediaPipe's resolver."""


def known_customs(model: ModelT) -> tuple[str, ...]:
    """Return the custom operators of a file that have a plain form here, sorted."""
    used = {operator_name(model, operator) for graph in model.subgraphs for operator in graph.operators}
    return tuple(sorted(name for name in _FORMS if f"custom::{name}" in used))


def write_customs(model: ModelT) -> tuple[str, ...]:
    """Write every known custom operator as plain ones, in place; returns their names, sorted.

    Raises:
        UnsupportedModel: One is of a form that is not written.
    """
    names = known_customs(model)
    for graph in model.subgraphs:
        written: list[OperatorT] = []
        for operator in graph.operators:
            name = operator_name(model, operator).removeprefix("custom::")
            if name not in names:
                written.append(operator)
                continue
            writer = PlainWriter(model, graph, operator, name)
            _FORMS[name](writer)
            written += writer.operators
        graph.operators = written
    return names


def _raw(writer: PlainWriter, count: int) -> list[int]:
    data = b"" if writer.operator.customOptions is None else bytes(writer.operator.customOptions)
    writer.refuse_unless(len(data) >= 4 * count, f"its options are {len(data)} bytes, not {4 * count}")
    return list(struct.unpack_from(f"<{count}i", data))


def _options(writer: PlainWriter) -> dict[str, float | list[int]]:
    from flatbuffers import flexbuffers

    version = writer.model.operatorCodes[writer.operator.opcodeIndex].version
    writer.refuse_unless(version == _POINTS, f"it is of version {version}")
    data = writer.operator.customOptions
    if data is None or len(data) == 0:
        return {}
    try:
        found: dict[str, float | list[int]] = flexbuffers.Loads(bytes(data))
    except (ValueError, struct.error) as error:
        raise UnsupportedModel(f"{writer.name} has no plain form: its options cannot be read ({error})") from error
    return found


def _number(writer: PlainWriter, options: dict[str, float | list[int]], name: str) -> float:
    value = options.get(name)
    if not isinstance(value, int | float):
        raise UnsupportedModel(f"{writer.name} has no plain form: its options lack {name}")
    return value


def _padding(writer: PlainWriter, stored: int) -> int:
    writer.refuse_unless(stored in {_SAME, _VALID}, f"its padding is {stored}")
    return code_of("Padding", "SAME" if stored == _SAME else "VALID")


def _transpose_conv(writer: PlainWriter) -> None:
    """A transposed convolution with a bias: TRANSPOSE_CONV of version 3.

    Its output has stride * (input - 1) + filter elements along an axis, less what SAME pads:
    filter - (input - 1) % stride - 1. TRANSPOSE_CONV finds the same padding from that size.
    """
    padding, *strides = _raw(writer, 3)
    data, weights, bias = writer.inputs
    sizes, kernel = writer.sizes(data), writer.sizes(weights)
    extents = []
    for size, taps, stride in zip(sizes[1:3], kernel[1:3], strides[::-1], strict=True):
        cut = max(0, taps - (size - 1) % stride - 1) if padding == _SAME else 0
        extents.append(stride * (size - 1) + taps - cut)
    shape = [sizes[0], *extents, kernel[0]]
    writer.emit(
        "TRANSPOSE_CONV",
        [writer.number(shape, INTEGER), weights, data, bias],
        shape,
        "TransposeConvOptions",
        result=writer.outputs[0],
        version=3,
        padding=_padding(writer, padding),
        strideW=strides[0],
        strideH=strides[1],
    )


def _pooling(writer: PlainWriter) -> tuple[int, tuple[int, int], tuple[int, int], int]:
    """Padding, strides and window (height first), and activation of `TfLitePoolParams`."""
    padding, stride_w, stride_h, width, height, activation = _raw(writer, 6)
    writer.refuse_unless(activation == 0, f"its activation is {activation}")
    return padding, (stride_h, stride_w), (height, width), activation


def _max_pool_argmax(writer: PlainWriter) -> None:
    """The largest in each window, and where it is: row * width + column in the window, plus 0.1, as a float."""
    padding, strides, window, _ = _pooling(writer)
    values, places = writer.outputs
    sizes, shape = writer.sizes(writer.inputs[0]), writer.sizes(values)
    writer.emit(
        "MAX_POOL_2D",
        writer.inputs,
        shape,
        "Pool2DOptions",
        result=values,
        padding=_padding(writer, padding),
        strideH=strides[0],
        strideW=strides[1],
        filterHeight=window[0],
        filterWidth=window[1],
    )
    taps = list(_taps(writer, padding, strides, window, sizes, shape))
    packed = writer.emit("PACK", taps, [*shape, len(taps)], "PackOptions", valuesCount=len(taps), axis=4)
    first = writer.emit(
        "ARG_MAX",
        [packed, writer.number(4, INTEGER)],
        shape,
        "ArgMaxOptions",
        element=INTEGER,
        outputType=code_of("TensorType", INTEGER),
    )
    found = writer.emit("CAST", [first], shape)
    writer.emit("ADD", [found, writer.number(0.1)], shape, "AddOptions", result=places)


def _taps(
    writer: PlainWriter,
    padding: int,
    strides: tuple[int, int],
    window: tuple[int, int],
    sizes: list[int],
    shape: list[int],
) -> Iterator[int]:
    """Write, for each place of a window in turn, what all windows have there; least outside of the input."""
    import numpy as np

    spans = [(out - 1) * stride + taps for out, stride, taps in zip(shape[1:3], strides, window, strict=True)]
    excess = [max(span - size, 0) if padding == _SAME else 0 for span, size in zip(spans, sizes[1:3], strict=True)]
    padded, whole = writer.inputs[0], list(sizes)
    if any(excess):
        pads = [(0, 0), *((each // 2, each - each // 2) for each in excess), (0, 0)]
        whole = [size + sum(pad) for size, pad in zip(sizes, pads, strict=True)]
        least = writer.number(np.finfo(np.float32).min)
        padded = writer.emit("PADV2", [padded, writer.number(pads, INTEGER), least], whole, "PadV2Options")
    for row in range(window[0]):
        for column in range(window[1]):
            begin = [0, row, column, 0]
            end = [whole[0], *(b + (o - 1) * s + 1 for b, o, s in zip(begin[1:3], shape[1:3], strides, strict=True))]
            ends = [writer.number(part, INTEGER) for part in (begin, [*end, whole[3]], [1, *strides, 1])]
            yield writer.emit("STRIDED_SLICE", [padded, *ends], shape, "StridedSliceOptions")


def _max_unpool(writer: PlainWriter) -> None:
    """Each element at its place in a window of zeros."""
    _, strides, window, _ = _pooling(writer)
    writer.refuse_unless(strides == window, f"windows of {window} lie {strides} apart")
    data, places = writer.inputs
    batch, height, width, channels = sizes = writer.sizes(data)
    whole = writer.emit("CAST", [places], sizes, element=INTEGER)
    zero = writer.number(0.0)
    taps = []
    for place in range(window[0] * window[1]):
        here = writer.emit("EQUAL", [whole, writer.number(place, INTEGER)], sizes, "EqualOptions", element=TRUTH)
        taps.append(writer.emit("SELECT_V2", [here, data, zero], sizes, "SelectV2Options"))
    shape = [batch, height, width, len(taps), channels]
    packed = writer.emit("PACK", taps, shape, "PackOptions", valuesCount=len(taps), axis=3)
    rows = writer.shaped(packed, [batch * height, width, window[0], window[1] * channels])
    order = writer.number([0, 2, 1, 3], INTEGER)
    moved = writer.emit("TRANSPOSE", [rows, order], [batch * height, window[0], width, window[1] * channels])
    writer.shaped(moved, [batch, height * window[0], width * window[1], channels], result=writer.outputs[0])


def _affine(writer: PlainWriter, matrix: int) -> tuple[int, int]:
    """The linear part of a 4 x 4 matrix in the plane as (1, 2, 2), and its shift as (1, 1, 2)."""
    shift = writer.cut(matrix, [0, 0, 3], [1, 2, 1])
    return writer.cut(matrix, [0, 0, 0], [1, 2, 2]), writer.shaped(shift, [1, 1, 2])


def _mapped(writer: PlainWriter, points: int, matrix: int, count: int) -> int:
    """Points (1, count, 2) under a matrix."""
    linear, shift = _affine(writer, matrix)
    turned = writer.emit("BATCH_MATMUL", [points, linear], [1, count, 2], "BatchMatMulOptions", adjY=True)
    return writer.emit("ADD", [turned, shift], [1, count, 2], "AddOptions")


def _transform_landmarks(writer: PlainWriter) -> None:
    """Each landmark's x and y under a 4 x 4 matrix, as if z were 0; z itself stays."""
    _options(writer)
    points, matrix = writer.inputs
    batch, count, axes = writer.sizes(points)
    writer.refuse_unless(batch == 1, f"it is given {batch} sets of landmarks")
    writer.refuse_unless(axes in {_PLANE, _SPACE}, f"landmarks have {axes} coordinates")
    plane = points if axes == _PLANE else writer.cut(points, [0, 0, 0], [1, count, 2])
    linear, shift = _affine(writer, matrix)
    turned = writer.emit("BATCH_MATMUL", [plane, linear], [1, count, 2], "BatchMatMulOptions", adjY=True)
    result = writer.outputs[0]
    if axes == _PLANE:
        writer.emit("ADD", [turned, shift], [1, count, 2], "AddOptions", result=result)
        return
    moved = writer.emit("ADD", [turned, shift], [1, count, 2], "AddOptions")
    depth = writer.cut(points, [0, 0, 2], [1, count, 1])
    writer.emit("CONCATENATION", [moved, depth], [1, count, 3], "ConcatenationOptions", result=result, axis=2)


def _transform_tensor(writer: PlainWriter) -> None:
    """An image sampled bilinearly where a 4 x 4 matrix takes the centres of the output's pixels; zero outside."""
    import numpy as np

    options = _options(writer)
    high, wide = (int(_number(writer, options, name)) for name in ("output_height", "output_width"))
    image, matrix = writer.inputs
    batch, height, width, channels = writer.sizes(image)
    writer.refuse_unless(batch == 1, f"it is given {batch} images")
    count = high * wide
    rows, columns = np.mgrid[:high, :wide]
    centres = writer.number(np.stack([columns.ravel(), rows.ravel()], -1)[None] + 0.5)
    there = _mapped(writer, centres, matrix, count)
    places = writer.emit("SUB", [there, writer.number(0.5)], [1, count, 2], "SubOptions")
    corner = writer.emit("FLOOR", [places], [1, count, 2])
    far = writer.emit("SUB", [places, corner], [1, count, 2], "SubOptions")
    shares = [_column(writer, far, axis, count) for axis in (0, 1)]
    starts = [_column(writer, corner, axis, count) for axis in (0, 1)]
    pixels = writer.shaped(image, [height * width, channels])
    reads = [
        [_pixels(writer, pixels, starts, (right, down), (height, width, channels)) for right in (0, 1)]
        for down in (0, 1)
    ]
    upper, lower = (_between(writer, near, far, shares[0], channels) for near, far in reads)
    mixed = _between(writer, upper, lower, shares[1], channels)
    outside = _outside(writer, places, (height, width), count)
    kept = writer.emit("SELECT_V2", [outside, writer.number(0.0), mixed], [count, channels], "SelectV2Options")
    writer.shaped(kept, [1, high, wide, channels], result=writer.outputs[0])


def _column(writer: PlainWriter, points: int, axis: int, count: int) -> int:
    return writer.shaped(writer.cut(points, [0, 0, axis], [1, count, 1]), [count, 1])


def _pixels(
    writer: PlainWriter, pixels: int, starts: list[int], step: tuple[int, int], sizes: tuple[int, int, int]
) -> int:
    """Write the pixels at corners moved by a step; places outside are moved in, for nothing of them is used."""
    height, width, channels = sizes
    count = writer.sizes(starts[0])[0]
    inside = []
    for start, move, size in zip(starts, step, (width, height), strict=True):
        moved = writer.emit("ADD", [start, writer.number(float(move))], [count, 1], "AddOptions") if move else start
        low = writer.emit("MAXIMUM", [moved, writer.number(0.0)], [count, 1], "MaximumMinimumOptions")
        inside.append(writer.emit("MINIMUM", [low, writer.number(size - 1.0)], [count, 1], "MaximumMinimumOptions"))
    across, down = inside
    rows = writer.emit("MUL", [down, writer.number(float(width))], [count, 1], "MulOptions")
    flat = writer.emit("ADD", [rows, across], [count, 1], "AddOptions")
    places = writer.emit("CAST", [writer.shaped(flat, [count])], [count], element=INTEGER)
    return writer.emit("GATHER", [pixels, places], [count, channels], "GatherOptions")


def _between(writer: PlainWriter, near: int, far: int, share: int, channels: int) -> int:
    """(1 - share) * near + share * far."""
    shape = [writer.sizes(share)[0], channels]
    rest = writer.emit("SUB", [writer.number(1.0), share], [shape[0], 1], "SubOptions")
    parts = [writer.emit("MUL", [part, by], shape, "MulOptions") for part, by in ((near, rest), (far, share))]
    return writer.emit("ADD", parts, shape, "AddOptions")


def _outside(writer: PlainWriter, places: int, sizes: tuple[int, int], count: int) -> int:
    """Whether a place lies before the first or behind the last pixel, along either axis."""
    found = []
    for axis, size in ((0, sizes[1]), (1, sizes[0])):
        column = _column(writer, places, axis, count)
        found.append(writer.emit("LESS", [column, writer.number(0.0)], [count, 1], "LessOptions", element=TRUTH))
        last = writer.number(size - 1.0)
        found.append(writer.emit("GREATER", [column, last], [count, 1], "GreaterOptions", element=TRUTH))
    either = found[0]
    for other in found[1:]:
        either = writer.emit("LOGICAL_OR", [either, other], [count, 1], "LogicalOrOptions", element=TRUTH)
    return either


def _landmarks_to_matrix(writer: PlainWriter) -> None:
    """The matrix that takes an output's pixels to the box around some landmarks, turned as two of them lie.

    The angle r is `target` less that of the line from the left landmark to the right one. Only its cosine and sine are
    needed, so that neither an arc tangent nor a cosine is written. The box is found with the landmarks turned by r; its
    middle is turned back. Then shift(middle) * turn(-r) * scale(box / output) * shift(-output / 2).
    """
    options = _options(writer)
    points = writer.inputs[0]
    batch, _, axes = writer.sizes(points)
    writer.refuse_unless(batch == 1 and axes == _SPACE, f"landmarks are of sizes {writer.sizes(points)}")
    cosine, sine = _turn(writer, options, points)
    subset = options.get("subset_idxs")
    if not isinstance(subset, list) or not subset:
        raise UnsupportedModel(f"{writer.name} has no plain form: its options name no landmarks")
    chosen = writer.emit(
        "GATHER", [points, writer.number(subset, INTEGER)], [1, len(subset), 3], "GatherOptions", axis=1
    )
    x, y = (writer.cut(chosen, [0, 0, axis], [1, len(subset), 1]) for axis in (0, 1))
    shape = [1, len(subset), 1]
    across = _sum(writer, (x, cosine), (y, sine), shape, minus=True)
    along = _sum(writer, (x, sine), (y, cosine), shape)
    middles, spans = [], []
    for place in (across, along):
        ends = [
            writer.emit(kind, [place, writer.number([1], INTEGER)], [1, 1, 1], "ReducerOptions", keepDims=True)
            for kind in ("REDUCE_MAX", "REDUCE_MIN")
        ]
        spans.append(writer.emit("SUB", ends, [1, 1, 1], "SubOptions"))
        both = writer.emit("ADD", ends, [1, 1, 1], "AddOptions")
        middles.append(writer.emit("MUL", [both, writer.number(0.5)], [1, 1, 1], "MulOptions"))
    centre = (
        _sum(writer, (middles[0], cosine), (middles[1], sine)),
        _sum(writer, (middles[1], cosine), (middles[0], sine), minus=True),
    )
    _matrix(writer, options, (cosine, sine), spans, centre)


def _turn(writer: PlainWriter, options: dict[str, float | list[int]], points: int) -> tuple[int, int]:
    """Cosine and sine of the target's angle less that of the line between two landmarks."""
    import math

    left, right = (
        writer.cut(points, [0, int(_number(writer, options, f"{side}_rotation_idx")), 0], [1, 1, 3])
        for side in ("left", "right")
    )
    line = writer.emit("SUB", [right, left], [1, 1, 3], "SubOptions")
    across, along = (writer.cut(line, [0, 0, axis], [1, 1, 1]) for axis in (0, 1))
    zero = writer.number(0.0)
    squares = _sum(writer, (across, across), (along, along))
    none = writer.emit("EQUAL", [squares, zero], [1, 1, 1], "EqualOptions", element=TRUTH)
    one = writer.number(1.0)  # the arc tangent of 0 / 0 is 0, that of a line to the right
    across = writer.emit("SELECT_V2", [none, one, across], [1, 1, 1], "SelectV2Options")
    square = writer.emit("SELECT_V2", [none, one, squares], [1, 1, 1], "SelectV2Options")
    length = writer.emit("SQRT", [square], [1, 1, 1])
    cosine, sine = (writer.emit("DIV", [part, length], [1, 1, 1], "DivOptions") for part in (across, along))
    target = _number(writer, options, "target_rotation_radians")
    if target == 0:
        return cosine, writer.emit("SUB", [zero, sine], [1, 1, 1], "SubOptions")
    c, s = writer.number(math.cos(target)), writer.number(math.sin(target))
    return _sum(writer, (c, cosine), (s, sine)), _sum(writer, (s, cosine), (c, sine), minus=True)


def _sum(
    writer: PlainWriter,
    first: tuple[int, int],
    second: tuple[int, int],
    shape: list[int] | None = None,
    *,
    minus: bool = False,
) -> int:
    """The sum, or the difference, of two products."""
    sizes = shape or [1, 1, 1]
    parts = [writer.emit("MUL", list(pair), sizes, "MulOptions") for pair in (first, second)]
    return writer.emit("SUB" if minus else "ADD", parts, sizes, "SubOptions" if minus else "AddOptions")


def _matrix(
    writer: PlainWriter,
    options: dict[str, float | list[int]],
    turn: tuple[int, int],
    spans: list[int],
    centre: tuple[int, int],
) -> None:
    """The matrix of `_landmarks_to_matrix`, row by row."""
    one = [1, 1, 1]
    cosine, sine = turn
    extents = [_number(writer, options, f"output_{name}") for name in ("width", "height")]
    factors = [_number(writer, options, f"scale_{axis}") / extent for axis, extent in zip("xy", extents, strict=True)]
    wide, high = (
        writer.emit("MUL", [span, writer.number(factor)], one, "MulOptions")
        for span, factor in zip(spans, factors, strict=True)
    )
    zero, unit = writer.number([[[0.0]]]), writer.number([[[1.0]]])
    minus = writer.emit("SUB", [zero, sine], one, "SubOptions")
    halves = [writer.number(-extent / 2) for extent in extents]
    rows = []
    for parts, middle in zip(((cosine, sine), (minus, cosine)), centre, strict=True):
        scaled = zip(parts, (wide, high), strict=True)
        linear = [writer.emit("MUL", list(pair), one, "MulOptions") for pair in scaled]
        back = _sum(writer, (linear[0], halves[0]), (linear[1], halves[1]))
        rows += [*linear, zero, writer.emit("ADD", [middle, back], one, "AddOptions")]
    rows += [zero, zero, unit, zero, zero, zero, zero, unit]
    flat = writer.emit("CONCATENATION", rows, [1, 1, 16], "ConcatenationOptions", axis=2)
    writer.shaped(flat, [1, 4, 4], result=writer.outputs[0])


_FORMS: dict[str, Callable[[PlainWriter], None]] = {
    "Convolution2DTransposeBias": _transpose_conv,
    "Landmarks2TransformMatrix": _landmarks_to_matrix,
    "MaxPoolingWithArgmax2D": _max_pool_argmax,
    "MaxUnpooling2D": _max_unpool,
    "TransformLandmarks": _transform_landmarks,
    "TransformTensorBilinear": _transform_tensor,
}
