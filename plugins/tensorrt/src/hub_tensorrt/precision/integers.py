"""Static int8 as TensorRT takes it: explicit pairs on the inputs of products, symmetric, float biases.

Pairs on the inputs of Conv, Gemm and MatMul only. Further pairs (both inputs of a residual Add) save the device
memory traffic and cost accuracy; whether they are faster only a GPU can say, so none are written (ADR 46).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import Numerics, QuantRecipe, Remark, UnsupportedModel
from hub_onnxgraph.graphs import raise_opset
from hub_onnxquant import static
from hub_onnxquant.placement import PRODUCTS, Extent, Wiring, products_of
from hub_onnxquant.qdq import FP8, Scheme, attributes
from hub_onnxquant.source import typed_copy
from hub_quanttrials import GOAL_DB, check_claim, listed
from hub_tensorrt.precision.rules import float_products
from hub_tensorrt.precision.source import open_source

if TYPE_CHECKING:
    from onnx import ModelProto

SCHEMES = {
    Numerics.INT8: Scheme("int8", "int8", integer_bias=False),
    Numerics.INT8_MIXED: Scheme("int8", "int8", integer_bias=False),
    Numerics.FP8: Scheme(FP8, FP8, integer_bias=False),
}
_FP8_OPSET = 19


class Precise(NamedTuple):
    """A precision ONNX, its recipe, and notes."""

    model: ModelProto
    recipe: QuantRecipe
    notes: list[Remark]


def unfit(model: ModelProto) -> dict[str, str]:
    """Returns products that TensorRT does not compute in integers -> why."""
    wiring = Wiring(model)
    found = {}
    for node in wiring.nodes:
        if node.op_type not in PRODUCTS or len(node.input) < 2:  # noqa: PLR2004 - an activation and weights
            continue
        if node.op_type in {"Conv", "ConvTranspose"} and node.input[1] not in wiring.stored:
            found[node.name] = "its weights are computed"
        elif node.input[0] in wiring.stored:
            found[node.name] = "its first operand is stored"
        elif node.op_type == "Gemm" and attributes(node).get("transA"):
            found[node.name] = "it reads its activation transposed"
    return found


def _check_any(model: ModelProto, left: Mapping[str, str]) -> None:
    """Refuses a model of which everything stays in float.

    Raises:
        UnsupportedModel: With what it has, and why none of it is quantized.
    """
    products = products_of(model)
    if set(products) - left.keys():
        return
    there = listed(sorted({node.op_type for node in model.graph.node}))
    lacking = f"it has no {', '.join(sorted(PRODUCTS))}; it has {there}"
    reasons = listed([f"{name} stays in float: {left[name]}" for name in products if name in left])
    raise UnsupportedModel(
        f"nothing in the model can be quantized: {reasons or lacking}", hint="Use --precision fp16 or fp32."
    )


def recipe_taken(words: str) -> Remark:
    """Says which recipe was taken, and what it came to."""
    return Remark("note", "recipe-taken", f"took {words}")


def integers(path: str, calibration: str, watch: str, claimed: Numerics) -> Precise:
    """Quantizes activations and weights, by the best of the ways of drawing ranges.

    Args:
        path: The prepared float model.
        calibration: Folder of samples.
        watch: As in `hub.spec.ConvertJob`.
        claimed: INT8 or FP8, for every product; or INT8_MIXED, which leaves those that int8 hurts most in float.

    Raises:
        HubError: The model or the samples cannot be read or run; it has no product to quantize, or not all of them can
            be where that is claimed; or no recipe gives a result.
    """
    source = open_source(path, calibration)
    raised: list[Remark] = []
    if claimed is Numerics.FP8:
        model, raised = raise_opset(source.model, _FP8_OPSET)
        source = replace(source, model=typed_copy(model))
    left = unfit(source.model)
    _check_any(source.model, left)
    source.watch()
    left |= dict.fromkeys(static.unseen(source), "the samples give it no value")
    _check_any(source.model, left)
    trials = static.trials_of(source, watch)
    best = static.best(source, trials, SCHEMES[claimed], Extent.INPUTS, tuple(left))
    whole = float_products(best.model)
    if claimed is Numerics.INT8_MIXED and (best.sqnr_db < GOAL_DB or not whole):
        best = static.mixed(source, trials, best, Extent.INPUTS)
    still = float_products(best.model)
    found = claimed if claimed is Numerics.FP8 else Numerics.INT8_MIXED if still else Numerics.INT8
    check_claim(f"TensorRT {claimed.value}", claimed, found, still)
    reasons = [Remark("note", "product-in-float", f"{name} stays in float: {why}") for name, why in left.items()]
    took = recipe_taken(f"{best.recipe}: {best.sqnr_db:.1f} dB")
    notes = [*source.notes, *raised, *reasons, *trials.notes, took]
    others = [name for name in still if name not in best.recipe.kept]
    return Precise(best.model, static.record(source, best.recipe, claimed, others), notes)
