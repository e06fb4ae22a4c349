"""ONNX -> TFLite with onnx2tf, in an environment of its own.

Everything here runs inside that environment, which holds onnx2tf, what it needs, and what hub's worker needs. Measured
with onnx2tf 2.6.9, and the reason for each setting:

* it overwrites its input file: it gets a private copy;
* its fused LSTM keeps state between invokes and is wrong in some networks (0.04 to 0.07 relative): recurrent layers are
  unrolled;
* it turns NCHW inputs into NHWC: every input's layout is kept by name. For outputs it has no such setting: a Reshape to
  the output's own shape behind each output of rank 3 and more does it;
* it ends well when it wrote operators named `ONNX_*` that no runtime has: the operator codes are read back.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Collection
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hub.spec import (
    STATIC,
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    DependencyMissing,
    DType,
    Edge,
    Gives,
    IoBinding,
    ModelSummary,
    Remark,
    StepError,
    StepOutput,
    Support,
    Toolchain,
    UnsupportedModel,
    Verdict,
)

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

Direction = Literal["input", "output"]

TFLITE_BYTES = 2**31
"""Offsets in a flatbuffer are 32 bits, signed."""

_LOCK = "onnx2tf-requirements.txt"
_CUSTOM = 32  # BuiltinOperator.CUSTOM in TFLite's schema
_LAYOUT_RANK = 3  # from this rank on, onnx2tf moves channels
_FAILURES_HINT = "The step's log has onnx2tf's own words."


def locked_requirements() -> tuple[str, ...]:
    """Returns the lines of the lock: the whole closure, to be installed without dependency resolution."""
    text = files("hub_onnxruntime").joinpath(_LOCK).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def _toolchain() -> Toolchain:
    """onnx2tf says Python >= 3.12 and runs on 3.11: its line carries that marker, and is forced."""
    plain = tuple(line for line in locked_requirements() if ";" not in line)
    forced = tuple(line.partition(";")[0].strip() for line in locked_requirements() if ";" in line)
    return Toolchain(name="onnx2tf", requires=plain, python="3.11", forced=forced, forced_python="3.12")


TOOLCHAIN = _toolchain()


def keep_output_layout(model: ModelProto) -> int:
    """Puts a Reshape to its own shape behind each output that has channels to move; returns how many."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    outputs = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.output}
    moved = {name: shape for name, shape in outputs.items() if len(shape) >= _LAYOUT_RANK and all(shape)}
    renamed = {name: f"{name}__before_layout" for name in moved}
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [renamed.get(name, name) for name in tensors]
    for name, shape in moved.items():
        size = f"{name}__layout"
        graph.initializer.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), size))
        graph.node.append(helper.make_node("Reshape", [f"{name}__before_layout", size], [name], name=size))
    return len(moved)


def custom_codes(data: bytes) -> list[str]:
    """Returns the custom operators of a TFLite file, read from its operator codes."""
    # Not by hub_tflitefile, which reads such files elsewhere: this environment holds onnx2tf and hub's worker alone.
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    names = [code.CustomCode() or b"?" for code in codes if code.BuiltinCode() == _CUSTOM]
    return sorted(name.decode() for name in names)


def _binding(direction: Direction, value: ValueInfoProto, detail: dict[str, Any]) -> list[IoBinding]:
    """Returns a binding when onnx2tf changed the element type; refuses a changed shape."""
    from onnx import helper

    name, tensor = value.name, value.type.tensor_type
    dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = [dim.dim_value for dim in tensor.shape.dim]
    found = [int(size) for size in detail["shape"]]
    if all(shape) and found != shape:
        raise StepError(f"onnx2tf changed {direction} {name!r} from {shape} to {found}", hint=_FAILURES_HINT)
    kind = DType(detail["dtype"].__name__.removesuffix("_"))
    if kind.value == dtype:
        return []
    reason = f"onnx2tf writes {dtype} as {kind.value}"
    return [IoBinding(direction=direction, source=name, target=name, dtype=kind, reason=reason)]


def _bindings(model: ModelProto, path: Path) -> list[IoBinding]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    bindings = []
    borders: tuple[tuple[Direction, Collection[ValueInfoProto], list[dict[str, Any]]], ...] = (
        ("input", model.graph.input, interpreter.get_input_details()),
        ("output", model.graph.output, interpreter.get_output_details()),
    )
    for direction, values, details in borders:
        by_name = {detail["name"]: detail for detail in details}
        missing = [value.name for value in values if value.name not in by_name]
        if missing or len(by_name) != len(values):
            names = ", ".join(by_name)
            raise StepError(f"onnx2tf lost {direction}s {missing}; it has {names}", hint=_FAILURES_HINT)
        bindings += [item for value in values for item in _binding(direction, value, by_name[value.name])]
    return bindings


