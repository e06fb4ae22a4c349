"""What this plugin offers to hub. Imports no framework."""

from __future__ import annotations

from pathlib import Path

from hub.spec import DescribeJob, Edge, Format, Identification, ModelSummary, Numerics, Runtime, hookimpl
from hub_openvino.convert.edges import CONVERTING
from hub_openvino.identify import FORMAT, identify
from hub_openvino.inside import InsideOpenvino
from hub_openvino.quantize.edges import QUANTIZING
from hub_openvino.session import OpenvinoRuntime


class OpenvinoFormat(InsideOpenvino, Format):
    """Reads OpenVINO IR: `.xml` with `.bin` beside it."""

    name = FORMAT
    suffixes = (".xml",)
    side_suffixes = (".bin",)
    numerics = tuple(item for item in Numerics if item is not Numerics.FP8)  # no edge writes it, and no CPU computes it
    process = "openvino"

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Reads a file; see `hub_openvino.describe`."""
        from hub_openvino.describe import describe
        from hub_openvino.silence import silence_telemetry

        silence_telemetry()
        return describe(job.file)


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offers the reader of IRs."""
    return [OpenvinoFormat()]


@hookimpl
def hub_register_edges() -> list[Edge]:
    """Offers the conversions to IR and the quantization."""
    return [*CONVERTING, *QUANTIZING]


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    """Offers OpenVINO."""
    return [OpenvinoRuntime()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:
    """Recognises an IR by its first tag; see `identify`."""
    return identify(path, header)
