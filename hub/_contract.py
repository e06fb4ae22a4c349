"""The I/O contract of a receipt: every input and output of the source, and what it is in the result."""

from collections.abc import Iterator

from hub._measure import Chain
from hub.spec import IoBinding, IoContract, Signature, TensorSpec


def io_contract(source: Signature, result: Signature, chain: Chain) -> tuple[IoContract, ...]:
    """Follow every input and output of the source through the changes that the steps declared."""
    sides = (("input", source.inputs, result.inputs), ("output", source.outputs, result.outputs))
    return tuple(
        _follow(direction, spec, {found.name: found for found in there}, chain)
        for direction, here, there in sides
        for spec in here
    )


def _follow(direction: str, spec: TensorSpec, there: dict[str, TensorSpec], chain: Chain) -> IoContract:
    changes = list(_changes(direction, spec.name, chain))
    name = changes[-1].target if changes else spec.name
    reasons = tuple(bound.reason for bound in changes if bound.reason)
    return IoContract(direction=direction, source=spec, result=there.get(name), changes=reasons)


def _changes(direction: str, name: str, chain: Chain) -> Iterator[IoBinding]:
    for bindings in chain:
        bound = next((b for b in bindings if b.direction == direction and b.source == name), None)
        if bound:
            yield bound
            name = bound.target
