"""Where an ONNX file keeps what a fault may hit: QDQ, and the integer operators that ONNX Runtime writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.faults.inject import FaultSite, Numbers, stored

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul", "ConvTranspose"})
_INTEGER = {"QLinearConv": (3, 8, 6), "QGemm": (3, 6, 7), "QLinearMatMul": (3, -1, 6)}
"""Places of the weights (their scale behind them), of the bias, and of the result's scale."""


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
        found: dict[str, FaultSite] = {}
        for node in nodes:
            inputs = list(node.input)
            if node.op_type in _PRODUCTS:
                for name, role in zip(inputs[1:3], ("weights", "bias"), strict=False):
                    source = list(unpacked.get(name, (name, "")))
                    self._add(found, role, source[0], source[1])
            elif node.op_type in _INTEGER:
                weights, bias, result = _INTEGER[node.op_type]
                self._add(found, "weights", inputs[weights], inputs[weights + 1])
                if 0 <= bias < len(inputs):
                    self._add(found, "bias", inputs[bias], "")
                if result < len(inputs):
                    self._add(found, "range", inputs[result], inputs[result])
            elif node.op_type == "QuantizeLinear":
                self._add(found, "range", inputs[1], inputs[1])
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
        old = self.stored[site.where]
        changed = {}
        if numbers is not None:
            changed[site.where] = stored(numbers, old, 128 if old.dtype == np.uint8 else 0)
        if scale is not None:
            changed[self.scale_of[site.where]] = stored(scale, self.stored[self.scale_of[site.where]])
        for tensor in model.graph.initializer:
            if tensor.name in changed:
                tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
        file = into / "mutant.onnx"
        onnx.save(model, file)
        return file
