"""TFLite files of one operator each that the TensorFlow converter does not write, made field by field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from flatbuffers import flexbuffers

from hub_tflitefile.schema import code_of, new
from plugins.tflite.tests.tflite_graphs import Graph

Array = np.ndarray[Any, Any]
_KINDS = {"float32": "FLOAT32", "int32": "INT32", "int64": "INT64", "bool": "BOOL", "int8": "INT8", "int16": "INT16"}


class Handmade(NamedTuple):
    """One file, and what to run it with."""

    name: str
    model: Any
    feeds: tuple[Array, ...]


def drawn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def single(
    operator: str, operands: list[Any], outputs: list[tuple[tuple[int, ...], str]], options: str = "", **fields: Any
) -> Handmade:
    """One operator. An operand is an array (an input), `("constant", array)`, or -1 for none."""
    made = Graph()
    indices, feeds = [], []
    for place, operand in enumerate(operands):
        if isinstance(operand, tuple):
            indices.append(made.constant(f"c{place}", operand[1], _KINDS[operand[1].dtype.name]))
        elif isinstance(operand, int):
            indices.append(operand)
        else:
            indices.append(made.tensor(f"x{place}", operand.shape, _KINDS[operand.dtype.name]))
            feeds.append(operand)
    results = [made.tensor(f"y{i}", shape, kind) for i, (shape, kind) in enumerate(outputs)]
    version = fields.pop("version", 1)
    second = fields.pop("second", False)
    made.add(operator, indices, results, "" if second else options, **({} if second else fields))
    made.codes[-1].version = version
    if second:
        made.operators[-1].builtinOptions2Type = code_of("BuiltinOptions2", options)
        made.operators[-1].builtinOptions2 = new(f"{options}T", **fields)
    inputs = [i for i, operand in zip(indices, operands, strict=True) if not isinstance(operand, tuple | int)]
    label = " ".join([operator, *(f"{name}={value}" for name, value in fields.items() if np.isscalar(value))])
    return Handmade(label, made.model(inputs, results), tuple(feeds))


def constant(values: Any, dtype: Any = np.int32) -> tuple[str, Array]:
    return "constant", np.asarray(values, dtype)


def good() -> Iterator[Handmade]:
    """Files that have an ONNX form."""
    x = drawn(2, 3, 4)
    same = [((2, 3, 4), "FLOAT32")]
    yield single("RELU_0_TO_1", [x], same)
    yield single("PRELU", [x, constant(drawn(1, 4), np.float32)], same)
    yield single("RANK", [x], [((), "INT32")])
    yield single("SQUEEZE", [drawn(2, 1, 3, 1)], [((2, 3), "FLOAT32")], "SqueezeOptions", squeezeDims=[1, -1])
    yield single("SQUEEZE", [drawn(1, 2, 1, 3)], [((2, 3), "FLOAT32")], "SqueezeOptions", squeezeDims=[])
    yield single("EMBEDDING_LOOKUP", [np.int32([3, 0, 3]), constant(drawn(5, 4), np.float32)], [((3, 4), "FLOAT32")])
    yield single("BITCAST", [x], same)
    for activation in range(4):
        yield single("ADD", [x, x * 2], same, "AddOptions", fusedActivationFunction=activation)
    for stride, padding in ((1, 0), (2, 0), (2, 1)):
        size = {(1, 0): (5, 6), (2, 0): (3, 3), (2, 1): (2, 3)}[stride, padding]
        yield single(
            "L2_POOL_2D", [drawn(2, 5, 6, 3)], [((2, *size, 3), "FLOAT32")], "Pool2DOptions",
            padding=padding, strideW=stride, strideH=stride, filterWidth=2, filterHeight=2,
        )  # fmt: skip
    yield from _products()
    yield from _updates()
    yield from _stablehlo()


def _products() -> Iterator[Handmade]:
    w, bias = constant(drawn(5, 4), np.float32), constant(drawn(5), np.float32)
    for operands in ([drawn(2, 3, 4), w, bias], [drawn(2, 3, 4), w, -1]):
        kept = [((2, 3, 5), "FLOAT32")]
        yield single("FULLY_CONNECTED", operands, kept, "FullyConnectedOptions", keepNumDims=True, version=5)
        yield single("FULLY_CONNECTED", operands, [((6, 5), "FLOAT32")], "FullyConnectedOptions")
    yield single("FULLY_CONNECTED", [drawn(4), w, bias], [((1, 5), "FLOAT32")], "FullyConnectedOptions")


def _updates() -> Iterator[Handmade]:
    whole, part = drawn(4, 5), drawn(2, 3)
    for start in ([1, 2], [3, 4], [-1, 0]):
        yield single("DYNAMIC_UPDATE_SLICE", [whole, part, np.int32(start)], [((4, 5), "FLOAT32")])
    ends = [constant([2, 2]), constant([1, 1])]
    yield single(
        "STRIDED_SLICE", [whole, constant([1, 2]), *ends], [((2, 2), "FLOAT32")], "StridedSliceOptions",
        offset=True, version=8,
    )  # fmt: skip
    yield single(
        "NON_MAX_SUPPRESSION_V4",
        [
            np.float32([[0, 0, 2, 2], [0, 0.1, 2, 2.1], [3, 3, 5, 5], [0, 0, 1, 1], [3, 3.1, 5, 5]]),
            np.float32([0.9, 0.8, 0.7, 0.6, 0.95]), constant(4), constant(0.5, np.float32), constant(0.1, np.float32),
        ],
        [((4,), "INT32"), ((), "INT32")],
    )  # fmt: skip
    yield densify()


def densify(*, half: bool = False) -> Handmade:
    """A constant in compressed rows, unpacked and added to; with `half` stored in float16."""
    made = Graph()
    full = np.float32([[0, 2, 0, 0], [0, 0, 0, 0], [5, 0, 0, 7]])
    values = np.float32([2, 5, 7])
    stored = made.constant("stored", values.astype(np.float16), "FLOAT16") if half else made.constant("stored", values)
    made.tensors[stored].shape = [3, 4]
    vector = code_of("SparseIndexVector", "Int32Vector")
    made.tensors[stored].sparsity = new(
        "SparsityParametersT",
        traversalOrder=[0, 1],
        dimMetadata=[
            new("DimensionMetadataT", format=0, denseSize=3),
            new(
                "DimensionMetadataT",
                format=1,
                arraySegmentsType=vector,
                arraySegments=new("Int32VectorT", values=[0, 1, 1, 3]),
                arrayIndicesType=vector,
                arrayIndices=new("Int32VectorT", values=[1, 0, 3]),
            ),
        ],
    )
    x, dense, y = made.tensor("x", (3, 4)), made.tensor("dense", (3, 4)), made.tensor("y", (3, 4))
    unpacked = made.tensor("unpacked", (3, 4), "FLOAT16") if half else dense
    made.add("DENSIFY", [stored], [unpacked])
    if half:
        made.add("DEQUANTIZE", [unpacked], [dense], "DequantizeOptions")
    made.add("ADD", [x, dense], [y], "AddOptions")
    return Handmade("DENSIFY", made.model([x], [y]), (full,))


def _stablehlo() -> Iterator[Handmade]:
    a, b = drawn(2, 3), drawn(3, 2).reshape(2, 3)
    for name in ("ADD", "MULTIPLY", "MAXIMUM", "MINIMUM"):
        yield single(f"STABLEHLO_{name}", [a, b], [((2, 3), "FLOAT32")])
    ints = np.int32([[6, 3], [12, 5]]), np.int32([[3, 1], [2, 4]])
    yield single("STABLEHLO_SHIFT_LEFT", list(ints), [((2, 2), "INT32")], "StablehloShiftLeftOptions", second=True)
    yield single("STABLEHLO_AND", [np.array([True, False]), np.array([True, True])], [((2,), "BOOL")])
    yield single(
        "STABLEHLO_PAD", [a, constant(7, np.float32)], [((4, 3), "FLOAT32")], "StablehloPadOptions", second=True,
        edgePaddingLow=[1, -1], edgePaddingHigh=[1, 1], interiorPadding=[0, 0],
    )  # fmt: skip
    yield single(
        "DILATE", [a, constant([3, 2]), constant(9, np.float32)], [((4, 5), "FLOAT32")], "DilateOptions", second=True
    )
    yield composite()


def composite() -> Handmade:
    """A composite of two operators, said by its decomposition."""
    made = Graph()
    x, y = made.tensor("x", (2, 3)), made.tensor("y", (2, 3))
    made.add("STABLEHLO_COMPOSITE", [x], [y])
    made.operators[-1].builtinOptions2Type = code_of("BuiltinOptions2", "StableHLOCompositeOptions")
    made.operators[-1].builtinOptions2 = new(
        "StableHLOCompositeOptionsT",
        name=b"test.relu_exp",
        decompositionSubgraphIndex=1,
        version=1,
        compositeAttributes=list(flexbuffers.Dumps({})),
    )
    model = made.model([x], [y])
    inner = made.inner()
    source, middle, result = (inner.tensor(f"inner{i}", (2, 3)) for i in range(3))
    inner.add("RELU", [source], [middle])
    inner.add("EXP", [middle], [result])
    model.subgraphs.append(
        new("SubGraphT", tensors=inner.tensors, inputs=[source], outputs=[result], operators=inner.operators)
    )
    return Handmade("STABLEHLO_COMPOSITE", model, (drawn(2, 3),))


def _handle() -> Handmade:
    """The name of a variable where numbers are wanted."""
    made = Graph()
    handle, y = made.tensor("v", (), "RESOURCE"), made.tensor("y", (2, 4))
    made.add("VAR_HANDLE", [], [handle], "VarHandleOptions", container=b"", sharedName=b"weights")
    made.add("SQUARE", [handle], [y])
    return Handmade("SQUARE", made.model([], [y]), ())


Refusal = tuple[Callable[[], Handmade], str]


def refused() -> Iterator[Refusal]:
    """Files without an ONNX form, and words of the reason."""
    x, w = drawn(2, 4), constant(drawn(5, 4), np.float32)
    same = [((2, 4), "FLOAT32")]
    yield lambda: single("ADD", [x, x], same, "AddOptions", fusedActivationFunction=5), "SIGN_BIT"
    yield lambda: single("ADD", [x, x], same, "AddOptions", fusedActivationFunction=4), "TANH"
    yield lambda: single("ADD", [x, x], same, "AddOptions", version=99), "version 99"
    yield lambda: single("ADD", [x, x, x], same, "AddOptions"), "3 inputs"
    yield lambda: single("ADD", [x, -1], same, "AddOptions"), "input 1 is absent"
    yield lambda: single("SOFTMAX", [x], same), "beta is missing"
    yield lambda: single("LSH_PROJECTION", [x, x], same), "not implemented"
    yield lambda: single("BITCAST", [x], [((2, 4), "INT32")]), "the bits of"
    yield lambda: single("TRANSPOSE", [x, np.int32([1, 0])], [((4, 2), "FLOAT32")]), "computed at run time"
    yield (
        lambda: single("FULLY_CONNECTED", [x, w, -1], [((2, 5), "FLOAT32")], "FullyConnectedOptions", weightsFormat=1),
        "shuffled",
    )
    yield lambda: single("CALL", [x], same, "CallOptions", subgraph=7), "no subgraph 7"
    yield _handle, "handle of a variable"
    yield (
        lambda: single("EXP", [x], same, "LeakyReluOptions", alpha=0.5),
        "attribute alpha=0.5 is not implemented",
    )
