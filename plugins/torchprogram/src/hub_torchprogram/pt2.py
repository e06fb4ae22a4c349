"""Read and write exported programs (`.pt2`). Runs in a worker."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, TypedDict

import msgspec

from hub.spec import DependencyMissing, ModelRefused, ModelUnreadable, Signature, TensorSpec, UnsupportedModel
from hub_torchprogram.dynamic import from_one, names_of_symbols, renamed
from hub_torchprogram.program import Program, module_of, output_names, spec_of
from hub_torchprogram.pt2_scan import code_in_pt2
from hub_torchprogram.quantized_operators import LIBRARY, register_operators

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from torch.export.graph_signature import ArgumentSpec

PICKLE_HINT = "running a pickle runs code from the file: pass --allow-pickle if you trust its author, or export a .pt2"
"""What to do about a file that is refused because loading it would run code."""

NAMES_FILE = "hub.json"
_MOVES = [["to"], ["_to_copy"], ["view"], ["reshape"], ["slice"], ["unsqueeze"], ["clone"], ["expand"], ["contiguous"]]


class StoredNames(TypedDict, total=False):
    """What hub writes into a `.pt2` as `extra/hub.json`; nothing of it in other writers' files.

    Attributes:
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs, in order.
        dims: Torch's symbol (`s77`) -> the dimension's name.
        from_one: Names of the dimensions that start at 1, where torch.export only assumes that they start at 2.
    """

    inputs: list[str]
    outputs: list[str]
    dims: dict[str, str]
    from_one: list[str]


def load_exported(path: Path, *, allow_pickle: bool) -> torch.export.ExportedProgram:
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
        raise ModelRefused(f"loading {path.name} would execute what it holds: {listed}", hint=PICKLE_HINT)


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


def stored_names(path: Path) -> StoredNames:
    """Names of inputs, outputs and open dimensions that hub wrote into a `.pt2`; empty for other writers' files."""
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.endswith(f"/extra/{NAMES_FILE}")]
        names: StoredNames = json.loads(archive.read(found[0])) if found else {}
        return names


def exported_program(path: Path, *, allow_pickle: bool = False) -> Program:
    """Read a `.pt2` file as a flat function. Raises as `load_exported`."""
    return flatten_exported(load_exported(path, allow_pickle=allow_pickle), stored_names(path))


def flatten_exported(exported: torch.export.ExportedProgram, names: StoredNames | None = None) -> Program:
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


def _user_specs(exported: torch.export.ExportedProgram, side: str) -> list[ArgumentSpec]:
    kind = f"USER_{side.upper()}"
    specs = getattr(exported.graph_signature, f"{side}_specs")
    return [spec.arg for spec in specs if spec.kind.name == kind]


def _is_tensor(argument: ArgumentSpec, side: str) -> bool:
    kind = type(argument).__name__
    if kind not in {"TensorArgument", "ConstantArgument"}:
        raise UnsupportedModel(f"{side} {argument.name!r} of the exported program is a {kind}, not a tensor")
    return kind == "TensorArgument"


def exported_signature(exported: torch.export.ExportedProgram, names: StoredNames) -> Signature:
    """Inputs and outputs of an ExportedProgram; constants among them are left out.

    Args:
        exported: The ExportedProgram.
        names: As `stored_names`.
    """
    # sympy: `is_Integer` is False for the infinity that stands for "no upper bound".
    ranges = {
        str(symbol): (int(interval.lower), int(interval.upper) if interval.upper.is_Integer else None)
        for symbol, interval in exported.range_constraints.items()
    }
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


def embedding_rows(exported: torch.export.ExportedProgram) -> dict[str, int]:
    """For each integer input that indexes an embedding: how many rows the smallest such embedding has."""
    found: dict[str, int] = {}
    for node in exported.graph.nodes:
        if str(node.target) == "aten.embedding.default":
            # An index goes back through operators that only move or cast it.
            index = node.args[1]
            while str(index.target).split(".")[1:2] in _MOVES and index.all_input_nodes:
                index = index.all_input_nodes[0]
            name = index.name
            rows = int(node.args[0].meta["val"].shape[0])
            found[name] = min(rows, found.get(name, rows))
    return found


def _output_titles(exported: torch.export.ExportedProgram, outputs: Sequence[ArgumentSpec]) -> tuple[str, ...]:
    from torch.utils import _pytree as pytree

    spec = exported.call_spec.out_spec
    paths = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(spec.num_leaves)), spec))[0]
    return output_names([path for (path, _), arg in zip(paths, outputs, strict=True) if _is_tensor(arg, "output")])


def _flat_call(module: torch.fx.GraphModule, exported: torch.export.ExportedProgram) -> torch.nn.Module:
    import torch
    from torch.export.graph_signature import ConstantArgument
    from torch.utils import _pytree as pytree

    arguments = _user_specs(exported, "input")
    in_spec = exported.call_spec.in_spec

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        feed = iter(tensors)
        flat = [item.value if isinstance(item, ConstantArgument) else next(feed) for item in arguments]
        positional, named = pytree.tree_unflatten(flat, in_spec)
        leaves = pytree.tree_leaves(module(*positional, **named))
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    return module_of(call, module)


def mutated_state(exported: torch.export.ExportedProgram) -> list[str]:
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


def _buffer_reset(module: torch.fx.GraphModule, exported: torch.export.ExportedProgram) -> Callable[[], None]:
    if not mutated_state(exported):
        return lambda: None
    initial = {name: tensor.clone() for name, tensor in module.named_buffers()}

    def reset() -> None:
        for name, tensor in module.named_buffers():
            tensor.copy_(initial[name])

    return reset


def save_exported(exported: torch.export.ExportedProgram, signature: Signature, path: Path) -> None:
    """Write a `.pt2` with hub's names of inputs and outputs inside (extra file `hub.json`).

    Stack traces are left out: they name the paths of this machine.
    """
    import torch

    for module in exported.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            node.meta.pop("stack_trace", None)

    names: StoredNames = {
        "inputs": [spec.name for spec in signature.inputs],
        "outputs": [spec.name for spec in signature.outputs],
    }
    raw = exported_signature(exported, {})
    dims = names_of_symbols(raw, signature.inputs)
    if dims:
        ones = {dim.symbol for spec in signature.inputs for dim in spec.shape if dim.symbol and dim.low == 1}
        names["dims"], names["from_one"] = dims, sorted(ones)
    torch.export.save(exported, path, extra_files={NAMES_FILE: json.dumps(names)})
