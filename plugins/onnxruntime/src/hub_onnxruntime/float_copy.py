"""A float copy of a quantized model: its weights as what they stand for, and nothing rounded in between.

Each integer value stands for a real one. The graph is walked in order and every integer value is given the float that
it stands for; an operator on integers becomes the same operator on those floats. What is an integer at the model's own
inputs and outputs stays one: there the rounding stays too.

Of a scale that is computed at run time (DynamicQuantizeLinear) nothing is needed: the value is taken for its own
integer, with a scale of 1 and a zero point of 0, so that what the file multiplies behind the product keeps its meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import ConvertJob, Remark, StepOutput, UnsupportedModel
from hub_onnxgraph.graphs import all_names, all_nodes, fresh_name, opset_of, prune, raise_opset, subgraphs
from hub_onnxgraph.inside import FUSED
from hub_onnxgraph.numerics import (
    BLOCK_OPERATORS,
    CONVERSIONS,
    DYNAMIC_OPERATORS,
    INTEGER_OPERATORS,
    STATIC_OPERATORS,
)
from hub_onnxruntime.files import check, load, save

if TYPE_CHECKING:
    import onnx

    from hub_onnxgraph.graphs import Array

_MOVES = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "ReduceMax", "ReduceMin", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that take integers and floats alike, and give what their first input holds."""
_MICROSOFT = "com.microsoft"
_CLIP_OF_OPERANDS = 11
"""Opset from which Clip takes its bounds as operands."""
_WORDS_OF_STANDARD = 21
"""Opset from which ONNX's own QuantizeLinear has 16 bits; ONNX Runtime's has them in any."""


_SOFTMAX_OF_ONE_AXIS = 13
"""Opset from which Softmax is over one axis."""
_QUANTIZING = CONVERSIONS | STATIC_OPERATORS | INTEGER_OPERATORS | DYNAMIC_OPERATORS | BLOCK_OPERATORS | {*FUSED}


@dataclass(frozen=True, slots=True)
class _Integers:
    """What an integer value stands for: (integer - zero point) * scale, which the value `real` is.

    Attributes:
        real: Name of the float value.
        scale: Name of the scale; empty for what an integer product gives.
        zero: Name of the zero point; empty where it is 0.
        whole: Whether the copy takes the integer itself for the real value.
    """

    real: str
    scale: str = ""
    zero: str = ""
    whole: bool = False


