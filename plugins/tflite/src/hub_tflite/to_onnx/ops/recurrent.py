"""Recurrent layers. Their state starts at zero in each run, as hub's LiteRT runtime resets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx import cells, quantized
from hub_tflite.to_onnx.activation import activate
from hub_tflite.to_onnx.cells import present
from hub_tflite.to_onnx.lazy import ir
from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode

_TIME_FIRST = (1, 0, 2)  # ONNX's recurrent operators have time first, TFLite's the batch
_FULL, _BASIC = 0, 1
"""`LSTMKernelType` of the schema."""
_Given = Sequence["Value | None"]


def _cell(given: _Given, state: tuple[Value, Value], settings: tuple[int, float, float]) -> cells.Lstm:
    """Make a direction of the inputs from the first weight on: weights, peepholes, biases, projection, norm."""
    return cells.Lstm(
        inner=given[0:4], recurrent=given[4:8], peephole=given[8:11], bias=given[11:15],
        projection=(given[15], given[16]), norm=given[17:21] or (None,) * 4, state=state,
        activation=settings[0], cell_clip=settings[1], projection_clip=settings[2],
    )  # fmt: skip


def _with_bias(node: TfliteNode, given: list[Value | None]) -> list[Value | None]:
    """Let absent biases be zeros; a coupled gate has none."""
    units = node.shape(present(given[1], "weights of the forget gate"))[0] or 0
    zeros = node.constant([0.0] * units, ir.DataType.FLOAT)
    made = list(given)
    for gate in range(4):
        if made[11 + gate] is None:
            made[11 + gate] = zeros if given[gate] is not None or not gate else None
    if given[0] is None:
        made[11] = None
    return made


def _time_first(node: TfliteNode, x: Value, *, time_major: bool) -> Value:
    return x if time_major else node.transpose(x, _TIME_FIRST)


def _noted(node: TfliteNode) -> None:
    said = f"{node.name} keeps state between calls in LiteRT; here it starts at zero in each run"
    node.note(Remark("note", "state-starts-at-zero", said))


@op("UNIDIRECTIONAL_SEQUENCE_LSTM", 4)
def sequence_lstm(
    node: TfliteNode,
    x: Value,
    *given: Value | None,
    fused_activation_function: int,
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
    time_major: bool = False,
) -> Value:
    """An LSTM over time."""
    refuse_if(len(given) not in {19, 23}, f"{len(given) + 1} inputs")
    weights = _with_bias(node, [*given[:17], *given[19:]])
    state = present(given[17], "states"), present(given[18], "states")
    cell = _cell(weights, state, (fused_activation_function, cell_clip, proj_clip))
    rounding = node.result() if quantized.is_quantized(node.result()) else None
    sequence = _time_first(node, x, time_major=time_major)
    outputs, h, c = cells.over_time(node, sequence, cell, rounding=rounding)
    node.keep(18, h)
    node.keep(19, c)
    _noted(node)
    return outputs if time_major else node.transpose(outputs, _TIME_FIRST)


@op("LSTM", 4)
def lstm(
    node: TfliteNode,
    x: Value,
    *given: Value | None,
    fused_activation_function: int,
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
    kernel_type: int = _FULL,
) -> Value | tuple[Value, ...]:
    """One step of an LSTM, x [batch, inputs]."""
    refuse_if(kernel_type not in {_FULL, _BASIC}, f"kernel type {kernel_type}")
    if kernel_type == _BASIC:
        refuse_if(cell_clip or proj_clip, "clipping in the basic kernel")
        return _basic(node, x, given)
    refuse_if(len(given) not in {19, 23}, f"{len(given) + 1} inputs")
    weights = _with_bias(node, [*given[:17], *given[19:]])
    state = present(given[17], "states"), present(given[18], "states")
    cell = _cell(weights, state, (fused_activation_function, cell_clip, proj_clip))
    rounding = node.result() if quantized.is_quantized(node.result()) else None
    size = [1, *(dim or -1 for dim in node.shape(x))]
    _, h, c = cells.over_time(node, node.reshape(x, size), cell, rounding=rounding)
    node.keep(18, h)
    node.keep(19, c)
    _noted(node)
    return h


def _basic(node: TfliteNode, x: Value, given: _Given) -> tuple[Value, ...]:
    """The kernel with one matrix for all gates, in the order i, c, f, o, and its state as inputs and outputs."""
    refuse_if(len(given) != 4, f"{len(given) + 1} inputs of the basic kernel")  # noqa: PLR2004 - h, weights, bias, c
    h, w, bias, c = (present(value, "inputs") for value in given)
    joined = node.emit("Concat", x, h, axis=-1)
    gates = node.emit("Gemm", joined, w, bias, transB=1)
    i, g, f, o = node.emits("Split", gates, outputs=4, axis=-1, num_outputs=4)
    kept, new = node.emit("Mul", node.emit("Sigmoid", f), c), node.emit("Tanh", g)
    state = node.emit("Add", kept, node.emit("Mul", node.emit("Sigmoid", i), new))
    output = node.emit("Mul", node.emit("Sigmoid", o), node.emit("Tanh", state))
    node.keep(1, output)
    node.keep(4, state)
    _noted(node)
    return output, state, joined, gates


@op("BIDIRECTIONAL_SEQUENCE_LSTM", 3)
def bidirectional_lstm(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode,
    x: Value,
    *given: Value | None,
    fused_activation_function: int,
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
    merge_outputs: bool = False,
    time_major: bool = True,
) -> Value | tuple[Value, ...]:
    """An LSTM in each direction of time; the outputs side by side or one behind the other."""
    refuse_if(len(given) != 47, f"{len(given) + 1} inputs")  # noqa: PLR2004 - of the kernel
    refuse_if(any(value is not None for value in given[38:]), "an auxiliary input")
    settings = (fused_activation_function, cell_clip, proj_clip)
    sequence = _time_first(node, x, time_major=time_major)
    results = []
    for backward, (first, state) in enumerate(((0, 34), (17, 36))):
        pair = present(given[state], "states"), present(given[state + 1], "states")
        cell = _cell(_with_bias(node, list(given[first : first + 17])), pair, settings)
        outputs, h, c = cells.over_time(node, sequence, cell, reverse=bool(backward))
        node.keep(state + 1, h)
        node.keep(state + 2, c)
        results.append(outputs if time_major else node.transpose(outputs, _TIME_FIRST))
    _noted(node)
    return node.emit("Concat", *results, axis=-1) if merge_outputs else tuple(results)


@op("UNIDIRECTIONAL_SEQUENCE_RNN", 3)
def sequence_rnn(  # noqa: PLR0913 - the operator's own operands
    node: TfliteNode,
    x: Value,
    w: Value,
    r: Value,
    bias: Value,
    state: Value,
    *,
    fused_activation_function: int,
    time_major: bool = False,
) -> Value:
    """A recurrence over time."""
    sequence = _time_first(node, x, time_major=time_major)
    outputs, last = cells.rnn(node, sequence, (w, r, bias, state), fused_activation_function)
    node.keep(4, last)
    _noted(node)
    return outputs if time_major else node.transpose(outputs, _TIME_FIRST)


@op("BIDIRECTIONAL_SEQUENCE_RNN", 3)
def bidirectional_rnn(
    node: TfliteNode,
    x: Value,
    *given: Value | None,
    fused_activation_function: int,
    time_major: bool = False,
    merge_outputs: bool = False,
) -> Value | tuple[Value, ...]:
    """A recurrence in each direction of time; the outputs side by side or one behind the other."""
    refuse_if(any(value is not None for value in given[8:]), "an auxiliary input")
    sequence = _time_first(node, x, time_major=time_major)
    results = []
    for backward in (0, 1):
        weights = [present(value, "weights") for value in given[4 * backward : 4 * backward + 4]]
        outputs, last = cells.rnn(node, sequence, weights, fused_activation_function, reverse=bool(backward))
        node.keep(4 * backward + 4, last)
        results.append(outputs if time_major else node.transpose(outputs, _TIME_FIRST))
    _noted(node)
    return node.emit("Concat", *results, axis=-1) if merge_outputs else tuple(results)


@op("RNN", 3)
def rnn(  # noqa: PLR0913 - the operator's own operands
    node: TfliteNode, x: Value, w: Value, r: Value, bias: Value, state: Value, *, fused_activation_function: int
) -> Value:
    """One step of a recurrence, x [batch, inputs]."""
    product = node.emit("Gemm", x, w, bias, transB=1)
    total = node.emit("Add", product, node.emit("MatMul", state, node.transpose(r, (1, 0))))
    made = activate(node, total, fused_activation_function)
    node.keep(4, made)
    _noted(node)
    return made


@op("SVDF", 4)
def svdf(
    node: TfliteNode,
    x: Value,
    features: Value,
    times: Value,
    *given: Value | None,
    rank: int,
    fused_activation_function: int,
) -> Value:
    """A filter over the last inputs, of which only the newest is not zero when each run starts anew."""
    refuse_if(len(given) != 2, f"{len(given) + 3} inputs")  # noqa: PLR2004 - bias and state
    bias, array = given[0], node.known(given[1])
    refuse_if(array is None or array.any(), "a state that another operator has changed")
    filters, memory = node.shape(times)
    refuse_if(filters is None or memory is None or filters % rank, f"{filters} filters of rank {rank}")
    newest = node.emit("MatMul", x, node.transpose(features, (1, 0)))
    weights = node.emit("Slice", times, node.constant([-1]), node.constant([2**31 - 1]), node.constant([1]))
    weighted = node.emit("Mul", newest, node.reshape(weights, (-1,)))
    groups = node.reshape(weighted, (-1, (filters or 0) // rank, rank))
    total = node.emit("ReduceSum", groups, node.constant([-1]), keepdims=0)
    total = total if bias is None else node.emit("Add", total, bias)
    _noted(node)
    return activate(node, total, fused_activation_function)
