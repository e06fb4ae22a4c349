"""Dynamic int8: weights in integers, activations from the range that they have in each run. ONNX Runtime's own tool."""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Remark, StepError
from hub_onnxgraph.graphs import add_constant, all_names, all_nodes, all_tensors, fresh_name, prune
from hub_onnxquant import weights
from hub_onnxquant.qdq import Signedness, attributes

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_STORED = weights.Form(bits=8, block=0, symmetric=True, convolutions=False)
_FEW = 3
_TOLD_SHARE = 0.05
_QUIET = logging.ERROR  # it advises pre-processing, which was done


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Settings of `onnxruntime.quantization.quantize_dynamic`.

    Attributes:
        operators: Operator types to quantize. Gemm counts as MatMul.
        weights: `uint8` where signed weights saturate, else `int8`.
    """

    operators: tuple[str, ...]
    weights: str

    def __str__(self) -> str:
        return f"{self.weights} weights of {', '.join(self.operators)}"

    @property
    def settings(self) -> dict[str, object]:
        """For the receipt."""
        return {**asdict(self), "per_channel": True, "reduce_range": False, "MatMulConstBOnly": True}


def weights_for(signedness: Signedness) -> str:
    """Returns the weights' type that is exact with unsigned activations on a processor."""
    return "uint8" if signedness is Signedness.U8U8 else "int8"


def quantize(model: ModelProto, settings: Dynamic) -> ModelProto:
    """Returns a quantized copy.

    Raises:
        StepError: The tool fails.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model, _ = scales_folded(model)
    kind = QuantType.QUInt8 if settings.weights == "uint8" else QuantType.QInt8
    root = logging.getLogger()
    level = root.level
    root.setLevel(_QUIET)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        try:
            quantize_dynamic(
                source, target, list(settings.operators), per_channel=True, reduce_range=False, weight_type=kind
            )
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
            raise StepError(f"ONNX Runtime's quantize_dynamic fails: {type(error).__name__}: {error}") from error
        finally:
            root.setLevel(level)
        return onnx.load(target)


def scales_folded(model: ModelProto) -> tuple[ModelProto, int]:
    """Returns a copy whose Gemms have their alpha and beta in their stored weights; and how many had some.

    The tool leaves a Gemm with alpha or beta in float. Where the weights are no constants, both stay.
    """
    from onnx import numpy_helper

    model = type(model).FromString(model.SerializeToString())
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    taken, folded = all_names(model.graph), 0
    for node in model.graph.node:
        written = attributes(node) if node.op_type == "Gemm" else {}
        factors = [(1, "alpha", written.get("alpha", 1.0)), (2, "beta", written.get("beta", 1.0))]
        wanted = [(place, word, factor) for place, word, factor in factors if factor != 1.0]
        given = dict(enumerate(node.input))  # without a C, or with one that is "", beta scales nothing
        if not wanted or any(given.get(place) and given[place] not in stored for place, *_ in wanted):
            continue
        for place, word, factor in wanted:
            if given.get(place):
                array = numpy_helper.to_array(stored[given[place]])
                name = fresh_name(f"{given[place]}/{word}", taken)
                add_constant(model.graph, name, (array * factor).astype(array.dtype))
                node.input[place] = name
            kept = [attribute for attribute in node.attribute if attribute.name != word]
            del node.attribute[:]
            node.attribute.extend(kept)
        folded += 1
    if folded:
        prune(model.graph)
    return model, folded


def store_narrow(model: ModelProto) -> list[Remark]:
    """Stores the weights that the tool left in float as int8, in place, but for those of convolutions; says which."""
    held = weights.quantize(model, Path(), _STORED)
    names = ", ".join(list(held)[:_FEW])
    text = f"stored {len(held)} weights that the tool leaves in float as int8, computed with in float, first {names}"
    return [Remark("note", "weights-stored-narrow", text)] if held else []


def left_in_float(model: ModelProto, before: ModelProto) -> list[Remark]:
    """Warns of weights that are float still, with their share of all and the operators that use them."""
    left = [tensor for tensor in all_tensors(model) if _counts(tensor)]
    whole = sum(math.prod(tensor.dims) for tensor in all_tensors(before) if _counts(tensor))
    share = sum(math.prod(tensor.dims) for tensor in left) / max(whole, 1)
    if share < _TOLD_SHARE:
        return []
    names = {tensor.name for tensor in left}
    kinds = sorted({node.op_type for node in all_nodes(model) if names & {*node.input}})
    text = f"{share:.0%} of the weights stay in float, those of {', '.join(kinds)}"
    return [
        Remark(
            "warning", "weights-left-float", text, hint="Try --precision int8-weights, or --int8 with --calibration."
        )
    ]


def _counts(tensor: TensorProto) -> bool:
    """Whether a tensor is one of weights: a float matrix or larger."""
    from onnx import TensorProto

    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
