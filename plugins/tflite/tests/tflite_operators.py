"""TFLite files of one operator each, written by the TensorFlow converter from small functions.

A case is a function of TensorFlow, and the shapes and types of what it takes. The converter folds what hangs on
constants, so every operand that should stay one is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

Spec = tuple[tuple[int | None, ...], str]


class Case(NamedTuple):
    """One function to convert.

    Attributes:
        name: The operator and the variation.
        function: Takes tensors.
        inputs: Shape and type of each; None is an open size.
        low: Smallest number drawn for the inputs.
        high: Largest.
        feeds: Values to run with, instead of drawn ones.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[Spec, ...]
    low: float = -3.0
    high: float = 3.0
    feeds: tuple[Any, ...] = ()


def convert(case: Case) -> bytes:
    """Write the TFLite file of a case."""
    import tensorflow as tf

    specs = [tf.TensorSpec(shape, dtype, name=f"x{i}") for i, (shape, dtype) in enumerate(case.inputs)]

    # Defaults of a function's parameters would become inputs, so it is called by another.
    def call(*xs: Any) -> Any:
        return case.function(*xs)

    concrete = tf.function(call, input_signature=specs, autograph=False).get_concrete_function()
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    return content


def draw(case: Case, size: int = 3) -> list[np.ndarray[Any, Any]]:
    """Draw inputs from a seed; open sizes become `size`."""
    if case.feeds:
        return [np.asarray(feed) for feed in case.feeds]
    rng = np.random.default_rng(5)
    return [_drawn(rng, case, tuple(n or size for n in shape), dtype) for shape, dtype in case.inputs]