@dataclass(slots=True)
class FloatCopy:
    """A graph on its way to floats.

    Attributes:
        graph: The graph, whose nodes are replaced.
        stored: Name -> array of what is stored.
        stands: Integer value -> what it stands for.
        rounded: Integer value -> the float that it was rounded from, where that is not done for a QuantizeLinear.
        makers: Value -> the node that makes it.
        nodes: Nodes of the new graph.
        done: Operators that went, and how often.
        taken: Every name in use.
        opset: Version of the standard operators.
    """

    graph: onnx.GraphProto
    stored: dict[str, Array]
    stands: dict[str, _Integers] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    taken: set[str] = field(default_factory=set)
    opset: int = 0

    def emit(
        self, kind: str, inputs: Sequence[str], output: str = "", attributes: Sequence[onnx.AttributeProto] = ()
    ) -> str:
        """Write a standard operator; returns the name of its result.

        Args:
            kind: The operator.
            inputs: Its operands.
            output: Name of the result; a new one where it is empty.
            attributes: Its attributes.
        """
        from onnx import helper

        result = output or fresh_name(f"{inputs[0]}/{kind}", self.taken)
        made = helper.make_node(kind, inputs, [result])
        made.attribute.extend(attributes)
        self.nodes.append(made)
        return result

    def cast(self, name: str, dtype: str, wanted: str) -> str:
        """Return a value of one float type as one of another."""
        import numpy as np
        from onnx import helper

        if dtype == wanted:
            return name
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(wanted))
        return self.emit("Cast", [name], attributes=[helper.make_attribute("to", kind)])

    def keep(self, array: Array, name: str) -> str:
        """Store an array under a new name."""
        from onnx import numpy_helper

        made = fresh_name(name, self.taken)
        self.graph.initializer.append(numpy_helper.from_array(array, made))
        self.stored[made] = array
        return made

    def array(self, name: str) -> Array:
        """Return what is stored under a name.

        Raises:
            UnsupportedModel: It is computed.
        """
        if name not in self.stored:
            raise UnsupportedModel(f"{name}, which integers are read with, is computed in a way that has no float copy")
        return self.stored[name]

    def scalar(self, name: str) -> Array:
        """Return the stored number of a name, of rank 0.

        Raises:
            UnsupportedModel: It is computed, or it is several.
        """
        found = self.array(name)
        if found.size != 1:
            raise UnsupportedModel(f"{name} has the shape {found.shape} where a float copy takes one number")
        return found.reshape(())

    def same(self, one: str, other: str) -> bool:
        """Whether two scales, or two zero points, are the same; without a name it is 0."""
        import numpy as np

        if one == other:
            return True
        pair = [self.stored.get(name) if name else np.zeros(()) for name in (one, other)]
        first, second = (None if each is None else each.astype(np.float64).reshape(-1) for each in pair)
        if first is None or second is None:
            return False
        return (first.size == second.size or 1 in {first.size, second.size}) and bool(np.all(first == second))

    def number(self, names: Sequence[str], place: int) -> Array | None:
        """Return the stored operand of a place; None where there is none."""
        return self.array(names[place]) if len(names) > place and names[place] else None

    def real(self, name: str, scale: str, zero: str = "", axis: int | None = None) -> str:
        """Return the float that an integer value stands for, by its reader's scale and zero point.

        Args:
            name: The integers.
            scale: The reader's scale.
            zero: The reader's zero point; empty for 0.
            axis: Dimension that may have a scale for each place; none where there is one scale.
        """
        if name in self.stands:
            return self._reread(name, scale, zero)
        if name in self.stored:
            zeros = self.array(zero) if zero else None
            return self.keep(_real(self.stored[name], self.array(scale), zeros, axis), f"{name}/float")
        self.scalar(scale)
        maker = self.makers.get(name)
        if maker is not None and maker.op_type in _MOVES and _is_stored(self, name):
            moved = [self.real(maker.input[0], scale, zero), *maker.input[1:]]
            return self.emit(maker.op_type, moved, attributes=maker.attribute)
        return self.emit("DequantizeLinear", [part for part in (name, scale, zero) if part])

    def _reread(self, name: str, scale: str, zero: str) -> str:
        """The float of integers that are made with one scale and zero point and read, it may be, with others."""
        import numpy as np

        found = self.stands[name]
        if found.scale and self.same(scale, found.scale) and self.same(zero, found.zero):
            kinds = [self.stored[each].dtype.name for each in (found.scale, scale) if each in self.stored]
            return self.cast(found.real, kinds[0], kinds[-1]) if kinds else found.real
        if found.whole and found.scale:
            raise UnsupportedModel(f"{name} is read with another scale or zero point than its own, {found.scale}")
        factor = self.scalar(scale)
        made = self.emit("Mul", [self.level(name, zero), self.keep(factor.astype(np.float32), f"{scale}/float")])
        return self.cast(made, "float32", factor.dtype.name)

    def level(self, name: str, zero: str = "", axis: int | None = None) -> str:
        """Return the float32 whose nearest whole number an integer value is, less its reader's zero point.

        Args:
            name: The integers.
            zero: The zero point; empty for 0.
            axis: Dimension that may have a zero point for each place.

        Raises:
            UnsupportedModel: The integers come from outside, or on a zero point that is computed.
        """
        import numpy as np

        if name in self.stands:
            return self._level(self.stands[name], zero)
        if name not in self.stored:
            raise UnsupportedModel(f"the integers {name} come from outside and are multiplied: no float copy")
        stored = self.stored[name]
        zeros = self.array(zero) if zero else None
        return self.keep(_real(stored, np.ones((), np.float32), zeros, axis), f"{name}/float")

    def _level(self, found: _Integers, zero: str) -> str:
        import numpy as np

        made = found.real
        if not found.whole:
            if found.scale in self.stored:
                made = self.cast(made, self.scalar(found.scale).dtype.name, "float32")
                step = self.keep(self.scalar(found.scale).astype(np.float32), f"{found.scale}/float")
                made = self.emit("Div", [made, step])
            else:
                made = self.emit("Div", [made, found.scale])
        if self.same(zero, found.zero):
            return made
        points = [float(self.scalar(each)) if each else 0.0 for each in (found.zero, zero)]
        return self.emit("Add", [made, self.keep(np.full((), points[0] - points[1], np.float32), f"{made}/shift")])


