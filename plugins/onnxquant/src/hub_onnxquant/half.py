"""float16 or bfloat16, except where values do not fit: nodes with such values on samples stay in float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from hub_onnxgraph.graphs import add_constant, all_names, fresh_name, opset_of, prune, rename, subgraphs
from hub_onnxquant.ranges import Tap

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from onnx import ModelProto, NodeProto
    from onnx.defs import OpSchema

    from hub.spec import Feeds

    Array = npt.NDArray[np.generic]

LARGEST = 65504.0
"""The largest float16 (IEEE 754 binary16)."""

LARGEST_BFLOAT16 = 3.3895313892515355e38
"""The largest bfloat16: float32's range in 8 significant bits."""

_FLOAT = 1  # onnx.TensorProto.FLOAT


class HalfType(IntEnum):
    """The two half-wide floats, by ONNX's numbers."""

    FLOAT16 = 10
    BFLOAT16 = 16

    @property
    def word(self) -> str:
        """ONNX's word."""
        return self.name.lower()


_MARGIN = 0.5  # of the largest: other samples may go further
_SUMS = frozenset({
    "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Pow", "Exp", "Softmax", "LayerNormalization", "Sqrt",
    "Reciprocal", "Div", "InstanceNormalization", "GroupNormalization", "Log", "CumSum",
})  # fmt: skip
"""Operators whose own sums or small divisors need more than 11 bits: kept in float32 where float16 is too coarse."""


def peaks(content: bytes, names: Iterable[str], samples: Iterable[Feeds]) -> dict[str, float]:
    """Returns tensor -> largest finite magnitude seen, infinity where a value was infinite.

    Raises:
        CalibrationError: A sample does not fit.
        StepError: The model does not run.
    """
    import numpy as np

    tap = Tap(content, list(names))
    found: dict[str, float] = {}
    for feeds in samples:
        for name, array in tap.arrays(feeds):
            top = float(np.abs(array).max()) if array.size else 0.0
            found[name] = max(found.get(name, 0.0), top if top == top else np.inf)  # noqa: PLR0124 - not a number
    return found


def overflowing(model: ModelProto, samples: Iterable[Feeds]) -> dict[str, float]:
    """Returns nodes with a value too large for float16 -> the largest; stand-ins for infinity (-3.4e38) among them."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    values = (*graph.input, *graph.value_info, *graph.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT} & made
    tops = peaks(model.SerializeToString(), sorted(floats), samples)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            tops[tensor.name] = float(abs(array).max()) if array.size else 0.0
    large = {name: top for name, top in tops.items() if top > LARGEST * _MARGIN}
    return {
        node.name: max(large[name] for name in (*node.input, *node.output) if name in large)
        for node in graph.node
        if large.keys() & {*node.input, *node.output}
    }


def fragile(model: ModelProto) -> list[str]:
    """Returns the nodes whose operator needs more than float16's precision inside."""
    return [node.name for node in model.graph.node if node.op_type in _SUMS]