def _drawn(rng: np.random.Generator, case: Case, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype.startswith("float"):
        return rng.uniform(case.low, case.high, shape).astype(dtype)
    return rng.integers(int(case.low), int(case.high) + 1, shape).astype(dtype)


def cases(*, every: bool = False) -> list[Case]:
    """Return all cases; without `every` one in five of the large families, and all the small ones."""
    found = [case for family in _SMALL for case in family()]
    for family in _LARGE:
        members = list(family())
        found += members if every else members[::5]
    return found


F = "float32"
X4 = ((2, 9, 8, 6), F)


def _weights(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32) / 2


def _convolutions() -> Iterator[Case]:
    import tensorflow as tf

    nn = tf.nn
    for padding, stride, dilation, kernel in product(("SAME", "VALID"), (1, 2, 3), (1, 2), ((3, 3), (2, 4), (1, 1))):
        if stride > 1 and dilation > 1:
            continue
        word = f"{padding} stride {stride} dilation {dilation} kernel {kernel}"
        w = _weights(*kernel, 6, 5)
        yield Case(
            f"CONV_2D {word}",
            lambda x, w=w, p=padding, s=stride, d=dilation: nn.conv2d(x, w, s, p, dilations=d),
            (X4,),
        )
        for multiplier in (1, 2):
            v = _weights(*kernel, 6, multiplier)
            yield Case(
                f"DEPTHWISE_CONV_2D {word} times {multiplier}",
                lambda x, v=v, p=padding, s=stride, d=dilation: nn.depthwise_conv2d(
                    x, v, [1, s, s, 1], p, dilations=[d, d]
                ),
                (X4,),
            )
    for stride in ((1, 2), (2, 1), (3, 2)):
        w = _weights(3, 3, 6, 4)
        yield Case(f"CONV_2D strides {stride}", lambda x, w=w, s=stride: nn.conv2d(x, w, [1, *s, 1], "SAME"), (X4,))
    yield Case("CONV_2D grouped", lambda x: nn.conv2d(x, _weights(3, 3, 2, 6), 1, "SAME"), (X4,))
    yield Case(
        "CONV_2D open sizes", lambda x: nn.conv2d(x, _weights(3, 3, 6, 4), 2, "SAME"),
        (((None, None, None, 6), F),),
    )  # fmt: skip
    yield Case("CONV_2D weights at run time", lambda x, w: nn.conv2d(x, w, 2, "SAME"), (X4, ((3, 3, 6, 4), F)))
    for activation in (nn.relu, nn.relu6, tf.tanh, lambda x: tf.clip_by_value(x, -1.0, 1.0)):
        yield Case(
            f"CONV_2D {getattr(activation, '__name__', 'clip')}",
            lambda x, a=activation: a(nn.bias_add(nn.conv2d(x, _weights(3, 3, 6, 4), 1, "SAME"), _weights(4))),
            (X4,),
        )


def _volumes() -> Iterator[Case]:
    import tensorflow as tf

    nn = tf.nn
    volume = ((2, 5, 6, 7, 3), F)
    for padding, stride, dilation in (("SAME", 1, 1), ("SAME", 2, 1), ("VALID", 2, 1), ("VALID", 1, 2), ("SAME", 1, 2)):
        strides, dilations = [1, *[stride] * 3, 1], [1, *[dilation] * 3, 1]
        yield Case(
            f"CONV_3D {padding} {stride} {dilation}",
            lambda x, s=strides, p=padding, d=dilations: nn.conv3d(x, _weights(3, 2, 3, 3, 4), s, p, dilations=d),
            (volume,),
        )
    for padding, stride in product(("SAME", "VALID"), (1, 2)):
        size = [2, *[n * stride if padding == "SAME" else (n - 1) * stride + 3 for n in (5, 6, 7)], 4]
        yield Case(
            f"CONV_3D_TRANSPOSE {padding} {stride}",
            lambda x, o=size, s=stride, p=padding: nn.conv3d_transpose(
                x, _weights(3, 3, 3, 4, 3), o, [1, s, s, s, 1], p
            ),
            (volume,),
        )


def _transposed() -> Iterator[Case]:
    import tensorflow as tf

    for padding, stride, kernel in product(("SAME", "VALID"), (1, 2, 3), (1, 2, 3, 4, 5)):
        sizes = [n * stride if padding == "SAME" else (n - 1) * stride + max(kernel, stride) for n in (4, 5)]
        yield Case(
            f"TRANSPOSE_CONV {padding} {stride} kernel {kernel}",
            lambda x, o=(2, *sizes, 3), s=stride, p=padding, k=kernel: tf.nn.conv2d_transpose(
                x, _weights(k, k, 3, 6), o, s, p
            ),
            (((2, 4, 5, 6), F),),
        )
    yield Case(
        "TRANSPOSE_CONV SAME odd output",
        lambda x: tf.nn.conv2d_transpose(x, _weights(3, 3, 3, 6), (2, 7, 9, 3), 2, "SAME"),
        (((2, 4, 5, 6), F),),
    )
    yield Case(
        "TRANSPOSE_CONV open batch",
        lambda x: tf.nn.conv2d_transpose(x, _weights(3, 3, 3, 6), tf.stack([tf.shape(x)[0], 8, 10, 3]), 2, "SAME"),
        (((None, 4, 5, 6), F),),
    )


def _open_transposed() -> Iterator[Case]:
    import tensorflow as tf

    for padding, stride, kernel in (("SAME", 2, 3), ("SAME", 3, 2), ("VALID", 2, 3), ("SAME", 1, 4)):
        more = max(kernel - stride, 0) if padding == "VALID" else 0

        def call(x: Any, p: str = padding, s: int = stride, k: int = kernel, more: int = more) -> Any:
            n, h, w = (tf.shape(x)[i] for i in range(3))
            size = tf.stack([n, h * s + more, w * s + more, 3])
            return tf.nn.conv2d_transpose(x, _weights(k, k, 3, 6), size, s, p)

        yield Case(f"TRANSPOSE_CONV open {padding} {stride} {kernel}", call, (((None, None, None, 6), F),))


def _pools() -> Iterator[Case]:
    import tensorflow as tf

    for padding, stride, size in product(("SAME", "VALID"), (1, 2, 3), ((2, 2), (3, 2), (4, 4))):
        word = f"{padding} {stride} {size}"
        yield Case(f"MAX_POOL_2D {word}", lambda x, p=padding, s=stride, k=size: tf.nn.max_pool2d(x, k, s, p), (X4,))
        yield Case(
            f"AVERAGE_POOL_2D {word}", lambda x, p=padding, s=stride, k=size: tf.nn.avg_pool2d(x, k, s, p), (X4,)
        )


def _resizes() -> Iterator[Case]:
    import tensorflow as tf

    raw = tf.raw_ops
    for (corners, half), size in product(((False, False), (True, False), (False, True)), ((4, 5), (18, 16), (13, 21))):
        word = f"corners {corners} half {half} to {size}"
        yield Case(
            f"RESIZE_BILINEAR {word}",
            lambda x, s=size, c=corners, h=half: raw.ResizeBilinear(
                images=x, size=s, align_corners=c, half_pixel_centers=h
            ),
            (X4,),
        )
        yield Case(
            f"RESIZE_NEAREST_NEIGHBOR {word}",
            lambda x, s=size, c=corners, h=half: raw.ResizeNearestNeighbor(
                images=x, size=s, align_corners=c, half_pixel_centers=h
            ),
            (X4,),
        )
    yield Case(
        "RESIZE_BILINEAR size at run time", tf.image.resize, (X4, ((2,), "int32")),
        feeds=(np.random.default_rng(0).standard_normal(X4[0]).astype(np.float32), np.array([5, 7], np.int32)),
    )  # fmt: skip


def _unary() -> Iterator[Case]:
    import tensorflow as tf

    x3 = ((2, 3, 4), F)
    nn, math = tf.nn, tf.math
    anywhere = {
        "ABS": tf.abs, "NEG": tf.negative, "EXP": tf.exp, "SIN": tf.sin, "COS": tf.cos, "FLOOR": tf.floor,
        "CEIL": math.ceil, "ROUND": tf.round, "SQUARE": tf.square, "SIGN": tf.sign, "TANH": tf.tanh,
        "LOGISTIC": tf.sigmoid, "RELU": nn.relu, "RELU6": nn.relu6, "ELU": nn.elu, "LOG_SOFTMAX": nn.log_softmax,
        "SOFTMAX": nn.softmax, "GELU": nn.gelu, "GELU tanh": partial(nn.gelu, approximate=True),
        "LEAKY_RELU": partial(nn.leaky_relu, alpha=0.3), "HARD_SWISH": lambda x: x * nn.relu6(x + 3.0) / 6.0,
        "RELU_N1_TO_1": lambda x: tf.minimum(tf.maximum(x, -1.0), 1.0),
        "L2_NORMALIZATION": lambda x: nn.l2_normalize(x, -1),
        "SOFTMAX beta": lambda x: nn.softmax(2.0 * x),
    }  # fmt: skip
    for name, function in anywhere.items():
        yield Case(name, function, (x3,))
    for name, function in {"LOG": tf.math.log, "SQRT": tf.sqrt, "RSQRT": math.rsqrt}.items():
        yield Case(name, function, (x3,), low=0.1)
    yield Case("SHAPE open", tf.shape, (((None, 3, None), F),))
    yield Case("ZEROS_LIKE open", tf.zeros_like, (((None, 3, None), F),))
    yield Case("ABS int32", tf.abs, (((2, 3), "int32"),), -9, 9)
    yield Case("NEG int64", tf.negative, (((2, 3), "int64"),), -9, 9)
    yield Case("LOGICAL_NOT", tf.logical_not, (((2, 3), "bool"),))
    yield Case("LOCAL_RESPONSE_NORMALIZATION", lambda x: nn.lrn(x, 2, 1.5, 0.3, 0.75), (X4,))
    yield Case("RFFT2D", lambda x: math.real(tf.signal.rfft2d(x, [8, 8])), (((2, 8, 8), F),))
    yield Case("RFFT2D imag", lambda x: math.imag(tf.signal.rfft2d(x, [4, 16])), (((3, 6, 9), F),))
    yield Case("COMPLEX_ABS", lambda x: tf.abs(tf.signal.rfft2d(x, [8, 16])), (((8, 16), F),))
    yield Case("BUCKETIZE", lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[-1.0, 0.0, 1.5]), (x3,))


