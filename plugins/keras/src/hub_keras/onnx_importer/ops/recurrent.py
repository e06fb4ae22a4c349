"""Recurrent layers: LSTM, GRU and the simple one, in one direction or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.lazy import layers, np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, fixed, is_constant
from hub_onnxgraph import Refused, refuse_if
from hub_onnxgraph.recurrence import LSTM_GATES, Recurrence

if TYPE_CHECKING:
    from keras import KerasTensor

# Places of ONNX's gates in Keras' order; those of GRU are the same.
_GATES = {"LSTM": LSTM_GATES, "GRU": (0, 1, 2), "SimpleRNN": (0,)}
_KNOWN = ("sigmoid", "tanh", "relu", "softsign", "softplus")


@dataclass(frozen=True, slots=True)
class Cell:
    """What a node says of its layer.

    Attributes:
        kind: Keras' class.
        weights: W, R and B (or None) of the node.
        states: Initial states, (directions, batch, units) each; empty for zeros.
        form: The node's attributes.
        config: Arguments of the layer.
    """

    kind: str
    weights: tuple[Array, Array, Array | None]
    states: tuple[Item, ...]
    form: Recurrence
    config: dict[str, object]

    @property
    def batch_first(self) -> bool:
        """ONNX's layout 1."""
        return bool(self.form.layout)

    @property
    def directions(self) -> int:
        """One or two."""
        return self.form.directions


def _arrays(cell: Cell, place: int) -> list[Array]:
    """Kernel, recurrent kernel and bias of one direction, in Keras' gates and shapes."""
    kernel, recurrent, bias = cell.weights
    order = _GATES[cell.kind]

    def arranged(array: Array) -> Array:
        gates = np.split(array, len(order), axis=0)
        return np.concatenate([gates[gate] for gate in order], axis=0)

    made = [arranged(kernel[place]).T, arranged(recurrent[place]).T]
    if bias is None:
        return made
    inner, outer = (arranged(half) for half in np.split(bias[place], 2))
    return [*made, np.stack([inner, outer]) if cell.config.get("reset_after") else inner + outer]


def _initial(cell: Cell, x: KerasValue, place: int) -> list[KerasTensor]:
    """Initial states of one direction, (batch, units) each."""
    return [_state(x, item, place, batch_first=cell.batch_first) for item in cell.states]


def _state(x: KerasValue, item: Item, place: int, *, batch_first: bool) -> KerasTensor:
    tensor = item.plain() if isinstance(item, KerasValue) else x.graph.symbolic(item)
    return tensor[(slice(None), place)] if batch_first else tensor[(place,)]


def _run(x: KerasValue, cell: Cell) -> tuple[KerasValue, ...]:
    """Call the layer; its result is (batch, steps, directions, units) with ONNX's axes named."""
    first = (0, 1, 2) if cell.batch_first else (1, 0, 2)
    tensor = x.stored(first)
    states = [state for place in range(cell.directions) for state in _initial(cell, x, place)]
    arrays = [array for place in range(cell.directions) for array in _arrays(cell, place)]
    call = {"initial_state": states} if states else {}
    config = {**cell.config, "return_sequences": True, "return_state": True}
    if cell.directions == 1:
        backwards = cell.form.direction == "reverse"
        parts = x.graph.layer(
            cell.kind, tensor, arrays=arrays, after=cell.weights[0], call=call, go_backwards=backwards, **config
        )
        whole = ops.flip(parts[0], axis=1) if backwards else parts[0]
    else:
        inner = getattr(layers, cell.kind)(dtype=x.dtype, **config)
        parts = x.graph.layer("Bidirectional", tensor, arrays=arrays, after=cell.weights[0], call=call, layer=inner)
        whole = parts[0]
    return _named(x, cell, whole, parts[1:])


