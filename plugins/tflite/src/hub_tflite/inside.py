"""A TFLite file from inside: see `hub.spec.OpensInside`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import InnerLayer, InnerTensor, Inside, Read, StoredConstant, UnsupportedModel
from hub_tflite.numerics import layer_name
from hub_tflite.plain import make_plain
from hub_tflitefile.interface import interface_of, quant_params, unique_names
from hub_tflitefile.schema import constant, content, dtype_of, new, numbers, operator_name, parse, read_bytes, to_bytes
from hub_tflitefile.tables import BufferT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub_tflitefile.tables import ModelT, TensorT

    Array = npt.NDArray[np.generic]
    Reals = npt.NDArray[np.float64]

_ROUNDING = ("QUANTIZE", "DEQUANTIZE")
_BITS = {"int4": 4, "int8": 8, "uint8": 8, "int16": 16, "int32": 32, "int64": 64}


_SCRIPT = """def run(path, feeds):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), feeds.values(), strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""


class InsideTflite:
    """What `TfliteFormat` adds for the check layer by layer; see `hub.spec.OpensInside`."""

    def inside(self, path: Path) -> Inside:
        """Reads the main graph; what QUANTIZE and DEQUANTIZE give stands for what they were given."""
        model = _plain(path)
        graph = model.subgraphs[0]
        names = unique_names(graph)
        stored = {index for index, tensor in enumerate(graph.tensors) if constant(model, tensor) is not None}
        source: dict[int, int] = {}  # of what is only rounded, or a constant only unpacked: where it comes from
        layers = []
        for operator in graph.operators:
            given, outputs = numbers(operator.inputs), numbers(operator.outputs)
            if operator_name(model, operator) in _ROUNDING:
                source[outputs[0]] = source.get(given[0], given[0])
                continue
            unpacked = [source[index] if source.get(index) in stored else index for index in given]
            layers.append(
                InnerLayer(
                    name=layer_name(graph, operator),
                    operator=operator_name(model, operator),
                    inputs=tuple("" if index < 0 else names[index] for index in unpacked),
                    outputs=tuple(names[index] for index in outputs),
                )
            )
        tensors = {
            names[index]: _tensor(
                tensor, names[index], names[source[index]] if index in source else "", constant=index in stored
            )
            for index, tensor in enumerate(graph.tensors)
        }
        inputs = {name: names[index] for name, index in interface_of(model).inputs}
        return Inside(layers=tuple(layers), tensors=tensors, inputs=inputs)

    def constants(self, path: Path, names: Sequence[str]) -> Mapping[str, StoredConstant]:
        """Reads constants, by name.

        Raises:
            UnsupportedModel: One is stored in blocks with scales of their own, or sparsely.
        """
        model = _plain(path)
        places = {name: index for index, name in enumerate(unique_names(model.subgraphs[0]))}
        return {name: _stored(model, model.subgraphs[0].tensors[places[name]], name) for name in names}

    def cut(
        self, path: Path, into: Path, results: Sequence[str], reads: Sequence[Read], constants: Mapping[Read, Array]
    ) -> Path:
        """Writes a float model whose layers are fed apart from each other."""
        import numpy as np

        model = _plain(path)
        graph = model.subgraphs[0]
        places = {name: index for index, name in enumerate(unique_names(graph))}
        makers = {numbers(operator.outputs)[0]: operator for operator in graph.operators if numbers(operator.outputs)}
        shared: dict[tuple[int, int], int] = {}  # the old constant and the array of the new one -> the new one's place

        def place_of(read: Read, array: Array | None) -> int:
            operator = makers[places[read.result]]
            inputs = numbers(operator.inputs)
            old = inputs[read.slot]
            if array is None or (old, id(array)) not in shared:
                tensor = copy.copy(graph.tensors[old])
                tensor.name = read.fed.encode()
                if array is not None:
                    data = np.frombuffer(array.astype(dtype_of(tensor).value).tobytes(), np.uint8)
                    model.buffers.append(new(BufferT, data=data))
                    tensor.buffer = len(model.buffers) - 1
                    shared[old, id(array)] = len(graph.tensors)
                graph.tensors.append(tensor)
            inputs[read.slot] = len(graph.tensors) - 1 if array is None else shared[old, id(array)]
            operator.inputs = inputs
            return inputs[read.slot]

        fed = [place_of(read, None) for read in reads]
        for read, array in constants.items():
            place_of(read, array)
        return _written(model, fed, [places[name] for name in results], into / "cut.tflite")

    script = _SCRIPT

    def part(self, path: Path, into: Path, inputs: Mapping[str, Array], output: str) -> Path:
        """Writes what computes a tensor from others; see `hub.spec.CutsOut`."""
        model = _plain(path)
        places = {name: index for index, name in enumerate(unique_names(model.subgraphs[0]))}
        return _written(model, [places[name] for name in inputs], [places[output]], into / "part.tflite")


def _plain(path: Path) -> ModelT:
    model = parse(read_bytes(path), path)
    make_plain(model)
    return model


def _written(model: ModelT, inputs: list[int], outputs: list[int], file: Path) -> Path:
    """Write what computes the outputs from the inputs, with none of what is not needed for it."""
    graph = model.subgraphs[0]
    graph.inputs, graph.outputs = inputs, outputs
    needed, kept = set(outputs), []
    for operator in reversed(graph.operators):
        if (needed - set(inputs)) & set(numbers(operator.outputs)):
            needed |= set(numbers(operator.inputs))
            kept.append(operator)
    graph.operators = kept[::-1]
    held = {graph.tensors[index].buffer for index in needed | set(inputs) if index >= 0}
    for index, buffer in enumerate(model.buffers):
        if index not in held and graph is model.subgraphs[-1]:  # constants of other layers
            buffer.data = None
    model.signatureDefs = []
    file.write_bytes(to_bytes(model))
    return file


def _tensor(tensor: TensorT, name: str, rounds: str, *, constant: bool) -> InnerTensor:
    kind, quant = dtype_of(tensor), quant_params(tensor)
    if quant is None or kind not in _BITS:
        return InnerTensor(name=name, stands_for=name, rounds=rounds, dtype=kind, constant=constant)
    low = 0 if kind.startswith("u") else -(2 ** (_BITS[kind] - 1))
    high = low + 2 ** _BITS[kind] - 1
    return InnerTensor(
        name=name, stands_for=name, rounds=rounds, dtype=kind, quant=quant, low=low, high=high, constant=constant
    )


def _stored(model: ModelT, tensor: TensorT, name: str) -> StoredConstant:
    import numpy as np

    kind = dtype_of(tensor).value
    if tensor.sparsity is not None or (tensor.quantization is not None and tensor.quantization.details is not None):
        raise UnsupportedModel(f"the constant {name} is stored in blocks or sparsely, which is not read")
    raw = content(model, tensor)
    if kind == "int4":
        low, high = raw.astype(np.int8) << 4 >> 4, raw.astype(np.int8) >> 4
        flat: Array = np.stack([low, high], axis=-1).reshape(-1)[: int(np.prod(numbers(tensor.shape)))]
    else:
        flat = np.frombuffer(raw.tobytes(), kind)
    values = flat.reshape(numbers(tensor.shape)).astype(np.float64)
    grid = quant_params(tensor)
    if grid is None:
        return StoredConstant(values, np.zeros(()))
    along = [1] * values.ndim
    if grid.axis is not None:
        along[grid.axis] = -1
    scale = np.reshape(grid.scale, along if grid.axis is not None else ())
    return StoredConstant((values - np.reshape(grid.zero_point, scale.shape)) * scale, scale)
