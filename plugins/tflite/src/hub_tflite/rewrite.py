"""Rewrites of a float graph that keep its values and let the quantizer do its work. Each returns its notes.

Reasons, measured with ai-edge-quantizer 0.10:

* A signature is needed to calibrate, unique tensor names to quantize.
* BATCH_MATMUL with a constant right side gets per-channel scales that its kernel does not apply: statically quantized
  results are wrong (cosine 0.00 on a file-type classifier, 0.95 on a voice-activity detector; 0.999 after the rewrite).
  FULLY_CONNECTED computes the same product and applies them.
* MAXIMUM, MINIMUM, PADV2 and SELECT_V2 share one scale among operands: a constant of lower rank than the result stops
  the quantizer ("Ranks of scales (3) and zps (3) must be the same as the tensor rank (1)").
* RELU_0_TO_1 (hard sigmoid), RELU6 and RELU_N1_TO_1 by themselves and LEAKY_RELU are unknown to the quantizer and would
  stay in float; as the fused activation of a multiplication, and as a maximum, they are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hub_tflite.schema import code_of, constant, new, numbers, operator_name, text, type_name

Rewrite = Callable[[Any], list[str]]
SIGNATURE_KEY = "serving_default"
_SHARED_SCALE = {"MAXIMUM": (0, 1), "MINIMUM": (0, 1), "PADV2": (2,), "SELECT_V2": (1, 2)}
_CLAMPS = {"RELU_0_TO_1": (6.0, "RELU6"), "RELU6": (1.0, "RELU6"), "RELU_N1_TO_1": (1.0, "RELU_N1_TO_1")}
_MATRIX_RANK = 2
_BORDER_FIELDS = ("inputs", "outputs")
_TENSOR_FIELDS = ("inputs", "outputs", "intermediates")


def add_signature(model: Any) -> list[str]:
    """Adds a signature named by the main graph's tensors to a file that has none."""
    if model.signatureDefs:
        return []
    graph = model.subgraphs[0]
    model.signatureDefs = [
        new(
            "SignatureDefT",
            signatureKey=SIGNATURE_KEY.encode(),
            subgraphIndex=0,
            inputs=[_tensor_map(graph, index) for index in numbers(graph.inputs)],
            outputs=[_tensor_map(graph, index) for index in numbers(graph.outputs)],
        )
    ]
    return ["a signature was added: the file had none, inputs and outputs are named by its tensors"]


def _tensor_map(graph: Any, index: int) -> Any:
    return new("TensorMapT", name=text(graph.tensors[index].name).encode(), tensorIndex=index)


def rename(model: Any, inputs: dict[str, str], outputs: dict[str, str]) -> list[str]:
    """Renames inputs and outputs in the signature (old name -> new name), adding one where there is none."""
    notes = add_signature(model)
    signature = model.signatureDefs[0]
    for entries, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for entry in entries:
            old = text(entry.name)
            if names.get(old, old) != old:
                entry.name = names[old].encode()
                notes.append(f"{old} was renamed to {names[old]}")
    return notes


def unique_names(model: Any) -> list[str]:
    """Gives every tensor a name of its own."""
    seen: Counter[str] = Counter()
    renamed = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            name = text(tensor.name)
            if not name or seen[name]:
                tensor.name = f"{name or 'tensor'}_{seen[name] + 1}".encode()
                renamed += 1
            seen[name] += 1
    return [f"{renamed} tensors were given names of their own"] if renamed else []


def matmul_to_fully_connected(model: Any) -> list[str]:
    """Turns BATCH_MATMUL by a constant matrix into FULLY_CONNECTED: x @ W = FC(x, transpose(W))."""
    changed = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator_name(model, operator) == "BATCH_MATMUL" and _is_plain_product(model, graph, operator):
                _become_fully_connected(model, graph, operator)
                changed += 1
    return [f"{changed} BATCH_MATMUL by a constant became FULLY_CONNECTED (same product)"] if changed else []


def _is_plain_product(model: Any, graph: Any, operator: Any) -> bool:
    left, right = (graph.tensors[index] for index in numbers(operator.inputs)[:2])
    shape = numbers(right.shape)
    options = operator.builtinOptions
    matrix = len(shape) >= _MATRIX_RANK and all(size == 1 for size in shape[:-2])
    return (
        matrix
        and constant(model, right) is not None
        and constant(model, left) is None
        and type_name(right) == type_name(left) == "FLOAT32"
        and not (options is not None and options.adjX)
        and len(numbers(left.shape)) >= len(shape)
    )


