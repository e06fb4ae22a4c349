"""Recurrent layers: LSTM, GRU and the simple one, in one direction or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hub_keras.onnx_importer.lazy import layers, np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Value, is_constant
from hub_onnxgraph import refuse_if

# Places of ONNX's gates in Keras' order: LSTM i o f c -> i f c o; GRU z r h is the same.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (0, 1, 2), "SimpleRNN": (0,)}
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "SimpleRNN": ["Tanh"]}
_KNOWN = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "Softsign": "softsign", "Softplus": "softplus"}


@dataclass(frozen=True, slots=True)
class Cell:
    """What a node says of its layer.

    Attributes:
        kind: Keras' class.
        weights: W, R and B (or None) of the node.
        states: Initial states, (directions, batch, units) each; empty for zeros.
        direction: ONNX's word.
        batch_first: ONNX's layout 1.
        config: Arguments of the layer.
    """

    kind: str
    weights: tuple[Any, Any, Any]
    states: tuple[Any, ...]
    direction: str
    batch_first: bool
    config: dict[str, Any]

    @property
    def directions(self) -> int:
        """One or two."""
        return 2 if self.direction == "bidirectional" else 1


def _activations(kind: str, given: list[str] | None, directions: int) -> dict[str, Any]:
    """Keras' arguments for the activations, which are the same in both directions.

    Raises:
        Refused: Keras has no such activation, or the two directions differ.
    """
    base = _DEFAULTS[kind]
    names = given or base * directions
    refuse_if(any(name not in _KNOWN for name in names), f"activations {names}")
    first = names[: len(base)]
    refuse_if(names != first * directions, "activations that differ between the directions")
    refuse_if(kind == "LSTM" and first[1] != first[2], "two different activations of cell and output")
    words = [_KNOWN[name] for name in first]
    return {"activation": words[-1]} | ({} if kind == "SimpleRNN" else {"recurrent_activation": words[0]})


def _arrays(cell: Cell, place: int) -> list[Any]:
    """Kernel, recurrent kernel and bias of one direction, in Keras' gates and shapes."""
    kernel, recurrent, bias = cell.weights
    order = _GATES[cell.kind]

    def arranged(array: Any) -> Any:
        gates = np.split(array, len(order), axis=0)
        return np.concatenate([gates[gate] for gate in order], axis=0)

    made = [arranged(kernel[place]).T, arranged(recurrent[place]).T]
    if bias is None:
        return made
    inner, outer = (arranged(half) for half in np.split(bias[place], 2))
    return [*made, np.stack([inner, outer]) if cell.config.get("reset_after") else inner + outer]


def _initial(cell: Cell, x: Value, place: int) -> list[Any]:
    """Initial states of one direction, (batch, units) each."""
    return [_state(x, item, place, batch_first=cell.batch_first) for item in cell.states]


def _state(x: Value, item: Any, place: int, *, batch_first: bool) -> Any:
    tensor = item.plain() if isinstance(item, Value) else x.graph.symbolic(item)
    return tensor[(slice(None), place)] if batch_first else tensor[(place,)]


def _run(x: Value, cell: Cell) -> tuple[Value, ...]:
    """Call the layer; its result is (batch, steps, directions, units) with ONNX's axes named."""
    first = (0, 1, 2) if cell.batch_first else (1, 0, 2)
    tensor = x.stored(first)
    states = [state for place in range(cell.directions) for state in _initial(cell, x, place)]
    arrays = [array for place in range(cell.directions) for array in _arrays(cell, place)]
    call = {"initial_state": states} if states else {}
    config = {**cell.config, "return_sequences": True, "return_state": True}
    if cell.directions == 1:
        backwards = cell.direction == "reverse"
        parts = x.graph.layer(
            cell.kind, tensor, arrays=arrays, after=cell.weights[0], call=call, go_backwards=backwards, **config
        )
        whole = ops.flip(parts[0], axis=1) if backwards else parts[0]
    else:
        inner = getattr(layers, cell.kind)(dtype=x.dtype, **config)
        parts = x.graph.layer("Bidirectional", tensor, arrays=arrays, after=cell.weights[0], call=call, layer=inner)
        whole = parts[0]
    return _named(x, cell, whole, parts[1:])


