"""Brings the channels that one convolution hands to the next to one range: float as before, bit for bit.

One scale for a whole activation leaves a channel that is a hundred times smaller than the largest with two bits. What a
convolution gives times s is the next one's input divided by s, channel by channel, also through what is homogeneous
(Relu, pools). Weights have a scale per output channel, so that the first convolution and a depthwise second one bear it
for free; in a full second one channels share it, and int8 bears that better than the activation (Nagel et al. 2019,
"Data-Free Quantization Through Weight Equalization and Bias Correction", with ranges of activations for those of
weights). Factors are powers of two: scaling by them rounds nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from hub_onnxgraph.graphs import add_constant, all_names, all_nodes, fresh_name, prune
from hub_onnxquant.placement import Wiring
from hub_onnxquant.ranges import Tap

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from onnx import ModelProto, NodeProto, TensorProto

    from hub.spec import Feeds

    Array = npt.NDArray[np.generic]
    Floats = npt.NDArray[np.float64]

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
"""f(s x) = s f(x) for s > 0, channel by channel."""

_MOST_BITS = 7
"""The largest factor, as a power of two: a channel below 2^-7 of the largest is next to nothing."""

_NOTHING = 1e-30  # a range of zero has no logarithm


class ConvPair(NamedTuple):
    """Two convolutions of which the second alone reads what the first gives.

    Attributes:
        first: Makes it.
        second: Reads it, maybe behind homogeneous operators.
        between: The tensor that the second reads.
    """

    first: NodeProto
    second: NodeProto
    between: str


def pairs_of(model: ModelProto) -> list[ConvPair]:
    """Returns the pairs of a model's main graph whose weights are stored."""
    wiring = Wiring(model)
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return [
        pair
        for node in wiring.nodes
        if node.op_type == "Conv" and all(name in sizes for name in node.input[1:] if name)
        for pair in _pair(node, wiring)
        if pair.second.input[1] in sizes and _fits(pair, sizes)
    ]


def _own_weights(model: ModelProto) -> None:
    """Gives convolutions stored tensors of their own: those without a bias may share one of zeros."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in all_nodes(model) for name in node.input)
    taken = all_names(model.graph)
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if node.op_type == "Conv" and name in stored and uses[name] > 1:
                node.input[slot] = fresh_name(name, taken)
                add_constant(model.graph, node.input[slot], numpy_helper.to_array(stored[name]))
    prune(model.graph)


def _pair(first: NodeProto, wiring: Wiring) -> Iterator[ConvPair]:
    name = str(first.output[0])
    while name not in wiring.outputs and len(wiring.readers[name]) == 1:
        reader = wiring.readers[name][0]
        if reader.input[0] != name or list(reader.input).count(name) > 1:
            return
        if reader.op_type == "Conv":
            yield ConvPair(first, reader, name)
            return
        if reader.op_type not in _HOMOGENEOUS:
            return
        name = str(reader.output[0])


def _fits(pair: ConvPair, sizes: dict[str, tuple[int, ...]]) -> bool:
    """Whether the second has one group, or one for each channel that the first gives."""
    channels, group = sizes[pair.first.input[1]][0], _group(pair.second)
    return group in (1, channels) and sizes[pair.second.input[1]][1] * group == channels


def _group(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def equalize(model: ModelProto, samples: Iterable[Feeds]) -> list[ConvPair]:
    """Equalizes every pair of a float model, in place.

    Args:
        model: Nodes named, types inferred.
        samples: On which the ranges of the channels are measured.

    Returns:
        The pairs whose weights changed.

    Raises:
        CalibrationError: A sample does not fit.
        StepError: The model does not run.
    """
    import numpy as np

    _own_weights(model)
    found = pairs_of(model)
    ranges: dict[str, Floats] = {}
    tap = Tap(model.SerializeToString(), [pair.between for pair in found])
    for feeds in samples if found else ():
        for name, array in tap.arrays(feeds):
            seen = np.abs(array.astype(np.float64)).max(axis=tuple(axis for axis in range(array.ndim) if axis != 1))
            ranges[name] = np.maximum(ranges.get(name, 0.0), seen)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return [pair for pair in found if pair.between in ranges and _scale(pair, ranges[pair.between], stored)]


def _scale(pair: ConvPair, seen: Floats, stored: dict[str, TensorProto]) -> bool:
    """Scales a pair's weights; False where its channels are alike already."""
    import numpy as np

    bits = np.floor(np.log2(max(float(seen.max()), _NOTHING) / np.maximum(seen, _NOTHING)))
    factors = 2.0 ** np.minimum(bits, _MOST_BITS)
    if not bits.any():
        return False
    for name in pair.first.input[1:]:
        if name:
            _multiply(stored[name], factors)
    second = stored[pair.second.input[1]]
    if _group(pair.second) == len(seen):
        _multiply(second, np.repeat(1 / factors, second.dims[0] // len(seen)))
    else:
        _multiply(second, 1 / factors, axis=1)
    return True


def _multiply(tensor: TensorProto, factors: Floats, axis: int = 0) -> None:
    """Multiplies the channels of a stored tensor, in place."""
    import numpy as np
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    shape = [-1 if place == axis else 1 for place in range(array.ndim)]
    scaled = (array * factors.reshape(shape)).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(scaled), tensor.name))
