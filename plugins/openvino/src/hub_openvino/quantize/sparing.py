"""Finds the quantizers and the int8 weights that hurt the outputs most, and takes them out again.

Each quantized activation gets a switch, an element of a boolean input, so that one compilation serves to measure what
every quantizer alone does to the outputs. Where int8 weights alone leave too little, those of each layer get one too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import StepWatch
from hub_openvino.numerics import MOVE_OPERATORS, MULTIPLY_OPERATORS
from hub_openvino.quantize.float_ir import FloatIr
from hub_quanttrials import WEIGHTS, WEIGHTS_DB, Noise, measured_noise

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import openvino

    from hub.spec.calibration import Feeds

    Array = npt.NDArray[np.float32]
    Flags = npt.NDArray[np.bool_]

_SWITCH = "hub/switch"
_SCALED = 0.1
"""Share of float weights' power that int8 differs from them by at most: others were scaled on the way."""


def quantizers(model: openvino.Model) -> list[openvino.Node]:
    """`FakeQuantize` nodes of activations, in execution order: those that depend on an input of the model."""
    moving = _moving(model)
    return [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize" and node.friendly_name in moving
    ]


def _moving(model: openvino.Model) -> set[str]:
    """Names of the nodes that depend on an input of the model."""
    found: set[str] = set()
    for node in model.get_ordered_ops():
        sources = (node.input_value(place).get_node().friendly_name for place in range(node.get_input_size()))
        if node.get_type_name() in {"Parameter", "ReadValue"} or any(name in found for name in sources):
            found.add(node.friendly_name)
    return found


class FloatOperand(NamedTuple):
    """A stored operand that quantization changed.

    Attributes:
        reader: Who reads it: the layer itself, or what adds its bias.
        place: At which place.
        values: Its values in the float model.
        now: What stands for them.
    """

    reader: str
    place: int
    values: Array
    now: Array


def float_operands(source: openvino.Model, quantized: openvino.Model) -> dict[str, list[FloatOperand]]:
    """Multiplying layer -> its float weights, and its bias, which NNCF has corrected for what int8 does.

    Left out are layers whose weights were scaled on the way, as those in front of them were then too (SmoothQuant).
    """
    import numpy as np

    def is_rounded(item: FloatOperand) -> bool:
        return bool(np.sum((item.now - item.values) ** 2) <= _SCALED * np.sum(item.values**2))

    changed = _changed_operands(source, quantized)
    return {layer: items for layer, items in changed.items() if items[0].reader == layer and is_rounded(items[0])}


def bias_corrections(source: openvino.Model, quantized: openvino.Model) -> dict[str, float]:
    """Layer -> by how much its bias was moved at most, to undo the mean error of its int8 weights and inputs."""
    moved = {
        layer: [float(abs(item.now - item.values).max()) for item in items if item.reader != layer]
        for layer, items in _changed_operands(source, quantized).items()
    }
    return {layer: float(f"{max(found):.4g}") for layer, found in moved.items() if found}


def _changed_operands(source: openvino.Model, quantized: openvino.Model) -> dict[str, list[FloatOperand]]:
    """Multiplying layer -> its weights and its bias, where they are not the float model's any more."""
    import numpy as np

    model, before = quantized.clone(), {node.friendly_name: node for node in source.get_ops()}
    moving, places = _moving(model), []
    for node in model.get_ordered_ops():
        if node.get_type_name() in MULTIPLY_OPERATORS and node.friendly_name in moving:
            readers = [port.get_node() for port in node.output(0).get_target_inputs()]
            bias = [one for one in readers if len(readers) == 1 and one.get_type_name() == "Add"]
            for one in (one for one in (node, *bias) if one.friendly_name in before):
                sources = [port.get_source_output().get_node().friendly_name for port in one.inputs()]
                stored = [place for place, name in enumerate(sources) if name not in moving]
                places += [(node.friendly_name, one.friendly_name, place) for place in stored]
    after = {node.friendly_name: node for node in model.get_ops()}
    now, then = (_values([nodes[name].input_value(place) for _, name, place in places]) for nodes in (after, before))
    found: dict[str, list[FloatOperand]] = {}
    for (layer, reader, place), new, old in zip(places, now, then, strict=True):
        if new.shape == old.shape and np.issubdtype(old.dtype, np.floating) and not np.array_equal(new, old):
            found.setdefault(layer, []).append(FloatOperand(reader, place, old, new))
    return found


