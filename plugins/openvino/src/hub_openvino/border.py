"""Names, types and sizes of a model's inputs and outputs as OpenVINO holds them, the same for reader and runtime.

A tensor of OpenVINO may have several names or none. The name that is taken is the layer's own where that is one of
them (hub's converters make it so), else the first by alphabet that is still free, else the layer's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from hub.spec import Dim, DType, Signature, TensorSpec

if TYPE_CHECKING:
    import openvino

SYMBOLS = ("hub", "symbols")
"""Where a file written by hub says what its open dimensions are called: JSON, one list of words per input."""

DTYPES = {
    "f64": DType.FLOAT64, "f32": DType.FLOAT32, "f16": DType.FLOAT16, "bf16": DType.BFLOAT16,
    "i64": DType.INT64, "i32": DType.INT32, "i16": DType.INT16, "i8": DType.INT8, "i4": DType.INT4,
    "u64": DType.UINT64, "u32": DType.UINT32, "u16": DType.UINT16, "u8": DType.UINT8,
    "boolean": DType.BOOL, "string": DType.STRING,
}  # fmt: skip
TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""Hub's dtype -> OpenVINO's name of it."""

_SINK = "/sink_port_"


def input_names(model: openvino.Model) -> list[str]:
    """One name for each input, in order."""
    return _names((port.names, port.node.friendly_name) for port in model.inputs)


def output_names(model: openvino.Model) -> list[str]:
    """One name for each output, in order."""
    return _names((port.names, port.node.friendly_name.split(_SINK)[0]) for port in model.outputs)


def _names(ports: Iterable[tuple[set[str], str]]) -> list[str]:
    given: list[str] = []
    for names, own in ports:
        candidates = [own] if own in names else []
        candidates += [*sorted(names), own, *(f"{own}_{number}" for number in range(1, len(given) + 2))]
        given.append(next(name for name in candidates if name and name not in given))
    return given


def signature_of(model: openvino.Model) -> Signature:
    """Inputs and outputs of a read model."""
    symbols = stored_symbols(model)
    inputs = zip(input_names(model), model.inputs, symbols, strict=True)
    outputs = zip(output_names(model), model.outputs, strict=True)
    return Signature(
        inputs=tuple(_spec(name, port, words) for name, port, words in inputs),
        outputs=tuple(_spec(name, port, ()) for name, port in outputs),
    )


def stored_symbols(model: openvino.Model) -> list[Sequence[str]]:
    """What each input's dimensions are called; empty lists where the file does not say."""
    known: list[Sequence[str]] = []
    if model.has_rt_info(list(SYMBOLS)):
        with contextlib.suppress(ValueError, TypeError):
            known = list(json.loads(model.get_rt_info(list(SYMBOLS)).astype(str)))
    return known if len(known) == len(model.inputs) else [() for _ in model.inputs]


def store_symbols(model: openvino.Model, specs: Sequence[TensorSpec]) -> None:
    """Write down what the dimensions of each input are called: an IR keeps bounds only."""
    model.set_rt_info(json.dumps([[str(dim) for dim in spec.shape] for spec in specs]), list(SYMBOLS))


def _spec(name: str, port: openvino.Output, words: Sequence[str]) -> TensorSpec:
    return TensorSpec(
        name=name,
        dtype=DTYPES.get(port.element_type.get_type_name(), DType.UNKNOWN),
        shape=tuple(_dims(name, port.partial_shape, words)),
        layout=layout_of(port.node),
    )


def _dims(name: str, shape: openvino.PartialShape, words: Sequence[str]) -> Iterator[Dim]:
    if shape.rank.is_dynamic:
        yield Dim.of(f"{name}_rank")
        return
    fitting = words if len(words) == len(shape) else [""] * len(shape)
    for axis, (dim, word) in enumerate(zip(shape, fitting, strict=True)):
        if dim.is_static:
            yield Dim(size=dim.get_length())
        else:
            symbol = word if word and not word.isdigit() else f"{name}_{axis}"
            low, high = dim.get_min_length(), dim.get_max_length()
            yield Dim(symbol=symbol, low=max(low, 1), high=high if high > 0 else None)


def layout_of(node: openvino.Node) -> str:
    """A layout such as NCHW, where the model says one for every dimension; else empty."""
    word = str(getattr(node, "layout", "") or "").strip("[]").replace(",", "")
    return word if word.isalpha() else ""
