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
from hub_onnxgraph.graphs import all_names, fresh_name, prune, raise_opset, subgraphs
from hub_onnxruntime.files import check, load, save

if TYPE_CHECKING:
    import onnx

    from hub_onnxgraph.graphs import Array

_MOVES = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that take integers and floats alike, and give what their first input holds."""
_MICROSOFT = "com.microsoft"
_CLIP_OF_OPERANDS = 11
"""Opset from which Clip takes its bounds as operands."""


@dataclass(frozen=True, slots=True)
class _Integers:
    """What an integer value stands for: (integer - zero point) * scale, which the value `real` is.

    Attributes:
        real: Name of the float value.
        scale: Name of the scale; empty where the integer is the real value itself.
    """

    real: str
    scale: str = ""


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
    """

    graph: onnx.GraphProto
    stored: dict[str, Array]
    stands: dict[str, _Integers] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    taken: set[str] = field(default_factory=set)

    def emit(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str = "",
        like: onnx.NodeProto | None = None,
        axis: int | None = None,
    ) -> str:
        """Write a standard operator; returns the name of its result.

        Args:
            kind: The operator.
            inputs: Its operands.
            output: Name of the result; a new one where it is empty.
            like: A node whose attributes it takes over.
            axis: Its attribute of that name.
        """
        from onnx import helper

        result = output or fresh_name(f"{inputs[0]}/{kind}", self.taken)
        made = helper.make_node(kind, inputs, [result])
        if axis is not None:
            made.attribute.append(helper.make_attribute("axis", axis))
        if like is not None:
            made.attribute.extend(like.attribute)
        self.nodes.append(made)
        return result

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
            raise UnsupportedModel(f"the integers {name} are computed in a way that has no float copy")
        return self.stored[name]

    def number(self, names: Sequence[str], place: int) -> Array | None:
        """Return the stored operand of a place; None where there is none."""
        return self.array(names[place]) if len(names) > place and names[place] else None

    def real(self, name: str, scale: str, zero: str = "", axis: int = 1) -> str:
        """Return the float that an integer value stands for, by its scale and zero point."""
        if name in self.stands:
            return self.stands[name].real
        if name in self.stored:
            zeros = self.stored.get(zero) if zero else None
            return self.keep(_real(self.stored[name], self.array(scale), zeros, axis), f"{name}/float")
        return self.emit("DequantizeLinear", [part for part in (name, scale, zero) if part], axis=axis)

    def level(self, name: str, zero: str = "") -> str:
        """Return the float whose nearest whole number an integer value is, less its zero point."""
        if name in self.stands:
            found = self.stands[name]
            return self.emit("Div", [found.real, found.scale]) if found.scale else found.real
        if name in self.stored:
            import numpy as np

            stored = self.stored[name].astype(np.float32)
            points = self.stored.get(zero) if zero else None
            if points is not None:
                along = (-1, *[1] * (stored.ndim - 1)) if points.ndim and points.size == stored.shape[0] else (-1,)
                shape = along if points.size > 1 and stored.ndim > _MATRIX else points.shape
                stored = stored - points.astype(np.float32).reshape(shape)
            return self.keep(stored, f"{name}/float")
        raise UnsupportedModel(f"the integers {name} come from outside and are multiplied as they are: no float copy")


_MATRIX = 2
Writer = Callable[["FloatCopy", "onnx.NodeProto"], None]


def _real(stored: Array, scale: Array, zero: Array | None, axis: int, block: int = 0) -> Array:
    """ONNX's DequantizeLinear of constants."""
    import numpy as np

    def spread(values: Array) -> Array:
        if block:
            return np.take(np.repeat(values, block, axis), np.arange(stored.shape[axis]), axis)
        if values.size == 1:
            return values.reshape(())
        along = [1] * stored.ndim
        along[axis] = -1
        return values.reshape(along)

    levels = stored.astype(np.float32)
    if zero is not None and zero.size:
        levels = levels - spread(zero).astype(np.float32)
    made: Array = (levels * spread(scale).astype(np.float32)).astype(np.float32)
    return made


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _operand(node: onnx.NodeProto, place: int) -> str:
    return str(node.input[place]) if len(node.input) > place else ""


def _quantize(copy: FloatCopy, node: onnx.NodeProto) -> None:
    scale, zero = _operand(node, 1), _operand(node, 2)
    copy.stands[node.output[0]] = _Integers(_clipped(copy, str(node.input[0]), scale, zero), scale)


