"""The edges from ONNX, all of them hub's own importer: to `.pt2` and to PyTorch source."""

from __future__ import annotations

import gc
from pathlib import Path

from hub.spec import KEEP, PREPARED, Accepts, ConvertJob, Edge, Gives, Numerics, StepOutput

_REQUIRES = ("onnx>=1.17", "torch>=2.9")
_FLOAT = (
    Accepts(format="onnx", form=PREPARED),
    Accepts(format="onnx", numerics=(Numerics.FP16, Numerics.BF16)),
)
_QUANTIZED = (Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT16X8, Numerics.INT8_WEIGHTS, Numerics.INT4_WEIGHTS)


def _to_program(job: ConvertJob) -> StepOutput:
    from hub_pytorch.from_onnx import convert_from_onnx

    gc.collect()  # as in hub_pytorch.edges
    return convert_from_onnx(Path(job.source.path), job.source.signature, Path(job.output))


def _quantized_to_program(job: ConvertJob) -> StepOutput:
    from hub_pytorch.from_onnx import convert_quantized

    gc.collect()
    return convert_quantized(Path(job.source.path), job.source.signature, Path(job.output))


def _to_source(job: ConvertJob) -> StepOutput:
    from hub_pytorch.from_onnx import convert_to_source

    gc.collect()
    return convert_to_source(Path(job.source.path), job.source.signature, Path(job.output))


IMPORT_EDGES = (
    Edge(
        id="pytorch.import-onnx",
        accepts=_FLOAT,
        gives=Gives(format="pytorch", numerics=KEEP),
        convert=_to_program,
        keeps_dynamic=True,
        requires=_REQUIRES,
        process="torch",
        title="ONNX importer",
        formerly=("pytorch.import-onnx-dynamic", "pytorch.import-onnx-fp16", "pytorch.import-onnx-bf16"),
    ),
    Edge(
        id="pytorch.import-quantized",
        accepts=(Accepts(format="onnx", numerics=_QUANTIZED),),
        gives=Gives(format="pytorch", numerics=KEEP),
        convert=_quantized_to_program,
        keeps_dynamic=True,
        requires=_REQUIRES,
        process="torch",
        title="ONNX importer",
        formerly=tuple(f"pytorch.quantized-onnx-{numerics.value}" for numerics in _QUANTIZED),
    ),
    Edge(
        id="pytorch.source-onnx",
        accepts=_FLOAT,
        # A form of its own, from which no edge leads on: it would be a detour on every other route. Read back, the
        # file is a `builder` as any other.
        gives=Gives(format="pytorch", form="source", numerics=KEEP),
        convert=_to_source,
        keeps_dynamic=True,
        requires=(*_REQUIRES, "safetensors>=0.4"),
        process="torch",
        title="PyTorch source",
        formerly=("pytorch.source-onnx-static", "pytorch.source-onnx-fp16", "pytorch.source-onnx-bf16"),
    ),
)
