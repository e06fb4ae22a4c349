"""Where a TFLite file keeps what a fault may hit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hub_tflitefile.schema import constant, dtype_of, numbers, operator_name, parse, read_bytes, text, to_bytes
from tests.faults.inject import FaultSite, Numbers, Role, stored

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT, OperatorT

PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
_RELATIVES = {14: 117, 117: 19, 19: 98, 28: 14}
"""What converters take for each other: LOGISTIC, HARD_SWISH, RELU, LEAKY_RELU; and TANH for LOGISTIC."""
_NO_ACTIVATION, _RELU = 0, 1
_WITHOUT = 1000
_ROLES: dict[int, Role] = {1: "weights", 2: "bias"}


class TfliteSites:
    """A file; sites are named by the tensor's place in the main graph."""

    def __init__(self, path: Path) -> None:
        self.content = read_bytes(path)

    def all(self) -> list[FaultSite]:
        """Weights and biases of products, and the ranges of what the layers inside give."""
        model = parse(self.content)
        graph = model.subgraphs[0]
        ends = set(numbers(graph.outputs))
        found: dict[int, FaultSite] = {}
        operators: list[FaultSite] = []
        unpacked = {
            numbers(operator.outputs)[0]: numbers(operator.inputs)[0]
            for operator in graph.operators
            if operator_name(model, operator) == "DEQUANTIZE"
        }
        for place, operator in enumerate(graph.operators):
            inputs = [unpacked.get(index, index) for index in numbers(operator.inputs)]
            if self._relative(model, operator) is not None:
                operators.append(FaultSite("operator", f"operator {place}", None, None))
            for slot, role in _ROLES.items() if operator_name(model, operator) in PRODUCTS else ():
                index = inputs[slot] if slot < len(inputs) else -1
                data = constant(model, graph.tensors[index]) if index >= 0 else None
                kind = dtype_of(graph.tensors[index]).value
                if data is not None and kind in {"int8", "int32", "float32", "float16"}:
                    array = np.frombuffer(data.tobytes(), kind).reshape(numbers(graph.tensors[index].shape))
                    found[index] = FaultSite(role, str(index), array, self._scale(graph.tensors[index].quantization))
            for index in numbers(operator.outputs):
                scale = self._scale(graph.tensors[index].quantization)
                if scale is not None and scale.size == 1 and index not in ends:
                    found[index] = FaultSite("range", str(index), None, scale)
        return [*found.values(), *operators]

    @staticmethod
    def _relative(model: ModelT, operator: OperatorT) -> int | None:
        """The operator that converters take for this one; 1000 for the same without its activation."""
        code = model.operatorCodes[operator.opcodeIndex]
        if getattr(operator.builtinOptions, "fusedActivationFunction", _NO_ACTIVATION) == _RELU:
            return _WITHOUT
        return _RELATIVES.get(max(code.builtinCode, code.deprecatedBuiltinCode))

    @staticmethod
    def _scale(kept: object) -> Numbers | None:
        scale = getattr(kept, "scale", None)
        return None if scale is None or not len(scale) else np.asarray(scale, np.float64)

    def planted(
        self, site: FaultSite, into: Path, numbers: Numbers | None = None, scale: Numbers | None = None
    ) -> Path:
        """Write a copy."""
        model = parse(self.content)
        if site.role == "operator":
            return self._exchanged(model, int(site.where.split()[1]), into)
        tensor = model.subgraphs[0].tensors[int(site.where)]
        if scale is not None and tensor.quantization is not None:
            tensor.quantization.scale = scale.astype(np.float32)
        if numbers is not None and site.numbers is not None:
            data = stored(numbers, site.numbers)
            model.buffers[tensor.buffer].data = np.frombuffer(data.tobytes(), np.uint8)
        file = into / f"{text(tensor.name)[-20:].replace('/', '_')}.tflite"
        file.write_bytes(to_bytes(model))
        return file

    def _exchanged(self, model: ModelT, place: int, into: Path) -> Path:
        operator = model.subgraphs[0].operators[place]
        other = self._relative(model, operator)
        if other == _WITHOUT:
            operator.builtinOptions.fusedActivationFunction = _NO_ACTIVATION
        elif other is not None:
            code = copy.copy(model.operatorCodes[operator.opcodeIndex])
            code.builtinCode, code.deprecatedBuiltinCode = other, min(other, 127)
            model.operatorCodes.append(code)
            operator.opcodeIndex = len(model.operatorCodes) - 1
            operator.builtinOptions, operator.builtinOptionsType = None, 0
        file = into / f"{place}.tflite"
        file.write_bytes(to_bytes(model))
        return file
