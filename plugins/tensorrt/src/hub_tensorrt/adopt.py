"""Takes an ONNX file that somebody else quantized, or wrote in half precision, where TensorRT's rules allow it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import ConvertJob, Remark, StepOutput, UnsupportedModel
from hub_onnxgraph.signature import ANONYMOUS
from hub_tensorrt.precision.rules import check_rules, words

if TYPE_CHECKING:
    import onnx


def adopt(job: ConvertJob) -> StepOutput:
    """Write the file as it is, with names for its nameless dimensions.

    TensorRT itself says less than its rules: it reads uint8 as int8 with other values, and float64 as float32.

    Raises:
        UnsupportedModel: It breaks a rule; the message says which, where, and what to do.
    """
    import onnx

    model = onnx.load(job.source.path)
    named = _name_dims(model)
    broken = [finding for finding in check_rules(model) if finding.kind == "blocker"]
    if broken:
        each = tuple({finding.code: finding for finding in reversed(broken)}.values())[::-1]  # the first of its kind
        message = f"it breaks rules of TensorRT in {len(broken)} places, such as {words(each)}"
        raise UnsupportedModel(message, hint=broken[0].hint)
    Path(job.output).write_bytes(model.SerializeToString(deterministic=True))
    note = Remark("note", "dims-named", f"gave {named} nameless dimensions names of their own")
    return StepOutput(notes=(note,) if named else ())


def _name_dims(model: onnx.ModelProto) -> int:
    """Name every dimension that has none, or a word for none, as the reader does; returns how many."""
    count = 0
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and dim.dim_param in ANONYMOUS:
                dim.dim_param = f"{value.name}_dim{index}"
                count += 1
    return count
