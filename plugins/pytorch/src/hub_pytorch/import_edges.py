"""The edges from ONNX, all of them hub's own importer: to `.pt2` and to PyTorch source."""

from __future__ import annotations

from pathlib import Path

from hub.spec import ConvertJob, Edge, Numerics, State, StepOutput

_REQUIRES = ("onnx>=1.17", "torch>=2.9")
# What hub writes is a form of its own, from which no edge leads on: it would be a detour on every other route. Read
# back, the file is a `builder` as any other.
_SOURCE = "source"


_QUANTIZED = (Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT16X8, Numerics.INT8_WEIGHTS, Numerics.INT4_WEIGHTS)


def _edge(name: str, form: str, target: str, numerics: Numerics = Numerics.FP32) -> Edge:
    """An edge from that form of ONNX; only the static form has no open dimensions to keep."""
    return Edge(
        id=f"pytorch.{name}",
        source=State(format="onnx", numerics=numerics, form=form),
        target=State(format="pytorch", numerics=numerics, form=target),
        keeps_dynamic=form != "static",
        requires=_REQUIRES + (("safetensors>=0.4",) if target else ()),
        process="torch",
        title="PyTorch source" if target else "ONNX importer",
    )


IMPORT_EDGES = (
    _edge("import-onnx", "static", ""),
    _edge("import-onnx-dynamic", "prepared", ""),
    _edge("source-onnx", "prepared", _SOURCE),
    _edge("source-onnx-static", "static", _SOURCE),
    *(_edge(f"import-onnx-{half.value}", "", "", half) for half in (Numerics.FP16, Numerics.BF16)),
    *(_edge(f"quantized-onnx-{kind.value}", "", "", kind) for kind in _QUANTIZED),
    *(_edge(f"source-onnx-{half.value}", "", _SOURCE, half) for half in (Numerics.FP16, Numerics.BF16)),
)


def run_import(job: ConvertJob) -> StepOutput:
    """Run one of these edges. Raises as `hub_pytorch.from_onnx`."""
    from hub_pytorch.from_onnx import convert_from_onnx, convert_quantized, convert_to_source

    kinds = {"source": convert_to_source, "import": convert_from_onnx, "quantized": convert_quantized}
    convert = kinds[job.edge.removeprefix("pytorch.").partition("-")[0]]
    return convert(Path(job.source.path), job.source.signature, Path(job.output))
