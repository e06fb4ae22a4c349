"""Where an ONNX file keeps what a fault may hit: QDQ, and the integer operators that ONNX Runtime writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.faults.inject import FaultSite, Numbers, stored

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul"})
_INTEGER = {
    "QLinearConv": (3, 4, 8, 6),
    "QGemm": (3, 4, 6, 7),
    "QLinearMatMul": (3, 4, -1, 6),
    "DynamicQuantizeMatMul": (1, 2, 4, -1),
    "MatMulIntegerToFloat": (1, 3, 6, -1),
    "DynamicQuantizeLSTM": (1, 8, 3, -1),
    "ConvInteger": (1, -1, -1, -1),
}
"""Places of the weights, of their scale, of the bias, and of the result's scale; -1 where there is none."""

_RELATIVES = {
    "Relu": "LeakyRelu", "LeakyRelu": "Relu", "Sigmoid": "HardSigmoid", "HardSigmoid": "Sigmoid", "Tanh": "Softsign",
    "Erf": "Tanh", "HardSwish": "Elu", "QLinearLeakyRelu": "QLinearSigmoid",
}  # fmt: skip
"""What converters take for each other."""


class OnnxSites:
    """A file; sites are named by the initializer that holds the numbers, or the scale of a range."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        self.scale_of: dict[str, str] = {}

    def all(self) -> list[FaultSite]:
        """Weights and biases of products, and ranges."""
        nodes = self.model.graph.node
        unpacked = {node.output[0]: node.input for node in nodes if node.op_type == "DequantizeLinear"}
        unpacked |= {node.output[0]: [node.input[0], ""] for node in nodes if node.op_type == "Cast"}
        found: dict[str, FaultSite] = {}
        for node in nodes:
            inputs = list(node.input)
            if node.op_type in _PRODUCTS:
                for name, role in zip(inputs[1:3], ("weights", "bias"), strict=False):
                    source = list(unpacked.get(name, (name, "")))
                    self._add(found, role, source[0], source[1])
            elif node.op_type in _INTEGER:
                weights, scale, bias, result = _INTEGER[node.op_type]
                self._add(found, "weights", inputs[weights], inputs[scale] if scale >= 0 else "")
                if 0 <= bias < len(inputs):
                    self._add(found, "bias", inputs[bias], "")
                if 0 <= result < len(inputs):
                    self._add(found, "range", inputs[result], inputs[result])
            elif node.op_type == "QuantizeLinear":
                self._add(found, "range", inputs[1], inputs[1])
            elif node.op_type in _RELATIVES or any(item.name == "epsilon" for item in node.attribute):
                found[node.output[0]] = FaultSite("operator", node.output[0], None, None)
        return list(found.values())

    def _add(self, found: dict[str, FaultSite], role: str, name: str, scale: str) -> None:
        if name not in self.stored or (role == "range" and self.stored[name].size != 1):
            return
        self.scale_of[name] = scale
        array = self.stored[name]
        numbers = None if role == "range" else array.astype(np.float64) - (128 if array.dtype == np.uint8 else 0)
        found[name] = FaultSite(role, name, numbers, self.stored.get(scale))  # type: ignore[arg-type] # one of the roles

    def planted(
        self, site: FaultSite, into: Path, numbers: Numbers | None = None, scale: Numbers | None = None
    ) -> Path:
        """Write a copy."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        changed = {}
        if site.role == "operator":
            node = next(item for item in model.graph.node if site.where in item.output)
            node.op_type = _RELATIVES.get(node.op_type, node.op_type)
            for attribute in node.attribute:
                if attribute.name == "epsilon":  # to write `f` of any other attribute makes the file invalid
                    attribute.f *= 100
        elif numbers is not None:
            old = self.stored[site.where]
            changed[site.where] = stored(numbers, old, 128 if old.dtype == np.uint8 else 0)
        if scale is not None:
            changed[self.scale_of[site.where]] = stored(scale, self.stored[self.scale_of[site.where]])
        for tensor in model.graph.initializer:
            if tensor.name in changed:
                tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
        file = into / "mutant.onnx"
        onnx.save(model, file)
        return file
