"""An ONNX graph from inside: see `hub.spec.OpensInside`. QDQ pairs and the fused integer operators are understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hub.spec import DType, InnerLayer, InnerTensor, Inside, QuantParams, Read, StoredConstant
from hub_onnxgraph.graphs import prune
from hub_onnxgraph.signature import dtype_name, real_inputs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

    Array = npt.NDArray[np.generic]
    Reals = npt.NDArray[np.float64]

_SUFFIXES = ("/quantized", "/dequantized", "_quantized", "_QuantizeLinear_Output", "_DequantizeLinear_Output")
"""What hub's and ONNX Runtime's quantizers put behind a tensor's name."""

_GRID_SUFFIXES = (*_SUFFIXES, "_q_to_dq")
"""What they put behind the name of what lies on a grid; a float tensor's own name may end so."""

_HALF_PREFIX, _HALF_SUFFIX = "InsertedPrecisionFreeCast_", "/float16"
"""What hub's fp16 puts behind a name, and what ONNX Runtime puts before one where it moves a cast over a layer."""

_FIXED = frozenset(
    {
        "Reshape",
        "Transpose",
        "MaxPool",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Gather",
        "Identity",
        "DepthToSpace",
        "SpaceToDepth",
        "Expand",
        "GatherElements",
        "NhwcMaxPool",
        "Resize",
        "Split",
        "Tile",
        "ReduceMax",
        "ReduceMin",
    }
)
"""Operators that keep the grid of their first input where they work on integers."""


class _Grid(NamedTuple):
    """Names of a scale and a zero point (empty where it is 0), and an axis."""

    scale: str
    zero_point: str
    axis: int | None = None


class _Fused(NamedTuple):
    """How an integer operator lists its inputs.

    Attributes:
        operands: Places of each operand, its scale and its zero point.
        result: Places of the result's scale and zero point; None where it gives floats.
        bias: Place of the bias; -1 where it has none.
        axis: Channels of a constant operand, unless `transB` turns it.
    """

    operands: tuple[tuple[int, int, int], ...]
    result: tuple[int, int] | None
    bias: int = -1
    axis: int = 0


_ONE = _Fused(((0, 1, 2),), (3, 4))
_TWO = _Fused(((0, 1, 2), (3, 4, 5)), (6, 7))
FUSED: dict[str, _Fused] = {
    "QLinearConv": _Fused(((0, 1, 2), (3, 4, 5)), (6, 7), bias=8),
    "QGemm": _Fused(((0, 1, 2), (3, 4, 5)), (7, 8), bias=6, axis=-1),
    "DynamicQuantizeMatMul": _Fused(((0, -1, -1), (1, 2, 3)), None, bias=4, axis=-1),
    "MatMulIntegerToFloat": _Fused(((0, 2, 4), (1, 3, 5)), None, bias=6, axis=-1),
    "QLinearMatMul": _TWO._replace(axis=-1),
    "QLinearAdd": _TWO,
    "QLinearMul": _TWO,
    "QLinearSigmoid": _ONE,
    "QLinearLeakyRelu": _ONE,
    "QLinearSoftmax": _ONE,
    "QLinearGlobalAveragePool": _ONE,
    "QLinearAveragePool": _ONE,
    "QLinearReduceMean": _ONE,
}
"""Integer operators of ONNX and of ONNX Runtime's `com.microsoft`, by their own documentation."""


_RAW = {"ConvInteger": 0, "MatMulInteger": -1}
"""Integer products whose scale is applied behind them, as ONNX Runtime writes them, and the axis of their channels."""

_RECURRENT = "DynamicQuantizeLSTM"
_RECURRENT_SLOTS = 8
"""Inputs that it has in common with LSTM; behind them are scale and zero point of the two weights."""