Writer = Callable[["FloatCopy", "onnx.NodeProto"], None]


def _real(stored: Array, scale: Array, zero: Array | None, axis: int | None, block: int = 0) -> Array:
    """ONNX's DequantizeLinear of constants; of the scale's type."""
    import numpy as np

    levels = stored.astype(np.float32)
    if zero is not None and zero.size:
        levels = levels - _spread(zero, stored, axis, block).astype(np.float32)
    made: Array = (levels * _spread(scale, stored, axis, block).astype(np.float32)).astype(scale.dtype)
    return made


def _spread(values: Array, stored: Array, axis: int | None, block: int) -> Array:
    """Scales or zero points, in a shape that goes with what they are for.

    Raises:
        UnsupportedModel: They are neither one, nor one for each place of the axis, nor one for each block.
    """
    import numpy as np

    if values.size == 1:
        return values.reshape(())
    if axis is not None and block and values.ndim == stored.ndim:
        return np.take(np.repeat(values, block, axis), np.arange(stored.shape[axis]), axis)
    if axis is None or block or values.shape != (stored.shape[axis],):
        place = "one number" if axis is None else f"one for each of the {stored.shape[axis]} of axis {axis}"
        raise UnsupportedModel(f"scales of the shape {values.shape} for {stored.shape}: a float copy takes {place}")
    along = [1] * stored.ndim
    along[axis] = -1
    return values.reshape(along)


def _is_stored(copy: FloatCopy, name: str) -> bool:
    """Whether integers are stored, behind operators that move them."""
    while name not in copy.stored:
        maker = copy.makers.get(name)
        if maker is None or maker.op_type not in _MOVES or len(maker.output) != 1:
            return False
        name = str(maker.input[0])
    return True


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _operand(node: onnx.NodeProto, place: int) -> str:
    return str(node.input[place]) if len(node.input) > place else ""


def _quantize(copy: FloatCopy, node: onnx.NodeProto) -> None:
    from onnx import TensorProto, helper

    scale, zero = _operand(node, 1), _operand(node, 2)
    kind = helper.tensor_dtype_to_np_dtype(_attribute(node, "output_dtype", 0) or TensorProto.UINT8).name
    kind = copy.array(zero).dtype.name if zero and scale in copy.stored else kind
    real = _clipped(copy, str(node.input[0]), (scale, zero), kind, _attribute(node, "axis", 1))
    copy.stands[node.output[0]] = _Integers(real, scale, zero)


def _limits(kind: str) -> tuple[int, int] | None:
    """The least and the greatest number of an integer type; None for any other type."""
    name = kind.removeprefix("u")
    if not name.startswith("int"):
        return None
    bits, signed = int(name.removeprefix("int")), name == kind
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _clipped(copy: FloatCopy, real: str, grid: tuple[str, str], kind: str, axis: int) -> str:
    """Keep a value within what its integers can say: quantizers take a ReLU out where its integers begin at zero."""
    import numpy as np

    scale, zero = grid
    limits = _limits(kind)
    if scale not in copy.stored or limits is None:
        return real
    factor, points = copy.stored[scale], copy.array(zero) if zero else None
    ends = [np.full((), end, np.int64) for end in limits]
    if real in copy.stored:  # weights that the file rounds itself: with a scale for each channel, it may be
        stored = copy.stored[real]
        axis %= max(1, stored.ndim)
        blank = np.zeros(stored.shape, np.float32)
        low, high = (_real(blank + end, factor, points, axis) for end in ends)
        return copy.keep(np.clip(stored, low, high).astype(stored.dtype), f"{real}/clipped")
    low, high = (_real(end, copy.scalar(scale), copy.scalar(zero) if zero else None, None) for end in ends)
    return copy.emit("Clip", [real, copy.keep(low, f"{real}/end"), copy.keep(high, f"{real}/end")])


