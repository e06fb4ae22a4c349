"""Read PyTorch files: exported programs, TorchScript, references to builders. Runs in a worker."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hub.spec import (
    DependencyMissing,
    DType,
    ModelNotFound,
    ModelRefused,
    ModelUnreadable,
    Signature,
    TensorSpec,
    UnsupportedModel,
)
from hub_pytorch.dynamic import Example, as_example, from_one, renamed
from hub_pytorch.numerics import LIBRARY, register_operators
from hub_pytorch.program import Program, module_of, output_names, spec_of
from hub_pytorch.pt2_scan import code_in_pt2
from hub_pytorch.reference import Reference, import_builder
from hub_pytorch.sniff import identify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAMES_FILE = "hub.json"
_MOVES = [["to"], ["_to_copy"], ["view"], ["reshape"], ["slice"], ["unsqueeze"], ["clone"], ["expand"], ["contiguous"]]
_PICKLE_HINT = "running a pickle runs code from the file: pass --allow-pickle if you trust its author, or export a .pt2"


def load_exported(path: Path, *, allow_pickle: bool) -> Any:
    """Read a `.pt2` file.

    Returns:
        The ExportedProgram. Its `module()` is what runs.

    Raises:
        ModelRefused: It holds code or pickled objects besides tensors, and nobody allowed that.
        ModelUnreadable: Truncated, damaged, or written by a torch that this one cannot read.
        DependencyMissing: Its return type comes from a package that is not installed.
    """
    import torch

    if not allow_pickle:
        refuse_code(path)
    _import_return_types(path)
    try:
        return torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, AssertionError, AttributeError, TypeError, OSError, EOFError) as error:
        hint = f"export it again with torch.export.save; this is torch {torch.__version__}"
        raise ModelUnreadable(f"{path.name} is no readable exported program: {error}", hint=hint) from error


def refuse_code(path: Path) -> None:
    """Refuse a `.pt2` that runs code when it is loaded. Raises as `load_exported`."""
    try:
        found = code_in_pt2(path)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise ModelUnreadable(f"{path.name} is truncated or damaged: {error}", hint="export it again") from error
    if found:
        listed = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")  # noqa: PLR2004
        raise ModelRefused(f"loading {path.name} would execute what it holds: {listed}", hint=_PICKLE_HINT)


def _import_return_types(path: Path) -> None:
    # A program that returns a transformers data class loads only after transformers has registered that class, and one
    # that holds quantized values only after torch has registered its operators for them.
    import importlib

    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json") and "/data/" not in name]
            graphs = [archive.read(name) for name in names]
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelUnreadable(f"{path.name} is truncated or damaged: {error}", hint="export it again") from error
    if any(LIBRARY.encode() in graph for graph in graphs):
        register_operators()
    if not any(b"transformers.modeling_outputs" in graph for graph in graphs):
        return
    try:
        importlib.import_module("transformers.modeling_outputs")
    except ModuleNotFoundError as error:
        hint = "install transformers, or export a wrapper that returns a tuple or a dict"
        raise DependencyMissing(f"{path.name} returns a class of transformers: {error}", hint=hint) from error


def stored_names(path: Path) -> dict[str, Any]:
    """Names of inputs, outputs and open dimensions that hub wrote into a `.pt2`; empty for other writers' files."""
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.endswith(f"/extra/{NAMES_FILE}")]
        return json.loads(archive.read(found[0])) if found else {}


def exported_program(path: Path, *, allow_pickle: bool = False) -> Program:
    """Read a `.pt2` file as a flat function. Raises as `load_exported`."""
    return flatten_exported(load_exported(path, allow_pickle=allow_pickle), stored_names(path))


def flatten_exported(exported: Any, names: dict[str, Any] | None = None) -> Program:
    """Make a flat function of an ExportedProgram.

    Args:
        exported: The ExportedProgram.
        names: As `stored_names`, to use instead of the program's own names.

    Raises:
        UnsupportedModel: An input or output is a number that changes (SymInt), not a tensor.
    """
    module = exported.module(check_guards=False)
    call = _flat_call(module, exported)
    return Program(
        call=call,
        signature=exported_signature(exported, names or {}),
        exported=exported,
        graph=module,
        reset=_buffer_reset(module, exported),
    )


def _user_specs(exported: Any, side: str) -> list[Any]:
    kind = f"USER_{side.upper()}"
    specs = getattr(exported.graph_signature, f"{side}_specs")
    return [spec.arg for spec in specs if spec.kind.name == kind]


def _is_tensor(argument: Any, side: str) -> bool:
    kind = type(argument).__name__
    if kind not in {"TensorArgument", "ConstantArgument"}:
        raise UnsupportedModel(f"{side} {argument.name!r} of the exported program is a {kind}, not a tensor")
    return kind == "TensorArgument"


