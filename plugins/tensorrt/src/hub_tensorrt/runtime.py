"""The runtime: whether a plan can be run on this machine, and a session where it can."""

from __future__ import annotations

from pathlib import Path

from hub.spec import YES, DeviceMissing, ModelArtifact, ModelSummary, Runtime, RuntimeOptions, Support, Verdict
from hub_tensorrt import cuda
from hub_tensorrt.libraries import LIBRARIES
from hub_tensorrt.plan import FORMAT
from hub_tensorrt.session import TensorrtSession

_CARRY = (
    "copy the engine with its .precision.onnx and .layers.json to a machine with such a GPU, and give hub verify the "
    "source and the engine there; here hub verify takes the .precision.onnx in the engine's place"
)


class TensorrtRuntime(Runtime):
    """TensorRT or TensorRT-RTX, whichever built the plan, on an NVIDIA GPU."""

    name = "tensorrt"
    formats = (FORMAT,)
    process = "tensorrt"
    device = "cuda"

    def runs_here(self, summary: ModelSummary | None = None) -> Verdict:
        """Whether there is an NVIDIA GPU; with a plan, one that it was built for, and the library that built it."""
        found = cuda.gpus()
        if not found:
            reason = "there is no NVIDIA GPU that a CUDA driver lets this process use"
            return Verdict(support=Support.NOTYET, reason=reason, hint=_CARRY)
        return _fits(summary, found[0]) if summary else YES

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> TensorrtSession:
        """Open a plan on the first GPU.

        Raises:
            DeviceMissing: There is none, or another device is asked for.
            StepError: The library refuses the plan.
        """
        if options.device not in {"cpu", self.device}:  # `cpu` is what is asked for where nothing is
            raise DeviceMissing(f"engines run on cuda, not on {options.device}", hint="leave out --device")
        here = self.runs_here()
        if not here:
            raise DeviceMissing(here.reason, hint=here.hint)
        return TensorrtSession(Path(artifact.path), cuda.CudaMemory(), cuda.gpus()[0])


def _fits(summary: ModelSummary, gpu: cuda.Gpu) -> Verdict:
    """Whether a GPU and the libraries here are those of a plan."""
    library = next((item for item in LIBRARIES if item.module in summary.versions), None)
    if library is None:
        return YES
    built_with, here = summary.versions[library.module], library.version
    if not here or not library.is_here:
        reason = f"{library.title}, which built the plan, is not installed"
        return Verdict(support=Support.NOTYET, reason=reason, hint=library.install)
    if here != built_with:
        reason = f"the plan is of {library.title} {built_with}, and {here} is installed: no other version reads it"
        hint = f"pip install {library.distribution}=={built_with}, or build it again from its .precision.onnx"
        return Verdict(support=Support.NOTYET, reason=reason, hint=hint)
    built_for = [word for word in summary.versions.get("built for", "").split() if word.startswith("sm")]
    if built_for and f"sm{gpu.capability}" not in built_for:
        reason = f"the plan was built for {', '.join(built_for)}, and the GPU here, {gpu.name}, is sm{gpu.capability}"
        hint = f"build it for this one: --build-for sm{gpu.capability}"
        return Verdict(support=Support.NOTYET, reason=reason, hint=hint)
    return YES
