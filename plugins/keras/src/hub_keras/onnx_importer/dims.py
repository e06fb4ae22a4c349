"""Open sizes: what Shape gives where a size is None, and what graphs do with it until it reaches a Reshape.

Keras has no operator that tells a size as a tensor, so a size is an expression in names. Two expressions that are
written alike are the same size; of two that are not, nothing is known. The names are those of ONNX's open dims, of
which the same holds: hub's `prepared` form gives each open dim of an input a name, and shape inference carries them on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx

from hub_onnxgraph import Refused

Array = npt.NDArray[Any]
"""A known tensor."""
_FLAG = "fix it with --shape"


@dataclass(frozen=True, slots=True)
class OpenSize:
    """A size that is known only when the model runs.

    Attributes:
        factors: Names of open sizes, or sums and quotients in parentheses, sorted; the size is their product.
        scale: A whole number that the product is multiplied by.
        advice: How the user can fix the size.
    """

    factors: tuple[str, ...]
    scale: int = 1
    advice: str = field(default=_FLAG, compare=False)

    @property
    def is_counted(self) -> bool:
        """Whether it is a product of sizes, and so not below zero."""
        return self.scale > 0 and not any(name.startswith("(") for name in self.factors)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, OpenSize):
            return OpenSize(tuple(sorted((*self.factors, *other.factors))), self.scale * other.scale, self.advice)
        return 0 if int(other) == 0 else OpenSize(self.factors, self.scale * int(other), self.advice)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        divisor = other if isinstance(other, OpenSize) else OpenSize((), int(other))
        rest = list(self.factors)
        for name in divisor.factors:
            if name not in rest:
                return self._written("//", other)
            rest.remove(name)
        if divisor.scale == 0 or self.scale % divisor.scale:
            return self._written("//", other)
        scale = self.scale // divisor.scale
        return OpenSize(tuple(rest), scale, self.advice) if rest else scale

    def __rfloordiv__(self, other: Any) -> Any:
        return OpenSize((f"({other} // {self})",), 1, self.advice)

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, OpenSize) and int(other) == 0:
            return self
        first, second = sorted(map(str, (self, other)))
        return OpenSize((f"({first} + {second})",), 1, self.advice)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if not isinstance(other, OpenSize):
            return self + -int(other)
        return 0 if self == other else self._written("-", other)

    def __rsub__(self, other: Any) -> Any:
        return OpenSize((f"({other} - {self})",), 1, self.advice)

    def __neg__(self) -> Any:
        return self * -1

    def _written(self, sign: str, other: Any) -> OpenSize:
        return OpenSize((f"({self} {sign} {other})",), 1, self.advice)

    def _needed(self) -> NoReturn:
        raise Refused(f"the size {self} must be known at import time; {self.advice}")

    def __int__(self) -> int:
        self._needed()

    def __index__(self) -> int:
        return int(self)

    def __float__(self) -> float:
        self._needed()

    def __lt__(self, other: Any) -> bool:
        return self._compared(other, below=True)

    def __le__(self, other: Any) -> bool:
        return self._compared(other, below=True)

    def __gt__(self, other: Any) -> bool:
        return self._compared(other, below=False)

    def __ge__(self, other: Any) -> bool:
        return self._compared(other, below=False)

    def _compared(self, other: Any, *, below: bool) -> bool:
        """Sizes are not below zero; nothing else is known."""
        if isinstance(other, OpenSize) or int(other) >= 0 or not self.is_counted:
            self._needed()
        return not below

    def __str__(self) -> str:
        return "*".join([*([] if self.scale == 1 else [str(self.scale)]), *self.factors])

    __repr__ = __str__


Size = int | OpenSize
"""A size, known or open."""


def is_open(items: Any) -> bool:
    """Whether an array, or a list, holds open sizes."""
    return any(isinstance(item, OpenSize) for item in getattr(items, "flat", items))


def is_sizes(item: Any) -> bool:
    """Whether a value is a known array that holds open sizes."""
    return isinstance(item, np.ndarray) and item.dtype == object and is_open(item)


def sizes_array(items: Any) -> Array:
    """An array of sizes: whole numbers where none is open."""
    return np.asarray(items, dtype=object if is_open(np.asarray(items, dtype=object)) else np.int64)


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are equal.

    Raises:
        Refused: That depends on the run.
    """
    if a == b or not (isinstance(a, OpenSize) or isinstance(b, OpenSize)):
        return bool(a == b)
    size, other = (a, b) if isinstance(a, OpenSize) else (b, a)
    return bool(size < other)  # refused, but for a number below zero, which no size equals