def _values(ports: Sequence[openvino.Output]) -> list[Array]:
    """What stored operands stand for: OpenVINO itself unpacks them."""
    import openvino
    from openvino import opset13

    if not ports:
        return []
    alone = openvino.Model([opset13.result(port) for port in ports], [], "stored")
    compiled = openvino.Core().compile_model(alone, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    request.infer()
    return [tensor.data.copy() for tensor in request.output_tensors]


def measure_noise(source: FloatIr, quantized: openvino.Model, watch: StepWatch | None = None) -> Noise:
    """Run the model with one quantizer switched on at a time; with the weights of one layer too, where they matter.

    Raises:
        StepError: OpenVINO cannot run the model with switches.
    """
    import numpy as np

    model, names = _with_switches(quantized, {})
    with closing(source.session(model, [_SWITCH])) as session:
        noise = measured_noise(source.judge, names, lambda feeds, on: session.run({**feeds, _SWITCH: on}), watch=watch)
    operands = float_operands(source.model(), quantized) if noise.rest_db < WEIGHTS_DB else {}
    if not operands:
        return noise
    owners = _owners(quantized, [*operands], names)
    model, _ = _with_switches(quantized, operands)
    off = np.zeros(len(names), bool)
    with closing(source.session(model, [_SWITCH])) as session:

        def run(feeds: Feeds, on: Flags) -> Feeds:
            return session.run({**feeds, _SWITCH: np.concatenate([off, on])})

        finer = measured_noise(source.judge, [layer + WEIGHTS for layer in operands], run, watch=watch)
    sizes = np.array([items[0].values.size for items in operands.values()])
    return noise.joined(finer, owners, sizes / sizes.max())


def _owners(quantized: openvino.Model, layers: Sequence[str], names: Sequence[str]) -> list[int]:
    """For each layer the place of the quantizer in front of it: float weights beside integers gain nothing.

    A layer that reads floats anyway has its own place, behind those of the quantizers.
    """
    places, nodes = {name: place for place, name in enumerate(names)}, {n.friendly_name: n for n in quantized.get_ops()}
    found = []
    for number, layer in enumerate(layers):
        owner = len(names) + number
        for port in nodes[layer].inputs():
            node = port.get_source_output().get_node()
            while node.get_type_name() in MOVE_OPERATORS:
                node = node.input_value(0).get_node()
            owner = places.get(node.friendly_name, owner)
        found.append(owner)
    return found


def _with_switches(
    quantized: openvino.Model, operands: Mapping[str, Sequence[FloatOperand]]
) -> tuple[openvino.Model, tuple[str, ...]]:
    """A model with a switch for each quantizer, and behind those one for each layer of `operands`."""
    import numpy as np
    import openvino
    from openvino import opset13

    model = quantized.clone()
    nodes = quantizers(model)
    switch = opset13.parameter([len(nodes) + len(operands)], openvino.Type.boolean)

    def chosen(place: int, one: openvino.Output, other: openvino.Output) -> openvino.Output:
        on = opset13.gather(switch, opset13.constant(np.int32(place)), opset13.constant(np.int32(0)))
        return opset13.select(on, one, other).output(0)

    for place, node in enumerate(nodes):
        users = list(node.output(0).get_target_inputs())
        either = chosen(place, node.output(0), node.input_value(0))
        for user in users:
            user.replace_source_output(either)
    named = {node.friendly_name: node for node in model.get_ops()}
    for place, items in enumerate(operands.values(), len(nodes)):
        for item in items:
            port = named[item.reader].input(item.place)
            constant = opset13.constant(item.values).output(0)
            port.replace_source_output(chosen(place, port.get_source_output(), constant))
    model.add_parameters([switch])
    model.validate_nodes_and_infer_types()
    return model, tuple(node.friendly_name for node in nodes)


def without(
    quantized: openvino.Model, names: Sequence[str], operands: Mapping[str, Sequence[FloatOperand]] | None = None
) -> openvino.Model:
    """A copy in which the named quantizers are gone: what they fed gets the float value.

    Args:
        quantized: The model.
        names: Quantizers.
        operands: Layers that get their float weights back.
    """
    from openvino import opset13

    model, gone = quantized.clone(), set(names)
    for node in quantizers(model):
        if node.friendly_name in gone:
            for user in list(node.output(0).get_target_inputs()):
                user.replace_source_output(node.input_value(0))
    nodes = {node.friendly_name: node for node in model.get_ops()}
    for item in (item for items in (operands or {}).values() for item in items):
        port = nodes[item.reader].input(item.place)
        name = port.get_source_output().get_node().friendly_name
        port.replace_source_output(opset13.constant(item.values, name=name).output(0))
    model.validate_nodes_and_infer_types()
    return model