def _binary() -> Iterator[Case]:
    import tensorflow as tf

    both = {
        "ADD": tf.add, "SUB": tf.subtract, "MUL": tf.multiply, "MAXIMUM": tf.maximum, "MINIMUM": tf.minimum,
        "SQUARED_DIFFERENCE": tf.math.squared_difference, "GREATER": tf.greater, "GREATER_EQUAL": tf.greater_equal,
        "LESS": tf.less, "LESS_EQUAL": tf.less_equal, "EQUAL": tf.equal, "NOT_EQUAL": tf.not_equal,
    }  # fmt: skip
    shapes = (((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (4,)), ((3, 1), (2, 1, 4)), ((2, 3), ()))
    for (name, function), (a, b), dtype in product(both.items(), shapes, (F, "int32", "int64")):
        if (name, dtype) != ("SQUARED_DIFFERENCE", "int64"):
            yield Case(f"{name} {dtype} {a} {b}", function, ((a, dtype), (b, dtype)))
    for a, b in shapes:
        for name, function in {"DIV": tf.divide, "FLOOR_DIV": tf.math.floordiv, "FLOOR_MOD": tf.math.floormod}.items():
            for sign in (1.0, -1.0):
                yield Case(
                    f"{name} float32 {a} {b} {sign}",
                    lambda x, y, f=function, s=sign: f(s * x, y),
                    ((a, F), (b, F)),
                    0.5,
                )
        yield Case(f"POW {a} {b}", tf.pow, ((a, F), (b, F)), 0.5)
        yield Case(f"ATAN2 {a} {b}", tf.atan2, ((a, F), (a, F)))


def _integers() -> Iterator[Case]:
    import tensorflow as tf

    x = np.array([7, -7, 7, -7, 0, 6], np.int32)
    y = np.array([2, 2, -2, -2, 3, -3], np.int32)
    pair = (((6,), "int32"), ((6,), "int32"))
    for name, function in {
        "FLOOR_DIV": tf.math.floordiv, "FLOOR_MOD": tf.math.floormod, "DIV": tf.raw_ops.Div,
        "BITWISE_XOR": tf.bitwise.bitwise_xor,
    }.items():  # fmt: skip
        call = (lambda x, y: tf.raw_ops.Div(x=x, y=y)) if name == "DIV" else function
        yield Case(f"{name} int32 signs", call, pair, feeds=(x, y))
    yield Case("RIGHT_SHIFT", tf.bitwise.right_shift, pair, feeds=(x * 100, np.array([1, 2, 0, 3, 31, 5], np.int32)))
    yield Case("LOGICAL_AND", tf.logical_and, (((2, 3), "bool"), ((2, 3), "bool")))
    yield Case("LOGICAL_OR", tf.logical_or, (((2, 3), "bool"), ((3,), "bool")))
    yield Case("ATAN2 axes", tf.atan2, (((9,), F), ((9,), F)), feeds=_compass())
    for a, b in product((F, "int32", "int64", "bool", "float16", "float64"), (F, "int32", "int64", "bool", "uint8")):
        if a != b and not (b == "uint8" and a in {"float16", "float64"}):
            yield Case(f"CAST {a} to {b}", lambda x, b=b: tf.cast(x, b), (((2, 5), a),), 0, 9)
    for dtype in ("int16", "uint8", "int8"):
        yield Case(f"CAST int32 to {dtype}", lambda x, b=dtype: tf.cast(x, b), (((2, 5), "int32"),), 0, 9)


def _compass() -> tuple[Any, Any]:
    angles = np.linspace(-np.pi, np.pi, 9)
    return np.round(np.sin(angles), 6).astype(np.float32), np.round(np.cos(angles), 6).astype(np.float32)


def _products() -> Iterator[Case]:
    import tensorflow as tf

    for shape in ((4, 6), (2, 3, 6), (2, 3, 2, 6), (None, 6)):
        yield Case(
            f"FULLY_CONNECTED {shape}",
            lambda x: tf.nn.relu(tf.tensordot(x, _weights(6, 5), 1) + _weights(5)),
            ((shape, F),),
        )
    yield Case(
        "FULLY_CONNECTED weights at run time",
        lambda x, w: tf.matmul(x, w, transpose_b=True),
        (((4, 6), F), ((5, 6), F)),
    )
    for adj_x, adj_y in product((False, True), (False, True)):
        x = (2, 3, 6, 4) if adj_x else (2, 3, 4, 6)
        y = (3, 5, 6) if adj_y else (3, 6, 5)
        yield Case(
            f"BATCH_MATMUL {adj_x} {adj_y}",
            lambda x, y, a=adj_x, b=adj_y: tf.raw_ops.BatchMatMulV2(x=x, y=y, adj_x=a, adj_y=b),
            ((x, F), (y, F)),
        )


def _reductions() -> Iterator[Case]:
    import tensorflow as tf

    kinds = {
        "SUM": tf.reduce_sum, "MEAN": tf.reduce_mean, "REDUCE_PROD": tf.reduce_prod, "REDUCE_MAX": tf.reduce_max,
        "REDUCE_MIN": tf.reduce_min,
    }  # fmt: skip
    for (name, function), axes, keep in product(kinds.items(), ([0], [-1], [1, 2], [0, 1, 2, 3]), (False, True)):
        yield Case(f"{name} {axes} {keep}", lambda x, f=function, a=axes, k=keep: f(x, a, k), (X4,), 0.5, 1.5)
    for (name, function), dtype in product(kinds.items(), ("int32", "int64")):
        yield Case(f"{name} {dtype}", lambda x, f=function: f(x, 1), (((2, 3, 4), dtype),), 1, 5)


def _counted() -> Iterator[Case]:
    import tensorflow as tf

    for keep in (False, True):
        yield Case(f"REDUCE_ANY {keep}", lambda x, k=keep: tf.reduce_any(x, 1, k), (((4, 3), "bool"),))
        yield Case(f"REDUCE_ALL {keep}", lambda x, k=keep: tf.reduce_all(x, [0, 1], k), (((4, 3), "bool"),))
    for axis, kind in product((0, -1), (tf.int32, tf.int64)):
        yield Case(f"ARG_MAX {axis} {kind.name}", lambda x, a=axis, t=kind: tf.argmax(x, a, t), (((4, 5), F),))
        yield Case(f"ARG_MIN {axis} {kind.name}", lambda x, a=axis, t=kind: tf.argmin(x, a, t), (((4, 5), F),))
    for exclusive, reverse, dtype in product((False, True), (False, True), (F, "int32")):
        yield Case(
            f"CUMSUM {exclusive} {reverse} {dtype}",
            lambda x, e=exclusive, r=reverse: tf.cumsum(x, 1, exclusive=e, reverse=r),
            (((2, 4, 3), dtype),),
        )
    yield Case("TOPK_V2", lambda x: tf.math.top_k(x, 3), (((4, 6), F),))
    yield Case("TOPK_V2 int32", lambda x: tf.math.top_k(x, 2), (((4, 6), "int32"),), -99, 99)
    yield Case("UNIQUE", tf.unique, (((12,), F),), feeds=(np.float32([3, 1, 3, 2, 1, 5, 5, 0, 3, 2, 9, 1]),))
    yield Case("WHERE", tf.where, (((3, 4), "bool"),))
    yield Case("WHERE open", tf.where, (((None, 4), "bool"),))
    ids = np.array([0, 0, 1, 2, 2, 3], np.int32)
    rows = np.random.default_rng(3).standard_normal((6, 2, 3)).astype(np.float32)
    both = (((6, 2, 3), F), ((6,), "int32"))
    yield Case("SEGMENT_SUM", tf.math.segment_sum, both, feeds=(rows, ids))
    mixed = np.array([4, 0, -1, 0, 2, 2], np.int32)
    for name in ("sum", "prod", "max", "min"):
        function = getattr(tf.math, f"unsorted_segment_{name}")
        yield Case(f"UNSORTED_SEGMENT_{name.upper()}", lambda x, i, f=function: f(x, i, 6), both, feeds=(rows, mixed))


def _shapes() -> Iterator[Case]:
    import tensorflow as tf

    x3 = ((2, 3, 4), F)
    yield Case("RESHAPE", lambda x: tf.reshape(x, (4, -1)), (x3,))
    yield Case("RESHAPE open", lambda x: tf.reshape(x, (tf.shape(x)[0], 12)), (((None, 3, 4), F),))
    yield Case(
        "RESHAPE at run time",
        tf.reshape,
        (x3, ((2,), "int32")),
        feeds=(np.ones((2, 3, 4), np.float32), np.int32([4, 6])),
    )
    for perm in ((1, 0, 2), (2, 1, 0), (0, 2, 1)):
        yield Case(f"TRANSPOSE {perm}", lambda x, p=perm: tf.transpose(x, p), (x3,))
    for perm in ((0, 3, 1, 2), (0, 2, 3, 1), (3, 2, 1, 0), (0, 2, 1, 3)):
        yield Case(f"TRANSPOSE {perm}", lambda x, p=perm: tf.transpose(x, p) * 2.0, (X4,))
    yield Case("EXPAND_DIMS", lambda x: tf.expand_dims(x, 1), (((None, 3), F),))
    for axis in (0, 1, -1):
        yield Case(f"CONCATENATION {axis}", lambda x, y, a=axis: tf.concat([x, y, x], a), (x3, x3))
        yield Case(f"PACK {axis}", lambda x, y, a=axis: tf.stack([x, y], a), (x3, x3))
        yield Case(f"UNPACK {axis}", lambda x, a=axis: tf.unstack(x, axis=a), (x3,))
    yield Case("SPLIT", lambda x: tf.split(x, 2, 2), (x3,))
    yield Case("SPLIT_V", lambda x: tf.split(x, [1, 3, 2], 1), (((2, 6), F),))
    around = [[0, 1], [2, 0], [1, 3]]
    yield Case("PAD", lambda x: tf.pad(x, around), (x3,))
    yield Case("PADV2", lambda x: tf.pad(x, around, constant_values=7.0), (x3,))
    yield Case("PAD int32", lambda x: tf.pad(x, around), (((2, 3, 4), "int32"),))
    yield Case(
        "PAD at run time", tf.pad, (x3, ((3, 2), "int32")), feeds=(np.ones((2, 3, 4), np.float32), np.int32(around))
    )
    yield Case("MIRROR_PAD REFLECT", lambda x: tf.pad(x, [[1, 0], [2, 1], [0, 3]], "REFLECT"), (x3,))
    yield Case("MIRROR_PAD SYMMETRIC", lambda x: tf.pad(x, [[1, 2], [2, 1], [0, 3]], "SYMMETRIC"), (x3,))
    yield Case("SPACE_TO_DEPTH", lambda x: tf.nn.space_to_depth(x, 2), (((2, 4, 6, 3), F),))
    yield Case("DEPTH_TO_SPACE", lambda x: tf.nn.depth_to_space(x, 2), (((2, 4, 3, 8), F),))
    yield Case("SPACE_TO_BATCH_ND", lambda x: tf.space_to_batch(x, [2, 3], [[1, 0], [1, 2]]), (((2, 5, 6, 2), F),))
    yield Case(
        "SPACE_TO_BATCH_ND open", lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), (((None, 4, 6, 2), F),)
    )
    yield Case("BATCH_TO_SPACE_ND", lambda x: tf.batch_to_space(x, [2, 3], [[1, 0], [0, 2]]), (((12, 3, 4, 2), F),))
    yield Case("REVERSE_V2", lambda x: tf.reverse(x, [1]), (x3,))
    yield Case("REVERSE_V2 last", lambda x: tf.reverse(x, [-1]), (x3,))
    lengths = np.int32([2, 3])
    for seq, batch, shape in ((1, 0, (2, 3, 4)), (0, 1, (3, 2, 4)), (2, 0, (2, 4, 3)), (2, 1, (4, 2, 3))):
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        yield Case(
            f"REVERSE_SEQUENCE {seq} {batch}",
            lambda x, n, s=seq, b=batch: tf.reverse_sequence(x, n, s, b),
            ((shape, F), ((2,), "int32")),
            feeds=(values, lengths),
        )
    yield Case("TILE", lambda x: tf.tile(x, [2, 1, 3]), (x3,))
    yield Case("BROADCAST_TO", lambda x: tf.broadcast_to(x, [5, 2, 3, 4]), (x3,))
    yield Case(
        "BROADCAST_ARGS",
        tf.broadcast_dynamic_shape,
        (((2,), "int32"), ((3,), "int32")),
        feeds=(np.int32([3, 1]), np.int32([2, 1, 4])),
    )
    yield Case("FILL", tf.fill, (((2,), "int32"), ((), F)), feeds=(np.int32([2, 3]), np.float32(1.5)))
    yield Case("RANGE", tf.range, (((), "int32"),) * 3, feeds=(np.int32(1), np.int32(11), np.int32(3)))
    yield Case("RANGE float", tf.range, (((), F),) * 3, feeds=(np.float32(1), np.float32(3), np.float32(0.25)))
    yield Case("ADD_N", lambda x, y, z: tf.add_n([x, y, z]), (x3, x3, x3))
    yield Case("SELECT_V2", tf.where, (((2, 3, 4), "bool"), x3, ((4,), F)))
    yield Case("SELECT rows", lambda c, x, y: tf.raw_ops.Select(condition=c, x=x, y=y), (((2,), "bool"), x3, x3))
    yield Case("SELECT", lambda c, x, y: tf.raw_ops.Select(condition=c, x=x, y=y), (((2, 3, 4), "bool"), x3, x3))
    yield Case("MATRIX_DIAG", tf.linalg.diag, (((2, 3), F),))
    yield Case("MATRIX_SET_DIAG", tf.linalg.set_diag, (x3, ((2, 3), F)))


