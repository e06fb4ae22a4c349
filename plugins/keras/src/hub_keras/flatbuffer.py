"""Check and correct what a converter wrote into a .tflite file: its operators, and the names of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import EffectError, Remark
from hub_tflitefile.interface import Named, interface_of, quant_params, signature_def
from hub_tflitefile.schema import custom_operators, numbers, parse, read_bytes, text, to_bytes

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT, TensorMapT

Slots = tuple[Sequence[str], Sequence[str]]


def refuse_custom(path: Path) -> None:
    """Stop at an operator that the plain runtime does not have.

    Raises:
        EffectError: There is a Flex or custom operator.
    """
    custom = custom_operators(parse(read_bytes(path), path))
    if custom:
        raise EffectError(
            f"the converter wrote operators that a plain TFLite runtime lacks: {', '.join(custom)}",
            hint="these need the Flex or custom kernels on the device: --allow-custom-ops",
        )


def name_interface(
    path: Path, inputs: Sequence[str], outputs: Sequence[str], slots: Slots | None = None
) -> tuple[Remark, ...]:
    """Give a file exactly one signature `serving_default` with these names, in this order.

    Tensor order in the subgraph, the tensors' names and the signature's entries all follow.

    Args:
        path: The file, rewritten in place.
        inputs: Input names in order.
        outputs: Output names in order.
        slots: The converter's signature entries in the same order; None where it wrote the subgraph's inputs and
            outputs in order and no signature.

    Returns:
        A note when names were changed.

    Raises:
        EffectError: The file's inputs and outputs are not as many as asked for.
    """
    model = parse(read_bytes(path), path)
    graph = model.subgraphs[0]
    before = [text(graph.tensors[index].name) for index in (*numbers(graph.inputs), *numbers(graph.outputs))]
    found_inputs, found_outputs = _positions(model, slots)
    if (len(found_inputs), len(found_outputs)) != (len(inputs), len(outputs)):
        raise EffectError(
            f"the converter wrote {len(found_inputs)} inputs and {len(found_outputs)} outputs, "
            f"the source has {len(inputs)} and {len(outputs)}"
        )
    graph.inputs, graph.outputs = found_inputs, found_outputs
    named_inputs = list(zip(inputs, found_inputs, strict=True))
    named_outputs = list(zip(outputs, found_outputs, strict=True))
    for name, index in (*named_inputs, *named_outputs):
        graph.tensors[index].name = name.encode()
    model.signatureDefs = [signature_def(named_inputs, named_outputs)]
    path.write_bytes(to_bytes(model))
    after = [*inputs, *outputs]
    said = f"renamed {', '.join(before)} to {', '.join(after)} (signature and tensors)"
    return (Remark("note", "renamed", said),) if before != after else ()


def _positions(model: ModelT, slots: Slots | None) -> tuple[list[int], list[int]]:
    graph = model.subgraphs[0]
    if slots is None or not model.signatureDefs:
        return numbers(graph.inputs), numbers(graph.outputs)
    definition = model.signatureDefs[0]
    return _in_slots(definition.inputs or [], slots[0]), _in_slots(definition.outputs or [], slots[1])


def _in_slots(entries: Sequence[TensorMapT], slots: Sequence[str]) -> list[int]:
    indices = {text(entry.name): int(entry.tensorIndex) for entry in entries}
    if indices.keys() != set(slots):
        raise EffectError(f"the converter's signature has {sorted(indices)} where {sorted(slots)} were expected")
    return [indices[slot] for slot in slots]


def interface_quantization(path: Path) -> tuple[dict[str, tuple[float, int]], dict[str, tuple[float, int]]]:
    """Name -> (scale, zero point) of quantized inputs and of quantized outputs."""
    graph, inputs, outputs = interface_of(parse(read_bytes(path), path))

    def quantized(named: Named) -> dict[str, tuple[float, int]]:
        found = ((name, quant_params(graph.tensors[index])) for name, index in named)
        return {name: (quant.scale[0], quant.zero_point[0]) for name, quant in found if quant is not None}

    return quantized(inputs), quantized(outputs)
