"""What only its own runtime can do, written plainly: public custom operators, and state kept in variables.

Every reader of hub sees such a file in its plain form, and LiteRT is given that form to run: it has no kernel for the
operators, and no way to hand a variable in or out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub_tflite.plain.custom import known_customs, write_customs
from hub_tflite.plain.variables import LiftedState, has_state, lift_variables
from hub_tflite.rewrite import drop_unused
from hub_tflitefile.schema import parse, to_bytes

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT

RAW = "raw"
"""Form of a file that holds what plain TFLite has not."""


@dataclass(frozen=True, slots=True)
class PlainParts:
    """What of a file was written plainly.

    Attributes:
        operators: Names of custom operators, sorted.
        states: Variables that became inputs and outputs.
    """

    operators: tuple[str, ...] = ()
    states: tuple[LiftedState, ...] = ()


def is_raw(model: ModelT) -> bool:
    """Whether a file holds custom operators that have a plain form, or state that can be lifted."""
    return bool(known_customs(model)) or has_state(model)


def make_plain(model: ModelT) -> PlainParts:
    """Write a file plainly, in place; nothing changes where it is plain already.

    Raises:
        UnsupportedModel: A custom operator or a variable is of a form that has no plain one.
    """
    if not is_raw(model):
        return PlainParts()
    operators = write_customs(model)
    states = lift_variables(model) if has_state(model) else ()
    drop_unused(model)
    _drop_codes(model)
    return PlainParts(operators, states)


def plain_bytes(content: bytes) -> bytes:
    """Return a file's plain form; the same bytes where it is plain already.

    Raises:
        ModelUnreadable: The bytes are corrupt.
        UnsupportedModel: See `make_plain`.
    """
    model = parse(content)
    if not is_raw(model):
        return content
    make_plain(model)
    return to_bytes(model)


def _drop_codes(model: ModelT) -> None:
    """Leave out operator codes that nothing uses: a reader would look for their kernels."""
    used = sorted({operator.opcodeIndex for graph in model.subgraphs for operator in graph.operators})
    places = {old: new for new, old in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[old] for old in used]
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = places[operator.opcodeIndex]
