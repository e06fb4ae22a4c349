"""State that a model takes and gives, kept inside it: OpenVINO's ReadValue and Assign in place of input and output."""

from __future__ import annotations

from pathlib import Path

from hub.spec import ConvertJob, IoBinding, Remark, StepError, UnsupportedModel
from hub_openvino.border import input_names, output_names, store_symbols
from hub_openvino.convert.source_signature import ConvertedIr
from hub_openvino.describe import read_model

_KEPT = "kept inside the model, from {} of the run before"


def make_stateful(job: ConvertJob) -> ConvertedIr:
    """Turn pairs of input and output into variables that start at zero.

    Raises:
        UnsupportedModel: The sizes of a state are open, so that it has no first value.
        StepError: OpenVINO refuses.
    """
    from openvino.passes import MakeStateful, Manager

    states, model = job.options.states, read_model(Path(job.source.path))
    for name, port in zip(input_names(model), model.inputs, strict=True):
        if name in states and port.partial_shape.is_dynamic:
            message = f"the sizes of state {name} are open ({port.partial_shape}), so it has no first value"
            raise UnsupportedModel(message, hint=f"fix them: --shape {name}=...")
    manager = Manager()
    manager.register_pass(MakeStateful(states))
    try:
        manager.run_passes(model)
        model.validate_nodes_and_infer_types()
    except (RuntimeError, ValueError, TypeError) as error:
        message = f"OpenVINO cannot keep {states} inside the model: {' '.join(str(error).split())[:300]}"
        raise StepError(message, hint="give --state INPUT=OUTPUT of one type and one shape") from error
    inputs = [spec.name for spec in job.source.signature.inputs if spec.name not in states]
    outputs = [spec.name for spec in job.source.signature.outputs if spec.name not in states.values()]
    if (input_names(model), output_names(model)) != (inputs, outputs):
        message = f"OpenVINO left {input_names(model)} and {output_names(model)} of {inputs} and {outputs}"
        raise StepError(message, hint="name each state once")
    kept = set(input_names(model))
    store_symbols(model, [spec for spec in job.source.signature.inputs if spec.name in kept])
    notes = tuple(
        Remark("note", "state-kept-inside", f"{name} is {_KEPT.format(output)}") for name, output in states.items()
    )
    given = [IoBinding(direction="output", source=name, target="", reason="kept inside") for name in states.values()]
    taken = [
        IoBinding(direction="input", source=name, target="", state=output, reason=_KEPT.format(output))
        for name, output in states.items()
    ]
    return ConvertedIr(model, (*taken, *given), notes)