class _Reading:
    """A main graph, read once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import TensorProto

        graph = model.graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.stored |= {node.output[0]: node.attribute[0].t for node in graph.node if _holds_tensor(node)}
        self.grids: dict[str, _Grid] = {}
        self.source: dict[str, str] = {}
        self.layers: list[InnerLayer] = []
        self.drawn: set[str] = set()  # integers whose scale each sample has anew
        self.outputs = [value.name for value in graph.output]
        self.inputs = [value.name for value in real_inputs(graph)]
        values = (*graph.input, *graph.value_info, *graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {name: tensor.data_type for name, tensor in self.stored.items()}
        floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers = {name: node for node in graph.node for name in node.input}
        for node in graph.node:
            given, gives = (node.input[0] if node.input else ""), node.output[0]
            if _holds_tensor(node):
                continue
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
                self.grids[gives] = _Grid(node.input[1], node.input[2] if len(node.input) > 2 else "", axis)  # noqa: PLR2004
                self.source[gives] = self.source.get(given, given)
                if given in self.stored:
                    self.grids[given] = self.grids[gives]
            elif node.op_type == "Cast" and {self.types.get(given), self.types.get(gives)} <= floats:
                self.source[gives] = self.source.get(given, given)
            else:
                self._layer(node)

    def _layer(self, node: onnx.NodeProto) -> None:
        inputs, how = list(node.input), FUSED.get(node.op_type)
        if node.op_type == "DynamicQuantizeLinear":
            self.drawn |= {*node.output}
        if how:
            for place, scale, zero_point in how.operands:
                if inputs[place] in self.stored:
                    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
                    self.grids[inputs[place]] = _Grid(
                        inputs[scale],
                        inputs[zero_point] if zero_point < len(inputs) else "",
                        0 if turned else how.axis,
                    )
            if how.result and len(inputs) > how.result[1] and inputs[how.result[0]]:
                self.grids[node.output[0]] = _Grid(inputs[how.result[0]], inputs[how.result[1]])
            bias = [inputs[how.bias]] if 0 <= how.bias < len(inputs) and inputs[how.bias] else []
            if how.result:
                self.grids |= {name: _Grid(f"{inputs[1]} {inputs[4]}", "", 0) for name in bias}
            inputs = [inputs[place] for place, _, _ in how.operands] + bias
        elif node.op_type in _RAW or node.op_type == _RECURRENT:
            inputs = self._with_scales_apart(node)
        elif node.op_type == "QLinearConcat":  # Y_scale, Y_zero_point, then each operand with its own
            self.grids[node.output[0]] = _Grid(inputs[0], inputs[1])
            inputs = inputs[2::3]
        elif node.op_type in _FIXED and inputs[0] in self.grids:
            self.grids |= dict.fromkeys(node.output, self.grids[inputs[0]])
        self.layers.append(
            InnerLayer(
                name=node.name or node.output[0],
                operator=node.op_type,
                inputs=tuple(self.source[name] if self.source.get(name) in self.stored else name for name in inputs),
                outputs=tuple(name for name in node.output if name),
                epsilon=next((item.f for item in node.attribute if item.name == "epsilon"), None),
            )
        )

    def _with_scales_apart(self, node: onnx.NodeProto) -> list[str]:
        """Keep the grids of weights whose scales are read elsewhere; what is left of the inputs."""
        inputs = list(node.input)
        if node.op_type == _RECURRENT:
            for place, scale in ((1, _RECURRENT_SLOTS), (2, _RECURRENT_SLOTS + 2)):
                if inputs[place] in self.stored:  # one scale for each direction
                    self.grids[inputs[place]] = _Grid(inputs[scale], inputs[scale + 1], 0)
            return inputs[:_RECURRENT_SLOTS]
        scale_name = self._scale_behind(node) if inputs[1] in self.stored else ""
        if scale_name:
            zero_point = inputs[3] if len(inputs) > 3 else ""  # noqa: PLR2004 the weights'
            self.grids[inputs[1]] = _Grid(scale_name, zero_point, _RAW[node.op_type])
        return inputs[:3]

    def _scale_behind(self, node: onnx.NodeProto) -> str:
        """The weights' scale: products are cast to float and multiplied by the two scales' product; else empty."""
        cast = self.readers.get(node.output[0])
        product = self.readers.get(cast.output[0]) if cast is not None and cast.op_type == "Cast" else None
        if cast is None or product is None or product.op_type != "Mul":
            return ""
        scales = next((self.makers.get(name) for name in product.input if name != cast.output[0]), None)
        return next((name for name in scales.input if name in self.stored), "") if scales is not None else ""

    def inside(self) -> Inside:
        """The graph as its readers see it: a result that is only read rounded is given rounded."""
        read = {name for layer in self.layers for name in layer.inputs} | set(self.outputs)
        rounded: dict[str, list[str]] = {}
        for name, source in self.source.items():
            if name in read:
                rounded.setdefault(source, []).append(name)
        given = {
            name: rounded[name][0]
            for layer in self.layers
            for name in layer.outputs
            if name not in read and len(rounded.get(name, ())) == 1
        }
        layers = tuple(
            msgspec.structs.replace(layer, outputs=tuple(given.get(name, name) for name in layer.outputs))
            for layer in self.layers
        )
        names = [*self.inputs, *(name for layer in layers for name in (*layer.inputs, *layer.outputs) if name)]
        names += [self.source[name] for name in names if name in self.source]
        tensors = {name: self._tensor(name) for name in dict.fromkeys(names)}
        return Inside(layers=layers, tensors=tensors, inputs={name: name for name in self.inputs})

    def _tensor(self, name: str) -> InnerTensor:
        grid, stands_for, rounds = self.grids.get(name), name, self.source.get(name, "")
        words = _GRID_SUFFIXES if grid else _SUFFIXES
        while name not in self.stored and name not in self.drawn and stands_for.endswith(words):
            stands_for = next(stands_for.removesuffix(word) for word in words if stands_for.endswith(word))
        stands_for = stands_for.removeprefix(_HALF_PREFIX).removesuffix(_HALF_SUFFIX)
        kind = dtype_name(self.types.get(name, 1))
        dtype = DType(kind) if kind in {*DType} else DType.UNKNOWN
        if grid is None:
            return InnerTensor(
                name=name, stands_for=stands_for, rounds=rounds, dtype=dtype, constant=name in self.stored
            )
        scale, zero_point, (low, high) = self.affine(grid)
        quant = QuantParams(
            scale=tuple(map(float, scale)),
            zero_point=tuple(map(int, zero_point)),
            axis=grid.axis if len(scale) > 1 else None,
        )
        return InnerTensor(
            name=name,
            stands_for=stands_for,
            rounds=rounds,
            dtype=dtype,
            quant=quant,
            low=low,
            high=high,
            constant=name in self.stored,
        )

    def affine(self, grid: _Grid) -> tuple[Reals, Reals, tuple[int, int]]:
        """A grid's scales and zero points, one of each for every channel, and its smallest and largest number."""
        import numpy as np
        from onnx import numpy_helper

        parts = [
            numpy_helper.to_array(self.stored[name]).astype(np.float64).reshape(-1) for name in grid.scale.split(" ")
        ]
        scale = parts[0] * parts[1] if len(parts) > 1 else parts[0]
        if not grid.zero_point:
            return scale, np.zeros(scale.shape), (-(2**31), 2**31 - 1) if len(parts) > 1 else (0, 255)
        zero_point = numpy_helper.to_array(self.stored[grid.zero_point])
        bits = _BITS[dtype_name(self.stored[grid.zero_point].data_type)]
        spread = np.broadcast_to(zero_point.astype(np.float64).reshape(-1), scale.shape)
        return scale, spread, bits