def _named(x: KerasValue, cell: Cell, whole: KerasTensor, states: Sequence[KerasTensor]) -> tuple[KerasValue, ...]:
    """The sequence and the last states, with ONNX's axes."""
    units = cell.config["units"]
    shape = whole.shape
    if cell.directions == 1:
        split = ops.expand_dims(whole, axis=2)
    else:
        split = x.graph.layer("Reshape", whole, target_shape=(-1 if shape[1] is None else shape[1], 2, units))
    order = (0, 1, 2, 3) if cell.batch_first else (2, 0, 1, 3)
    kinds = len(states) // cell.directions
    lasts = [[states[place * kinds + kind] for place in range(cell.directions)] for kind in range(kinds)]
    axis = 1 if cell.batch_first else 0
    joined = [ops.expand_dims(s[0], axis=axis) if len(s) == 1 else ops.stack(s, axis=axis) for s in lasts]
    return (x.made(split, order), *(x.made(state) for state in joined))


def _cell(
    kind: str,
    x: Item,
    weights: tuple[Item, Item, Item | None],
    lengths: Item | None,
    states: tuple[Item | None, ...],
    form: Recurrence,
) -> Cell:
    w, r, b = weights
    if not isinstance(x, KerasValue):
        raise Refused("a constant sequence")
    if isinstance(w, KerasValue) or isinstance(r, KerasValue) or isinstance(b, KerasValue):
        raise Refused("weights that are computed")
    steps = x.shape[1 if form.layout else 0]
    refuse_if(
        lengths is not None and not (is_constant(lengths) and steps is not None and bool(np.all(lengths == steps))),
        "lengths of sequences",
    )
    units = form.units(r.shape)
    given = tuple(state for state in states if state is not None) if not all(map(_is_zero, states)) else ()
    refuse_if(given and len(given) != len(states), "only some of the initial states")
    # Keras has one set of activations for both directions.
    words = form.functions(kind.removeprefix("Simple"), _KNOWN)
    refuse_if(kind == "LSTM" and words[1] != words[2], "two different activations of cell and output")
    config = {"units": units, "use_bias": b is not None, "activation": words[-1]}
    if kind != "SimpleRNN":
        config["recurrent_activation"] = words[0]
    return Cell(kind, (w, r, b), given, form, config)


def _is_zero(state: Item | None) -> bool:
    return state is None or (is_constant(state) and not np.any(state))


def _zeros_like(state: Item) -> Item:
    """The state that is absent where the other one is there; an open batch has no constant of its size."""
    return np.zeros([fixed(state, i) for i in range(state.ndim)], str(state.dtype))


@op("LSTM", 7, 14, 22)
def lstm(  # noqa: PLR0913, PLR0917 - the operator's own parameters
    x: KerasValue,
    w: Item,
    r: Item,
    b: Item | None = None,
    sequence_lens: Item | None = None,
    initial_h: Item | None = None,
    initial_c: Item | None = None,
    p: Item | None = None,
    *,
    form: Recurrence,
    input_forget: int = 0,
) -> tuple[KerasValue, ...]:
    """Long short-term memory."""
    refuse_if(input_forget, "input_forget")
    refuse_if(not _is_zero(p), "peepholes")
    if initial_h is None and initial_c is not None:
        initial_h = _zeros_like(initial_c)
    elif initial_c is None and initial_h is not None:
        initial_c = _zeros_like(initial_h)
    states = (initial_h, initial_c)
    return _run(x, _cell("LSTM", x, (w, r, b), sequence_lens, states, form))


@op("GRU", 7, 14, 22)
def gru(  # noqa: PLR0913 - the operator's own parameters
    x: KerasValue,
    w: Item,
    r: Item,
    b: Item | None = None,
    sequence_lens: Item | None = None,
    initial_h: Item | None = None,
    *,
    form: Recurrence,
    linear_before_reset: int = 0,
) -> tuple[KerasValue, ...]:
    """Gated recurrent unit."""
    cell = _cell("GRU", x, (w, r, b), sequence_lens, (initial_h,), form)
    cell.config["reset_after"] = bool(linear_before_reset)
    return _run(x, cell)


@op("RNN", 7, 14, 22)
def rnn(  # noqa: PLR0913 - the operator's own parameters
    x: KerasValue,
    w: Item,
    r: Item,
    b: Item | None = None,
    sequence_lens: Item | None = None,
    initial_h: Item | None = None,
    *,
    form: Recurrence,
) -> tuple[KerasValue, ...]:
    """The simple recurrent layer."""
    return _run(x, _cell("SimpleRNN", x, (w, r, b), sequence_lens, (initial_h,), form))
