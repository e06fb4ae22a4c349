"""What each layer in integers alone does to the outputs, measured with one model for all of them.

Each layer gets a switch, an element of a boolean input: it reads and gives either what quantizing makes of its tensors
or the floats. So the graph is optimized and opened once, and not once for every layer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_onnxgraph.graphs import fresh_name
from hub_onnxquant.placement import PRODUCTS, Placement, Wiring
from hub_onnxquant.qdq import FP8, QdqWriter, affine, quantize_weights, weight_axis
from hub_quanttrials import Noise, measured_noise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto

    from hub.spec import StepWatch
    from hub_onnxquant.qdq import Range, Scheme
    from hub_onnxquant.source import QuantizerSource

_SWITCH = "hub/switch"


def units_of(placement: Placement, wiring: Wiring) -> dict[str, str]:
    """Each layer of a placement -> the one whose switch it hangs on.

    What joins products reads integers of one product alone, or of several. In the first case it goes back to float with
    that product, whose result it reads; in the second it has a switch of its own.
    """
    units: dict[str, str] = {}
    makers: dict[str, str] = {}
    placed = {*placement.products, *placement.joined}
    for node in wiring.nodes:
        given = {makers[name] for name in node.input if name in makers}
        alone = len(given) == 1 and node.name not in placement.products
        if node.name in placed:
            units[node.name] = given.pop() if alone else node.name
            makers |= dict.fromkeys(node.output, units[node.name])
        elif alone:  # it moves or clamps what a layer gives
            makers |= dict.fromkeys(node.output, given.pop())
    return units


class _SwitchWriter(QdqWriter):
    """Writes both forms of every layer, and what chooses between them."""

    def __init__(self, model: ModelProto, placement: Placement, ranges: Mapping[str, Range], scheme: Scheme) -> None:
        super().__init__(model, scheme)
        self.placement, self.ranges = placement, ranges
        wiring = Wiring(model)
        self.units = units_of(placement, wiring)
        self.places = {name: place for place, name in enumerate(dict.fromkeys(self.units.values()))}
        named = {node.name: node for node in wiring.nodes}
        gives = {name: wiring.anchor(named[name]) for name in self.units}
        self.makers = {tensor: name for name, tensor in gives.items() if tensor in placement.behind}
        self._rounded: dict[str, str] = {}

    def write(self) -> None:
        """Replaces the graph's nodes."""
        import numpy as np
        from onnx import TensorProto, helper

        self.graph.input.append(helper.make_tensor_value_info(_SWITCH, TensorProto.BOOL, [len(self.places)]))
        for place in self.places.values():
            self.node("Gather", [_SWITCH, self.constant("hub/place", np.array(place))], f"hub/on/{place}")
        for node in list(self.graph.node):
            if node.name in self.units:
                for slot in range(min(2, len(node.input))):
                    self._read(node, slot)
            self.nodes.append(node)
            for slot, name in enumerate(node.output):
                if name in self.makers:
                    node.output[slot] = fresh_name(f"{name}/float", self.taken)
                    self._chosen(self.makers[name], self._round(node.output[slot], name), node.output[slot], name)
        copies = [type(node).FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        del self.graph.value_info[:]

    def _chosen(self, layer: str, one: str, other: str, target: str) -> None:
        self.node("Where", [f"hub/on/{self.places[self.units[layer]]}", one, other], target)

    def _round(self, name: str, known_as: str) -> str:
        target = fresh_name(f"{known_as}/rounded", self.taken)
        self.pair(name, target, affine(self.ranges[known_as], self.scheme.activations))
        return target

    def _read(self, node: NodeProto, slot: int) -> None:
        name = node.input[slot]
        tensor = self.tensors.get(name)
        if tensor is not None:
            if node.name not in self.placement.products or len(tensor.dims) < 2:  # noqa: PLR2004 a vector has one row
                return
            one = _rounded_weights(node, slot, self)
        elif name in self.placement.before:
            if name not in self._rounded:
                self._rounded[name] = self._round(name, name)
            one = self._rounded[name]
        else:
            return
        node.input[slot] = fresh_name(f"{name}/read", self.taken)
        self._chosen(node.name, one, name, node.input[slot])


def with_switches(
    model: ModelProto, placement: Placement, ranges: Mapping[str, Range], scheme: Scheme
) -> tuple[ModelProto, tuple[str, ...]]:
    """Returns a copy of a float model with a switch for each layer of a placement, and the layers' names in order.

    Args:
        model: As for `hub_onnxquant.qdq.insert`.
        placement: What can be quantized.
        ranges: Tensor -> range of its real values.
        scheme: Element types. Biases stay in float: theirs is the finest grid of all.
    """
    writer = _SwitchWriter(model, placement, ranges, scheme)
    writer.write()
    return writer.model, tuple(writer.places)


def _rounded_weights(node: NodeProto, slot: int, writer: QdqWriter) -> str:
    """Writes what the integers of a stored operand stand for."""
    import numpy as np
    from onnx import numpy_helper

    array = numpy_helper.to_array(writer.tensors[node.input[slot]])
    axis = weight_axis(node, array.ndim) if slot else None
    found = quantize_weights(array, axis, kind=FP8 if writer.scheme.weights == FP8 else "int8")
    shape = [-1 if place == axis else 1 for place in range(array.ndim)]
    real = found.integers.astype(np.float32) * found.scales.astype(np.float32).reshape(shape)
    return writer.constant(f"{node.input[slot]}/rounded", real)


def measure_noise(
    source: QuantizerSource,
    placement: Placement,
    ranges: Mapping[str, Range],
    scheme: Scheme,
    watch: StepWatch | None = None,
) -> Noise:
    """Measures what each layer of a placement does; giving it back to float costs its multiplications.

    Raises:
        StepError: ONNX Runtime refuses the model with switches.
    """
    model, names = with_switches(source.model, placement, ranges, scheme)
    session = source.session(model)
    costs = _costs(source.model, names)
    noise = measured_noise(source.judge, names, lambda feeds, on: session.run({**feeds, _SWITCH: on}), costs, watch)
    session.close()
    return noise


def _costs(model: ModelProto, names: tuple[str, ...]) -> list[float]:
    """Multiplications of layers over their mean, and 1 for what every layer in float costs; open sizes count as 1."""
    values = (*model.graph.value_info, *model.graph.output)
    sizes = {v.name: math.prod(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in values}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    found = []
    for name in names:
        node = nodes[name]
        weights = [stored[one].dims for one in node.input[:2] if one in stored and len(stored[one].dims) > 1]
        inner = math.prod(weights[0]) // weights[0][weight_axis(node, len(weights[0]))] if weights else 1
        found.append(float(sizes.get(node.output[0], 1) * (inner if node.op_type in PRODUCTS else 1)))
    mean = sum(found) / max(1, len(found)) or 1.0
    return [1 + count / mean for count in found]