class _Halver:
    """Rewrites a graph node by node; a tensor exists in the type that its maker gives, and in the other behind a Cast.

    ONNX Runtime's own converter is not used: between two nodes that stay in float32 it casts to float16 and back, so
    that what was to be spared overflows (a file-type classifier: -0.3 dB instead of 73).
    """

    def __init__(self, model: ModelProto, kept: Iterable[str], kind: HalfType) -> None:
        self._kind = kind
        self.model: ModelProto = type(model).FromString(model.SerializeToString())
        self.graph = self.model.graph
        self._kept = set(kept)
        self._taken = all_names(self.graph) | {node.name for node in self.graph.node}
        self._stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self._opset = opset_of(model)
        self._outputs = {value.name for value in self.graph.output}
        values = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self._floats = {value.name for value in values if value.type.tensor_type.elem_type == _FLOAT}
        self._floats |= {name for name, tensor in self._stored.items() if tensor.data_type == _FLOAT}
        self._names: dict[tuple[str, int], str] = {(name, _FLOAT): name for name in self._floats}
        self._made: dict[str, int] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> ModelProto:
        for node in list(self.graph.node):
            takes, gives = self._types(node)
            if any(subgraphs(node)):  # its inner graphs are float32 and see outer values by name
                rename(
                    [node],
                    {name: self._as(name, _FLOAT) for name in sorted(self._made) if self._made[name] == self._kind},
                )
            node.input[:] = [
                self._as(name, kind) if name in self._floats else name
                for name, kind in zip(node.input, takes, strict=True)
            ]
            self.nodes.append(node)
            for place, (name, kind) in enumerate(zip(list(node.output), gives, strict=True)):
                if name in self._floats and kind == self._kind:
                    inner = fresh_name(f"{name}/{self._kind.word}", self._taken)
                    node.output[place] = self._names[name, self._kind] = inner
                    self._made[name] = self._kind
                    del self._names[name, _FLOAT]
                    if name in self._outputs:
                        self._names[name, _FLOAT] = name
                        self._cast(inner, name, _FLOAT)
        copies = [type(node).FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        del self.graph.value_info[:]
        prune(self.graph)
        return self.model

    def _types(self, node: NodeProto) -> tuple[list[int], list[int]]:
        """The float type of each input and output of a node, as far as they are floats."""
        import onnx

        schema = None
        if node.name not in self._kept and not any(subgraphs(node)) and onnx.defs.has(node.op_type, self._opset):
            schema = onnx.defs.get_schema(node.op_type, self._opset)
        if schema is None or not _retyped(node, self._kind):
            return [_FLOAT] * len(node.input), [_FLOAT] * len(node.output)
        return [self._half_in(schema, schema.inputs, place) for place in range(len(node.input))], [
            self._half_in(schema, schema.outputs, place) for place in range(len(node.output))
        ]

    def _half_in(self, schema: OpSchema, formals: Sequence[OpSchema.FormalParameter], place: int) -> int:
        """The half-wide type where the operator's definition allows it in this place."""
        if not formals:
            return _FLOAT
        formal = formals[min(place, len(formals) - 1)]
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}.get(formal.type_str)
        return self._kind if allowed and f"tensor({self._kind.word})" in allowed else _FLOAT

    def _as(self, name: str, kind: int) -> str:
        from onnx import numpy_helper

        if (name, kind) not in self._names:
            if name in self._stored:
                half = fresh_name(f"{name}/{self._kind.word}", self._taken)
                add_constant(self.graph, half, rounded(numpy_helper.to_array(self._stored[name]), self._kind))
                self._names[name, kind] = half
            else:
                target = fresh_name(f"{name}/as_{'float32' if kind == _FLOAT else self._kind.word}", self._taken)
                self._cast(self._names[name, self._kind if kind == _FLOAT else _FLOAT], target, kind)
                self._names[name, kind] = target
        return self._names[name, kind]

    def _cast(self, source: str, target: str, kind: int) -> None:
        from onnx import helper

        self.nodes.append(
            helper.make_node("Cast", [source], [target], name=fresh_name(f"{target}/Cast", self._taken), to=kind)
        )


def rounded(array: Array, kind: HalfType = HalfType.FLOAT16) -> Array:
    """Returns an array in a half-wide type; finite values stay finite."""
    import ml_dtypes
    import numpy as np

    largest, dtype = (LARGEST, np.float16) if kind is HalfType.FLOAT16 else (LARGEST_BFLOAT16, ml_dtypes.bfloat16)
    finite = np.isfinite(array)
    return np.where(finite, np.clip(array, -largest, largest), array).astype(dtype)


def _retyped(node: NodeProto, kind: HalfType) -> bool:
    """Makes a node that names its float type itself name the half one; False where that is not known how to do."""
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == _FLOAT:
            if node.op_type != "Cast":
                return False
            attribute.i = kind
        if attribute.HasField("t") and attribute.t.data_type == _FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(rounded(numpy_helper.to_array(attribute.t), kind)))
    return True


def halve(model: ModelProto, kept: Iterable[str], kind: HalfType = HalfType.FLOAT16) -> ModelProto:
    """Returns a float16 or bfloat16 copy with float32 inputs and outputs.

    Args:
        model: Types inferred, nodes named.
        kept: Nodes that stay in float32. Those with inner graphs, and those whose definition has no such type, do too.
        kind: The half-wide type.
    """
    return _Halver(model, kept, kind).run()
