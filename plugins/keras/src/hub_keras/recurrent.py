"""Recurrent layers: unrolled on request, and with list shapes that a converter can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import Remark, UnsupportedModel
from hub_keras.loaded import LoadedModel
from hub_keras.static import StaticInputs

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    from hub_keras.frameworks import KerasLayer, KerasModel

RECURRENT = frozenset({"LSTM", "GRU", "SimpleRNN", "RNN"})
MOST_STEPS = 512  # each step becomes about 20 operators: beyond this, conversion takes minutes and megabytes


def unroll(loaded: LoadedModel, static: StaticInputs) -> tuple[Remark, ...]:
    """Have every recurrent layer of a Keras model write its steps one by one instead of as a loop.

    Returns:
        A note that names the layers; nothing when there are none.

    Raises:
        UnsupportedModel: A sequence has more than `MOST_STEPS` steps.
    """
    layers = [layer for layer in _flat(loaded.model) if type(layer).__name__ in RECURRENT]
    if not layers:
        return ()
    steps = max((shape[1] for shape in static.shapes.values() if len(shape) > 1), default=0)
    if steps > MOST_STEPS:
        raise UnsupportedModel(
            f"{steps} steps are too many to unroll (most: {MOST_STEPS})", hint="shorten with --shape"
        )
    for layer in layers:
        layer.unroll = True
    text = f"unrolled {', '.join(layer.name for layer in layers)}"
    return (Remark("note", "recurrence-unrolled", text),)


def _flat(model: KerasModel) -> list[KerasLayer]:
    flatten = getattr(model, "_flatten_layers", None)
    return list(flatten(include_self=False)) if flatten else []


def batch_of(static: StaticInputs) -> int | None:
    """The size given to the open batch dimension; None where there is none, or two inputs differ."""
    sizes = {static.shapes[spec.name][0] for spec in static.order if spec.shape and spec.shape[0].symbol == "batch"}
    return sizes.pop() if len(sizes) == 1 else None


def close_list_shapes(graph: GraphDef, batch: int) -> int:
    """Write the batch size into the element shapes of tensor lists, where an export with an open batch left -1.

    The converter cannot lower a list whose element shape is open, although every shape is known by then. A wrong guess
    cannot pass: the kernels compare element shapes when they run.

    Args:
        graph: A frozen GraphDef without functions, changed in place.
        batch: Size of the leading dimension.

    Returns:
        How many shapes were closed.
    """
    nodes = {node.name: node for node in graph.node}
    lists = [node for node in graph.node if node.op.startswith("TensorList")]
    shapes = {name for node in lists for name in node.input if nodes.get(name) and nodes[name].op == "Const"}
    return sum(_close(nodes[name], batch) for name in sorted(shapes))


def _close(node: NodeDef, batch: int) -> bool:
    import numpy as np
    import tensorflow as tf

    shape = tf.make_ndarray(node.attr["value"].tensor)
    if shape.ndim != 1 or not shape.size or shape[0] != -1 or np.any(shape[1:] < 0):
        return False
    closed = np.concatenate([np.array([batch], shape.dtype), shape[1:]])
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(closed))
    return True