def _become_fully_connected(model: Any, graph: Any, operator: Any) -> None:
    import numpy as np

    left, right = numbers(operator.inputs)[:2]
    weight = graph.tensors[right]
    rows, columns = numbers(weight.shape)[-2:]
    matrix = np.frombuffer(constant(model, weight), np.float32).reshape(rows, columns)
    adjoint = operator.builtinOptions is not None and operator.builtinOptions.adjY
    stored = matrix if adjoint else matrix.T
    operator.inputs = [left, add_constant(model, graph, f"{text(weight.name)}_transposed", stored), -1]
    operator.opcodeIndex = operator_code(model, "FULLY_CONNECTED", version=5)
    operator.builtinOptionsType = code_of("BuiltinOptions", "FullyConnectedOptions")
    operator.builtinOptions = new("FullyConnectedOptionsT", keepNumDims=True)


def add_constant(model: Any, graph: Any, name: str, values: Any) -> int:
    """Adds a float32 constant tensor; returns its index."""
    import numpy as np

    data = np.frombuffer(np.ascontiguousarray(values, np.float32).tobytes(), np.uint8)
    model.buffers.append(new("BufferT", data=data))
    return _add_tensor(graph, name, list(values.shape), len(model.buffers) - 1)


def _add_tensor(graph: Any, name: str, shape: list[int], buffer: int) -> int:
    tensor = new(
        "TensorT", name=name.encode(), shape=shape, type=code_of("TensorType", "FLOAT32"), buffer=buffer, hasRank=True
    )
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def operator_code(model: Any, name: str, version: int = 1) -> int:
    """Returns the index of an operator code, added to the model where it lacks it."""
    number = code_of("BuiltinOperator", name)
    for index, code in enumerate(model.operatorCodes):
        if max(int(code.builtinCode), int(code.deprecatedBuiltinCode)) == number and code.version >= version:
            return index
    made = new("OperatorCodeT", builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=version)
    model.operatorCodes.append(made)
    return len(model.operatorCodes) - 1


def raise_constant_rank(model: Any) -> list[str]:
    """Gives constants that share a scale with the result its rank, by leading ones (broadcasting as before)."""
    changed = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            for place in _SHARED_SCALE.get(operator_name(model, operator), ()):
                changed += _raise_rank(model, graph, operator, place)
    return [f"{changed} constants were given the rank of the result they share a scale with"] if changed else []


def _raise_rank(model: Any, graph: Any, operator: Any, place: int) -> bool:
    inputs = numbers(operator.inputs)
    tensor = graph.tensors[inputs[place]]
    rank = len(numbers(graph.tensors[numbers(operator.outputs)[0]].shape))
    shape = numbers(tensor.shape)
    if constant(model, tensor) is None or type_name(tensor) != "FLOAT32" or len(shape) >= rank:
        return False
    padded = [1] * (rank - len(shape)) + shape
    name = f"{text(tensor.name)}_rank{rank}_{len(graph.tensors)}"
    model.buffers.append(new("BufferT", data=constant(model, tensor)))
    inputs[place] = _add_tensor(graph, name, padded, len(model.buffers) - 1)
    operator.inputs = inputs
    return True


def fuse_clamps(model: Any) -> list[str]:
    """Writes RELU_0_TO_1(x) as (6x clamped to 0..6) / 6, and a lone RELU6 as a multiplication by 1 with it fused."""
    changed: Counter[str] = Counter()
    for graph in model.subgraphs:
        replaced = []
        for operator in graph.operators:
            name = operator_name(model, operator)
            if name in _CLAMPS and type_name(graph.tensors[numbers(operator.inputs)[0]]) == "FLOAT32":
                replaced += _clamp(model, graph, operator, name)
                changed[name] += 1
            else:
                replaced.append(operator)
        graph.operators = replaced
    return [f"{count} {name} became multiplications with a fused clamp" for name, count in sorted(changed.items())]


def _clamp(model: Any, graph: Any, operator: Any, kind: str) -> list[Any]:
    import numpy as np

    factor, fused = _CLAMPS[kind]
    source, result = numbers(operator.inputs)[0], numbers(operator.outputs)[0]
    name = f"{text(graph.tensors[result].name)}_clamp"
    up = add_constant(model, graph, f"{name}_up", np.asarray([factor]))
    if factor == 1:
        return [_multiply(model, source, up, result, fused)]
    shape = numbers(graph.tensors[result].shape)
    middle = _add_tensor(graph, name, shape, 0)
    graph.tensors[middle].shapeSignature = graph.tensors[result].shapeSignature
    down = add_constant(model, graph, f"{name}_down", np.asarray([1 / factor]))
    return [_multiply(model, source, up, middle, fused), _multiply(model, middle, down, result, "NONE")]


