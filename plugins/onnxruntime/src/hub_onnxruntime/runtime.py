"""ONNX Runtime as hub's runtime: what it opens, runs, and says of what it executes."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from hub.spec import Execution, ModelArtifact, Remark, Runtime, RuntimeOptions
from hub_onnxruntime.execution import explain
from hub_onnxruntime.operators import ONNXRUNTIME, ORT_FORM, RUNTIME_FORM
from hub_onnxruntime.resized import RESIZED, resized_bytes
from hub_onnxruntime.session import OrtSession

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds


class ExplainedSession(OrtSession):
    """An open model that says what ONNX Runtime executes."""

    def execution(self, feeds: Feeds) -> Execution:
        """Runs a few times on one sample and says what is executed. See `hub_onnxruntime.execution`."""
        said = explain(self, feeds)
        if not self.widened:
            return said
        how = f"bfloat16 is computed in float32 and rounded after every operator: no kernels for it on {self.device}"
        return msgspec.structs.replace(said, remarks=(Remark("deviation", "bfloat16-widened", how), *said.remarks))


class OrtRuntime(Runtime):
    """ONNX Runtime, on the CPU in full float32, and int8 exactly unless `RuntimeOptions.precision` is `auto`.

    Other devices are the execution providers of the installed build.
    """

    name = "onnxruntime"
    formats = ("onnx",)
    targets = MappingProxyType({".onnx": ("onnx", RUNTIME_FORM), ".ort": ("onnx", ORT_FORM)})
    variants = ("optimized",)
    requires = (ONNXRUNTIME, "onnx>=1.17")
    process = "onnx"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ExplainedSession:
        """Opens a model. See `OrtSession`."""
        options.check_float32("ONNX Runtime")
        content = b""
        if artifact.state.form == RESIZED:
            content = resized_bytes(Path(artifact.path), artifact.signature.inputs)
        return ExplainedSession(
            artifact.path,
            options.variant,
            options.threads,
            content=content,
            device=options.device,
            exact=options.precision != "auto",
        )
