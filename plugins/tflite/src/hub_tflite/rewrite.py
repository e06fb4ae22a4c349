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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_tflitefile import interface
from hub_tflitefile.schema import code_of, constant, content, new, numbers, operator_name, text, type_name
from hub_tflitefile.tables import BufferT, MetadataT, ModelT, OperatorCodeT, OperatorT, SubGraphT, TensorT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

Rewrite = Callable[[ModelT], list[Remark]]
# Operator -> places of inputs whose scale is the result's: the quantizer asks that they have its rank.
_SHARED_SCALE = {"MAXIMUM": (0, 1), "MINIMUM": (0, 1), "PADV2": (2,), "SELECT_V2": (1, 2)}
# Operator -> the factor that brings its range to that of an activation which the kernels fuse, and that activation.
_CLAMPS = {"RELU_0_TO_1": (6.0, "RELU6"), "RELU6": (1.0, "RELU6"), "RELU_N1_TO_1": (1.0, "RELU_N1_TO_1")}
_MATRIX_RANK = 2
_BORDER_FIELDS = ("inputs", "outputs")
_TENSOR_FIELDS = ("inputs", "outputs", "intermediates")


def current_codes(model: ModelT) -> list[Remark]:
    """Gives operators their code where a file of before 2020 has it: the quantizer looks at the other, and sees ADD."""
    for code in model.operatorCodes:
        code.builtinCode = max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
    return []


def add_signature(model: ModelT) -> list[Remark]:
    """Adds a signature named by the main graph's tensors to a file that has none."""
    if model.signatureDefs:
        return []
    _, inputs, outputs = interface.interface_of(model)
    model.signatureDefs = [interface.signature_def(inputs, outputs)]
    said = "a signature was added: the file had none, inputs and outputs are named by its tensors"
    return [Remark("note", "signature-added", said)]


def rename(model: ModelT, inputs: dict[str, str], outputs: dict[str, str]) -> list[Remark]:
    """Renames inputs and outputs in the signature (old name -> new name), adding one where there is none."""
    notes = add_signature(model)
    signature = (model.signatureDefs or [])[0]
    renamed = interface.rename(signature, inputs, outputs)
    return notes + [Remark("note", "renamed", f"{old} was renamed to {new}") for old, new in renamed]


def unique_names(model: ModelT) -> list[Remark]:
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
    said = f"{renamed} tensors were given names of their own"
    return [Remark("note", "tensors-named", said)] if renamed else []


def matmul_to_fully_connected(model: ModelT) -> list[Remark]:
    """Turns BATCH_MATMUL by a constant matrix into FULLY_CONNECTED: x @ W = FC(x, transpose(W))."""
    changed = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator_name(model, operator) == "BATCH_MATMUL" and _is_plain_product(model, graph, operator):
                _become_fully_connected(model, graph, operator)
                changed += 1
    said = f"{changed} BATCH_MATMUL by a constant became FULLY_CONNECTED (same product)"
    return [Remark("note", "matmul-became-dense", said)] if changed else []


def _is_plain_product(model: ModelT, graph: SubGraphT, operator: OperatorT) -> bool:
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


def _become_fully_connected(model: ModelT, graph: SubGraphT, operator: OperatorT) -> None:
    import numpy as np

    left, right = numbers(operator.inputs)[:2]
    weight = graph.tensors[right]
    rows, columns = numbers(weight.shape)[-2:]
    matrix = np.frombuffer(content(model, weight), np.float32).reshape(rows, columns)
    adjoint = operator.builtinOptions is not None and operator.builtinOptions.adjY
    stored = _add_float(model, graph, f"{text(weight.name)}_transposed", matrix if adjoint else matrix.T)
    operator.inputs = [left, stored, -1]
    operator.opcodeIndex = operator_code(model, "FULLY_CONNECTED", version=5)
    operator.builtinOptionsType = code_of("BuiltinOptions", "FullyConnectedOptions")
    operator.builtinOptions = new("FullyConnectedOptionsT", keepNumDims=True)


