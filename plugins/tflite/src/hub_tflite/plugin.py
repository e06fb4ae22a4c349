"""What hub-tflite offers: the `tflite` format, the `litert` runtime, and quantization of float32 files."""

from pathlib import Path

from hub.spec import DescribeJob, Edge, Format, Identification, ModelSummary, Numerics, Runtime, hookimpl
from hub_tflite.convert import QUANTIZING, WIDEN
from hub_tflite.describe import FORMAT, describe_file
from hub_tflite.inside import InsideTflite
from hub_tflite.plain.edge import PLAIN
from hub_tflite.runtime import LiteRtRuntime
from hub_tflite.to_onnx.edge import IMPORTER
from hub_tflite.to_onnx.tf2onnx_edge import TF2ONNX
from hub_tflitefile.schema import IDENTIFIER


class TfliteFormat(InsideTflite, Format):
    """Reads `.tflite` files."""

    name = FORMAT
    suffixes = (".tflite",)
    numerics = tuple(item for item in Numerics if item is not Numerics.FP8)  # TFLite has no type for it
    process = "tflite"

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Reads a file; see `describe_file`."""
        return describe_file(job.path)


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offers the reader."""
    return [TfliteFormat()]


@hookimpl
def hub_register_edges() -> list[Edge]:
    """Offers the quantization edges and those to ONNX."""
    return [PLAIN, WIDEN, *QUANTIZING, IMPORTER, TF2ONNX]


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    """Offers LiteRT."""
    return [LiteRtRuntime()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:
    """Recognises the flatbuffer's file identifier at byte 4."""
    if header[4 : 4 + len(IDENTIFIER)] != IDENTIFIER:
        return None
    return Identification(format=FORMAT, detail=f"{path.name}: TFLite flatbuffer")
