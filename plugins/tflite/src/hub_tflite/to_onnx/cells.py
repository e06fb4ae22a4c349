"""Recurrent layers: ONNX's LSTM and RNN where they say the same, else a Scan over one step.

TFLite's gates are i, f, c, o; ONNX's order is i, o, f, c. A coupled gate is i = 1 - f in TFLite, which ONNX has as a
gate of its own with the weights of f negated: 1 - sigmoid(z) = sigmoid(-z). State starts at zero in each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub_onnxgraph.errors import Refused, refuse_if
from hub_tflite.to_onnx import quantized
from hub_tflite.to_onnx.builder import OnnxBuilder
from hub_tflite.to_onnx.lazy import ir, np

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.builder import Array, Attribute
    from hub_tflite.to_onnx.node import TfliteNode
    from hub_tflitefile.tables import TensorT

_ACTIVATIONS = {1: "Relu", 4: "Tanh"}
"""`ActivationFunctionType` -> ONNX's word inside a recurrent operator. For NONE, LiteRT's LSTM writes no output."""
_NORM_EPSILON = 1e-8
"""Of LiteRT's layer normalisation in an LSTM (`kLayerNormEpsilon`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lstm:
    """One direction. Gates are in TFLite's order i, f, c, o; i is None where it is coupled to f.

    Attributes:
        inner: Input weights (units, inputs).
        recurrent: Weights (units, outputs).
        peephole: Vectors of i, f, o, None where there are none.
        bias: Vectors.
        norm: Coefficients of layer normalisation, None where there are none.
        projection: Weights (outputs, units) and bias.
        state: Output and cell before the first step.
        activation: `ActivationFunctionType` of the cell's input and output.
        cell_clip: Largest cell value; 0 for none.
        projection_clip: Largest projected value; 0 for none.
    """

    inner: Sequence[Value | None]
    recurrent: Sequence[Value | None]
    peephole: Sequence[Value | None]
    bias: Sequence[Value | None]
    norm: Sequence[Value | None]
    projection: tuple[Value | None, Value | None]
    state: tuple[Value, Value]
    activation: int
    cell_clip: float
    projection_clip: float

    @property
    def is_plain(self) -> bool:
        """Whether ONNX's LSTM computes the same."""
        extras = [*self.norm, *self.projection]
        clipped = self.cell_clip > 0 or self.projection_clip > 0
        return not clipped and self.activation in _ACTIVATIONS and not any(value is not None for value in extras)


def over_time(
    node: TfliteNode, x: Value, cell: Lstm, *, reverse: bool = False, rounding: TensorT | None = None
) -> tuple[Value, ...]:
    """Run an LSTM over x [time, batch, inputs].

    Args:
        node: The operator.
        x: The sequence.
        cell: The weights.
        reverse: From the last step to the first.
        rounding: The file's record of the output where it is quantized: each step's output is rounded to its grid.

    Returns:
        Outputs [time, batch, outputs], and the last output and cell.
    """
    if cell.is_plain and rounding is None:
        return _lstm(node, x, cell, reverse=reverse)
    return _scan(node, x, cell, reverse=reverse, rounding=rounding)


def _lstm(node: TfliteNode, x: Value, cell: Lstm, *, reverse: bool) -> tuple[Value, ...]:
    word = _ACTIVATIONS[cell.activation]
    (units,) = node.sizes(present(cell.inner[1]), (0,))
    bias = _row(node, [*_ordered(node, cell.bias), np.zeros(4 * units, np.float32)])
    outputs, last, state = node.emits(
        "LSTM", x, _row(node, _ordered(node, cell.inner)), _row(node, _ordered(node, cell.recurrent)), bias, None,
        *(_initial(node, value) for value in cell.state), _peepholes(node, cell.peephole),
        outputs=3, hidden_size=units, direction="reverse" if reverse else "forward",
        activations=["Sigmoid", word, word],
    )  # fmt: skip
    axes = node.constant([0])
    return _without_direction(node, outputs), node.emit("Squeeze", last, axes), node.emit("Squeeze", state, axes)


def _without_direction(node: TfliteNode, outputs: Value) -> Value:
    """Drop the axis of directions: [time, 1, batch, units]."""
    return node.emit("Squeeze", outputs, node.constant([1]))


def _initial(node: TfliteNode, state: Value) -> Value | None:
    """A state as [1, batch, units]; zeros are ONNX's default."""
    array = node.known(state)
    if array is not None and not array.any():
        return None
    return node.emit("Unsqueeze", state, node.constant([0]))


def present(value: Value | None, what: str = "weights of a gate") -> Value:
    """Return an input that the operator cannot be without."""
    if value is None:
        raise Refused(f"{what} are absent")
    return value


def _ordered(node: TfliteNode, gates: Sequence[Value | None]) -> list[Value]:
    """Bring gates into ONNX's order i, o, f, c; a coupled one is the negative of f."""
    i, f, c, o = gates
    return [
        _negative(node, present(f)) if i is None else i,
        present(o),
        present(f),
        present(c),
    ]


def _negative(node: TfliteNode, value: Value) -> Value:
    array = node.known(value)
    return node.emit("Neg", value) if array is None else node.constant(-array)


def _row(node: TfliteNode, parts: Sequence[Value | Array]) -> Value:
    """Concatenate along the first axis, behind an axis of directions; constants at once."""
    arrays = [part if isinstance(part, np.ndarray) else node.known(part) for part in parts]
    known = [array for array in arrays if array is not None]
    if len(known) == len(parts):
        return node.constant(np.concatenate(known)[None])
    values = [node.constant(part) if isinstance(part, np.ndarray) else part for part in parts]
    return node.emit("Unsqueeze", node.emit("Concat", *values, axis=0), node.constant([0]))


