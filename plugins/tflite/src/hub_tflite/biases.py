"""Biases that the scale of their channel is too fine for.

A bias has the scale of its layer's input times that of its channel's weights. Where a channel's weights are next to
nothing (dead channels, after a batch normalisation was folded), its bias is beyond int32 on that scale, and
ai-edge-quantizer cuts it off or lets it wrap around. Such a channel gets the finest scale that its bias fits into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_tflite.recipes import PRODUCTS
from hub_tflitefile.interface import quant_params
from hub_tflitefile.schema import constant, content, dtype_of, numbers, operator_name, text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub_tflitefile.tables import ModelT, OperatorT, SubGraphT, TensorT

    Reals = npt.NDArray[np.float64]

LARGEST = 2.0**30
"""What a bias may be in its own steps: half of int32, so that what is added to it fits too."""

_WEIGHTS, _BIAS = 1, 2


def fit_biases(model: ModelT, source: ModelT) -> int:
    """Widens the scales of channels whose biases do not fit; returns how many there were.

    Args:
        model: The quantized model, changed in place.
        source: The float model that it was made of.
    """
    import numpy as np

    count = 0
    for graph, float_graph in zip(model.subgraphs, source.subgraphs, strict=True):
        floats = {_result(float_graph, operator): operator for operator in float_graph.operators}
        users: dict[int, list[tuple[OperatorT, Reals]]] = {}  # weights -> the operators that read them, their biases
        kept: dict[int, Reals] = {}
        for operator in graph.operators:
            own, before = numbers(operator.inputs), floats.get(_result(graph, operator))
            if before is None or operator_name(model, operator) not in PRODUCTS or len(own) <= _BIAS or own[_BIAS] < 0:
                continue
            if not all(_grid(graph.tensors[index])[0].size for index in own[: _BIAS + 1]):
                continue
            weights, bias = (_floats(source, float_graph, before, slot) for slot in (_WEIGHTS, _BIAS))
            if weights is not None and bias is not None and dtype_of(graph.tensors[own[_WEIGHTS]]) == "int8":
                kept[own[_WEIGHTS]] = weights
                users.setdefault(own[_WEIGHTS], []).append((operator, bias))
        for index, readers in users.items():
            tensor = graph.tensors[index]
            old, axis = _grid(tensor)
            steps = [_grid(graph.tensors[numbers(operator.inputs)[0]])[0][0] for operator, _ in readers]
            least = [np.abs(bias) / (step * LARGEST) for (_, bias), step in zip(readers, steps, strict=True)]
            scale = np.maximum(old, np.max(least, axis=0)) if all(item.size == old.size for item in least) else old
            wide = scale > old
            if not wide.any():
                continue
            count += int(wide.sum())
            along = [1] * kept[index].ndim
            along[axis] = -1
            fine = np.clip(np.rint(kept[index] / scale.reshape(along)), -127, 127)
            _store(model, tensor, np.where(wide.reshape(along), fine, _stored(model, tensor)), scale)
            for (operator, bias), step in zip(readers, steps, strict=True):
                place = graph.tensors[numbers(operator.inputs)[_BIAS]]
                whole = np.rint(bias / (step * scale))
                _store(model, place, np.where(wide, whole, _stored(model, place)), step * scale)
    return count


def _result(graph: SubGraphT, operator: OperatorT) -> str:
    places = numbers(operator.outputs)
    return text(graph.tensors[places[0]].name) if places else ""


def _grid(tensor: TensorT) -> tuple[Reals, int]:
    """Scales and the axis that they are along."""
    import numpy as np

    params = quant_params(tensor)
    return np.array(params.scale if params else [], np.float64), (params.axis if params else None) or 0


def _floats(model: ModelT, graph: SubGraphT, operator: OperatorT, slot: int) -> Reals | None:
    import numpy as np

    tensor = graph.tensors[numbers(operator.inputs)[slot]]
    data = constant(model, tensor)
    if data is None or dtype_of(tensor) != "float32":
        return None
    return np.frombuffer(data.tobytes(), np.float32).reshape(numbers(tensor.shape)).astype(np.float64)


def _stored(model: ModelT, tensor: TensorT) -> Reals:
    import numpy as np

    data = content(model, tensor)
    return np.frombuffer(data.tobytes(), dtype_of(tensor).value).reshape(numbers(tensor.shape)).astype(np.float64)


def _store(model: ModelT, tensor: TensorT, values: Reals, scale: Reals) -> None:
    import numpy as np

    model.buffers[tensor.buffer].data = np.frombuffer(values.astype(dtype_of(tensor).value).tobytes(), np.uint8)
    if tensor.quantization is not None:
        tensor.quantization.scale = scale.astype(np.float32)
