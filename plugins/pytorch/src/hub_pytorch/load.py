"""Read PyTorch files: exported programs, TorchScript, references to builders. Runs in a worker."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hub.spec import (
    DType,
    ForeignModel,
    ModelNotFound,
    ModelRefused,
    ModelUnreadable,
    TensorSpec,
    UnsupportedModel,
)
from hub_pytorch.examples import ExampleInputs, as_example
from hub_pytorch.reference import ModelReference, import_builder
from hub_pytorch.sniff import identify
from hub_torchprogram import (
    PICKLE_HINT,
    spec_of,
)

if TYPE_CHECKING:
    import torch


def load_torchscript(path: Path, submodule: str = "") -> torch.jit.ScriptModule:
    """Read a TorchScript archive, or one of its submodules.

    Raises:
        ModelUnreadable: Truncated, damaged, or written by a torch that this one cannot read.
        ModelNotFound: It has no such submodule.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated; its files are in the field
            module: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")
            module.eval()
    except (RuntimeError, ValueError) as error:
        raise ModelUnreadable(f"{path.name} is no readable TorchScript file: {error}", hint="export a .pt2") from error
    return cast("torch.jit.ScriptModule", pick_submodule(module, submodule))  # its submodules are scripts too


def pick_submodule(module: torch.nn.Module, submodule: str) -> torch.nn.Module:
    """The submodule of that dotted path; the module itself for an empty path.

    Raises:
        ModelNotFound: There is none; the hint lists the first levels.
    """
    found: dict[str, torch.nn.Module] = dict(module.named_modules())
    if submodule in found:
        return found[submodule]
    names = [name for name in found if name and name.count(".") < 2]  # noqa: PLR2004 - the first two levels
    raise ModelNotFound(f"no submodule {submodule!r}", hint=f"it has: {', '.join(names[:20])}")


def load_pickled(path: Path, *, allow_pickle: bool) -> torch.nn.Module:
    """Read a module that was saved whole with `torch.save`, when the user allows its code to run.

    Raises:
        ModelRefused: Nobody allowed it.
        ModelUnreadable: It does not load, or is no module.
    """
    import torch

    found = identify(path, path.open("rb").read(64))
    if not allow_pickle:
        raise ModelRefused(f"{path.name}: {found.detail if found else 'a pickle'}", hint=PICKLE_HINT)
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, ValueError, AttributeError, ImportError, EOFError, pickle.UnpicklingError) as error:
        raise ModelUnreadable(f"{path.name} cannot be unpickled: {error}", hint="export a .pt2 file") from error
    if not isinstance(module, torch.nn.Module):
        raise ModelUnreadable(f"{path.name} holds a {type(module).__name__}, not a module", hint="export a .pt2 file")
    return module.eval()


def load_eager(reference: ModelReference, *, allow_pickle: bool) -> tuple[torch.nn.Module, ExampleInputs]:
    """The eager module that a reference names (by builder or as a pickle), and its example inputs.

    Raises:
        ModelNotFound: No such builder or submodule.
        ModelUnreadable: The file or the weights cannot be read, or do not fit.
        ModelRefused: It is a pickle and nobody allowed that.
    """
    if reference.builder:
        return build(reference)
    module = load_pickled(Path(reference.file), allow_pickle=allow_pickle)
    return pick_submodule(module, reference.submodule), ExampleInputs(None)


def build(reference: ModelReference) -> tuple[torch.nn.Module, ExampleInputs]:
    """Call a reference's builder and load its weights.

    Returns:
        The module in eval mode, and the example inputs that the builder gave.

    Raises:
        ModelNotFound: No such builder or submodule.
        ModelUnreadable: The weights do not fit, or cannot be read.
    """
    import torch

    made = import_builder(reference)()
    module, *rest = made if isinstance(made, tuple) else (made,)
    if not isinstance(module, torch.nn.Module):
        message = f"the builder {reference.builder!r} returned {type(module).__name__}, not an nn.Module"
        raise ForeignModel(message, hint="return a torch.nn.Module, or a model of another installed plugin's framework")
    if reference.weights:
        load_weights(module, Path(reference.weights))
    return pick_submodule(module.eval(), reference.submodule), _example(rest, reference.builder)


def _example(rest: list[object], builder: str) -> ExampleInputs:
    """Example inputs, and the dimensions that stay open, as a builder returns them behind the module."""
    if len(rest) > 2:  # noqa: PLR2004 - inputs and open dimensions
        message = f"the builder {builder!r} returned {len(rest) + 1} things"
        raise UnsupportedModel(message, hint="return the module, its example inputs, and its open dimensions")
    found = as_example(rest[0] if rest else None)
    if not rest[1:]:
        return found
    if not isinstance(rest[1], dict):
        message = f"the builder {builder!r} returned {type(rest[1]).__name__} as its open dimensions"
        raise UnsupportedModel(message, hint='return them as {"image": {0: "batch"}}')
    return ExampleInputs(found.inputs, rest[1], found.others)


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Load weights into a module, all of them (`strict=True`), without running a pickle.

    Raises:
        ModelUnreadable: They do not fit the module, or the file is damaged.
        ModelRefused: The file is a pickle of more than tensors.
    """
    state = read_weights(path)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        hint = "the weights are of another architecture, or of another version of it"
        raise ModelUnreadable(f"{path.name} does not fit the builder's module: {error}", hint=hint) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read `.safetensors`, or a state dict with `weights_only=True`. Raises as `load_weights`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if re.match(rb".{6}\x00\x00\{\"", path.open("rb").read(16), re.DOTALL):
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelRefused(f"{path.name} holds more than tensors: {error}", hint=PICKLE_HINT) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelUnreadable(f"cannot read weights from {path.name}: {error}") from error
    return dict(state.get("state_dict", state))


def forward_inputs(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of the inputs that a module's `forward` needs (those without a default).

    Raises:
        UnsupportedModel: It takes `*args`, so the inputs have no names.
    """
    import inspect

    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        hint = "give example inputs, or wrap the module in one with named parameters"
        raise UnsupportedModel("forward(*args) does not name the module's inputs", hint=hint)
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    )


def number_inputs(module: torch.nn.Module) -> dict[str, DType]:
    """Inputs that `forward` annotates as a Python number, with its type."""
    import inspect

    names: dict[type | str, DType] = {
        int: DType.INT64,
        float: DType.FLOAT32,
        bool: DType.BOOL,
        "int": DType.INT64,
        "float": DType.FLOAT32,
    }
    parameters = inspect.signature(module.forward).parameters.values()
    return {
        item.name: names[item.annotation]
        for item in parameters
        if isinstance(item.annotation, type | str) and item.annotation in names
    }


def example_specs(module: torch.nn.Module, example: object) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes of example inputs: a tensor, a tuple of tensors, or a dict by input name."""
    import inspect

    if isinstance(example, dict):
        return tuple(spec_of(name, tensor) for name, tensor in example.items())
    tensors = example if isinstance(example, tuple | list) else (example,)
    names = tuple(inspect.signature(module.forward).parameters)
    return tuple(spec_of(name, tensor) for name, tensor in zip(names, tensors, strict=False))