def _peepholes(node: TfliteNode, gates: Sequence[Value | None]) -> Value | None:
    i, f, o = gates
    if f is None:
        return None
    return _row(node, [_negative(node, f) if i is None else i, present(o), f])


def rnn(
    node: TfliteNode, x: Value, weights: Sequence[Value], activation: int, *, reverse: bool = False
) -> tuple[Value, Value]:
    """Run a plain recurrence over x [time, batch, inputs]; weights are W, R, bias, state.

    Returns:
        Outputs [time, batch, units], and the last one.
    """
    refuse_if(activation not in _ACTIVATIONS, f"the activation number {activation} in a recurrence")
    word = _ACTIVATIONS[activation]
    w, r, bias, state = weights
    (units,) = node.sizes(w, (0,))
    outputs, last = node.emits(
        "RNN", x, _row(node, [w]), _row(node, [r]), _row(node, [bias, np.zeros(units, np.float32)]), None,
        _initial(node, state), outputs=2, hidden_size=units, activations=[word],
        direction="reverse" if reverse else "forward",
    )  # fmt: skip
    return _without_direction(node, outputs), node.emit("Squeeze", last, node.constant([0]))


def _scan(node: TfliteNode, x: Value, cell: Lstm, *, reverse: bool, rounding: TensorT | None) -> tuple[Value, ...]:
    """Write a Scan with one step as its body; integers go in where the sequence has them."""
    integers = quantized.integers_of(x) if rounding is not None else x
    inner = OnnxBuilder(node.scope.builder)
    sequence = node.shape(x)
    now = inner.value("step_x", integers.dtype, sequence[1:])
    before = [inner.value(name, ir.DataType.FLOAT, value.shape) for name, value in zip("hc", cell.state, strict=True)]
    real = quantized.like(inner, x, now) if integers is not x else now
    step = _LstmStep(node, inner, cell, rounding)
    output, state = step.run(real, before[0], before[1])
    copies = [inner.emit("Identity", [value])[0] for value in (output, state, output)]
    graph = inner.graph([*before, now], copies, "step", body=True)
    h, c, outputs = node.emits(
        "Scan", *cell.state, integers, outputs=3, body=graph, num_scan_inputs=1,
        scan_input_directions=[int(reverse)], scan_output_directions=[int(reverse)],
    )  # fmt: skip
    return outputs, h, c


class _LstmStep:
    """One step of an LSTM, written into a body."""

    def __init__(self, node: TfliteNode, inner: OnnxBuilder, cell: Lstm, rounding: TensorT | None) -> None:
        self._node = node
        self._inner = inner
        self._cell = cell
        self._rounding = rounding

    def _emit(self, op: str, *inputs: Value, **attributes: Attribute) -> Value:
        return self._inner.emit(op, inputs, attributes)[0]

    def run(self, x: Value, h: Value, c: Value) -> tuple[Value, Value]:
        """Return the output and the cell of this step."""
        cell = self._cell
        h = self._rounded(h)
        f = self._emit("Sigmoid", self._gate(1, x, h, c))
        one = self._node.constant(np.float32(1))
        i = self._emit("Sub", one, f) if cell.inner[0] is None else self._emit("Sigmoid", self._gate(0, x, h, c))
        g = self._activated(self._gate(2, x, h, None))
        state = self._emit("Add", self._emit("Mul", f, c), self._emit("Mul", i, g))
        state = self._clipped(state, cell.cell_clip)
        o = self._emit("Sigmoid", self._gate(3, x, h, state))
        output = self._projected(self._emit("Mul", o, self._activated(state)))
        return self._rounded(output), state

    def _rounded(self, value: Value) -> Value:
        if self._rounding is None:
            return value
        return quantized.requantized(self._inner, self._rounding, value, self._node.shape(self._cell.state[0]))

    def _gate(self, gate: int, x: Value, h: Value, c: Value | None) -> Value:
        cell, transpose = self._cell, self._node.transpose
        total = self._emit("MatMul", x, transpose(present(cell.inner[gate]), (1, 0)))
        total = self._emit("Add", total, self._emit("MatMul", h, transpose(present(cell.recurrent[gate]), (1, 0))))
        view = None if c is None else cell.peephole[min(gate, 2)]
        if view is not None and c is not None:
            total = self._emit("Add", total, self._emit("Mul", c, view))
        coefficients = cell.norm[gate]
        total = (
            total
            if coefficients is None
            else self._emit("LayerNormalization", total, coefficients, axis=-1, epsilon=_NORM_EPSILON)
        )
        bias = cell.bias[gate]
        return total if bias is None else self._emit("Add", total, bias)

    def _activated(self, value: Value) -> Value:
        number = self._cell.activation
        refuse_if(number not in {3, *_ACTIVATIONS}, f"the activation number {number} in a recurrence")
        if number == 3:  # noqa: PLR2004 - RELU6
            return self._emit("Clip", value, self._node.constant(np.float32(0)), self._node.constant(np.float32(6)))
        return self._emit(_ACTIVATIONS[number], value)

    def _clipped(self, value: Value, largest: float) -> Value:
        if largest <= 0:
            return value
        low, high = (self._node.constant(np.float32(edge)) for edge in (-largest, largest))
        return self._emit("Clip", value, low, high)

    def _projected(self, value: Value) -> Value:
        weights, bias = self._cell.projection
        if weights is None:
            return value
        total = self._emit("MatMul", value, self._node.transpose(weights, (1, 0)))
        total = total if bias is None else self._emit("Add", total, bias)
        return self._clipped(total, self._cell.projection_clip)
