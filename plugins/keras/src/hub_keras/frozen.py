"""SavedModels that TensorFlow 2's loader does not take: loaded by that of TensorFlow 1, as a frozen graph.

TensorFlow 2 builds an object for each that was saved, and fails where one is gone from it: an optimizer's slots of
Keras 2 (`'_UserObject' object has no attribute 'add_slot'`). TensorFlow 1's loader takes the graph and its variables
alone. Their values become constants, so that nothing of the objects is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.spec import UnsupportedModel

_SERVE = "serve"
_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_TABLES = frozenset({"HashTable", "HashTableV2", "MutableHashTable", "MutableHashTableV2"})


@dataclass(frozen=True, slots=True)
class FrozenSignature:
    """One signature of a SavedModel whose variables became constants.

    Attributes:
        inputs: Name -> tensor, in the signature's words, sorted.
        outputs: Likewise.
        call: Tensors in the order of `inputs` -> tensors in the order of `outputs`.
        graph: Keeps the constants alive.
        variables: Shape and dtype of each variable that the outputs hang on.
        version: Of the TensorFlow that wrote the folder.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    call: Callable[[Sequence[Any]], list[Any]]
    graph: Any
    variables: tuple[tuple[tuple[int, ...], str], ...]
    version: str


def load_frozen(folder: Path, choose: Callable[[Sequence[str]], str]) -> FrozenSignature:
    """Load one signature of a folder.

    Args:
        folder: The SavedModel.
        choose: The names of its signatures -> the name of the one to load.

    Raises:
        UnsupportedModel: The signature looks something up in a table, whose content a frozen graph does not have.
        OSError, ValueError, RuntimeError, tf.errors.OpError: TensorFlow 1's loader does not take it either.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    one = tf.compat.v1
    with tf.Graph().as_default() as graph, one.Session(graph=graph) as session:
        meta = one.saved_model.load(session, _tags(folder), str(folder))
        signature = meta.signature_def[choose(list(meta.signature_def))]
        inputs, outputs = (
            {key: side[key].name for key in sorted(side)} for side in (signature.inputs, signature.outputs)
        )
        names = sorted({name.partition(":")[0] for name in outputs.values()})
        needed = one.graph_util.extract_sub_graph(graph.as_graph_def(), names)
        _refuse_tables(needed)
        frozen = one.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), names)
    _forget_shapes(frozen)
    wrapped = one.wrap_function(lambda: tf.graph_util.import_graph_def(frozen, name=""), [])
    tensors = [
        {key: wrapped.graph.get_tensor_by_name(name) for key, name in side.items()} for side in (inputs, outputs)
    ]
    # Inlined at once: a function that calls functions is not frozen a second time, as converters do.
    called = convert_variables_to_constants_v2(wrapped.prune(list(tensors[0].values()), list(tensors[1].values())))
    return FrozenSignature(
        inputs=tensors[0],
        outputs=tensors[1],
        call=lambda given: list(called(*given)),
        graph=called,
        variables=tuple(_variables(needed)),
        version=str(meta.meta_info_def.tensorflow_version),
    )


def _tags(folder: Path) -> list[str]:
    """The tags of the graph to load: that for serving, else the first."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    found = [list(graph.meta_info_def.tags) for graph in proto.meta_graphs]
    return [_SERVE] if [_SERVE] in found else found[0]


def _refuse_tables(graph: Any) -> None:
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    found = sorted({node.op for node in nodes} & _TABLES)
    if found:
        raise UnsupportedModel(
            f"only TensorFlow 1's loader takes the model, and it looks things up in a table ({', '.join(found)})",
            hint="save it with a signature that begins behind the table",
        )


def _forget_shapes(graph: Any) -> None:
    """Drop what older TensorFlow noted of shapes: it is not true of the frozen functions, and is taken for true."""
    for function in graph.library.function:
        function.attr.pop("_input_shapes", None)
        function.arg_attr.clear()
        for node in function.node_def:
            node.attr.pop("_input_shapes", None)
    for node in graph.node:
        node.attr.pop("_input_shapes", None)


def _variables(graph: Any) -> list[tuple[tuple[int, ...], str]]:
    import tensorflow as tf

    return [
        (tuple(dim.size for dim in node.attr["shape"].shape.dim), tf.as_dtype(node.attr["dtype"].type).name)
        for node in graph.node
        if node.op in _VARIABLES
    ]