def _add_float(model: ModelT, graph: SubGraphT, name: str, values: Array) -> int:
    import numpy as np

    return add_constant(model, graph, name, np.ascontiguousarray(values, np.float32), list(values.shape))


def add_constant(
    model: ModelT, graph: SubGraphT, name: str, values: Array, shape: Sequence[int], kind: str = "FLOAT32"
) -> int:
    """Adds a constant tensor; returns its index.

    Args:
        model: The file.
        graph: Where to add it.
        name: Its name.
        values: Its content, contiguous, in any view of the bytes.
        shape: Its sizes.
        kind: Element type in the schema's words.
    """
    import numpy as np

    model.buffers.append(new(BufferT, data=np.frombuffer(values, np.uint8)))
    return add_tensor(graph, name, shape, len(model.buffers) - 1, kind)


def add_tensor(graph: SubGraphT, name: str, shape: Sequence[int], buffer: int = 0, kind: str = "FLOAT32") -> int:
    """Adds an activation, or with a buffer a constant; returns its index."""
    number = code_of("TensorType", kind)
    graph.tensors.append(new(TensorT, name=name.encode(), shape=list(shape), type=number, buffer=buffer, hasRank=True))
    return len(graph.tensors) - 1


def _add_middle(graph: SubGraphT, name: str, result: int) -> int:
    """Adds an activation of a result's sizes."""
    middle = add_tensor(graph, name, numbers(graph.tensors[result].shape))
    graph.tensors[middle].shapeSignature = graph.tensors[result].shapeSignature
    return middle


def new_operator(
    model: ModelT,
    name: str,
    inputs: list[int],
    outputs: list[int],
    options: str = "",
    *,
    version: int = 1,
    **fields: int,
) -> OperatorT:  # the fields are the schema's own
    """Makes an operator, not yet in a graph, with its table of options where it has one."""
    return new(
        OperatorT,
        opcodeIndex=operator_code(model, name, version),
        inputs=inputs,
        outputs=outputs,
        builtinOptionsType=code_of("BuiltinOptions", options or "NONE"),
        builtinOptions=new(f"{options}T", **fields) if options else None,
    )


def operator_code(model: ModelT, name: str, version: int = 1) -> int:
    """Returns the index of an operator code, added to the model where it lacks it."""
    number = code_of("BuiltinOperator", name)
    for index, code in enumerate(model.operatorCodes):
        if max(int(code.builtinCode), int(code.deprecatedBuiltinCode)) == number and code.version >= version:
            return index
    made = new(OperatorCodeT, builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=version)
    model.operatorCodes.append(made)
    return len(model.operatorCodes) - 1


def raise_constant_rank(model: ModelT) -> list[Remark]:
    """Gives constants that share a scale with the result its rank, by leading ones (broadcasting as before)."""
    changed = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            for place in _SHARED_SCALE.get(operator_name(model, operator), ()):
                changed += _raise_rank(model, graph, operator, place)
    said = f"{changed} constants were given the rank of the result they share a scale with"
    return [Remark("note", "constants-rank-raised", said)] if changed else []


def _raise_rank(model: ModelT, graph: SubGraphT, operator: OperatorT, place: int) -> bool:
    inputs = numbers(operator.inputs)
    tensor = graph.tensors[inputs[place]]
    rank = len(numbers(graph.tensors[numbers(operator.outputs)[0]].shape))
    shape = numbers(tensor.shape)
    if constant(model, tensor) is None or type_name(tensor) != "FLOAT32" or len(shape) >= rank:
        return False
    padded = [1] * (rank - len(shape)) + shape
    name = f"{text(tensor.name)}_rank{rank}_{len(graph.tensors)}"
    inputs[place] = add_constant(model, graph, name, content(model, tensor), padded)
    operator.inputs = inputs
    return True


def fuse_clamps(model: ModelT) -> list[Remark]:
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
    return [
        Remark("note", "clamps-fused", f"{count} {name} became multiplications with a fused clamp")
        for name, count in sorted(changed.items())
    ]


