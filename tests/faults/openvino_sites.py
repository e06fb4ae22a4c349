"""Where an IR keeps what a fault may hit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from tests.faults.inject import FaultSite, Numbers, stored

_PRODUCTS = frozenset({"Convolution", "GroupConvolution", "MatMul"})
_RELATIVES = {
    "ReLU": "elu",
    "Relu": "elu",
    "Sigmoid": "hsigmoid",
    "HSigmoid": "sigmoid",
    "Tanh": "softsign",
    "HSwish": "swish",
}
"""What converters take for each other: kind -> the function that makes another."""

_UNPACKING = frozenset({"Multiply", "Subtract", "Convert", "FakeQuantize", "Reshape"})


class OpenvinoSites:
    """A file; sites are named by the layer that reads the numbers, or the FakeQuantize that has the range."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _nodes(self) -> dict[str, Any]:
        self.model = openvino.Core().read_model(self.path)
        return {node.friendly_name: node for node in self.model.get_ordered_ops()}

    @staticmethod
    def _constant(node: Any, slot: int) -> Any:
        """The constant that a layer reads, below what unpacks it; None where it reads another layer."""
        found = node.input(slot).get_source_output().get_node()
        while found.get_type_name() in _UNPACKING:
            found = found.input(0).get_source_output().get_node()
        return found if found.get_type_name() == "Constant" else None

    @staticmethod
    def _scales(node: Any, slot: int) -> list[Any]:
        """The constants that scale what a layer reads."""
        unpacking = node.input(slot).get_source_output().get_node()
        slots = {"Multiply": (1,), "FakeQuantize": (3, 4)}.get(unpacking.get_type_name(), ())
        return [unpacking.input(place).get_source_output().get_node() for place in slots]

    def all(self) -> list[FaultSite]:
        """Weights and biases of products, and ranges."""
        found = []
        for name, node in self._nodes().items():
            kind = node.get_type_name()
            before = node.input(0).get_source_output().get_node().get_type_name() if node.get_input_size() else ""
            if kind in _PRODUCTS and (constant := self._constant(node, 1)):
                scales = self._scales(node, 1)
                found.append(FaultSite("weights", name, constant.get_data(), scales[-1].get_data() if scales else None))
            elif kind == "Add" and before in _PRODUCTS and (constant := self._constant(node, 1)):
                found.append(FaultSite("bias", name, constant.get_data(), None))
            elif kind == "FakeQuantize" and not self._constant(node, 0):
                found.append(FaultSite("range", name, None, node.input(4).get_source_output().get_node().get_data()))
            elif kind in _RELATIVES:
                found.append(FaultSite("operator", name, None, None))
        return found

    def planted(
        self, site: FaultSite, into: Path, numbers: Numbers | None = None, scale: Numbers | None = None
    ) -> Path:
        """Write a copy."""
        node = self._nodes()[site.where]
        changed: list[tuple[Any, Numbers]] = []
        if site.role == "operator":
            make = getattr(openvino.opset13, _RELATIVES[node.get_type_name()])
            readers = [port for output in node.outputs() for port in output.get_target_inputs()]
            other = make(node.input_value(0), 0.1) if make.__name__ == "elu" else make(node.input_value(0))
            for port in readers:
                port.replace_source_output(other.output(0))
        if numbers is not None:
            constant = self._constant(node, 1)
            changed.append((constant, stored(numbers, constant.get_data())))
        if scale is not None and site.scale is not None:
            factor = float(np.max(scale) / np.max(site.scale))
            places = (1, 2, 3, 4) if site.role == "range" else ()
            parts = [node.input(place).get_source_output().get_node() for place in places] or self._scales(node, 1)
            changed += [(part, np.asarray(part.get_data() * factor, part.get_data().dtype)) for part in parts]
        for old, new in changed:
            fresh = openvino.op.Constant(new).output(0)
            for reader in old.output(0).get_target_inputs():
                reader.replace_source_output(fresh)
        file = into / "mutant.xml"
        openvino.save_model(self.model, file, compress_to_fp16=False)
        return file
