"""Rewrites of a float graph that ONNX Runtime's optimizer lacks, checked against the graph before them.

Exporters spell a hard swish out as Add, Clip, Mul and Div, and networks with learned scalars (PP-LCNet, PP-OCR) have a
scale and an offset on both sides of each convolution. onnxscript's rules make one `HardSwish` of the first, which ONNX
Runtime computes inside the convolution, and put the others into weights and bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_onnxgraph.graphs import proto_of, raise_opset
from hub_onnxgraph.signature import dtype_name
from hub_onnxquant.random_inputs import random_feeds, sizes_to_try
from hub_onnxruntime.files import external_files, load, load_structure, save
from hub_onnxruntime.fusions import FusedModel, check_same
from hub_onnxruntime.simplify import Oracle, Rejected, restore_inputs

if TYPE_CHECKING:
    import onnx

HARD_SWISH_OPSET = 14
"""The first that has HardSwish."""


_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_NARROW = frozenset({"float16", "bfloat16", "int8", "uint8", "int4", "uint4"})


def may_fit(model: onnx.ModelProto) -> bool:
    """Whether a rule may fit: there is a convolution, all in float32, and what a rule looks for behind or before it.

    Where weights are stored in anything narrower, onnxscript would fold the casts that make them float.
    """
    kinds = {node.op_type for node in model.graph.node}
    stored = {dtype_name(tensor.data_type) for tensor in model.graph.initializer}
    return {"Conv", "Mul", "Add"} <= kinds and not (kinds & _QUANTIZED or stored & _NARROW)


def rewritten(source: Path, scratch: Path, seed: int) -> tuple[Path, list[Remark]]:
    """Returns a file with the rewrites of `rewrite`, or the source itself where there are none; and notes."""
    structure = load_structure(source)
    if external_files(structure, source.parent) or not may_fit(structure):
        return source, []
    done = rewrite(load(source), scratch, seed)
    if not done.fused:
        return source, done.notes
    path = scratch / "rewritten.onnx"
    save(done.model, path)
    return path, done.notes


def rewrite(model: onnx.ModelProto, scratch: Path, seed: int) -> FusedModel:
    """Applies the rules where they leave fewer operators and the graph computes the same.

    Args:
        model: In one piece. It is not changed.
        scratch: A folder for files.
        seed: For the random inputs on which graphs are compared.

    Returns:
        The model as it was, where no rule fits it or the result is wrong.
    """
    try:
        candidate = _by_rules(model)
        if candidate is None:
            return FusedModel(model, [])
        path = scratch / "unwritten.onnx"
        save(model, path)
        oracle = Oracle(path, [random_feeds(model, seed, sizes) for sizes in sizes_to_try(model)], scratch)
        check_same(model, candidate, oracle)
    except Rejected as reason:
        return FusedModel(model, [Remark("note", "rewrites-undone", f"undid the rewrites of onnxscript: {reason}")])
    before, after = _operators(model), _operators(candidate)
    words = f"onnxscript: hard swishes, and scalars beside convolutions: {before} -> {after} operators"
    text = "; ".join([words, *(note.text for note in oracle.notes)])
    return FusedModel(candidate, [Remark("note", "rewritten", text)], fused=True)


def _operators(model: onnx.ModelProto) -> int:
    return sum(node.op_type != "Constant" for node in model.graph.node)


def _by_rules(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Returns a rewritten copy; None where no rule makes it smaller."""
    import onnx_ir as ir
    from onnxscript import rewriter
    from onnxscript.rewriter.pattern import RewriteRuleSet
    from onnxscript.rewriter.rules import common

    affine = RewriteRuleSet([common.conv_affine_fusion_rule, common.affine_conv_fusion_rule], commute=True)
    try:
        result = ir.from_proto(raise_opset(model, HARD_SWISH_OPSET)[0])
        for rules in (affine, common.fuse_hardswish_rules()):
            result = rewriter.rewrite(result, pattern_rewrite_rules=rules)
        candidate = proto_of(result)
    except Rejected:
        raise
    except Exception as error:  # the boundary to rules that raise whatever they meet: the graph stays as it is
        raise Rejected(f"they failed with {type(error).__name__}: {str(error)[:200]}") from error
    restore_inputs(model, candidate)
    return candidate if _operators(candidate) < _operators(model) else None