def leaky_to_maximum(model: Any) -> list[str]:
    """Writes LEAKY_RELU(x) with a slope in 0..1 as MAXIMUM(x, slope * x): the quantizer does not know the first."""
    changed = 0
    for graph in model.subgraphs:
        replaced = []
        for operator in graph.operators:
            leaky = operator_name(model, operator) == "LEAKY_RELU" and 0 < _slope(operator) < 1
            replaced += _maximum(model, graph, operator) if leaky else [operator]
            changed += leaky
        graph.operators = replaced
    return [f"{changed} LEAKY_RELU became the maximum of x and slope times x"] if changed else []


def _slope(operator: Any) -> float:
    return float(operator.builtinOptions.alpha) if operator.builtinOptions is not None else 0.0


def _maximum(model: Any, graph: Any, operator: Any) -> list[Any]:
    import numpy as np

    source, result = numbers(operator.inputs)[0], numbers(operator.outputs)[0]
    name = f"{text(graph.tensors[result].name)}_leak"
    slope = add_constant(model, graph, f"{name}_slope", np.asarray([_slope(operator)]))
    middle = _add_tensor(graph, name, numbers(graph.tensors[result].shape), 0)
    graph.tensors[middle].shapeSignature = graph.tensors[result].shapeSignature
    larger = new(
        "OperatorT",
        opcodeIndex=operator_code(model, "MAXIMUM"),
        inputs=[source, middle],
        outputs=[result],
        builtinOptionsType=code_of("BuiltinOptions", "MaximumMinimumOptions"),
        builtinOptions=new("MaximumMinimumOptionsT"),
    )
    return [_multiply(model, source, slope, middle, "NONE"), larger]


def _multiply(model: Any, left: int, right: int, result: int, activation: str) -> Any:
    fused = code_of("ActivationFunctionType", activation)
    return new(
        "OperatorT",
        opcodeIndex=operator_code(model, "MUL"),
        inputs=[left, right],
        outputs=[result],
        builtinOptionsType=code_of("BuiltinOptions", "MulOptions"),
        builtinOptions=new("MulOptionsT", fusedActivationFunction=fused),
    )


def drop_unused(model: Any) -> list[str]:
    """Removes tensors that no operator and no border refers to, and buffers that no tensor refers to."""
    for graph_index, graph in enumerate(model.subgraphs):
        _drop_tensors(model, graph, graph_index)
    used = {int(t.buffer) for graph in model.subgraphs for t in graph.tensors}
    used |= {0} | {int(entry.buffer) for entry in model.metadata or []}
    order = {old: place for place, old in enumerate(sorted(used))}
    model.buffers = [model.buffers[old] for old in order]
    for holder in [*(t for graph in model.subgraphs for t in graph.tensors), *(model.metadata or [])]:
        holder.buffer = order[int(holder.buffer)]
    model.metadataBuffer = None  # the old form of metadata: nothing reads it, and its indices have moved
    return []


def _drop_tensors(model: Any, graph: Any, graph_index: int) -> None:
    signatures = [s for s in model.signatureDefs or [] if s.subgraphIndex == graph_index]
    entries = [entry for s in signatures for entry in (*(s.inputs or []), *(s.outputs or []))]
    used = {*numbers(graph.inputs), *numbers(graph.outputs), *(int(entry.tensorIndex) for entry in entries)}
    for operator in graph.operators:
        for field in _TENSOR_FIELDS:
            used |= set(numbers(getattr(operator, field)))
    order = {old: place for place, old in enumerate(sorted(used - {-1}))} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in order if old >= 0]
    _renumber(graph, _BORDER_FIELDS, order)
    for operator in graph.operators:
        _renumber(operator, _TENSOR_FIELDS, order)
    for entry in entries:
        entry.tensorIndex = order[int(entry.tensorIndex)]


def _renumber(holder: Any, fields: tuple[str, ...], order: dict[int, int]) -> None:
    for field in fields:
        if getattr(holder, field) is not None:
            setattr(holder, field, [order[index] for index in numbers(getattr(holder, field))])


ALWAYS: tuple[Rewrite, ...] = (add_signature, unique_names, matmul_to_fully_connected, drop_unused)
"""Before any quantization."""

STATIC: tuple[Rewrite, ...] = (*ALWAYS, raise_constant_rank, fuse_clamps, leaky_to_maximum, drop_unused)
"""Before activations are quantized."""


def apply(model: Any, rewrites: tuple[Rewrite, ...]) -> list[str]:
    """Applies rewrites in order; returns every note."""
    return [note for rewrite in rewrites for note in rewrite(model)]