def broadcast(shape: Sequence[Any], target: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The shape that Expand makes, and the axes of it along which the input is repeated an open number of times.

    Raises:
        Refused: That depends on the run.
    """
    rank = max(len(shape), len(target))
    pairs = zip([1] * (rank - len(shape)) + [*shape], [1] * (rank - len(target)) + [*target], strict=True)
    made, repeated = [], []
    for axis, (size, wanted) in enumerate(pairs):
        if isinstance(size, OpenSize) and not same_size(size, wanted):
            raise Refused(f"the size {size} expanded to {wanted}; {size.advice}")
        made.append(wanted if not isinstance(size, OpenSize) and size == 1 else size)
        if isinstance(wanted, OpenSize) and made[-1] is wanted and size != wanted:
            repeated.append(axis)
    return made, repeated


def same_size(size: OpenSize, wanted: Any) -> bool:
    """Whether an open size certainly stays when it is expanded."""
    return size == wanted or (not isinstance(wanted, OpenSize) and wanted == 1)


def _pairwise(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda _, a, b: np.frompyfunc(function, 2, 1)(a, b)


def _cast(node: onnx.NodeProto, x: Any) -> Any:
    to = onnx.helper.get_node_attr_value(node, "to")
    if to not in {onnx.TensorProto.INT64, onnx.TensorProto.INT32}:
        raise Refused(f"the open sizes {x} as element type {to}; {_advice(x)}")
    return x


def _product(node: onnx.NodeProto, x: Any, axes: Any = None) -> Any:
    keep = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
    if x.ndim != 1 or any(attribute.name == "noop_with_empty_axes" for attribute in node.attribute):
        raise Refused("a product of open sizes over other axes than the only one")
    del axes
    return np.asarray([x.prod()] if keep else x.prod(), dtype=object)


def _advice(sizes: Any) -> str:
    return next((size.advice for size in sizes.flat if isinstance(size, OpenSize)), _FLAG)


_FOLDS: dict[str, Callable[..., Any]] = {
    "Add": _pairwise(lambda a, b: a + b),
    "Sub": _pairwise(lambda a, b: a - b),
    "Mul": _pairwise(lambda a, b: a * b),
    "Div": _pairwise(lambda a, b: a // b),
    "Equal": _pairwise(same),
    "Identity": lambda _, x: x,
    "Where": lambda _, condition, a, b: np.where(condition, a, b),
    "Cast": _cast,
    "ReduceProd": _product,
}


def fold_open(node: onnx.NodeProto, inputs: Sequence[Any]) -> Any:
    """Compute a node on known arrays of which some hold open sizes; None where it is not arithmetic on sizes.

    Raises:
        Refused: The result depends on what the sizes are.
    """
    arrays = [item for item in inputs if item is not None]
    known = all(isinstance(item, np.ndarray) for item in arrays) and any(item.dtype == object for item in arrays)
    if not known or node.domain not in {"", "ai.onnx"} or node.op_type not in _FOLDS:
        return None
    result = np.asarray(_FOLDS[node.op_type](node, *inputs), dtype=object)
    return result.astype(bool) if node.op_type == "Equal" else sizes_array(result)


def symbols_of(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """The names of open dims, by tensor and axis; an empty name for a known size.

    Outputs are left out: what a file declares of them is not inferred.
    """
    graph = model.graph
    return {
        value.name: tuple(dim.dim_param for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
        if any(dim.dim_param for dim in value.type.tensor_type.shape.dim)
    }


def advice(inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, str]:
    """How to fix each open dim of the inputs: its name -> words with the flag; for any other size at ""."""
    flags, named = [], {}
    for value in inputs:
        dims = [dim.dim_param or ("?" if not dim.HasField("dim_value") else "") for dim in _dims(value)]
        if any(dims):
            shape = "x".join(name or str(dim.dim_value) for name, dim in zip(dims, _dims(value), strict=True))
            flags.append(f"--shape {value.name}={shape}")
            named.update({name: flags[-1] for name in dims if name and name not in named})
    words = {name: f"fix it: {flag}, with a number for {name}" for name, flag in named.items()}
    return words | {"": f"fix the open sizes: {' '.join(flags)}, with a number for each name"}


def _dims(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    dims: Sequence[onnx.TensorShapeProto.Dimension] = value.type.tensor_type.shape.dim
    return dims