def _clipped(copy: FloatCopy, real: str, scale: str, zero: str) -> str:
    """Keep a value within what its integers can say: quantizers take a ReLU out where its integers begin at zero."""
    import numpy as np

    factor, point = copy.stored.get(scale), copy.stored.get(zero) if zero else np.zeros((), np.uint8)
    if factor is None or point is None or factor.size != 1 or point.dtype.kind not in "iu":
        return real
    limits = np.iinfo(point.dtype.name)
    ends = [np.float32((end - int(point.reshape(()))) * float(factor.reshape(()))) for end in (limits.min, limits.max)]
    low, high = (copy.keep(np.full((), end, np.float32), f"{real}/end") for end in ends)
    return copy.emit("Clip", [real, low, high])


def _dequantize(copy: FloatCopy, node: onnx.NodeProto) -> None:
    name, scale, zero = (_operand(node, place) for place in range(3))
    if name in copy.stands:
        copy.emit("Identity", [copy.stands[name].real], node.output[0])
    elif name in copy.stored:
        axis, block = _attribute(node, "axis", 1), _attribute(node, "block_size", 0)
        stored, zeros = copy.stored[name], copy.stored.get(zero) if zero else None
        axis %= max(1, stored.ndim)
        made = copy.keep(_real(stored, copy.array(scale), zeros, axis, block), f"{name}/float")
        copy.emit("Identity", [made], node.output[0])
    else:
        copy.nodes.append(node)


def _dynamic(copy: FloatCopy, node: onnx.NodeProto) -> None:
    import numpy as np

    integers, scale, zero = node.output
    copy.stands[integers] = _Integers(str(node.input[0]))
    copy.emit("Identity", [copy.keep(np.ones((), np.float32), f"{scale}/one")], scale)
    copy.emit("Identity", [copy.keep(np.zeros((), np.uint8), f"{zero}/none")], zero)


def _product(kind: str) -> Writer:
    """MatMulInteger and ConvInteger: the same on floats, whose result stands for itself."""

    def write(copy: FloatCopy, node: onnx.NodeProto) -> None:
        left, right = copy.level(node.input[0], _operand(node, 2)), copy.level(node.input[1], _operand(node, 3))
        made = copy.emit(kind, [left, right], like=node)
        copy.stands[node.output[0]] = _Integers(made)

    return write


def _cast(copy: FloatCopy, node: onnx.NodeProto) -> None:
    if node.input[0] in copy.stands and not copy.stands[node.input[0]].scale:
        copy.emit("Identity", [copy.stands[node.input[0]].real], node.output[0])
    else:
        copy.nodes.append(node)


