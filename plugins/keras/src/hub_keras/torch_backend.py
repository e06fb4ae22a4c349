"""Keras on its torch backend: the model becomes a torch.nn.Module, which PyTorch's exporters take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import ConvertJob, Remark, StepError
from hub_keras.flatbuffer import name_interface, refuse_custom
from hub_keras.loaded import LoadedModel
from hub_keras.static import StaticInputs, TensorTools
from hub_keras.torch_repairs import repair

if TYPE_CHECKING:
    import torch

    from hub_keras.frameworks import KerasVariable

NOTE = Remark("note", "torch-backend", "loaded on Keras' torch backend")


def module_of(loaded: LoadedModel, static: StaticInputs) -> tuple[torch.nn.Module, tuple[Remark, ...]]:
    """Wrap a model as a module from positional tensors to a tuple of tensors.

    Its parameters carry the names of the Keras variables, with dots for the slashes: a `conv2d` layer has
    `conv2d.kernel` and `conv2d.bias`, as the layers of a PyTorch module have. What Keras does not train
    (`batch_normalization.moving_mean`) asks for no gradient.

    Returns:
        The module in eval mode, and notes on what was put right in the model.

    Raises:
        UnsupportedModel: A layer computes something else on this backend.
    """
    import torch

    notes = repair(loaded.model)
    tools = TensorTools(constant=_constant, transpose=lambda tensor, axes: tensor.permute(axes))

    class Positional(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(static.run(loaded.call, tensors, tools))

    module = Positional().eval()
    _register(module, loaded.model.weights)
    return module, notes


def _register(module: torch.nn.Module, variables: Iterable[KerasVariable]) -> None:
    """Give a module the variables of a Keras model, in folders named after the layers."""
    import torch

    for variable in variables:
        *folders, name = variable.path.replace(".", "_").split("/")
        place = module
        for folder in folders:
            inner = place._modules.get(folder)  # noqa: SLF001 a layer may be named like a method of Module
            if inner is None:
                inner = torch.nn.Module()
                place.register_module(folder, inner)
            place = inner
        place.register_parameter(name, variable.value)


def _constant(value: float, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    import torch

    return torch.full(shape, value, dtype=getattr(torch, dtype))


def example_inputs(static: StaticInputs, seed: int) -> tuple[torch.Tensor, ...]:
    """Draw tensors of the kept inputs' shapes: normal floats, zeros for whole numbers (always valid tokens)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(static.example(spec), generator=generator).to(getattr(torch, spec.dtype.value))
        if spec.dtype.is_float
        else torch.zeros(static.example(spec), dtype=getattr(torch, spec.dtype.value))
        for spec in static.kept
    )


def write_tflite(loaded: LoadedModel, static: StaticInputs, job: ConvertJob) -> tuple[Remark, ...]:
    """Convert with LiteRT Torch into `job.output`. Returns notes.

    Raises:
        StepError: The converter refused; with what it said.
        EffectError: It wrote custom operators, or another interface.
        UnsupportedModel: A layer computes something else on this backend.
    """
    import litert_torch
    import torch

    output = Path(job.output)
    module, repairs = module_of(loaded, static)
    try:
        with torch.no_grad():
            edge = litert_torch.convert(module, example_inputs(static, job.options.seed))
        edge.export(str(output))
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, KeyError) as error:
        raise StepError(f"LiteRT Torch failed: {type(error).__name__}: {error}") from error
    if not job.options.allow_custom_ops:
        refuse_custom(output)
    slots = _numbered("args", len(static.kept)), _numbered("output", len(static.outputs))
    renamed = name_interface(output, [spec.name for spec in static.kept], static.outputs, slots)
    return (*static.notes, NOTE, *repairs, *renamed)


def _numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}_{index}" for index in range(count)]