def run_onnx2tf(source: Path, scratch: Path) -> tuple[Path, ModelProto, int]:
    """Converts a static ONNX file.

    Returns:
        The float32 TFLite file, the ONNX model as it was, and the number of outputs whose layout was held.

    Raises:
        DependencyMissing: onnx2tf is not in this environment.
        StepError: onnx2tf failed or wrote nothing.
    """
    import onnx

    model = onnx.load(source)
    private, folder = scratch / "private.onnx", scratch / "onnx2tf"
    changed = deepcopy(model)
    held = keep_output_layout(changed)
    onnx.save(changed, private)
    _convert(private, folder, [value.name for value in model.graph.input])
    written = folder / "private_float32.tflite"
    if not written.is_file():
        raise StepError("onnx2tf ended without an error and wrote no float32 file", hint=_FAILURES_HINT)
    return written, model, held


def _convert(private: Path, folder: Path, inputs: list[str]) -> None:
    try:
        onnx2tf = importlib.import_module("onnx2tf")
    except ImportError as error:
        hint = "Run the edge inside the toolchain `onnx2tf`; `hub doctor` shows whether it is built."
        raise DependencyMissing(f"onnx2tf does not import here: {error}", hint=hint) from error
    try:
        onnx2tf.convert(
            input_onnx_file_path=str(private),
            output_folder_path=str(folder),
            keep_shape_absolutely_input_names=inputs,
            enable_rnn_unroll=True,
            copy_onnx_input_output_names_to_tflite=True,
            output_signaturedefs=True,
            not_use_onnxsim=True,
            non_verbose=True,
            verbosity="error",
        )
    except SystemExit as error:
        raise StepError(f"onnx2tf called exit({error.code})", hint=_FAILURES_HINT) from error
    except Exception as error:  # the tool's boundary: it raises whatever it meets
        said = " ".join(str(error).split())[:300]
        raise StepError(f"onnx2tf failed: {type(error).__name__}: {said}", hint=_FAILURES_HINT) from error


def takes_loopless(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses control flow and foreign operators, which onnx2tf writes as operators that no runtime has."""
    from hub_onnxruntime.operators import CONTROL_FLOW  # needs what the toolchain of `convert` lacks

    del options
    if summary.size_bytes >= TFLITE_BYTES:
        return Verdict(support=Support.NEVER, reason="a TFLite file ends at 2 GiB, and the model is larger")
    flow = sorted(CONTROL_FLOW & summary.operators.keys())
    if flow:
        return Verdict(support=Support.NOTYET, reason=f"onnx2tf writes {', '.join(flow)} as a custom operator")
    if summary.custom_operators:
        return Verdict(support=Support.NEVER, reason=f"foreign operators: {', '.join(summary.custom_operators)}")
    return YES


def convert(job: ConvertJob) -> StepOutput:
    """Converts `job.source` with onnx2tf.

    Raises:
        UnsupportedModel: The result holds custom operators.
        StepError: onnx2tf failed, or changed inputs or outputs.
    """
    scratch = Path(job.scratch)
    written, model, held = run_onnx2tf(Path(job.source.path), scratch)
    custom = custom_codes(written.read_bytes())
    if custom and not job.options.allow_custom_ops:
        names = ", ".join(custom)
        raise UnsupportedModel(f"onnx2tf left operators that no runtime has: {names}", hint=_FAILURES_HINT)
    bindings = _bindings(model, written) if not custom else []
    shutil.copyfile(written, job.output)
    notes = []
    if any(node.op_type in ("LSTM", "GRU", "RNN") for node in model.graph.node):
        notes.append(Remark("note", "recurrence-unrolled", "unrolled recurrent layers over time"))
    if held:
        notes.append(Remark("note", "layout-held", f"held the layout of {held} outputs with a Reshape"))
    return StepOutput(notes=tuple(notes), bindings=tuple(bindings))


ONNX2TF = Edge(
    id="onnx.tflite-onnx2tf",
    accepts=(Accepts(format="onnx", form=STATIC),),
    gives=Gives(format="tflite"),
    convert=convert,
    check=takes_loopless,
    toolchain=TOOLCHAIN,
    cost=3.0,
    title="onnx2tf",
)
"""From ONNX in its static form to TFLite through onnx2tf."""
