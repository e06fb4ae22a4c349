"""Where a TFLite file keeps what a fault may hit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hub_tflitefile.schema import constant, dtype_of, numbers, operator_name, parse, read_bytes, text, to_bytes
from tests.faults.inject import FaultSite, Numbers, Role, stored

PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
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
        for operator in graph.operators:
            inputs = numbers(operator.inputs)
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
        return list(found.values())

    @staticmethod
    def _scale(kept: object) -> Numbers | None:
        scale = getattr(kept, "scale", None)
        return None if scale is None or not len(scale) else np.asarray(scale, np.float64)

    def planted(
        self, site: FaultSite, into: Path, numbers: Numbers | None = None, scale: Numbers | None = None
    ) -> Path:
        """Write a copy."""
        model = parse(self.content)
        tensor = model.subgraphs[0].tensors[int(site.where)]
        if scale is not None and tensor.quantization is not None:
            tensor.quantization.scale = scale
        if numbers is not None and site.numbers is not None:
            data = stored(numbers, site.numbers)
            model.buffers[tensor.buffer].data = np.frombuffer(data.tobytes(), np.uint8)
        file = into / f"{text(tensor.name)[-20:].replace('/', '_')}.tflite"
        file.write_bytes(to_bytes(model))
        return file
