"""Recurrent networks. Tensors are ONNX's: X [T, B, I], W [D, gates H, I], R [D, gates H, H], B [D, 2 gates H]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
from hub_onnxgraph.recurrence import LSTM_GATES, Recurrence
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.ops.control import scanned
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.sizes import is_int
from hub_pytorch.onnx_importer.values import ints, is_constant

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Network:
    """The inputs of a recurrent operator, gates in torch's order and time in the first axis."""

    x: Tensor
    weights: tuple[Tensor, ...]
    hidden: int
    form: Recurrence

    @property
    def directions(self) -> int:
        """One or two."""
        return self.form.directions

    def initial(self, state: Tensor | None) -> Tensor:
        """The initial state [D, B, H], zero when absent."""
        if state is not None:
            return torch.transpose(state, 0, 1) if self.form.layout else state
        return torch.zeros([self.directions, self.x.shape[1], self.hidden], dtype=self.x.dtype)

    def results(self, y: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Torch's output [T, B, D H] and states [D, B, H] as ONNX has them in the node's layout."""
        y = torch.flip(y, [0]) if self.form.direction == "reverse" else y
        if self.directions == 1:
            whole = torch.unsqueeze(y, 1)
        else:
            split = torch.reshape(y, [y.shape[0], y.shape[1], self.directions, self.hidden])
            whole = torch.permute(split, [0, 2, 1, 3])
        if not self.form.layout:
            return (whole, *states)
        return (torch.permute(whole, [2, 0, 1, 3]), *(torch.transpose(state, 0, 1) for state in states))


def _recurrence(
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None],
    lengths: Tensor | None,
    order: Sequence[int],
    form: Recurrence,
) -> _Network:
    w, r, b = weights
    hidden, directions = form.units(r.shape), form.directions
    x = torch.transpose(x, 0, 1) if form.layout else x
    steps, batch = x.shape[0], x.shape[1]
    full = lengths is None or (is_int(steps) and is_int(batch) and ints(lengths, "sequence_lens") == [steps] * batch)
    refuse_if(not full, "sequence_lens other than the whole length are not implemented")
    arranged = tuple(t for d in range(directions) for t in _direction_weights(w, r, b, d, order))
    source = torch.flip(x, [0]) if form.direction == "reverse" else x
    return _Network(source, arranged, hidden, form)


def _direction_weights(w: Tensor, r: Tensor, b: Tensor | None, d: int, order: Sequence[int]) -> tuple[Tensor, ...]:
    """W, R, input bias and recurrent bias of one direction with its gates in the given order."""
    rows = len(order) * r.shape[2]
    both = torch.zeros(2 * rows, dtype=w.dtype) if b is None else torch.select(b, 0, d)
    parts = (
        torch.select(w, 0, d),
        torch.select(r, 0, d),
        torch.narrow(both, 0, 0, rows),
        torch.narrow(both, 0, rows, rows),
    )
    reordered = tuple(_reorder(part, order) for part in parts)
    alone = w.shape[0] == 1
    for part, source, suffix in zip(reordered, (w, r, b, b), ("", "", "_input", "_recurrent"), strict=True):
        if is_constant(part) and source is not None:
            # it stays a parameter, under that name
            part.weight_of = (source, suffix if alone else f"{suffix}_{d}")  # type: ignore[attr-defined]
    return reordered


def _reorder(rows: Tensor, order: Sequence[int]) -> Tensor:
    size = rows.shape[0] // len(order)
    return torch.cat([torch.narrow(rows, 0, gate * size, size) for gate in order], 0)


_Step = Callable[["Tensor", tuple["Tensor", ...], tuple["Tensor", ...]], tuple["Tensor", ...]]


def _over_time(net: _Network, states: tuple[Tensor, ...], step: _Step) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Torch's scan over a dynamic number of steps: its own recurrent functions are unrolled when they are exported.

    Returns:
        Torch's output [T, B, D H], and the last states [D, B, H].
    """
    runs = []
    for d in range(net.directions):
        source = torch.flip(net.x, [0]) if d else net.x
        first = [torch.select(state, 0, d) for state in states]
        y, last = _one_way(source, first, net.weights[4 * d : 4 * d + 4], step)
        runs.append((torch.flip(y, [0]) if d else y, last))
    finals = tuple(torch.stack(list(column)) for column in zip(*(last for _, last in runs), strict=True))
    return torch.cat([y for y, _ in runs], -1), finals


def _one_way(x: Tensor, states: list[Tensor], weights: tuple[Tensor, ...], step: _Step) -> tuple[Tensor, list[Tensor]]:
    w, r, wb, rb = weights
    gates = functional.linear(x, w, wb)

    def work(now: list[Tensor]) -> list[Tensor]:
        after = step(now[-1], tuple(now[:-1]), (r, rb))
        return [*after, after[0]]

    *last, y = scanned(states, [gates], work, 1)
    return y, last


def _lstm_step(gates: Tensor, states: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h, c), (r, rb) = states, weights
    i, f, g, o = torch.chunk(torch.add(gates, functional.linear(h, r, rb)), 4, -1)
    cell = torch.add(torch.mul(torch.sigmoid(f), c), torch.mul(torch.sigmoid(i), torch.tanh(g)))
    return torch.mul(torch.sigmoid(o), torch.tanh(cell)), cell


def _gru_step(
    reset_last: bool, gates: Tensor, states: tuple[Tensor, ...], weights: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """One step; the reset gate is applied after the recurrent product (reset_last), or before it."""
    (h,), (r, rb) = states, weights
    size = r.shape[1]
    now = [torch.narrow(gates, -1, k * size, size) for k in range(3)]
    rows = [torch.t(torch.narrow(r, 0, k * size, size)) for k in range(3)]
    biases = [torch.narrow(rb, 0, k * size, size) for k in range(3)]
    past = [torch.add(torch.matmul(h, rows[k]), biases[k]) for k in range(2)]
    reset, update = (torch.sigmoid(torch.add(a, b)) for a, b in zip(now[:2], past, strict=True))
    if reset_last:
        recurrent = torch.mul(reset, torch.add(torch.matmul(h, rows[2]), biases[2]))
    else:
        recurrent = torch.add(torch.matmul(torch.mul(reset, h), rows[2]), biases[2])
    new = torch.tanh(torch.add(now[2], recurrent))
    return (torch.add(new, torch.mul(update, torch.sub(h, new))),)


def _rnn_step(kind: str, gates: Tensor, states: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,), (r, rb) = states, weights
    total = torch.add(gates, functional.linear(h, r, rb))
    return (torch.tanh(total) if kind == "tanh" else torch.relu(total),)


@op("LSTM", 7, 14, 22)
def lstm(  # noqa: PLR0913, PLR0917 - the operator's own parameters
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    form: Recurrence,
    input_forget: int = 0,
) -> tuple[Tensor, ...]:
    """LSTM without peepholes and with the default activations; ONNX's gates i o f c are torch's i f c o."""
    refuse_if(peepholes is not None, "peepholes (input P) are not implemented")
    refuse_if(input_forget, "input_forget is not implemented")
    net = _recurrence(x, (w, r, b), sequence_lens, LSTM_GATES, form)
    form.functions("LSTM")
    states = (net.initial(initial_h), net.initial(initial_c))
    both = net.directions > 1
    if not is_int(net.x.shape[0]):
        y, (h, c) = _over_time(net, states, _lstm_step)
        return net.results(y, h, c)
    y, h, c = torch.lstm(net.x, states, net.weights, True, 1, 0.0, False, both, False)  # noqa: FBT003 - torch's own order
    return net.results(y, h, c)


@op("GRU", 7, 14, 22)
def gru(  # noqa: PLR0913 - the operator's own parameters
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    form: Recurrence,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """GRU with the default activations; ONNX's gates z r h are torch's r z n."""
    net = _recurrence(x, (w, r, b), sequence_lens, (1, 0, 2), form)
    form.functions("GRU")
    if not is_int(net.x.shape[0]):
        y, (h,) = _over_time(net, (net.initial(initial_h),), partial(_gru_step, bool(linear_before_reset)))
        return net.results(y, h)
    run = _gru_by_torch if linear_before_reset else _gru_reset_first
    y, h = run(net, net.initial(initial_h))
    return net.results(y, h)


def _gru_by_torch(net: _Network, state: Tensor) -> tuple[Tensor, Tensor]:
    both = net.directions > 1
    y, h = torch.gru(net.x, state, net.weights, True, 1, 0.0, False, both, False)  # noqa: FBT003 - torch's own order
    return y, h


def _gru_reset_first(net: _Network, state: Tensor) -> tuple[Tensor, Tensor]:
    """The variant that torch lacks, step by step: the reset gate is applied before the recurrent product."""
    runs = []
    for d in range(net.directions):
        source = torch.flip(net.x, [0]) if d else net.x
        y, h = _gru_direction(source, torch.select(state, 0, d), net.weights[4 * d : 4 * d + 4])
        runs.append((torch.flip(y, [0]) if d else y, h))
    return torch.cat([y for y, _ in runs], -1), torch.stack([h for _, h in runs])


def _gru_direction(x: Tensor, h: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    w, r, wb, rb = weights
    size = r.shape[1]
    gates = torch.add(torch.matmul(x, torch.t(w)), torch.add(wb, rb))
    r_gates, r_new = torch.t(torch.narrow(r, 0, 0, 2 * size)), torch.t(torch.narrow(r, 0, 2 * size, size))
    steps = []
    for t in range(x.shape[0]):
        now = torch.select(gates, 0, t)
        both = torch.sigmoid(torch.add(torch.narrow(now, -1, 0, 2 * size), torch.matmul(h, r_gates)))
        reset, update = torch.narrow(both, -1, 0, size), torch.narrow(both, -1, size, size)
        new = torch.tanh(torch.add(torch.narrow(now, -1, 2 * size, size), torch.matmul(torch.mul(reset, h), r_new)))
        h = torch.add(new, torch.mul(update, torch.sub(h, new)))
        steps.append(h)
    return torch.stack(steps), h


@op("RNN", 7, 14, 22)
def rnn(  # noqa: PLR0913 - the operator's own parameters
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    form: Recurrence,
) -> tuple[Tensor, ...]:
    """Elman network with tanh or ReLU, the same in both directions."""
    net = _recurrence(x, (w, r, b), sequence_lens, (0,), form)
    (kind,) = form.functions("RNN", ("tanh", "relu"))
    if not is_int(net.x.shape[0]):
        y, (h,) = _over_time(net, (net.initial(initial_h),), partial(_rnn_step, kind))
        return net.results(y, h)
    run = torch.rnn_tanh if kind == "tanh" else torch.rnn_relu
    both = net.directions > 1
    y, h = run(net.x, net.initial(initial_h), net.weights, True, 1, 0.0, False, both, False)  # noqa: FBT003 - torch's own order
    return net.results(y, h)