def exported_signature(exported: Any, names: dict[str, Any]) -> Signature:
    """Inputs and outputs of an ExportedProgram; constants among them are left out.

    Args:
        exported: The ExportedProgram.
        names: As `stored_names`.
    """
    ranges = {str(symbol): _bounds(interval) for symbol, interval in exported.range_constraints.items()}
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    indexed = embedding_rows(exported)
    inputs = [arg.name for arg in _user_specs(exported, "input") if _is_tensor(arg, "input")]
    outputs = _user_specs(exported, "output")
    titles = names.get("outputs") or _output_titles(exported, outputs)
    tensors = [values[arg.name] for arg in outputs if _is_tensor(arg, "output")]
    signature = Signature(
        inputs=tuple(
            _with_range(spec_of(title, values[name], ranges), indexed.get(name))
            for title, name in zip(names.get("inputs") or inputs, inputs, strict=True)
        ),
        outputs=tuple(spec_of(title, value, ranges) for title, value in zip(titles, tensors, strict=True)),
    )
    return from_one(renamed(signature, names.get("dims", {})), names.get("from_one", ()))


def _with_range(spec: TensorSpec, rows: int | None) -> TensorSpec:
    return spec if rows is None else msgspec.structs.replace(spec, value_range=(0, rows - 1))


def embedding_rows(exported: Any) -> dict[str, int]:
    """For each integer input that indexes an embedding: how many rows the smallest such embedding has."""
    found: dict[str, int] = {}
    for node in exported.graph.nodes:
        if str(node.target) == "aten.embedding.default":
            name = _origin(node.args[1]).name
            rows = int(node.args[0].meta["val"].shape[0])
            found[name] = min(rows, found.get(name, rows))
    return found


def _origin(node: Any) -> Any:
    """Follow an index back through operators that only move or cast it."""
    while str(node.target).split(".")[1:2] in _MOVES and node.args:
        node = node.args[0]
    return node


def _bounds(interval: Any) -> tuple[int, int | None]:
    # sympy: `is_Integer` is False for the infinity that stands for "no upper bound".
    return int(interval.lower), int(interval.upper) if interval.upper.is_Integer else None


def _output_titles(exported: Any, outputs: Sequence[Any]) -> tuple[str, ...]:
    from torch.utils import _pytree as pytree

    spec = exported.call_spec.out_spec
    paths = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(spec.num_leaves)), spec))[0]
    return output_names([path for (path, _), arg in zip(paths, outputs, strict=True) if _is_tensor(arg, "output")])


def _flat_call(module: Any, exported: Any) -> Callable[..., tuple[Any, ...]]:
    import torch
    from torch.utils import _pytree as pytree

    arguments = _user_specs(exported, "input")
    in_spec = exported.call_spec.in_spec

    def call(*tensors: Any) -> tuple[Any, ...]:
        feed = iter(tensors)
        flat = [next(feed) if _is_tensor(argument, "input") else argument.value for argument in arguments]
        positional, named = pytree.tree_unflatten(flat, in_spec)
        leaves = pytree.tree_leaves(module(*positional, **named))
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    wrapped: Callable[..., tuple[Any, ...]] = module_of(call, module)
    return wrapped


def mutated_state(exported: Any) -> list[str]:
    """Buffers and constants that a program changes while it runs, so that its answer depends on earlier calls."""
    owned = {
        spec.arg.name: spec.target
        for spec in exported.graph_signature.input_specs
        if spec.kind.name in {"BUFFER", "CONSTANT_TENSOR"}
    }
    # Before functionalization the program holds in-place operators instead of the list in its signature.
    in_place = [
        node for node in exported.graph.nodes if getattr(getattr(node.target, "_schema", None), "is_mutable", 0)
    ]
    touched = [owned[node.args[0].name] for node in in_place if getattr(node.args[0], "name", None) in owned]
    return sorted({*exported.graph_signature.buffers_to_mutate.values(), *touched})


def _buffer_reset(module: Any, exported: Any) -> Callable[[], None]:
    if not mutated_state(exported):
        return lambda: None
    initial = {name: tensor.clone() for name, tensor in module.named_buffers()}

    def reset() -> None:
        for name, tensor in module.named_buffers():
            tensor.copy_(initial[name])

    return reset


