"""Keras on its torch backend: the model is a torch.nn.Module, and PyTorch's exporters take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub.spec import ConvertJob, StepError
from hub_keras.flatbuffer import name_interface, refuse_custom
from hub_keras.loaded import Loaded
from hub_keras.static import StaticInputs


def module_of(loaded: Loaded, static: StaticInputs) -> Any:
    """Wrap a model as a module from positional tensors to a tuple of tensors."""
    import torch

    class Positional(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.model = loaded.model

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return tuple(loaded.call(static.complete(tensors, _constant)))

    return Positional().eval()


def _constant(value: float, shape: tuple[int, ...], dtype: str) -> Any:
    import torch

    return torch.full(shape, value, dtype=getattr(torch, dtype))


def example_inputs(static: StaticInputs, seed: int) -> tuple[Any, ...]:
    """Draw tensors of the kept inputs' shapes: normal floats, zeros for whole numbers (always valid tokens)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(static.shapes[spec.name], generator=generator).to(getattr(torch, spec.dtype.value))
        if spec.dtype.is_float
        else torch.zeros(static.shapes[spec.name], dtype=getattr(torch, spec.dtype.value))
        for spec in static.kept
    )


def write_tflite(loaded: Loaded, static: StaticInputs, job: ConvertJob) -> tuple[str, ...]:
    """Convert with LiteRT Torch into `job.output`. Returns notes.

    Raises:
        StepError: The converter refused; with what it said.
        EffectError: It wrote custom operators, or another interface.
    """
    import litert_torch
    import torch

    output = Path(job.output)
    try:
        with torch.no_grad():
            edge = litert_torch.convert(module_of(loaded, static), example_inputs(static, job.options.seed))
        edge.export(str(output))
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, KeyError) as error:
        raise StepError(f"LiteRT Torch failed: {type(error).__name__}: {error}") from error
    if not job.options.allow_custom_ops:
        refuse_custom(output)
    slots = _numbered("args", len(static.kept)), _numbered("output", len(static.outputs))
    note = name_interface(output, [spec.name for spec in static.kept], static.outputs, slots)
    return (*static.notes, "loaded on Keras' torch backend", *([note] if note else []))


def _numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}_{index}" for index in range(count)]


def write_onnx(loaded: Loaded, static: StaticInputs, job: ConvertJob) -> tuple[str, ...]:
    """Export with torch.onnx into `job.output`. Returns notes.

    Raises:
        StepError: The exporter refused; with what it said.
    """
    import torch

    try:
        torch.onnx.export(
            module_of(loaded, static),
            example_inputs(static, job.options.seed),
            job.output,
            input_names=[spec.name for spec in static.kept],
            output_names=list(static.outputs),
            dynamo=True,
            external_data=False,
        )
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, KeyError) as error:
        raise StepError(f"torch.onnx.export failed: {type(error).__name__}: {error}") from error
    return (*static.notes, "loaded on Keras' torch backend")
