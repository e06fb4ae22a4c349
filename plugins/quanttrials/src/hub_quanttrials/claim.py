"""A result must be what its edge claims, told by the format's own reader."""

from __future__ import annotations

from collections.abc import Sequence

from hub.spec import Numerics, UnsupportedModel

_NAMED = 12


def listed(names: Sequence[str]) -> str:
    """Names in a row, the first twelve of many."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def check_claim(what: str, claimed: Numerics, found: Numerics, left_float: Sequence[str] = (), tried: str = "") -> None:
    """Refuses a result in another precision than the one that was asked for.

    Args:
        what: The edge in words.
        claimed: What it is to give.
        found: What the reader finds.
        left_float: Layers that compute in float.
        tried: What was tried, for the message.

    Raises:
        UnsupportedModel: They differ; with the layers that make the difference, and what to ask for instead.
    """
    if found is claimed:
        return
    if found is Numerics.FP32:
        hint = "`hub inspect` lists its operators; --precision fp16 stores any model"
        raise UnsupportedModel(f"{what}: the model has no layer to quantize", hint=hint)
    left = f"; in float stay {listed(left_float)}" if left_float else ""
    raise UnsupportedModel(
        f"{what} would give {found.value}{left}{f' ({tried})' if tried else ''}",
        hint=f"ask for that: --precision {found.value}",
    )
