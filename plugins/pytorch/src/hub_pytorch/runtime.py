"""Run PyTorch models: eval mode, float32, deterministic. Runs in a worker."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hub.spec import ModelArtifact, Runtime, RuntimeOptions, StepError
from hub_pytorch.load import load_eager, load_torchscript, number_inputs
from hub_pytorch.reference import ModelReference, read_reference
from hub_pytorch.script import hidden_state, script_inputs
from hub_pytorch.source_form import is_source, source_call
from hub_torchprogram import exported_program, flat_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    import numpy as np
    import numpy.typing as npt
    import torch

    from hub_torchprogram import Program

    Feeds = dict[str, npt.NDArray[np.generic]]
    # Takes tensors by input name, gives tensors by output name.
    NamedCall = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class PyTorchRuntime(Runtime):
    """Runs exported programs, TorchScript, and what references name, with PyTorch on the CPU."""

    name = "pytorch"
    formats = ("pytorch",)
    requires = ("torch",)
    process = "torch"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> PyTorchSession:
        """Open a model.

        Raises:
            ModelUnreadable: The file is damaged.
            ModelRefused: It is a pickle and nobody allowed that.
            DeviceMissing: Another device than the CPU is asked for.
            StepError: Another precision than float32 is.
        """
        import torch

        options.check_cpu("PyTorch")
        options.check_float32("PyTorch")
        torch.use_deterministic_algorithms(mode=True)
        torch.set_float32_matmul_precision("highest")
        if options.threads:
            torch.set_num_threads(options.threads)
        return PyTorchSession(open_model(artifact, options))


class PyTorchSession:
    """An opened model."""

    def __init__(self, call: NamedCall) -> None:
        self._call = call

    def run(self, feeds: Feeds) -> Feeds:
        """Run once, from the state that the file holds.

        Raises:
            StepError: PyTorch failed on these inputs.
        """
        import torch

        tensors = {name: torch.from_numpy(array.copy()) for name, array in feeds.items()}
        try:
            with torch.no_grad():
                outputs = self._call(tensors)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            raise StepError(f"PyTorch cannot run the model on these inputs: {error}") from error
        return {name: tensor.detach().numpy().copy() for name, tensor in outputs.items()}

    def close(self) -> None:
        """Release the model."""
        self._call = dict
        gc.collect()  # a program is a cycle


def open_model(artifact: ModelArtifact, options: RuntimeOptions) -> NamedCall:
    """A function from tensors by input name to tensors by output name, for any form of PyTorch file."""
    form = artifact.state.form
    if not form:
        return _program_call(exported_program(Path(artifact.path), allow_pickle=options.allow_pickle))
    if is_source(Path(artifact.path)):
        return source_call(Path(artifact.path))
    found = read_reference(Path(artifact.path)) if form == "builder" else ModelReference(file=artifact.path)
    reference = msgspec.structs.replace(found, submodule=options.submodule)
    if form == "torchscript":
        return _script_call(reference)
    return _module_call(load_eager(reference, allow_pickle=options.allow_pickle)[0])


def _program_call(program: Program) -> NamedCall:
    inputs = [spec.name for spec in program.signature.inputs]
    outputs = [spec.name for spec in program.signature.outputs]

    def call(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        program.reset()
        return dict(zip(outputs, program.call(*(feeds[name] for name in inputs)), strict=True))

    return call


def _module_call(module: torch.nn.Module) -> NamedCall:
    initial = {name: tensor.clone() for name, tensor in module.named_buffers()}
    numbers = number_inputs(module)

    def call(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name, tensor in module.named_buffers():
            tensor.copy_(initial[name])
        return dict(zip(*flat_outputs(module(**_with_numbers(feeds, numbers))), strict=True))

    return call


def _script_call(reference: ModelReference) -> NamedCall:
    script = load_torchscript(Path(reference.file), reference.submodule)
    keeps_state, numbers = bool(hidden_state(script)), script_inputs(script).numbers

    def call(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        fresh = load_torchscript(Path(reference.file), reference.submodule) if keeps_state else script
        return dict(zip(*flat_outputs(fresh(**_with_numbers(feeds, numbers))), strict=True))

    return call


def _with_numbers(feeds: dict[str, torch.Tensor], numbers: Container[str]) -> dict[str, torch.Tensor | complex]:
    return {name: tensor.item() if name in numbers else tensor for name, tensor in feeds.items()}
