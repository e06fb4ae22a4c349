"""The readers: what a file holds, told from its own bytes and not from what a converter claims."""

from collections import Counter

import numpy as np

from hub.spec import (
    DescribeJob,
    Dim,
    DType,
    Format,
    Layer,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    Signature,
    State,
    TensorSpec,
)
from hub_toy.files import ToyGraph, ToyModel, ToyValue, read


class ToyFormat(Format):
    """JSON text."""

    name = "toy"
    suffixes = (".toy",)
    process = "toy"

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Describe a file. Raises as `hub_toy.files.read`."""
        model = read(job.file)
        return ModelSummary(
            state=State(format=self.name, numerics=_numerics(model, job.path)),
            signature=_signature(model.graph),
            operators=dict(Counter(layer.op for layer in model.graph.layers)),
            parameters=sum(array.size for name, array in model.arrays.items() if not name.endswith("_scale")),
            size_bytes=job.file.stat().st_size,
            files=(str(job.file.absolute()),),
            versions={"toy": str(model.graph.toy)},
            layers=tuple(
                Layer(name=layer.name, operator=layer.op, precision=_precision(model, layer.name))
                for layer in model.graph.layers
            ),
        )


class ToyBinFormat(ToyFormat):
    """The binary form."""

    name = "toybin"
    suffixes = (".toybin",)
    numerics = (Numerics.FP32, Numerics.FP16, Numerics.INT8_DYNAMIC, Numerics.INT8)


def _signature(graph: ToyGraph) -> Signature:
    return Signature(inputs=tuple(map(_spec, graph.inputs)), outputs=tuple(map(_spec, graph.outputs)))


def _spec(value: ToyValue) -> TensorSpec:
    return TensorSpec(name=value.name, dtype=DType(value.dtype), shape=tuple(map(Dim.of, value.shape)))


def _precision(model: ToyModel, layer: str) -> str:
    weights = model.arrays.get(f"{layer}.w")
    return str(weights.dtype) if weights is not None else "float32"


def _numerics(model: ToyModel, path: str) -> Numerics:
    kinds = {array.dtype for name, array in model.arrays.items() if name.endswith(".w")} or {np.dtype(np.float32)}
    static = any(name.endswith(".x_scale") for name in model.arrays)
    known = {
        np.dtype(np.float32): Numerics.FP32,
        np.dtype(np.float16): Numerics.FP16,
        np.dtype(np.int8): Numerics.INT8 if static else Numerics.INT8_DYNAMIC,
    }
    if len(kinds) > 1 or not kinds <= set(known):
        found = ", ".join(sorted(map(str, kinds)))
        raise ModelUnreadable(f"{path} mixes or has unknown weights: {found}", hint="convert it again from its source")
    return known[kinds.pop()]
