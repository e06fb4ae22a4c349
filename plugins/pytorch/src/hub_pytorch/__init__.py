"""PyTorch for hub: `.pt2`, TorchScript and builder sources; to ONNX and TFLite; from ONNX."""

from __future__ import annotations

import sys
from pathlib import Path
from types import MappingProxyType

from hub.spec import DescribeJob, Edge, Format, Identification, ModelSummary, Numerics, Runtime, UsageError, hookimpl
from hub_pytorch.edges import EDGES
from hub_pytorch.import_edges import IMPORT_EDGES
from hub_pytorch.runtime import PyTorchRuntime
from hub_pytorch.sniff import SUFFIXES, identify


class PyTorchFormat(Format):
    """Reads `.pt2`, TorchScript, references to builders, and (when allowed) pickled modules."""

    name = "pytorch"
    suffixes = SUFFIXES
    numerics = tuple(item for item in Numerics if item not in {Numerics.FP8, Numerics.INT8_DYNAMIC})
    process = "torch"
    written_forms = MappingProxyType({".py": "source"})

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Describe a file. Raises as `hub_pytorch.describe.describe`."""
        from hub_pytorch.describe import describe

        return describe(job)


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offer the PyTorch reader."""
    return [PyTorchFormat()]


@hookimpl
def hub_register_edges() -> list[Edge]:
    """Offer PyTorch's edges."""
    return [*EDGES, *IMPORT_EDGES]


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    """Offer PyTorch itself as a runtime."""
    return [PyTorchRuntime()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:
    """Recognise PyTorch files by their bytes."""
    return identify(path, header)


@hookimpl
def hub_save_live_model(model: object, folder: Path, example_inputs: object) -> Path | None:
    """Export a live `torch.nn.Module` to `.pt2`."""
    from hub_pytorch.export import export_eager
    from hub_pytorch.reference import ModelReference
    from hub_torchprogram import save_exported

    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return None
    if example_inputs is None:
        hint = 'pass example_inputs={"image": torch.zeros(1, 3, 224, 224)}'
        raise UsageError("a live module does not say the shapes of its inputs", hint=hint)
    path = folder / "model.pt2"
    was_training = model.training
    try:
        save_exported(*export_eager(model.eval(), example_inputs, ModelReference()), path)
    finally:
        model.train(was_training)
    return path