def _slices() -> Iterator[Case]:
    import tensorflow as tf

    x4 = ((4, 5, 6, 3), F)
    some: dict[str, Callable[[Any], Any]] = {
        "plain": lambda x: x[1:3, 2:, :4], "strides": lambda x: x[::2, 1::3, ::-1], "negative": lambda x: x[-3:-1, :-2],
        "shrink": lambda x: x[1, :, -2], "new axis": lambda x: x[:, None, 1:3], "ellipsis": lambda x: x[1, ..., 0],
        "ellipsis and new": lambda x: x[..., None, 1:], "new and shrink": lambda x: x[None, 2, ..., None, 1],
        "backwards": lambda x: x[3:0:-2, ::-1, -1:-5:-2], "ellipsis first": lambda x: x[..., -1],
        "out of range": lambda x: x[-9:9, 3:99], "two new": lambda x: x[None, :, None, 1],
    }  # fmt: skip
    for name, function in some.items():
        yield Case(f"STRIDED_SLICE {name}", function, (x4,))
    yield Case("STRIDED_SLICE open", lambda x: x[:, -1], (((None, None, 3), F),))
    yield Case("STRIDED_SLICE int32", lambda x: x[1:, ::2], (((4, 5), "int32"),))
    yield Case(
        "STRIDED_SLICE at run time", lambda x, b: x[b : b + 2, 1], (((6, 3), F), ((), "int32")),
        feeds=(np.arange(18, dtype=np.float32).reshape(6, 3), np.int32(3)),
    )  # fmt: skip
    yield Case(
        "STRIDED_SLICE index at run time", lambda x, b: x[b], (((6, 3), F), ((), "int32")),
        feeds=(np.arange(18, dtype=np.float32).reshape(6, 3), np.int32(-1)),
    )  # fmt: skip
    yield Case("SLICE", lambda x: tf.slice(x, [1, 0, 2, 1], [2, -1, 3, 1]), (x4,))
    yield Case(
        "SLICE at run time", tf.slice, (((4, 5), F), ((2,), "int32"), ((2,), "int32")),
        feeds=(np.arange(20, dtype=np.float32).reshape(4, 5), np.int32([1, 2]), np.int32([-1, 2])),
    )  # fmt: skip


