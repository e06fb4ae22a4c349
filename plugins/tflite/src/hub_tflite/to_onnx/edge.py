"""What hub's planner sees of the importer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hub.spec import (
    YES,
    Converter,
    ConvertJob,
    ConvertOptions,
    Edge,
    ModelSummary,
    State,
    StepOutput,
    Support,
    Toolchain,
    UnsupportedModel,
    Verdict,
)
from hub_tflite.to_onnx.table import unknown_operators

FLOAT_EDGE = Edge(
    id="tflite.onnx",
    source=State(format="tflite"),
    target=State(format="onnx"),
    keeps_dynamic=True,
    requires=("ai-edge-litert", "onnx-ir"),
    process="tflite",
    title="TFLite importer",
)


def convert(source: Path, output: Path) -> StepOutput:
    """Translate a file.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is truncated, corrupt or not TFLite.
        UnsupportedModel: An operator, or a form of it, has no translation.
    """
    from hub_tflite.schema import read
    from hub_tflite.to_onnx.importer import Importer
    from hub_tflite.to_onnx.write import save, tidy

    importer = Importer(read(source))
    model = importer.run()
    tidy(model)
    save(model, output)
    return StepOutput(notes=tuple(importer.notes))


class OnnxWriter:
    """The edges from TFLite to ONNX by hub's own importer."""

    @property
    def edges(self) -> Sequence[Edge]:
        """One per numerics."""
        return (FLOAT_EDGE,)

    @property
    def toolchains(self) -> Sequence[Toolchain]:
        """None: everything lives in the user's environment."""
        return ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Says no to operators that the table does not have, and to changes of the border."""
        del edge
        missing = unknown_operators(summary.operators)
        if missing:
            reason = f"the importer has no ONNX form of {', '.join(missing)}"
            return Verdict(support=Support.NOTIMPL, reason=reason, hint="export the model without them")
        asked = [name for name in ("io_layout", "io_dtype", "constants") if getattr(options, name)]
        if asked:
            return Verdict(support=Support.NEVER, reason=f"{', '.join(asked)}: the importer keeps the border as it is")
        return YES

    def convert(self, job: ConvertJob) -> StepOutput:
        """Runs the edge; see `convert`.

        Raises:
            UnsupportedModel: An operator, or a form of it, has no translation, or another shape is asked for.
        """
        if job.options.shapes and not job.source.signature.is_static:
            raise UnsupportedModel("the importer keeps open dimensions open", hint="leave --shape away")
        return convert(Path(job.source.path), Path(job.output))


_: type[Converter] = OnnxWriter
