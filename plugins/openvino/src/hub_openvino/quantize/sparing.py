"""Finds the quantizers that hurt the outputs most, and takes them out again.

Each quantized activation gets a switch, a boolean input of the model, so that one compilation serves to measure what
every quantizer alone does to the outputs. Weights stay int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hub.spec import StepWatch
from hub_openvino.quantize.float_ir import FloatIr
from hub_quanttrials import Noise, measured_noise

if TYPE_CHECKING:
    import openvino

_SWITCH = "hub/switch"


def quantizers(model: openvino.Model) -> list[openvino.Node]:
    """`FakeQuantize` nodes of activations, in execution order: those that depend on an input of the model."""
    moving: set[str] = set()
    found = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        feeds = (node.input_value(place).get_node().get_name() for place in range(node.get_input_size()))
        if kind in {"Parameter", "ReadValue"} or any(name in moving for name in feeds):
            moving.add(node.get_name())
            found += [node] if kind == "FakeQuantize" else []
    return found


def measure_noise(source: FloatIr, quantized: openvino.Model, watch: StepWatch | None = None) -> Noise:
    """Run the model with one quantizer switched on at a time.

    Raises:
        StepError: OpenVINO cannot run the model with switches.
    """
    model, names = _with_switches(quantized)
    session = source.session(model, [_SWITCH])
    noise = measured_noise(source.judge, names, lambda feeds, on: session.run({**feeds, _SWITCH: on}), watch=watch)
    session.close()
    return noise


def _with_switches(quantized: openvino.Model) -> tuple[openvino.Model, tuple[str, ...]]:
    import numpy as np
    import openvino
    from openvino import opset13

    model = quantized.clone()
    nodes = quantizers(model)
    switch = opset13.parameter([len(nodes)], openvino.Type.boolean)
    for place, node in enumerate(nodes):
        users = list(node.output(0).get_target_inputs())
        on = opset13.gather(switch, opset13.constant(np.int32(place)), opset13.constant(np.int32(0)))
        chosen = opset13.select(on, node.output(0), node.input_value(0))
        for user in users:
            user.replace_source_output(chosen.output(0))
    model.add_parameters([switch])
    model.validate_nodes_and_infer_types()
    return model, tuple(node.friendly_name for node in nodes)


def without(quantized: openvino.Model, names: Sequence[str]) -> openvino.Model:
    """A copy in which the named quantizers are gone: what they fed gets the float value."""
    model, gone = quantized.clone(), set(names)
    for node in quantizers(model):
        if node.friendly_name in gone:
            for user in list(node.output(0).get_target_inputs()):
                user.replace_source_output(node.input_value(0))
    model.validate_nodes_and_infer_types()
    return model
