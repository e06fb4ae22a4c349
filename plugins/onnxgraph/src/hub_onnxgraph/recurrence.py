"""Recurrent layers: the attributes that LSTM, GRU and RNN have in common, and the order of their gates.

Tensors are ONNX's: X [T, B, I], W [D, gates H, I], R [D, gates H, H], B [D, 2 gates H].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hub_onnxgraph.errors import refuse_if
from hub_onnxgraph.table import Attributes

# The standard's activations of each operator, in its order of gates.
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
LSTM_GATES = (0, 2, 3, 1)
"""Places of ONNX's gates i o f c in the order i f c o, which Keras and torch share."""


@dataclass(frozen=True, slots=True)
class Recurrence(Attributes):
    """What every recurrent operator understands."""

    activation_alpha: list[float] | None = None
    activation_beta: list[float] | None = None
    activations: list[str] | None = None
    clip: float | None = None
    direction: str = "forward"
    hidden_size: int | None = None
    layout: int = 0

    @property
    def directions(self) -> int:
        """One or two."""
        return 2 if self.direction == "bidirectional" else 1

    def units(self, recurrent_weights: Sequence[int]) -> int:
        """The hidden size, by the shape of R.

        Raises:
            Refused: An attribute is not implemented, or contradicts the weights.
        """
        refuse_if(self.clip is not None, f"clip {self.clip}")
        refuse_if(self.activation_alpha or self.activation_beta, "activation_alpha and activation_beta")
        refuse_if(self.direction not in {"forward", "reverse", "bidirectional"}, f"direction {self.direction}")
        units = recurrent_weights[2]
        refuse_if(self.hidden_size not in {None, units}, f"hidden_size {self.hidden_size} with {units} units")
        return units

    def functions(self, operator: str, known: Sequence[str] = ()) -> list[str]:
        """The activations of one direction, in lower case.

        Args:
            operator: LSTM, GRU or RNN.
            known: Those implemented, in lower case; when there are none, only the standard's own, each in its place.

        Raises:
            Refused: One is not implemented, or the two directions differ.
        """
        default = [name.lower() for name in ACTIVATIONS[operator]]
        names = [name.lower() for name in self.activations or default * self.directions]
        first = names[: len(default)]
        refuse_if(first != default if not known else not set(names) <= set(known), f"activations {self.activations}")
        refuse_if(names != first * self.directions, "activations that differ between the directions")
        return first
