"""References: a small JSON file that names a model which is not one file by itself (builder, submodule, shapes)."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hub.spec import ConvertOptions, DType, ModelNotFound, ModelUnreadable


class InputReference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An input's fixed shape and element type."""

    shape: tuple[int, ...]
    dtype: DType = DType.FLOAT32


class Reference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a model comes from, when a file alone does not say it.

    Attributes:
        hub_source: Always `pytorch-builder`; the file starts with this field, so that its first bytes tell what it is.
        builder: `package.module:function`; called without arguments, returns a module, or a module and its example
            inputs (a dict of tensors by input name, or a tuple of tensors). Empty when `file` is given.
        file: A TorchScript file. Empty when `builder` is given.
        weights: `.safetensors`, or a state dict that loads with `weights_only=True`; loaded with `strict=True`.
        submodule: Dotted path of the submodule to use instead of the whole.
        search_path: Folders put in front of `sys.path` while the builder is imported.
        inputs: Input -> shape and dtype.
        constants: Input -> the value that it is frozen to.
    """

    hub_source: str = "pytorch-builder"
    builder: str = ""
    file: str = ""
    weights: str = ""
    submodule: str = ""
    search_path: tuple[str, ...] = ()
    inputs: dict[str, InputReference] = {}
    constants: dict[str, int | float | bool] = {}

    def merged(self, options: ConvertOptions) -> "Reference":
        """This reference with what the user asked for on top."""
        shapes = {name: self.inputs[name].shape for name in self.inputs} | options.shapes
        dtypes = {name: self.inputs[name].dtype for name in self.inputs} | options.dtypes
        inputs = {
            name: InputReference(shape=shape, dtype=dtypes.get(name, DType.FLOAT32)) for name, shape in shapes.items()
        }
        submodule = options.submodule or self.submodule
        constants = self.constants | options.constants
        return msgspec.structs.replace(self, inputs=inputs, submodule=submodule, constants=constants)

    @property
    def files(self) -> tuple[str, ...]:
        """Model files that the reference points to."""
        return tuple(name for name in (self.file, self.weights) if name)


def write_reference(reference: Reference, path: Path) -> None:
    """Write a reference; `hub_source` comes first and is always written."""
    fields = {"hub_source": reference.hub_source} | msgspec.to_builtins(reference)
    path.write_bytes(msgspec.json.encode(fields))


def read_reference(path: Path) -> Reference:
    """Read a reference.

    Raises:
        ModelUnreadable: Not the JSON of a reference.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Reference)
    except msgspec.DecodeError as error:
        raise ModelUnreadable(f"{path.name} is no builder reference: {error}") from error


def import_builder(name: str, search_path: tuple[str, ...]) -> Callable[[], Any]:
    """Import `package.module:function`.

    Raises:
        ModelNotFound: There is no such module or function.
    """
    module_name, _, function = name.partition(":")
    sys.path[:0] = [folder for folder in search_path if folder not in sys.path]
    try:
        found = getattr(importlib.import_module(module_name), function or "build")
    except (ModuleNotFoundError, AttributeError) as error:
        hint = "give package.module:function; the module must be importable from the current folder"
        raise ModelNotFound(f"cannot import the builder {name!r}: {error}", hint=hint) from error
    if not callable(found):
        raise ModelNotFound(f"the builder {name!r} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]
