"""The reader of plans: their head, and what stands beside them. No plan is deserialized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hub.spec import DescribeJob, Format, Layer, ModelSummary, ModelUnreadable, Numerics, Remark, State
from hub_tensorrt.plan import FORMAT, SUFFIXES, check_plan
from hub_tensorrt.report import LAYERS_SUFFIX, PRECISION_SUFFIX, EngineReport, beside, read_report


class TensorrtFormat(Format):
    """Reads plans of TensorRT and TensorRT-RTX."""

    name = FORMAT
    suffixes = SUFFIXES
    side_suffixes = (LAYERS_SUFFIX,)
    numerics = (
        Numerics.FP32, Numerics.FP16, Numerics.BF16, Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT8_WEIGHTS,
        Numerics.INT4_WEIGHTS, Numerics.FP8,
    )  # fmt: skip
    process = "tensorrt"

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Read a plan.

        Raises:
            ModelUnreadable: It is truncated, or not the plan that its report says.
            ExternalDataError: A side file is missing, or another plan's.
        """
        path = job.file
        head = check_plan(path)
        report = read_report(path)
        if (report.library, report.library_version) != (head.library.module, head.version):
            message = f"{path.name} is of {head.library.title} {head.version}, and its report says "
            raise ModelUnreadable(f"{message}{report.library} {report.library_version}", hint="build it again with hub")
        files = _files(path)
        return ModelSummary(
            state=State(format=FORMAT, numerics=report.numerics),
            signature=report.signature,
            operators=dict(sorted(Counter(layer.kind for layer in report.layers).items())),
            size_bytes=sum(file.stat().st_size for file in files),
            files=tuple(str(file.resolve()) for file in files),
            versions={head.library.module: head.version, "built for": " ".join(report.built_for) or "the building GPU"},
            findings=tuple(_findings(report)),
            layers=tuple(
                Layer(name=layer.name, operator=" + ".join(layer.covers) or layer.kind, precision=layer.precision)
                for layer in report.layers
            ),
        )


def _files(plan: Path) -> list[Path]:
    precision = beside(plan, PRECISION_SUFFIX)
    data = precision.with_name(f"{precision.stem}.data")
    return [plan, precision, *([data] if data.exists() else []), beside(plan, LAYERS_SUFFIX)]


def _findings(report: EngineReport) -> Iterator[Remark]:
    for name, profile in report.profiles.items():
        yield Remark("finding", "optimization-profile", f"{name} takes {profile} (smallest / tuned for / largest)")
    if report.weights_bytes:
        size = f"{report.weights_bytes / 2**20:.2f} MiB"
        yield Remark("finding", "weights-memory", f"weights take {size} on the device")
