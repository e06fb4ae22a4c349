"""Read and correct a .tflite file's interface with its schema alone: no converter, no interpreter."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hub.spec import EffectError

SIGNATURE_KEY = "serving_default"
_IDENTIFIER = b"TFL3"
_FLEX = "Flex"


def read_flatbuffer(path: Path) -> Any:
    """Unpack a .tflite file into the schema's object tree.

    Raises:
        EffectError: It is no TFLite flatbuffer.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = path.read_bytes()
    if data[4:8] != _IDENTIFIER:
        raise EffectError(f"{path} is no TFLite flatbuffer: {data[:8]!r}")
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def write_flatbuffer(model: Any, path: Path) -> None:
    """Pack an object tree into a .tflite file."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    path.write_bytes(builder.Output())


def operator_counts(model: Any) -> dict[str, int]:
    """Operator name -> count over all subgraphs; a custom one is written `custom::Name`."""
    names = [_operator_name(code) for code in model.operatorCodes]
    return dict(collections.Counter(names[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators or ()))


def _operator_name(code: Any) -> str:
    from ai_edge_litert import schema_py_generated as schema

    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return f"custom::{(code.customCode or b'').decode()}"
    return next(str(name) for name, value in vars(schema.BuiltinOperator).items() if value == number)


def refuse_custom(path: Path) -> dict[str, int]:
    """Count the operators; stop at one that the plain runtime does not have.

    Raises:
        EffectError: There is a Flex or custom operator.
    """
    counts = operator_counts(read_flatbuffer(path))
    custom = sorted(name.partition("::")[2] for name in counts if name.startswith("custom::"))
    if custom:
        raise EffectError(
            f"the converter wrote operators that a plain TFLite runtime lacks: {', '.join(custom)}",
            hint="these need the Flex or custom kernels on the device: --allow-custom-ops",
        )
    return counts


def name_interface(path: Path, inputs: Sequence[str], outputs: Sequence[str], slots: Slots | None = None) -> str:
    """Give a file exactly one signature `serving_default` with these names, in this order.

    Tensor order in the subgraph, the tensors' names and the signature's entries all follow.

    Args:
        path: The file, rewritten in place.
        inputs: Input names in order.
        outputs: Output names in order.
        slots: The converter's signature entries in the same order; None where it wrote the subgraph's inputs and
            outputs in order and no signature.

    Returns:
        A note when names were changed, else an empty string.

    Raises:
        EffectError: The file's inputs and outputs are not as many as asked for.
    """
    model = read_flatbuffer(path)
    before = _names(model)
    found_inputs, found_outputs = _positions(model, slots)
    if (len(found_inputs), len(found_outputs)) != (len(inputs), len(outputs)):
        raise EffectError(
            f"the converter wrote {len(found_inputs)} inputs and {len(found_outputs)} outputs, "
            f"the source has {len(inputs)} and {len(outputs)}"
        )
    _rename(model, found_inputs, found_outputs, inputs, outputs)
    write_flatbuffer(model, path)
    after = (*inputs, *outputs)
    return "" if before == after else f"renamed {', '.join(before)} to {', '.join(after)} (signature and tensors)"


Slots = tuple[Sequence[str], Sequence[str]]


def _names(model: Any) -> tuple[str, ...]:
    graph = model.subgraphs[0]
    return tuple(graph.tensors[index].name.decode() for index in (*graph.inputs, *graph.outputs))


def _positions(model: Any, slots: Slots | None) -> tuple[list[int], list[int]]:
    graph = model.subgraphs[0]
    if slots is None or not model.signatureDefs:
        return [int(index) for index in graph.inputs], [int(index) for index in graph.outputs]
    definition = model.signatureDefs[0]
    return _in_slots(definition.inputs, slots[0]), _in_slots(definition.outputs, slots[1])


def _in_slots(entries: Any, slots: Sequence[str]) -> list[int]:
    indices = {entry.name.decode(): int(entry.tensorIndex) for entry in entries}
    if indices.keys() != set(slots):
        raise EffectError(f"the converter's signature has {sorted(indices)} where {sorted(slots)} were expected")
    return [indices[slot] for slot in slots]


def _rename(
    model: Any, found_inputs: list[int], found_outputs: list[int], inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    graph = model.subgraphs[0]
    graph.inputs, graph.outputs = found_inputs, found_outputs
    for index, name in zip((*found_inputs, *found_outputs), (*inputs, *outputs), strict=True):
        graph.tensors[index].name = name.encode()
    model.signatureDefs = [_signature(inputs, outputs, found_inputs, found_outputs)]


def _signature(inputs: Sequence[str], outputs: Sequence[str], found_inputs: list[int], found_outputs: list[int]) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    definition = schema.SignatureDefT()
    definition.signatureKey = SIGNATURE_KEY.encode()
    definition.subgraphIndex = 0
    definition.inputs = [_entry(name, index) for name, index in zip(inputs, found_inputs, strict=True)]
    definition.outputs = [_entry(name, index) for name, index in zip(outputs, found_outputs, strict=True)]
    return definition


def _entry(name: str, index: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), index
    return entry


def interface_quantization(path: Path) -> tuple[dict[str, tuple[float, int]], dict[str, tuple[float, int]]]:
    """Name -> (scale, zero point) of quantized inputs and of quantized outputs."""
    graph = read_flatbuffer(path).subgraphs[0]
    return _quantization(graph, graph.inputs), _quantization(graph, graph.outputs)


def _quantization(graph: Any, indices: Any) -> dict[str, tuple[float, int]]:
    tensors = [graph.tensors[index] for index in indices]
    return {
        tensor.name.decode(): (float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0]))
        for tensor in tensors
        if tensor.quantization is not None and tensor.quantization.scale is not None and len(tensor.quantization.scale)
    }