def _indices() -> Iterator[Case]:
    import tensorflow as tf

    x4 = ((4, 5, 6, 3), F)
    for axis, shape in product((0, 1, -1), ((2,), (2, 2), ())):
        yield Case(f"GATHER {axis} {shape}", lambda x, i, a=axis: tf.gather(x, i, axis=a), (x4, (shape, "int32")), 0, 2)
    for axis, batch, shape in (
        (1, 1, (4, 2)),
        (2, 1, (4, 2)),
        (3, 1, (4,)),
        (2, 2, (4, 5, 2)),
        (3, 2, (4, 5, 2, 2)),
        (2, 1, (4, 2, 3)),
    ):
        yield Case(
            f"GATHER {axis} batch {batch} {shape}",
            lambda x, i, a=axis, b=batch: tf.gather(x, i, axis=a, batch_dims=b),
            (x4, (shape, "int32")), 0, 2,
        )  # fmt: skip
    for shape in ((3, 1), (2, 3), (2, 2, 4)):
        yield Case(f"GATHER_ND {shape}", tf.gather_nd, (x4, (shape, "int32")), 0, 2)
    places = np.int32([[1], [3], [1]])
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    yield Case(
        "SCATTER_ND", lambda i, u: tf.scatter_nd(i, u, [5, 4]), (((3, 1), "int32"), ((3, 4), F)), feeds=(places, rows)
    )
    yield Case(
        "SPARSE_TO_DENSE",
        lambda i, v: tf.raw_ops.SparseToDense(
            sparse_indices=i, output_shape=[4, 5], sparse_values=v, default_value=-1.0
        ),
        (((3, 2), "int32"), ((3,), F)), feeds=(np.int32([[0, 1], [2, 3], [3, 0]]), np.float32([5, 6, 7])),
    )  # fmt: skip
    for axis, dtype in product((-1, 0, 1), (tf.float32, tf.int32)):
        yield Case(
            f"ONE_HOT {axis} {dtype.name}",
            lambda i, a=axis, t=dtype: tf.one_hot(i, 5, axis=a, dtype=t),
            (((3, 4), "int32"),),
            -1,
            6,
        )
    boxes = np.float32([[0, 0, 2, 2], [0, 0.1, 2, 2.1], [3, 3, 5, 5], [0, 0, 1, 1], [3, 3.1, 5, 5]])
    scores = np.float32([0.9, 0.8, 0.7, 0.6, 0.95])
    specs = (((5, 4), F), ((5,), F))
    yield Case(
        "NON_MAX_SUPPRESSION_V5",
        lambda b, s: tf.raw_ops.NonMaxSuppressionV5(
            boxes=b, scores=s, max_output_size=4, iou_threshold=0.5, score_threshold=0.1, soft_nms_sigma=0.0,
            pad_to_max_output_size=True,
        ),
        specs, feeds=(boxes, scores),
    )  # fmt: skip


_SMALL = (_unary, _open_transposed, _counted, _integers, _products, _shapes, _slices, _indices, _volumes, _resizes)
_LARGE = (_convolutions, _transposed, _pools, _binary, _reductions)