def _dequantize(copy: FloatCopy, node: onnx.NodeProto) -> None:
    name, scale, zero = (_operand(node, place) for place in range(3))
    axis, block = _attribute(node, "axis", 1), _attribute(node, "block_size", 0)
    if _attribute(node, "output_dtype", 0):
        raise UnsupportedModel(f"DequantizeLinear {node.name} names the type of its result: no float copy")
    if name in copy.stored:
        stored, zeros = copy.stored[name], copy.array(zero) if zero else None
        axis %= max(1, stored.ndim)
        made = copy.keep(_real(stored, copy.array(scale), zeros, axis, block), f"{name}/float")
        copy.emit("Identity", [made], node.output[0])
    elif name in copy.stands or node.domain == _MICROSOFT or _is_stored(copy, name):
        copy.emit("Identity", [copy.real(name, scale, zero)], node.output[0])
    else:
        copy.nodes.append(node)


def _dynamic(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """What is read for the scale and the zero point is 1 and 0: whoever reads the integers has to read those too."""
    import numpy as np

    integers, scale, zero = node.output
    read = {name for each in copy.graph.node for name in each.input}
    given = {value.name for value in copy.graph.output} & {*node.output}
    if given or (integers in read and not {scale, zero} <= read):
        raise UnsupportedModel(f"{integers} of DynamicQuantizeLinear is used without its scale: no float copy")
    copy.stands[integers] = _Integers(str(node.input[0]), scale, zero, whole=True)
    copy.emit("Identity", [copy.keep(np.ones((), np.float32), f"{scale}/one")], scale)
    copy.emit("Identity", [copy.keep(np.zeros((), np.uint8), f"{zero}/none")], zero)


def _product(kind: str, axis: int) -> Writer:
    """MatMulInteger and ConvInteger: the same on floats, whose result stands for itself.

    Args:
        kind: The operator on floats.
        axis: The second operand's dimension that may have zero points of its own.
    """

    def write(copy: FloatCopy, node: onnx.NodeProto) -> None:
        left = copy.level(node.input[0], _operand(node, 2))
        right = copy.level(node.input[1], _operand(node, 3), axis)
        made = copy.emit(kind, [left, right], attributes=node.attribute)
        copy.stands[node.output[0]] = _Integers(made, whole=True)

    return write


def _cast(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """A Cast of integers to floats gives the integers themselves.

    Raises:
        UnsupportedModel: It is a Cast to other integers.
    """
    from onnx import TensorProto

    found, wanted = copy.stands[node.input[0]], _attribute(node, "to", 0)
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
    if wanted not in floats:
        name = TensorProto.DataType.Name(wanted)
        raise UnsupportedModel(f"Cast {node.name} makes {name} of the integers {node.input[0]}: no float copy")
    made = found.real if found.whole else copy.level(node.input[0])
    if wanted == TensorProto.FLOAT:
        copy.emit("Identity", [made], node.output[0])
    else:
        copy.emit("Cast", [made], node.output[0], node.attribute)


def _note_rounded(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """Remember what an integer was rounded from: a bias that is added to an integer product is made so at run time."""
    source, result = str(node.input[0]) if node.input else "", str(node.output[0])
    maker = copy.makers.get(source)
    if node.op_type == "Cast" and maker is not None and maker.op_type in {"Floor", "Round"}:
        copy.rounded[result] = str(maker.input[0])
    elif node.op_type in _MOVES and source in copy.rounded and len(node.output) == 1:
        made = copy.emit(node.op_type, [copy.rounded[source], *node.input[1:]], attributes=node.attribute)
        copy.rounded[result] = made


def _sum(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """A sum of integer products, and of what was rounded to be added to them."""
    parts = []
    for name in node.input:
        found = copy.stands.get(name)
        if found is not None and not found.whole:
            raise UnsupportedModel(f"{node.op_type} {node.name} adds to quantized values as integers: no float copy")
        stored = copy.stored.get(name)
        real = copy.rounded.get(name, "") if found is None else found.real
        if not real and stored is None:
            raise UnsupportedModel(f"{node.op_type} {node.name} adds the integers {name}, which have no float copy")
        parts.append(real or copy.keep(copy.stored[name].astype("float32"), f"{name}/float"))
    copy.stands[node.output[0]] = _Integers(copy.emit(node.op_type, parts), whole=True)


def _requantized(copy: FloatCopy, node: onnx.NodeProto, made: str, grid: tuple[str, str]) -> None:
    """What QLinear operators give: integers of the given scale and zero point; floats without."""
    scale, zero = grid
    if not scale:
        copy.emit("Identity", [made], node.output[0])
        return
    kind = copy.array(zero).dtype.name if zero else "uint8"
    copy.scalar(scale)
    copy.stands[node.output[0]] = _Integers(_clipped(copy, made, grid, kind, 0), scale, zero)


def _qlinear(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """The operators of `FUSED` that give integers, as what they are named for."""
    how, kind = FUSED[node.op_type], _FLOAT_OF[node.op_type]
    turned = bool(_attribute(node, "transB", 0))
    operands = []
    for number, (place, scale, zero) in enumerate(how.operands):
        axis = (0 if turned else how.axis) if number else None
        operands.append(copy.real(node.input[place], _operand(node, scale), _operand(node, zero), axis))
    bias = copy.number(node.input, how.bias) if how.bias >= 0 else None
    if bias is not None:
        operands.append(copy.keep(_bias(copy, node, bias), f"{node.input[how.bias]}/float"))
    made = copy.emit(kind, operands, attributes=_float_attributes(copy, node))
    _requantized(copy, node, made, _result_grid(node))


def _bias(copy: FloatCopy, node: onnx.NodeProto, bias: Array) -> Array:
    """A bias has the scale of the product that it is added to."""
    import numpy as np

    scale = copy.scalar(node.input[1]).astype(np.float32) * copy.array(node.input[4]).astype(np.float32)
    return _real(bias, scale, None, -1)


def _float_attributes(copy: FloatCopy, node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    """The attributes that the operator on floats has too.

    Raises:
        UnsupportedModel: The others say something that it cannot do.
    """
    kept = [item for item in node.attribute if item.name not in {"channels_last", "opset"}]
    written = _attribute(node, "opset", copy.opset)
    flat = node.op_type == "QLinearSoftmax" and (written < _SOFTMAX_OF_ONE_AXIS) != (copy.opset < _SOFTMAX_OF_ONE_AXIS)
    factor = next((item.f for item in node.attribute if item.name == "alpha" and node.op_type == "QGemm"), 1.0)
    if _attribute(node, "channels_last", 0) or flat or factor != 1:
        said = ", ".join(f"{item.name}={item.f or item.i}" for item in node.attribute)
        raise UnsupportedModel(f"{node.op_type} {node.name} has no float copy with {said}")
    return kept


def _result_grid(node: onnx.NodeProto) -> tuple[str, str]:
    """Scale and zero point of what an operator on integers gives; empty where it gives floats."""
    if node.op_type == _CONCAT:
        return _operand(node, 0), _operand(node, 1)
    places = FUSED[node.op_type].result
    return (_operand(node, places[0]), _operand(node, places[1])) if places else ("", "")


def _qlinear_concat(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """com.microsoft.QLinearConcat: Y's scale and zero point, then each operand with its own."""
    triples = range(2, len(node.input), 3)
    parts = [copy.real(*(node.input[place : place + 3])) for place in triples]
    _requantized(copy, node, copy.emit("Concat", parts, attributes=node.attribute), _result_grid(node))


def _integer_to_float(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """com.microsoft.MatMulIntegerToFloat: A, B, scales of both, zero points of both, bias."""
    a, b, a_scale, b_scale = (str(name) for name in node.input[:4])
    left, right = copy.real(a, a_scale, _operand(node, 4)), copy.real(b, b_scale, _operand(node, 5), axis=-1)
    _with_bias(copy, node, copy.emit("MatMul", [left, right]), 6)


def _dynamic_matmul(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """com.microsoft.DynamicQuantizeMatMul: A, B, B's scale and zero point, bias."""
    a, b, scale = (str(name) for name in node.input[:3])
    _with_bias(copy, node, copy.emit("MatMul", [a, copy.real(b, scale, _operand(node, 3), axis=-1)]), 4)


def _with_bias(copy: FloatCopy, node: onnx.NodeProto, made: str, place: int) -> None:
    bias = _operand(node, place)
    copy.emit("Add" if bias else "Identity", [made, bias] if bias else [made], node.output[0])


def _dynamic_lstm(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """com.microsoft.DynamicQuantizeLSTM: W and R are transposed, with a scale for each direction or column.

    Raises:
        UnsupportedModel: W or R is not stored, or its scales are neither one for a direction nor one for a column.
    """
    from onnx import helper

    given = [str(name) for name in node.input]
    weights = []
    for place, scale in ((1, 8), (2, 10)):
        stored, scales = copy.array(given[place]), copy.array(given[scale])
        zeros = copy.number(given, scale + 1)
        shape = (stored.shape[0], 1, -1)
        if scales.size not in {stored.shape[0], stored.shape[0] * stored.shape[2]}:
            raise UnsupportedModel(
                f"DynamicQuantizeLSTM {node.name} has scales of the shape {scales.shape}: no float copy"
            )
        points = None if zeros is None else zeros.reshape(shape)
        real = (stored.astype("float32") - (0 if points is None else points.astype("float32"))) * scales.reshape(shape)
        weights.append(copy.keep(real.transpose(0, 2, 1).astype("float32").copy(), f"{given[place]}/float"))
    made = helper.make_node("LSTM", [given[0], *weights, *given[3:8]], list(node.output))
    made.attribute.extend(node.attribute)
    copy.nodes.append(made)


_CONCAT = "QLinearConcat"
_FLOAT_OF = {
    name: name.removeprefix("QLinear").removeprefix("Q")
    for name, how in FUSED.items()
    if how.result and name != "QLinearReduceMean"  # its axes are an attribute, which ReduceMean has no more
}
"""Operator on integers -> the same on floats."""
_WRITERS: dict[tuple[str, str], Writer] = {
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
    ("", "DynamicQuantizeLinear"): _dynamic,
    ("", "MatMulInteger"): _product("MatMul", -1),
    ("", "ConvInteger"): _product("Conv", 0),
    ("", "QLinearConv"): _qlinear,
    ("", "QLinearMatMul"): _qlinear,
    (_MICROSOFT, "QuantizeLinear"): _quantize,
    (_MICROSOFT, "DequantizeLinear"): _dequantize,
    (_MICROSOFT, "MatMulIntegerToFloat"): _integer_to_float,
    (_MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (_MICROSOFT, "DynamicQuantizeLSTM"): _dynamic_lstm,
    (_MICROSOFT, _CONCAT): _qlinear_concat,
    **{(_MICROSOFT, name): _qlinear for name in _FLOAT_OF},
}


def float_copy(model: onnx.ModelProto) -> Counter[str]:
    """Rewrite a quantized model as float32, in place; returns which operators went, and how often.

    Raises:
        UnsupportedModel: An operator on integers has no float copy here.
    """
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored |= {
        str(node.output[0]): numpy_helper.to_array(item.t)
        for node in graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    }
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in stored:
            stored[str(node.output[0])] = stored[node.input[0]]
    makers = {name: node for node in graph.node for name in node.output}
    copy = FloatCopy(graph, stored, makers=makers, taken=all_names(graph), opset=opset_of(model))
    for node in graph.node:
        _follow(copy, node)
    _keep_integer_outputs(copy)
    del graph.node[:]
    graph.node.extend(copy.nodes)
    del graph.value_info[:]
    prune(graph)
    return _gone(copy, model)


def _gone(copy: FloatCopy, model: onnx.ModelProto) -> Counter[str]:
    """Which operators went, and how often: all but those at the model's own ends.

    Raises:
        UnsupportedModel: One is left, in a body of a loop it may be; or there was none.
    """
    ends = [node for node in model.graph.node if _is_end(copy, node)]
    known = {node.output[0] for node in ends}
    for node in all_nodes(model):
        if (node.op_type in _QUANTIZING or node.op_type.startswith("QLinear")) and node.output[0] not in known:
            raise UnsupportedModel(f"{node.op_type} {node.name or node.output[0]} has no float copy")
    done = copy.done - Counter(node.op_type for node in ends)
    if not done:
        raise UnsupportedModel("no operator on integers is left to copy as floats: the file's integers are at its ends")
    return done


def _is_end(copy: FloatCopy, node: onnx.NodeProto) -> bool:
    """Whether a node makes floats of the model's own integers, or its own integers of floats."""
    if node.op_type == "QuantizeLinear":
        return not {value.name for value in copy.graph.output}.isdisjoint(node.output)
    name = str(node.input[0]) if node.op_type == "DequantizeLinear" else ""
    while name in copy.makers and copy.makers[name].op_type in _MOVES:
        name = str(copy.makers[name].input[0])
    return name in {value.name for value in copy.graph.input}


def _follow(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """Write what one node is among floats."""
    domain = "" if node.domain == "ai.onnx" else str(node.domain)
    writer = _WRITERS.get((domain, node.op_type))
    if writer is not None:
        writer(copy, node)
        copy.done[node.op_type] += 1
        return
    inner = {name for graph in subgraphs(node) for each in graph.node for name in each.input}
    integers = [name for name in (*node.input, *inner) if name in copy.stands]
    if not integers:
        copy.nodes.append(node)
        _note_rounded(copy, node)
    elif node.op_type == "Cast":
        _cast(copy, node)
    elif not domain and node.op_type in {"Add", "Sub"}:
        _sum(copy, node)
    elif not domain and node.op_type in _MOVES and list(node.input).index(integers[0]) == 0:
        _move(copy, node)
    else:
        raise UnsupportedModel(f"{node.op_type} {node.name} computes with integers in a way that has no float copy")


def _move(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """The same operator on the floats; its results stand for what its first input stands for."""
    import copy as copying

    found = copy.stands[node.input[0]]
    made = copying.deepcopy(node)
    made.input[0] = found.real
    for place, name in enumerate(node.output):
        made.output[place] = fresh_name(f"{name}/float", copy.taken)
        copy.stands[name] = _Integers(made.output[place], found.scale, found.zero, found.whole)
    copy.nodes.append(made)


def _keep_integer_outputs(copy: FloatCopy) -> None:
    """A model's own integer outputs are rounded as before.

    Raises:
        UnsupportedModel: One is what an integer product gives.
    """
    outputs = {value.name for value in copy.graph.output}
    for name in sorted(outputs & copy.stands.keys()):
        node, found = copy.makers[name], copy.stands[name]
        if found.whole:
            raise UnsupportedModel(f"the output {name} is an integer that {node.op_type} makes: no float copy of it")
        if node.op_type in _MOVES:
            copy.scalar(found.scale)
        while node.op_type in _MOVES:
            node = copy.makers[node.input[0]]
        written = node.attribute if node.op_type == "QuantizeLinear" and not node.domain else []
        grid = [part for part in (found.scale, found.zero) if part]
        copy.emit("QuantizeLinear", [found.real, *grid], name, written)


def needed_opset(model: onnx.ModelProto) -> int:
    """Returns the least opset that a model's float copy can be written in."""
    from onnx import TensorProto

    kinds = {TensorProto.INT16, TensorProto.UINT16}
    words = {tensor.name for tensor in model.graph.initializer if tensor.data_type in kinds}
    ours = [node for node in model.graph.node if node.domain == _MICROSOFT and node.op_type in CONVERSIONS]
    return _WORDS_OF_STANDARD if any(words & {*node.input} for node in ours) else _CLIP_OF_OPERANDS


def run_float_copy(job: ConvertJob) -> StepOutput:
    """Writes the float copy of `job.source.path`.

    Raises:
        UnsupportedModel: An operator on integers has no float copy here.
    """
    source = load(Path(job.source.path))
    model, notes = raise_opset(source, needed_opset(source))
    done = float_copy(model)
    check(model, Path(job.output).parent)
    save(model, Path(job.output))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(done.items()))
    said = f"weights are what their integers stand for, and nothing is rounded in between: {counts} are gone"
    return StepOutput(
        notes=(
            *notes,
            Remark("note", "float-copy", f"a float copy: {said}"),
        )
    )
