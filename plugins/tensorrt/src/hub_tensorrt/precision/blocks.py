"""int4 weights as TensorRT takes them: in blocks along the summed axis, symmetric, behind one DequantizeLinear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import DType, Numerics, QuantRecipe, Remark, UnsupportedModel
from hub_onnxgraph.graphs import graphs, raise_opset
from hub_onnxquant.source import typed
from hub_onnxquant.weights import Form, quantize
from hub_quanttrials import Trials, listed
from hub_tensorrt.precision.integers import Precise, recipe_taken
from hub_tensorrt.precision.source import open_source, tool

if TYPE_CHECKING:
    from onnx import ModelProto

BLOCKS_OPSET = 21
"""The first whose DequantizeLinear takes blocks and int4."""

FORMS = tuple(Form(4, block, symmetric=True, convolutions=False, strict=True) for block in (32, 64, 128))


class _Stored(NamedTuple):
    """A model with int4 weights, and the number of its tensors that are."""

    model: ModelProto
    tensors: int


def int4_weights(path: str, calibration: str = "") -> Precise:
    """Stores the weights of MatMul and Gemm in int4, in the blocks that are best on samples.

    Args:
        path: The prepared float model.
        calibration: Folder of samples to judge on; empty for random inputs.

    Raises:
        HubError: As `open_source`; or no layer's summed axis is a multiple of a block.
    """
    source = open_source(path, calibration)
    raised, notes = raise_opset(source.model, BLOCKS_OPSET)
    model = typed(raised)

    def apply(form: Form) -> _Stored:
        copy = type(model).FromString(model.SerializeToString())
        kinds = quantize(copy, Path(path).parent, form)
        if not kinds:
            raise UnsupportedModel(
                "no MatMul or Gemm has stored weights of 1,024 elements whose summed axis is a multiple of 32",
                hint="Use --precision fp16, or int8 with --calibration.",
            )
        return _Stored(copy, len(kinds))

    trials = Trials(source.judge, apply, lambda made: source.session(made.model))
    results = list(trials.results(FORMS))
    if not results:
        raise trials.failure()
    most = max(trial.model.tensors for trial in results)  # storing less is closer to the float model, and not int4
    best = max((trial for trial in results if trial.model.tensors == most), key=lambda trial: trial.merit)
    left = left_float(best.model.model)
    text = (
        f"{len(left)} layers keep float weights: {listed(left)}: convolutions, small ones, or no multiple of the block"
    )
    words = [Remark("note", "weights-in-float", text)] if left else []
    recipe = QuantRecipe(
        name=str(best.recipe),
        tool=tool(),
        numerics=Numerics.INT4_WEIGHTS,
        weights=DType.INT4,
        activations=DType.FLOAT32,
        granularity="block-wise",
        samples=source.samples,
        kept_float=tuple(left),
        settings={"bits": 4, "block": best.recipe.block, "symmetric": True},
    )
    took = recipe_taken(f"{best.recipe}: {best.sqnr_db:.1f} dB")
    return Precise(best.model.model, recipe, [*source.notes, *notes, *trials.notes, took, *words])


def left_float(model: ModelProto) -> list[str]:
    """Returns the products whose weights are stored in float."""
    from onnx import TensorProto

    names = []
    for graph in graphs(model.graph):
        floats = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        products = [node for node in graph.node if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}]
        names += [node.name for node in products if floats & set(node.input[:2])]
    return names
