"""The second engine behind hub's importer: tf2onnx, as far as it is right.

Measured with tf2onnx 1.17: it drops the bias of FULLY_CONNECTED for inputs of more than two axes, writes fused LSTMs
wrongly, leaves operators that it does not know as `TFL_*` nodes, and exits well after each of these. So the first two
are refused before it runs, and nodes outside the standard after it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import (
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    ModelSummary,
    Remark,
    StepError,
    StepOutput,
    Support,
    UnsupportedModel,
    Verdict,
)
from hub_tflite.describe import signature_of
from hub_tflitefile.interface import interface_of
from hub_tflitefile.schema import numbers, operator_name, operators, read, text, to_bytes

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnx_ir import Model, Value

    from hub.spec import TensorSpec
    from hub_tflitefile.tables import ModelT

TENSORFLOW = "tensorflow-cpu>=2.19 | tensorflow>=2.19"
OPSET = 17
"""The newest that all of tf2onnx 1.17's handlers of TFLite operators were written for."""
_RECURRENT = frozenset({
    "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "RNN", "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_RNN", "SVDF",
})  # fmt: skip
_MATRIX = 2
_BIAS = 2


def dropped_biases(model: ModelT) -> list[str]:
    """Return the names of results of FULLY_CONNECTED whose bias tf2onnx would drop."""
    found = []
    for graph, operator in operators(model):
        inputs = numbers(operator.inputs)
        if operator_name(model, operator) == "FULLY_CONNECTED" and len(inputs) > _BIAS and inputs[_BIAS] >= 0:
            rank = len(numbers(graph.tensors[inputs[0]].shape))
            if rank > _MATRIX:
                found.append(text(graph.tensors[numbers(operator.outputs)[0]].name))
    return found


def leftovers(model: ModelProto) -> list[str]:
    """Return the operators of an ONNX model that the standard does not have at its opset, sorted."""
    from onnx import defs

    versions = {entry.domain: entry.version for entry in model.opset_import}
    used = {(node.domain, node.op_type) for node in model.graph.node}
    return sorted(name for domain, name in used if domain or not defs.has(name, versions.get("", 1), ""))


def convert_second(source: Path, output: Path, scratch: Path) -> StepOutput:
    """Convert a private copy of a file with tf2onnx, and give its border the signature's names.

    Raises:
        UnsupportedModel: tf2onnx is known to be wrong on the model, or left operators that ONNX does not have.
        StepError: It failed, or wrote an invalid graph.
    """
    import onnx
    import onnx_ir

    model = read(source)
    dropped = dropped_biases(model)
    if dropped:
        raise UnsupportedModel(f"tf2onnx drops the bias of FULLY_CONNECTED in {', '.join(dropped[:3])}")
    graph, inputs, outputs = interface_of(model)
    # tf2onnx goes by names: the copy's tensors are numbered, and it reads only weights inside the flatbuffer.
    for number, subgraph in enumerate(model.subgraphs):
        for place, tensor in enumerate(subgraph.tensors):
            tensor.name = f"t{number}_{place}".encode()
    names = [text(graph.tensors[index].name) for _, index in (*inputs, *outputs)]
    copy = scratch / "copy.tflite"
    copy.write_bytes(to_bytes(model))
    made = _run(copy)
    left = leftovers(made)
    if left:
        raise UnsupportedModel(f"tf2onnx left {', '.join(left)}, which ONNX does not have")
    signature = signature_of(read(source))
    renamed = onnx_ir.from_proto(made)
    _rename(renamed, names, (*signature.inputs, *signature.outputs))
    try:
        onnx.checker.check_model(onnx_ir.to_proto(renamed), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StepError(f"tf2onnx wrote an invalid graph: {str(error)[:300]}") from error
    onnx.save(onnx_ir.to_proto(renamed), output)
    note = Remark("note", "imported", f"tf2onnx wrote {len(made.graph.node)} nodes of opset {OPSET}")
    return StepOutput(notes=(note,))


def _run(path: Path) -> ModelProto:
    # It prints each operator that it does not know with a traceback; hub names them once, from the result.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"):
        import tf2onnx.convert

        try:
            made: tuple[ModelProto, object] = tf2onnx.convert.from_tflite(str(path), opset=OPSET)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError, AssertionError) as error:
            raise StepError(f"tf2onnx failed: {type(error).__name__}: {str(error)[:300]}") from error
    return made[0]


def _rename(model: Model, names: Sequence[str], specs: Sequence[TensorSpec]) -> None:
    """Give inputs and outputs the signature's names, order and dimensions."""
    import onnx_ir

    values: dict[str | None, Value] = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
    missing = [spec.name for name, spec in zip(names, specs, strict=True) if name not in values]
    if missing or len(values) != len(specs):
        raise StepError(f"tf2onnx lost {', '.join(missing) or 'an input or output'}")
    for name, spec in zip(names, specs, strict=True):
        value = values[name]
        value.name = spec.name
        value.shape = onnx_ir.Shape([str(dim) if dim.size is None else dim.size for dim in spec.shape])
    count = len(model.graph.inputs)
    model.graph.inputs[:] = [values[name] for name in names[:count]]
    model.graph.outputs[:] = [values[name] for name in names[count:]]


def takes_feedforward(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Says no to recurrent and custom operators, and to fixed shapes."""
    wrong = sorted(summary.operators.keys() & _RECURRENT)
    if wrong:
        return Verdict(support=Support.NEVER, reason=f"tf2onnx writes {', '.join(wrong)} wrongly")
    if summary.custom_operators:
        return Verdict(support=Support.NEVER, reason=f"ONNX has no {', '.join(summary.custom_operators)}")
    if options.shapes:
        return Verdict(support=Support.NEVER, reason="it keeps the shapes as they are: onnx.prepare fixes them")
    return YES


def _convert(job: ConvertJob) -> StepOutput:
    return convert_second(Path(job.source.path), Path(job.output), Path(job.scratch))


TF2ONNX = Edge(
    id="tflite.onnx-tf2onnx",
    accepts=(Accepts(format="tflite"),),
    gives=Gives(format="onnx"),
    convert=_convert,
    check=takes_feedforward,
    keeps_dynamic=True,
    requires=("ai-edge-litert", "onnx-ir", "tf2onnx>=1.17", TENSORFLOW),
    process="tf2onnx",
    cost=4.0,
    title="tf2onnx",
    optional=True,
)
"""From TFLite to ONNX by tf2onnx."""