_BITS = {
    "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767),
    "uint16": (0, 65535), "int32": (-(2**31), 2**31 - 1),
}  # fmt: skip


def _holds_tensor(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and any(attribute.name == "value" for attribute in node.attribute)


_SCRIPT = """def run(path, feeds):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]
"""


class InsideOnnx:
    """What a format of ONNX files adds for the check layer by layer; see `hub.spec.OpensInside`."""

    @staticmethod
    def inside(path: Path) -> Inside:
        """Reads the main graph."""
        return _Reading(_typed(path)).inside()

    @staticmethod
    def constants(path: Path, names: Sequence[str]) -> Mapping[str, StoredConstant]:
        """Reads constants, by name."""
        import numpy as np
        from onnx import numpy_helper

        reading = _Reading(_typed(path))
        found = {}
        for name in names:
            array = numpy_helper.to_array(reading.stored[name], str(path.parent))
            values, grid = array.astype(np.float64), reading.grids.get(name)
            if grid is None:
                found[name] = StoredConstant(values, np.zeros(()))
                continue
            scale, zero_point, _ = reading.affine(grid)
            along = [1] * values.ndim
            if len(scale) > 1 and grid.axis is not None:
                along[grid.axis] = -1
            shape = along if len(scale) > 1 else ()
            step = scale.reshape(shape)
            found[name] = StoredConstant((values - zero_point.reshape(shape)) * step, step)
        return found

    @staticmethod
    def cut(
        path: Path, into: Path, results: Sequence[str], reads: Sequence[Read], constants: Mapping[Read, Array]
    ) -> Path:
        """Writes a float model whose layers are fed apart from each other."""
        import onnx
        from onnx import helper, numpy_helper

        model = onnx.load(path)
        reading, graph = _Reading(_typed(path)), model.graph
        types = reading.types
        makers = {node.output[0]: node for node in graph.node if node.output}
        inputs = []
        for read in reads:
            node = makers[read.result]
            inputs.append(helper.make_tensor_value_info(read.fed, types.get(node.input[read.slot], 1), None))
            node.input[read.slot] = read.fed
        shared: dict[tuple[str, int], str] = {}  # the old constant and the array of the new one -> the new one
        for read, array in constants.items():
            node = makers[read.result]
            old = node.input[read.slot]
            if (old, id(array)) not in shared:
                shared[old, id(array)] = read.fed
                typed = array.astype(helper.tensor_dtype_to_np_dtype(reading.stored[old].data_type))
                typed = typed.reshape(list(reading.stored[old].dims))
                graph.initializer.append(numpy_helper.from_array(typed, read.fed))
            node.input[read.slot] = shared[old, id(array)]
        del graph.input[:], graph.output[:]
        graph.input.extend(inputs)
        graph.output.extend(helper.make_empty_tensor_value_info(name) for name in results)
        prune(graph)
        file = into / "cut.onnx"
        onnx.save(model, file)
        return file

    script = _SCRIPT

    @staticmethod
    def part(path: Path, into: Path, inputs: Mapping[str, Array], output: str) -> Path:
        """Writes what computes a tensor from others; see `hub.spec.CutsOut`."""
        import onnx
        from onnx import helper

        model = onnx.load(path)
        for node in model.graph.node:  # what made the inputs is not needed any more
            for place, name in enumerate(node.output):
                if name in inputs:
                    node.output[place] = f"before {name}"
        del model.graph.input[:], model.graph.output[:]
        model.graph.input.extend(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        )
        model.graph.output.append(helper.make_empty_tensor_value_info(output))
        prune(model.graph)
        file = into / "part.onnx"
        onnx.save(model, file)
        return file


def _typed(path: Path) -> onnx.ModelProto:
    """The graph with the types of its tensors, without its external data."""
    import onnx

    return onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