def load_torchscript(path: Path, submodule: str = "") -> Any:
    """Read a TorchScript archive, or one of its submodules.

    Raises:
        ModelUnreadable: Truncated, damaged, or written by a torch that this one cannot read.
        ModelNotFound: It has no such submodule.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated; its files are in the field
            module = torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelUnreadable(f"{path.name} is no readable TorchScript file: {error}", hint="export a .pt2") from error
    return pick_submodule(module, submodule)


def pick_submodule(module: Any, submodule: str) -> Any:
    """The submodule of that dotted path; the module itself for an empty path.

    Raises:
        ModelNotFound: There is none; the hint lists the first levels.
    """
    found = dict(module.named_modules())
    if submodule in found:
        return found[submodule]
    names = [name for name in found if name and name.count(".") < 2]  # noqa: PLR2004 - the first two levels
    raise ModelNotFound(f"no submodule {submodule!r}", hint=f"it has: {', '.join(names[:20])}")


def load_pickled(path: Path, *, allow_pickle: bool) -> Any:
    """Read a module that was saved whole with `torch.save`, when the user allows its code to run.

    Raises:
        ModelRefused: Nobody allowed it.
        ModelUnreadable: It does not load, or is no module.
    """
    import torch

    found = identify(path, path.open("rb").read(64))
    if not allow_pickle:
        raise ModelRefused(f"{path.name}: {found.detail if found else 'a pickle'}", hint=_PICKLE_HINT)
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, ValueError, AttributeError, ImportError, EOFError, pickle.UnpicklingError) as error:
        raise ModelUnreadable(f"{path.name} cannot be unpickled: {error}", hint="export a .pt2 file") from error
    if not isinstance(module, torch.nn.Module):
        raise ModelUnreadable(f"{path.name} holds a {type(module).__name__}, not a module", hint="export a .pt2 file")
    return module.eval()


def load_eager(reference: Reference, *, allow_pickle: bool) -> tuple[Any, Example]:
    """The eager module that a reference names (by builder or as a pickle), and its example inputs.

    Raises:
        ModelNotFound: No such builder or submodule.
        ModelUnreadable: The file or the weights cannot be read, or do not fit.
        ModelRefused: It is a pickle and nobody allowed that.
    """
    if reference.builder:
        return build(reference)
    module = load_pickled(Path(reference.file), allow_pickle=allow_pickle)
    return pick_submodule(module, reference.submodule), Example(None)


def build(reference: Reference) -> tuple[Any, Example]:
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
        raise ModelNotFound(f"the builder {reference.builder!r} returned {type(module).__name__}, not an nn.Module")
    if reference.weights:
        load_weights(module, Path(reference.weights))
    return pick_submodule(module.eval(), reference.submodule), _example(rest, reference.builder)


def _example(rest: list[Any], builder: str) -> Example:
    """Example inputs, and the dimensions that stay open, as a builder returns them behind the module."""
    if len(rest) > 2:  # noqa: PLR2004 - inputs and open dimensions
        message = f"the builder {builder!r} returned {len(rest) + 1} things"
        raise UnsupportedModel(message, hint="return the module, its example inputs, and its open dimensions")
    found = as_example(rest[0] if rest else None)
    return Example(found.inputs, dict(rest[1]), found.others) if rest[1:] else found


def load_weights(module: Any, path: Path) -> None:
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


def read_weights(path: Path) -> dict[str, Any]:
    """Read `.safetensors`, or a state dict with `weights_only=True`. Raises as `load_weights`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if re.match(rb".{6}\x00\x00\{\"", path.open("rb").read(16), re.DOTALL):
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelRefused(f"{path.name} holds more than tensors: {error}", hint=_PICKLE_HINT) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelUnreadable(f"cannot read weights from {path.name}: {error}") from error
    return dict(state.get("state_dict", state))


def forward_inputs(module: Any) -> tuple[str, ...]:
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


def number_inputs(module: Any) -> dict[str, DType]:
    """Inputs that `forward` annotates as a Python number, with its type."""
    import inspect

    names = {int: DType.INT64, float: DType.FLOAT32, bool: DType.BOOL, "int": DType.INT64, "float": DType.FLOAT32}
    parameters = inspect.signature(module.forward).parameters.values()
    return {item.name: names[item.annotation] for item in parameters if _is_number(item.annotation, names)}


def _is_number(annotation: Any, names: dict[Any, DType]) -> bool:
    return isinstance(annotation, type | str) and annotation in names


def example_specs(module: Any, example: Any) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes of example inputs: a tensor, a tuple of tensors, or a dict by input name."""
    import inspect

    if isinstance(example, dict):
        return tuple(spec_of(name, tensor) for name, tensor in example.items())
    tensors = example if isinstance(example, tuple | list) else (example,)
    names = tuple(inspect.signature(module.forward).parameters)
    return tuple(spec_of(name, tensor) for name, tensor in zip(names, tensors, strict=False))
