"""References: what is needed to get at a model that one file alone does not say (builder, shapes, submodule)."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from hub.spec import ConvertOptions, DescribeJob, DType, ModelNotFound, ModelUnreadable


class ModelReference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a model comes from and how its inputs look. As a file (`*.builder.json`) it stands for a builder.

    Attributes:
        builder: `package.module:function`; called without arguments, returns a module, or a module and its example
            inputs (a dict of tensors by input name, or a tuple of tensors), or these and the dimensions that stay open
            (`{"image": {0: "batch"}}`). Empty when `file` is given.
        weights: `.safetensors`, or a state dict that loads with `weights_only=True`; loaded with `strict=True`.
        search_path: Folder put in front of `sys.path` while the builder is imported.
        shapes: Input -> fixed shape.
        dtypes: Input -> element type; float32 for an input that is not here.
        file: A TorchScript file, or a pickle; never in a reference file.
        submodule: Dotted path of the submodule to use instead of the whole.
        constants: Input -> the value that it is frozen to.
    """

    builder: str = ""
    weights: str = ""
    search_path: str = ""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, DType] = {}
    file: str = ""
    submodule: str = ""
    constants: dict[str, int | float | bool] = {}

    def merged(self, asked: ConvertOptions | DescribeJob) -> "ModelReference":
        """This reference with what the user asked for on top."""
        return msgspec.structs.replace(
            self,
            shapes=self.shapes | asked.shapes,
            dtypes=self.dtypes | asked.dtypes,
            submodule=asked.submodule or self.submodule,
            constants=asked.constants if isinstance(asked, ConvertOptions) else self.constants,
        )


def reference_for(path: str, form: str, asked: ConvertOptions | DescribeJob) -> ModelReference:
    """The reference for a file of that form, with what the user asked for.

    Raises:
        ModelUnreadable: A builder reference is damaged.
    """
    found = read_reference(Path(path)) if form == "builder" else ModelReference(file=path)
    return found.merged(asked)


def read_reference(path: Path) -> ModelReference:
    """Read a reference file.

    Raises:
        ModelUnreadable: It is not the JSON of a reference.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelReference)
    except msgspec.DecodeError as error:
        raise ModelUnreadable(f"{path.name} is no builder reference: {error}", hint="let hub write it") from error


def import_builder(reference: ModelReference) -> Callable[[], object]:
    """Import the builder function that a reference names.

    Raises:
        ModelNotFound: There is no such module or function.
    """
    module_name, _, function = reference.builder.partition(":")
    if reference.search_path and reference.search_path not in sys.path:
        sys.path.insert(0, reference.search_path)
    try:
        found = getattr(importlib.import_module(module_name), function or "build")
    except (ModuleNotFoundError, AttributeError) as error:
        hint = "give package.module:function; the module must be importable from the current folder"
        raise ModelNotFound(f"cannot import the builder {reference.builder!r}: {error}", hint=hint) from error
    if not callable(found):
        raise ModelNotFound(f"the builder {reference.builder!r} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]
