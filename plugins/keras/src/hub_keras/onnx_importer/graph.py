"""The Keras graph under construction: layers with weights, names, constants, and transposes made once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hub_keras.onnx_importer.dims import Array, OpenSize, broadcast
from hub_keras.onnx_importer.lazy import layers, np, ops
from hub_onnxgraph import refuse_if

if TYPE_CHECKING:
    from keras import KerasTensor

Permutation = tuple[int, ...]

# Elements up to which a floating-point constant is written into the architecture's JSON; larger ones are weights.
_LITERAL_FLOATS = 16
# The same for integers and booleans, which no layer trains. 64 Ki of them take about 0.5 MB of JSON.
_LITERAL_INTEGERS = 1 << 16
# Above this a float32 weight cannot hold every integer.
_EXACT = 1 << 24
_WEIGHT_SUFFIX = re.compile(r"[._/](weight|kernel|gamma|scale|bias|w|W)$")


class KerasGraph:
    """One import.

    Attributes:
        current: Name of the ONNX node being translated.
        anchor: A tensor that depends on an input; constants that are weights hang on it.
        finished: Operations that make an output of the model.
        advice: How the user fixes the inputs' open sizes; by the name of an open dim, or for all of them at "".
        saved: Whether the model goes into a Keras file, so that only what Keras brings along may be in it.
    """

    def __init__(self, *, saved: bool = True) -> None:
        self.current = ""
        self.saved = saved
        self.anchor: KerasTensor = None
        self._used: set[str] = set()
        self._moved: dict[tuple[int, Permutation], KerasTensor] = {}
        self._alive: list[KerasTensor | Array] = []
        self._names: dict[int, str] = {}
        self._trained: set[int] = set()
        self._weights: dict[int, KerasTensor] = {}
        self._index: KerasTensor = None
        self.finished: set[int] = set()
        self.advice: dict[str, str] = {}
        self._sizes: dict[tuple[int, int], OpenSize] = {}
        self._by_name: dict[str, OpenSize] = {}
        self._sized: dict[OpenSize, tuple[KerasTensor, int]] = {}

    def unique(self, wanted: str) -> str:
        """A free name that Keras and TensorFlow take, close to the wanted one."""
        stem = re.sub(r"[^A-Za-z0-9_.>-]", "_", wanted).strip("_.>-") or "node"
        found, suffix = stem, 1
        while found.lower() in self._used:
            found, suffix = f"{stem}_{suffix}", suffix + 1
        self._used.add(found.lower())
        return found

    def reserve(self, wanted: str) -> str:
        """A name of the model's border: the ONNX name, without the slashes that Keras refuses."""
        stem = wanted.replace("/", "_")
        found, suffix = stem, 1
        while found.lower() in self._used:
            found, suffix = f"{stem}_{suffix}", suffix + 1
        self._used.add(found.lower())
        return found

    def declare(self, tensor: KerasTensor, axis: int, size: OpenSize | str | int) -> None:
        """Know an open size of a tensor, by the name of ONNX's open dim or as an expression.

        The first one stays; a second name is another name of it, wherever it stands.
        """
        if tensor.shape[axis] is not None or isinstance(size, int):
            return
        made = self._sizes.get((id(tensor), axis))
        if made is None:
            made = (
                self._by_name.get(size) or OpenSize((size,), 1, self.advice.get(size, self.advice.get("", "")))
                if isinstance(size, str)
                else size
            )
            self._alive.append(tensor)
            self._sizes[id(tensor), axis] = made
        if isinstance(size, str):
            self._by_name.setdefault(size, made)
        self._sized.setdefault(made, (tensor, axis))

    def size(self, tensor: KerasTensor, axis: int) -> int | OpenSize:
        """The size of a tensor's axis; an open one that nobody declared has a name that no other has."""
        if tensor.shape[axis] is not None:
            return int(tensor.shape[axis])
        self.declare(tensor, axis, f"{tensor.name}[{axis}]")
        return self._sizes[id(tensor), axis]

    def expanded(self, item: KerasTensor | Array, target: Sequence[int | OpenSize]) -> KerasTensor:
        """Broadcast a tensor, or a constant, in ONNX's order of axes, to a shape that may hold open sizes.

        Raises:
            Refused: A size depends on the run, or is that of no tensor.
        """
        sizes = [self.size(item, axis) for axis in range(len(item.shape))] if _is_tensor(item) else list(item.shape)
        made, repeated = broadcast(sizes, target)
        if _is_tensor(item):
            missing = len(made) - len(sizes)
            item = ops.expand_dims(item, axis=tuple(range(missing))) if missing else item
            for axis, (before, after) in enumerate(zip([1] * missing + sizes, made, strict=True)):
                item = ops.repeat(item, after, axis=axis) if before != after and axis not in repeated else item
        else:
            closed = [1 if axis in repeated else size for axis, size in enumerate(made)]
            item = self.symbolic(np.ascontiguousarray(np.broadcast_to(item, closed)))
        for axis in repeated:
            item = self._repeated(item, axis, made[axis])
        for axis, size in enumerate(made):
            self.declare(item, axis, size)
        return item

    def _repeated(self, tensor: KerasTensor, axis: int, size: OpenSize) -> KerasTensor:
        """Repeat along an axis of size 1: zeros, as many as the size, are subtracted, which changes no number."""
        refuse_if(size not in self._sized, f"no tensor has the size {size}; {size.advice}")
        source, place = self._sized[size]
        line = source[tuple(slice(None) if i == place else slice(0, 1) for i in range(len(source.shape)))]
        others = [i for i in range(len(source.shape)) if i != place]
        zeros = ops.sum(ops.zeros_like(line, dtype="int32"), axis=others)
        zeros = ops.reshape(zeros, [-1 if i == axis else 1 for i in range(len(tensor.shape))])
        if str(tensor.dtype) == "bool":
            return ops.logical_or(tensor, ops.cast(zeros, "bool"))
        return ops.subtract(tensor, ops.cast(zeros, str(tensor.dtype)))

    def remember(self, array: Array, name: str, *, initializer: bool = False) -> None:
        """Know a constant by its name; floating-point initializers are trained."""
        self._alive.append(array)
        if initializer:
            self._trained.add(id(array))
        self._names[id(array)] = name

    def name_of(self, array: Array) -> str | None:
        """The name of an initializer."""
        return self._names.get(id(array))

    def layer(
        self,
        kind: str,
        *inputs: KerasTensor | list[KerasTensor],
        arrays: Sequence[Array] = (),
        after: Array | None = None,
        call: Mapping[str, object] | None = None,
        **config: object,
    ) -> KerasTensor:
        """Make a layer of `keras.layers`, call it, and give it its weights.

        Args:
            kind: The class's name.
            inputs: Keras tensors.
            arrays: Weights in the layer's own order and shapes.
            after: The initializer that the layer is named after; the node when it has no name of this kind.
            call: Further arguments of the call.
            config: The layer's arguments.

        Returns:
            What the layer returns.
        """
        name = self._names.get(id(after), "")
        stem = _WEIGHT_SUFFIX.sub("", name)
        made = getattr(layers, kind)(
            name=self.unique(stem if stem != name else self.current), dtype=layer_dtype(inputs[0]), **config
        )
        result = made(*inputs, **(call or {}))
        if arrays:
            made.set_weights([np.asarray(array) for array in arrays])
        return result

    def rename(self, tensor: KerasTensor, name: str) -> None:
        """Name the operation that makes a tensor, where it is no layer (those are named when they are made)."""
        operation = tensor._keras_history.operation  # noqa: SLF001 - Keras' only way from tensor to operation
        if not isinstance(operation, layers.Layer) and id(operation) not in self._names:
            self.remember(operation, name)
            operation.name = self.unique(name)

    def settle(self, tensors: Sequence[KerasTensor]) -> None:
        """Give every operation behind the tensors a name of its own: Keras' own may be one that ONNX has, too."""
        seen: set[int] = set()
        waiting = list(tensors)
        while waiting:
            history = waiting.pop()._keras_history  # noqa: SLF001 - Keras' only way from tensor to operation
            operation = history.operation
            if id(operation) in seen:
                continue
            seen.add(id(operation))
            for node in operation._inbound_nodes:  # noqa: SLF001 - as above
                waiting += node.input_tensors
            if not (
                isinstance(operation, layers.Layer) or id(operation) in self._names or id(operation) in self.finished
            ):
                operation.name = self.unique(operation.name)

    def transposed(self, tensor: KerasTensor, permutation: Permutation) -> KerasTensor:
        """Transpose, once for each tensor and permutation; there and back is the tensor itself."""
        if permutation == tuple(range(len(permutation))):
            return tensor
        key = (id(tensor), permutation)
        if key not in self._moved:
            shape = [tensor.shape[axis] for axis in permutation]
            result = (
                ops.reshape(tensor, [-1 if size is None else size for size in shape])
                if _moves_nothing(tensor.shape, permutation) and shape.count(None) <= 1
                else ops.transpose(tensor, permutation)
            )
            self._alive += [tensor, result]
            for axis, source in enumerate(permutation):
                if tensor.shape[source] is None:
                    self.declare(result, axis, self.size(tensor, source))
            self._moved[key] = result
            self._moved[id(result), inverse(permutation)] = tensor
        return self._moved[key]

    def is_free(self, tensor: KerasTensor, permutation: Permutation) -> bool:
        """Whether a transposed tensor costs nothing: it is there, or no element moves."""
        same = permutation == tuple(range(len(permutation)))
        return same or (id(tensor), permutation) in self._moved or _moves_nothing(tensor.shape, permutation)

    def constant(self, array: Array) -> KerasTensor:
        """Give a numpy array as an operand: itself when it is small, else the weight of a layer.

        Raises:
            Refused: It is large, and neither floats nor integers that a float32 weight holds exactly.
        """
        floating = np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"
        if array.size <= (_LITERAL_FLOATS if floating else _LITERAL_INTEGERS):
            return array
        return self.weight(array) if floating else self._integers(array)

    def _integers(self, array: Array) -> KerasTensor:
        whole = np.abs(array.astype(np.float64)).max() <= _EXACT if array.dtype.kind in "iub" else False
        refuse_if(not whole, f"a constant of {array.size} elements of type {array.dtype} has no place in a Keras file")
        floats = array.astype(np.float32)
        return ops.cast(self.weight(floats, self.name_of(array)), str(array.dtype))

    def weight(self, array: Array, name: str | None = None) -> KerasTensor:
        """Hold an array as the table of an Embedding that is asked for its only row.

        Keras has no built-in layer that just holds a weight. In a frozen graph this one folds into a constant.
        """
        if id(array) not in self._weights:
            self._alive.append(array)
            made = layers.Embedding(
                1,
                array.size,
                name=self.unique(name or self.name_of(array) or f"{self.current}_constant"),
                dtype=str(array.dtype),
            )
            row = made(self._zero())
            made.trainable = id(array) in self._trained
            made.set_weights([array.reshape(1, -1)])
            self._weights[id(array)] = ops.reshape(row, array.shape)
        return self._weights[id(array)]

    def _zero(self) -> KerasTensor:
        """An index of zero, of shape (1,), that depends on an input."""
        if self._index is None:
            flat = ops.reshape(self.anchor, (-1,))
            self._index = ops.zeros_like(flat[(slice(0, 1),)], dtype="int32")
        return self._index

    def symbolic(self, array: Array) -> KerasTensor:
        """Make an array a tensor of the graph, for places that take nothing else."""
        made = self.constant(array)
        if made is not array:
            return made
        zero = ops.cast(ops.reshape(self._zero(), (1,) * max(array.ndim, 1)), str(array.dtype))
        result = ops.logical_or(array, zero) if array.dtype == bool else ops.add(array, zero)
        return result if array.ndim else ops.reshape(result, ())


def inverse(permutation: Sequence[int]) -> Permutation:
    """The permutation that undoes one."""
    return tuple(permutation.index(axis) for axis in range(len(permutation)))


def _moves_nothing(shape: Sequence[int | None], permutation: Sequence[int]) -> bool:
    """Whether the axes that are not of size 1 keep their order."""
    kept = [axis for axis in permutation if shape[axis] != 1]
    return kept == sorted(kept)


def _is_tensor(item: KerasTensor | Array) -> bool:
    return hasattr(item, "_keras_history")


def layer_dtype(tensor: KerasTensor) -> str:
    """The type that a layer computes in: a float, for a layer of integers is a quantized one to Keras."""
    first = tensor[0] if isinstance(tensor, list) else tensor
    name = str(first.dtype)
    return name if "float" in name else "float32"