def _named(x: Value, cell: Cell, whole: Any, states: Sequence[Any]) -> tuple[Value, ...]:
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
    x: Any,
    weights: tuple[Any, Any, Any],
    lengths: Any,
    states: tuple[Any, ...],
    form: tuple[str, int, int | None, list[str] | None],
    **config: Any,
) -> Cell:
    direction, layout, hidden, activations = form
    refuse_if(not isinstance(x, Value), "a constant sequence")
    refuse_if(not all(item is None or is_constant(item) for item in weights), "weights that are computed")
    refuse_if(lengths is not None and not _are_whole(lengths, x.shape[1 if layout else 0]), "lengths of sequences")
    units = int(weights[1].shape[2])
    refuse_if(hidden not in {None, units}, f"hidden_size {hidden} with weights of {units} units")
    given = tuple(states) if any(not _is_zero(state) for state in states) else ()
    refuse_if(any(state is None for state in given), "only some of the initial states")
    return Cell(
        kind=kind,
        weights=weights,
        states=given,
        direction=direction,
        batch_first=bool(layout),
        config={
            "units": units,
            "use_bias": weights[2] is not None,
            **_activations(kind, activations, 2 if direction == "bidirectional" else 1),
            **config,
        },
    )


def _are_whole(lengths: Any, steps: int | None) -> bool:
    return is_constant(lengths) and steps is not None and bool(np.all(lengths == steps))


def _is_zero(state: Any) -> bool:
    return state is None or (is_constant(state) and not np.any(state))


def _refuse_scales(alphas: list[float] | None, betas: list[float] | None, clip: float | None) -> None:
    refuse_if(alphas or betas, "activation_alpha or activation_beta")
    refuse_if(clip, "clip")


@op("LSTM", 7, 14, 22)
def lstm(  # noqa: PLR0913, PLR0917 - the operator's own parameters
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    initial_c: Any = None,
    p: Any = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Value, ...]:
    """Long short-term memory."""
    _refuse_scales(activation_alpha, activation_beta, clip)
    refuse_if(input_forget, "input_forget")
    refuse_if(p is not None and not _is_zero(p), "peepholes")
    states = _both(x, initial_h, initial_c)
    form = (direction, layout, hidden_size, activations)
    return _run(x, _cell("LSTM", x, (w, r, b), sequence_lens, states, form))


def _both(x: Any, h: Any, c: Any) -> tuple[Any, ...]:
    """Two states, of which an absent one is zeros when the other is there."""
    del x
    if _is_zero(h) and _is_zero(c):
        return ()
    known = [item for item in (h, c) if item is not None]
    return tuple(item if item is not None else np.zeros(known[0].shape, str(known[0].dtype)) for item in (h, c))


@op("GRU", 7, 14, 22)
def gru(  # noqa: PLR0913 - the operator's own parameters
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Value, ...]:
    """Gated recurrent unit."""
    _refuse_scales(activation_alpha, activation_beta, clip)
    form = (direction, layout, hidden_size, activations)
    reset_after = bool(linear_before_reset)
    return _run(x, _cell("GRU", x, (w, r, b), sequence_lens, (initial_h,), form, reset_after=reset_after))


@op("RNN", 7, 14, 22)
def rnn(  # noqa: PLR0913 - the operator's own parameters
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Value, ...]:
    """The simple recurrent layer."""
    _refuse_scales(activation_alpha, activation_beta, clip)
    form = (direction, layout, hidden_size, activations)
    return _run(x, _cell("SimpleRNN", x, (w, r, b), sequence_lens, (initial_h,), form))
