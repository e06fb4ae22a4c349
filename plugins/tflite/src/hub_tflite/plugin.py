"""What hub-tflite offers: the `tflite` format, the `litert` runtime, and quantization of float32 files."""

from pathlib import Path

from hub.spec import Converter, DescribeJob, Format, Identification, ModelSummary, Runtime, hookimpl
from hub_tflite.convert import TfliteQuantizer
from hub_tflite.describe import FORMAT, describe_file
from hub_tflite.runtime import LiteRtRuntime
from hub_tflite.schema import IDENTIFIER
from hub_tflite.to_onnx.edge import OnnxWriter
from hub_tflite.to_onnx.second import Tf2Onnx


class TfliteFormat:
    """Reads `.tflite` files."""

    name = FORMAT
    suffixes = (".tflite",)
    process = "tflite"

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Reads a file; see `describe_file`."""
        return describe_file(job.path)


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offers the reader."""
    return [TfliteFormat()]


@hookimpl
def hub_register_converters() -> list[Converter]:
    """Offers the quantization edges and those to ONNX."""
    return [TfliteQuantizer(), OnnxWriter(), Tf2Onnx()]


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