def _clamp(model: ModelT, graph: SubGraphT, operator: OperatorT, kind: str) -> list[OperatorT]:
    import numpy as np

    factor, fused = _CLAMPS[kind]
    source, result = numbers(operator.inputs)[0], numbers(operator.outputs)[0]
    name = f"{text(graph.tensors[result].name)}_clamp"
    up = _add_float(model, graph, f"{name}_up", np.asarray([factor]))
    if factor == 1:
        return [_multiply(model, source, up, result, fused)]
    middle = _add_middle(graph, name, result)
    down = _add_float(model, graph, f"{name}_down", np.asarray([1 / factor]))
    return [_multiply(model, source, up, middle, fused), _multiply(model, middle, down, result, "NONE")]


def leaky_to_maximum(model: ModelT) -> list[Remark]:
    """Writes LEAKY_RELU(x) with a slope in 0..1 as MAXIMUM(x, slope * x): the quantizer does not know the first."""
    changed = 0
    for graph in model.subgraphs:
        replaced = []
        for operator in graph.operators:
            leaky = operator_name(model, operator) == "LEAKY_RELU" and 0 < _slope(operator) < 1
            replaced += _maximum(model, graph, operator) if leaky else [operator]
            changed += leaky
        graph.operators = replaced
    said = f"{changed} LEAKY_RELU became the maximum of x and slope times x"
    return [Remark("note", "leaky-relu-rewritten", said)] if changed else []


def _slope(operator: OperatorT) -> float:
    return float(operator.builtinOptions.alpha) if operator.builtinOptions is not None else 0.0


def _maximum(model: ModelT, graph: SubGraphT, operator: OperatorT) -> list[OperatorT]:
    import numpy as np

    source, result = numbers(operator.inputs)[0], numbers(operator.outputs)[0]
    name = f"{text(graph.tensors[result].name)}_leak"
    slope = _add_float(model, graph, f"{name}_slope", np.asarray([_slope(operator)]))
    middle = _add_middle(graph, name, result)
    larger = new_operator(model, "MAXIMUM", [source, middle], [result], "MaximumMinimumOptions")
    return [_multiply(model, source, slope, middle, "NONE"), larger]


def _multiply(model: ModelT, left: int, right: int, result: int, activation: str) -> OperatorT:
    fused = code_of("ActivationFunctionType", activation)
    return new_operator(model, "MUL", [left, right], [result], "MulOptions", fusedActivationFunction=fused)


def drop_unused(model: ModelT) -> list[Remark]:
    """Removes tensors that no operator and no border refers to, and buffers that no tensor refers to."""
    for graph_index, graph in enumerate(model.subgraphs):
        _drop_tensors(model, graph, graph_index)
    used = {int(t.buffer) for graph in model.subgraphs for t in graph.tensors}
    used |= {0} | {int(entry.buffer) for entry in model.metadata or []}
    order = {old: place for place, old in enumerate(sorted(used))}
    model.buffers = [model.buffers[old] for old in order]
    holders: list[TensorT | MetadataT] = [t for graph in model.subgraphs for t in graph.tensors]
    for holder in [*holders, *(model.metadata or [])]:
        holder.buffer = order[int(holder.buffer)]
    model.metadataBuffer = None  # the old form of metadata: nothing reads it, and its indices have moved
    return []


def _drop_tensors(model: ModelT, graph: SubGraphT, graph_index: int) -> None:
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


def _renumber(holder: SubGraphT | OperatorT, fields: tuple[str, ...], order: dict[int, int]) -> None:
    for field in fields:
        if getattr(holder, field) is not None:
            setattr(holder, field, [order[index] for index in numbers(getattr(holder, field))])


ALWAYS: tuple[Rewrite, ...] = (current_codes, add_signature, unique_names, matmul_to_fully_connected, drop_unused)
"""Before any quantization."""

STATIC: tuple[Rewrite, ...] = (*ALWAYS, raise_constant_rank, fuse_clamps, leaky_to_maximum, drop_unused)
"""Before activations are quantized."""


def apply(model: ModelT, rewrites: tuple[Rewrite, ...]) -> list[Remark]:
    """Applies rewrites in order; returns every note."""
    return [note for rewrite in rewrites for note in rewrite(model)]