def _note_rounded(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """Remember what an integer was rounded from: a bias that is added to an integer product is made so at run time."""
    source, result = str(node.input[0]) if node.input else "", str(node.output[0])
    maker = copy.makers.get(source)
    if node.op_type == "Cast" and maker is not None and maker.op_type in {"Floor", "Round"}:
        copy.rounded[result] = str(maker.input[0])
    elif node.op_type in _MOVES and source in copy.rounded and len(node.output) == 1:
        made = copy.emit(node.op_type, [copy.rounded[source], *node.input[1:]], like=node)
        copy.rounded[result] = made


def _sum(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """A sum of integer products, and of what was rounded to be added to them."""
    parts = []
    for name in node.input:
        found = copy.stands.get(name)
        if found is not None and found.scale:
            raise UnsupportedModel(f"{node.op_type} {node.name} adds to quantized values as integers: no float copy")
        stored = copy.stored.get(name)
        real = copy.rounded.get(name, "") if found is None else found.real
        if not real and stored is None:
            raise UnsupportedModel(f"{node.op_type} {node.name} adds the integers {name}, which have no float copy")
        parts.append(real or copy.keep(copy.stored[name].astype("float32"), f"{name}/float"))
    copy.stands[node.output[0]] = _Integers(copy.emit(node.op_type, parts))


def _requantized(copy: FloatCopy, node: onnx.NodeProto, made: str) -> None:
    """What QLinear operators give: their operands 6 and 7 are the result's scale and zero point."""
    scale, zero = _operand(node, 6), _operand(node, 7)
    copy.stands[node.output[0]] = _Integers(_clipped(copy, made, scale, zero), scale)


def _qlinear_conv(copy: FloatCopy, node: onnx.NodeProto) -> None:
    import numpy as np

    x, x_scale, x_zero, w, w_scale, w_zero = (str(name) for name in node.input[:6])
    inputs = [copy.real(x, x_scale, x_zero), copy.real(w, w_scale, w_zero, axis=0)]
    bias = copy.number(node.input, 8)
    if bias is not None:
        scale = copy.array(x_scale).astype(np.float32) * copy.array(w_scale).astype(np.float32)
        inputs.append(copy.keep(bias.astype(np.float32) * scale, f"{node.input[8]}/float"))
    _requantized(copy, node, copy.emit("Conv", inputs, like=node))


def _qlinear_matmul(copy: FloatCopy, node: onnx.NodeProto) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero = (str(name) for name in node.input[:6])
    made = copy.emit("MatMul", [copy.real(a, a_scale, a_zero), copy.real(b, b_scale, b_zero)])
    _requantized(copy, node, made)


def _integer_to_float(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """com.microsoft.MatMulIntegerToFloat: A, B, scales of both, zero points of both, bias."""
    a, b, a_scale, b_scale = (str(name) for name in node.input[:4])
    left, right = copy.level(a, _operand(node, 4)), copy.real(b, b_scale, _operand(node, 5), axis=1)
    _with_bias(copy, node, copy.emit("Mul", [copy.emit("MatMul", [left, right]), a_scale]), 6)


def _dynamic_matmul(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """com.microsoft.DynamicQuantizeMatMul: A, B, B's scale and zero point, bias."""
    a, b, scale = (str(name) for name in node.input[:3])
    _with_bias(copy, node, copy.emit("MatMul", [a, copy.real(b, scale, _operand(node, 3))]), 4)


def _with_bias(copy: FloatCopy, node: onnx.NodeProto, made: str, place: int) -> None:
    bias = _operand(node, place)
    copy.emit("Add" if bias else "Identity", [made, bias] if bias else [made], node.output[0])


def _dynamic_lstm(copy: FloatCopy, node: onnx.NodeProto) -> None:
    """com.microsoft.DynamicQuantizeLSTM: W and R are transposed, with a scale for each direction or column.

    Raises:
        UnsupportedModel: W or R is not stored.
    """
    from onnx import helper

    given = [str(name) for name in node.input]
    weights = []
    for place, scale in ((1, 8), (2, 10)):
        stored, scales = copy.array(given[place]), copy.array(given[scale])
        zeros = copy.number(given, scale + 1)
        shape = (stored.shape[0], 1, -1)
        points = None if zeros is None else zeros.reshape(shape)
        real = (stored.astype("float32") - (0 if points is None else points.astype("float32"))) * scales.reshape(shape)
        weights.append(copy.keep(real.transpose(0, 2, 1).astype("float32").copy(), f"{given[place]}/float"))
    made = helper.make_node("LSTM", [given[0], *weights, *given[3:8]], list(node.output))
    made.attribute.extend(node.attribute)
    copy.nodes.append(made)


_WRITERS: dict[tuple[str, str], Writer] = {
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
    ("", "DynamicQuantizeLinear"): _dynamic,
    ("", "MatMulInteger"): _product("MatMul"),
    ("", "ConvInteger"): _product("Conv"),
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    (_MICROSOFT, "QuantizeLinear"): _quantize,
    (_MICROSOFT, "DequantizeLinear"): _dequantize,
    (_MICROSOFT, "MatMulIntegerToFloat"): _integer_to_float,
    (_MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (_MICROSOFT, "DynamicQuantizeLSTM"): _dynamic_lstm,
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
    makers = {name: node for node in graph.node for name in node.output}
    copy = FloatCopy(graph, stored, makers=makers, taken=all_names(graph))
    for node in graph.node:
        _follow(copy, node)
    _keep_integer_outputs(copy)
    del graph.node[:]
    graph.node.extend(copy.nodes)
    del graph.value_info[:]
    prune(graph)
    return copy.done


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
        copy.stands[name] = _Integers(made.output[place], found.scale)
    copy.nodes.append(made)


def _keep_integer_outputs(copy: FloatCopy) -> None:
    """A model's own integer outputs are rounded as before."""
    outputs = {value.name for value in copy.graph.output}
    for name in sorted(outputs & copy.stands.keys()):
        node = copy.makers[name]
        real = copy.stands[name].real
        if node.op_type == "QuantizeLinear":
            copy.emit("QuantizeLinear", [real, *node.input[1:]], name, like=node)
        elif node.op_type in {"QLinearConv", "QLinearMatMul"}:
            copy.emit("QuantizeLinear", [real, *node.input[6:8]], name)
        else:
            raise UnsupportedModel(f"the output {name} is an integer that {node.op_type} makes: no float copy of it")


def run_float_copy(job: ConvertJob) -> StepOutput:
    """Writes the float copy of `job.source.path`.

    Raises:
        UnsupportedModel: An operator on integers has no float copy here.
    """
    model, notes = raise_opset(load(Path(job.source.path)), _CLIP_OF_OPERANDS)
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
