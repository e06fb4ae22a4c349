"""TensorFlow to ONNX with tf2onnx: Keras models and SavedModels, from a frozen function whose open dimensions stay."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import ConvertJob, Remark, StepError, UnsupportedModel
from hub_keras.loaded import LoadedModel
from hub_keras.onnx_border import OnnxSignature, finish
from hub_keras.static import StaticInputs
from hub_keras.tf_convert import concrete_function
from hub_keras.tf_repairs import repair

if TYPE_CHECKING:
    from onnx import ModelProto
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

OPSET = 17  # the newest that every handler of tf2onnx 1.17 was written for is 18; onnx2tf and TensorRT take 17
# A GraphDef ends at 2 GiB, and TensorFlow writes the weights into one.
_MOST_BYTES = 1_800_000_000

# What tf2onnx writes, and is wrong: measured on the layers of tests/keras_layer_zoo.py.
_MAPPED = "/pfor/while"
_WRONG = {"ResizeArea": "tf2onnx writes another interpolation for resizing by area"}


def write_onnx(loaded: LoadedModel, static: StaticInputs, job: ConvertJob) -> tuple[Remark, ...]:
    """Convert a model into `job.output`. Returns notes.

    Raises:
        UnsupportedModel: An operator of it has no counterpart in ONNX, or it writes variables when it runs.
        StepError: tf2onnx failed.
    """
    repaired = repair(loaded.model)
    graph, inputs, outputs = frozen_graph(loaded, static)
    rewritten = rewrite(graph)
    model = _convert(graph, inputs, outputs)
    finish(model, OnnxSignature.of(static, loaded.signature), Path(job.output))
    return (*static.notes, *repaired, *rewritten)


def frozen_graph(loaded: LoadedModel, static: StaticInputs) -> tuple[GraphDef, list[str], list[str]]:
    """Trace a model and make its variables constants.

    Returns:
        A GraphDef, and the names of its input and output tensors in order.

    Raises:
        UnsupportedModel: The model writes variables when it runs, or is too large for a GraphDef.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = concrete_function(loaded, static)
    weights = sum(variable.dtype.size * variable.shape.num_elements() for variable in function.graph.variables)
    if weights > _MOST_BYTES:
        raise UnsupportedModel(f"{weights} bytes of weights do not fit into TensorFlow's graph file")
    try:
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    except ValueError as error:
        raise UnsupportedModel(f"the model writes variables when it runs: {str(error)[:300]}") from error
    return frozen.graph.as_graph_def(), [tensor.name for tensor in frozen.inputs], [t.name for t in frozen.outputs]


def rewrite(graph: GraphDef) -> tuple[Remark, ...]:
    """Write operators that tf2onnx does not know with those that it knows, in place.

    Returns:
        What was rewritten.

    Raises:
        UnsupportedModel: An operator that tf2onnx writes wrongly.
    """
    counts: dict[str, int] = {}
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    for body in bodies:
        for node in list(body):
            if node.op in _WRONG:
                raise UnsupportedModel(f"{node.name}: {_WRONG[node.op]}")
            if _MAPPED in node.name and node.op in {"While", "StatelessWhile"}:
                message = f"{node.name}: tf2onnx writes a loop that was mapped over steps (TimeDistributed) wrongly"
                raise UnsupportedModel(message, hint="export the model with a fixed number of steps")
            if node.op in _REWRITES and body is graph.node:
                counts[node.op] = counts.get(node.op, 0) + 1
                _REWRITES[node.op](graph, node)
    return tuple(
        Remark("note", "operators-rewritten", f"wrote {count} {name} with operators that ONNX has")
        for name, count in counts.items()
    )


def _erfc(graph: GraphDef, node: NodeDef) -> None:
    """1 - erf(x): what GELU is made of."""
    erf = _copy(graph, node, "Erf", "erf")
    one = _one(graph, node)
    _become(node, "Sub", [one, erf])


def _expm1(graph: GraphDef, node: NodeDef) -> None:
    """exp(x) - 1, which differs near 0 by float rounding of 1."""
    exp = _copy(graph, node, "Exp", "exp")
    one = _one(graph, node)
    _become(node, "Sub", [exp, one])


_REWRITES: dict[str, Callable[[GraphDef, NodeDef], None]] = {"Erfc": _erfc, "Expm1": _expm1}


def _copy(graph: GraphDef, node: NodeDef, operator: str, suffix: str) -> str:
    made = graph.node.add()
    made.CopyFrom(node)
    made.op, made.name = operator, f"{node.name}/{suffix}"
    return str(made.name)


def _one(graph: GraphDef, node: NodeDef) -> str:
    import tensorflow as tf

    made = graph.node.add(op="Const", name=f"{node.name}/one")
    made.attr["dtype"].CopyFrom(node.attr["T"])
    made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1.0, dtype=tf.dtypes.as_dtype(node.attr["T"].type)))
    return str(made.name)


def _become(node: NodeDef, operator: str, inputs: list[str]) -> None:
    node.op = operator
    node.input[:] = inputs


def _convert(graph: GraphDef, inputs: list[str], outputs: list[str]) -> ModelProto:
    """Run tf2onnx on a frozen graph.

    Its own entry point copies the graph before each of its optimizers: ResNet50 (100 MB of weights) peaks at 7.1 GiB
    with the copies and at 4.6 without. Of that the optimizers take 2.3, and freezing 0.8.
    """
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader
    from tf2onnx.tfonnx import process_tf_graph

    # It prints each operator that it does not know with a traceback; hub names them once, from the result.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), tf.device("/cpu:0"):
            with tf.Graph().as_default():
                simpler = tf_loader.tf_optimize(inputs, outputs, graph)
            with tf.Graph().as_default() as scope:
                tf.import_graph_def(simpler, name="")
                made = process_tf_graph(
                    scope, continue_on_error=True, opset=OPSET, input_names=inputs, output_names=outputs
                )
                model: ModelProto = optimizer.optimize_graph(made, catch_errors=False).make_model("converted by hub")
                return model
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError, AssertionError) as error:
        raise StepError(f"tf2onnx failed: {type(error).__name__}: {str(error)[:300]}") from error
