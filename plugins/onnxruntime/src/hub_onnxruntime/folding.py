"""Folds constants and control flow: `If` nodes whose condition is known once shapes and constants are fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import Remark

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Conditions depend on shapes and flags, so only small tensors are computed here; weights are the simplifier's work.
_SMALL = 65_536
_MAX_ROUNDS = 200


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with shapes and element types inferred, small integer values propagated."""
    import onnx

    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def fold_control_flow(model: ir.Model) -> tuple[ir.Model, list[Remark]]:
    """Folds every `If` whose condition follows from constants and fixed shapes, nested ones too; returns notes too."""
    before = _count_ifs(model)
    if not before:
        return model, []
    folded, notes = fold_small(model)
    gone = before - _count_ifs(folded)
    if not gone:
        return model, notes
    return folded, [Remark("note", "branches-folded", f"folded {gone} of {before} If nodes"), *notes]


def _count_ifs(model: ir.Model) -> int:
    return sum(node.op_type == "If" for node in model.graph.all_nodes())


def fold_small(model: ir.Model) -> tuple[ir.Model, list[Remark]]:
    """Returns a copy in which nodes with known, small outputs are constants, and a note where that failed."""
    from onnx_ir.passes.common import OutputFixPass
    from onnxscript.optimizer import FOLDED_FROM_KEY, fold_constants_ir

    folded = model.clone()
    OutputFixPass()(folded)  # a branch that gives one value twice would lose an output's name
    try:
        for _ in range(_MAX_ROUNDS):
            limits = {"input_size_limit": _SMALL, "output_size_limit": _SMALL}
            done = fold_constants_ir(folded, onnx_shape_inference=True, should_fold=_may_be_folded, **limits)
            if not done.modified:
                break
    except RuntimeError as error:  # a rule met what it does not know: the graph stays as it is
        return model, [Remark("note", "constants-not-folded", f"folded no constants: {error}: {error.__cause__}")]
    for graph in folded.graphs():
        for value in (*graph.outputs, *(value for node in graph for value in node.outputs)):
            value.metadata_props.pop(FOLDED_FROM_KEY, None)
    return folded, []


def _may_be_folded(node: ir.Node) -> bool | None:
    """Refuses what is drawn at random, and large operands of operators that onnxscript folds at any size (Transpose).

    Takes ConstantOfShape, which it never folds: paddings are made of it, and sizes behind them decide branches. None
    leaves a node to its own rules.
    """
    stored = (value.const_value for value in node.inputs if value is not None)
    if node.op_type == "Bernoulli" or any(tensor is not None and tensor.size > _SMALL for tensor in stored):
        return False
    return True if node.op_type == "ConstantOfShape" else None
