"""Brings an ONNX model into the form that converters take: `static`, or `prepared`, which keeps open dims.

Both are float32 inside, of a recent opset, without local functions, simplified. `static` also has fixed shapes and no
`If`. Input and output names, order and element types stay. Everything that is done is said in a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hub.spec import DType, ShapeNeeded, StepError, UnsupportedModel
from hub_onnxruntime import large
from hub_onnxruntime.describe import is_prepared_form, is_static_form
from hub_onnxruntime.files import all_nodes, check, external_files, external_tensors, load, load_structure, save
from hub_onnxruntime.float64 import narrow_float64
from hub_onnxruntime.folding import fold_control_flow, fold_small, infer
from hub_onnxruntime.graphs import add_constant, drop_initializer_inputs, name_nodes, prune
from hub_onnxruntime.large import lighten, move_out, size_on_disk, write_large
from hub_onnxruntime.operators import CONTROL_FLOW, MIN_OPSET, custom_operators, opset_of
from hub_onnxruntime.shapes import (
    Dims,
    OpenShapes,
    Shapes,
    check_names,
    full_shapes,
    name_dims,
    open_shapes,
    write_shapes,
)
from hub_onnxruntime.signature import TensorInfo, inputs_of, outputs_of, real_inputs, tensor_info
from hub_onnxruntime.simplify import Oracle, Rejected, random_feeds, simplify, sizes_to_try

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds

_NUMERIC = frozenset(dtype.value for dtype in DType) - {DType.STRING.value, DType.UNKNOWN.value}
MIN_IR = 8  # the IR version that came with opset 17

Constants = Mapping[str, int | float | bool]


class Prepared(NamedTuple):
    """What `prepare` did: notes in order, and the inputs that were frozen away."""

    notes: list[str]
    frozen: dict[str, int | float | bool]


def freeze_inputs(model: Any, constants: Constants, shapes: OpenShapes) -> list[str]:
    """Turns inputs into constants; they leave the graph's inputs."""
    import numpy as np

    notes = []
    for value in real_inputs(model.graph):
        info = tensor_info(value)
        if info.name in constants:
            array = np.full(_sizes(shapes[info.name]), constants[info.name], dtype=info.dtype)
            model.graph.input.remove(value)
            add_constant(model.graph, info.name, array)
            notes.append(f"froze input {info.name!r} to {constants[info.name]}: it is no longer an input")
    return notes


def _sizes(shape: Dims | None) -> tuple[int, ...]:
    """A frozen input's shape, whose open dims are 1 by now."""
    return tuple(int(dim) for dim in shape or ())


def inline_functions(model: Any) -> tuple[Any, list[str]]:
    """Replaces calls of the model's local functions by their bodies."""
    import onnx

    count = len(model.functions)
    if not count:
        return model, []
    return onnx.inliner.inline_local_functions(model), [f"inlined {count} local functions"]


def raise_ir(model: Any) -> list[str]:
    """Raises the IR version to the least that the opset needs and that allows stored tensors that are no inputs."""
    before = int(model.ir_version)
    model.ir_version = max(before, MIN_IR)
    return [f"raised the IR version from {before} to {MIN_IR}"] if before < MIN_IR else []


def raise_opset(model: Any, target: int = MIN_OPSET) -> tuple[Any, list[str]]:
    """Raises the opset to the least that converters are tested with.

    Raises:
        Rejected: ONNX's version converter does not manage it.
    """
    import onnx

    before, converter = opset_of(model), onnx.version_converter
    if not 0 < before < target:
        return model, []
    try:
        raised = converter.convert_version(model, target)
    except (RuntimeError, ValueError, converter.ConvertError) as error:
        raise Rejected(f"opset {before} could not be raised to {target}: {str(error).strip()[:200]}") from error
    return raised, [f"raised the opset from {before} to {target}"]


def _check_operators(model: Any) -> None:
    foreign = custom_operators(model)
    if foreign:
        raise UnsupportedModel(
            f"operators that ONNX does not define: {', '.join(foreign)}",
            hint="Export the model again without them, or write a hub plugin that converts them.",
        )


def _check_types(infos: list[TensorInfo]) -> None:
    odd = [f"{info.name} ({info.dtype})" for info in infos if info.dtype not in _NUMERIC]
    if odd:
        raise UnsupportedModel(
            f"inputs or outputs that are no tensors of numbers: {', '.join(odd)}",
            hint="Export the part of the model that takes and gives numbers; keep strings and sequences outside.",
        )


class Loaded(NamedTuple):
    """A model in one piece, its inputs, the shapes that frozen inputs get where they have none, and notes."""

    model: Any
    infos: list[TensorInfo]
    scalars: dict[str, tuple[int, ...]]
    notes: list[str]


def load_whole(path: Path, scratch: Path) -> tuple[Any, list[str]]:
    """Loads a model into one piece, or as a light one with its large tensors in `scratch` where it takes gigabytes."""
    structure = load_structure(path)
    outside = external_files(structure, path.parent)
    if size_on_disk(path, outside) >= large.LARGE_BYTES:
        kept = lighten(structure, path.parent, scratch)
        return structure, [f"left {kept} bytes of weights in files while working on the graph: the model is large"]
    count = len(external_tensors(structure))
    return load(path), [f"took {count} tensors of external data into the file"] if count else []


def load_checked(path: Path, constants: Constants, scratch: Path) -> Loaded:
    """Loads a model and refuses what no form of it can hold.

    Raises:
        HubError: It cannot be read, has foreign operators or values that are no numbers, or lacks an input to freeze.
    """
    model, notes = load_whole(path, scratch)
    _check_operators(model)
    infos = inputs_of(model.graph)
    _check_types([*infos, *outputs_of(model.graph)])
    check_names(constants, infos, "constant")
    scalars = {
        info.name: (1,) * len(info.shape or ()) for info in infos if info.name in constants and not info.is_static
    }
    dropped = drop_initializer_inputs(model)
    if dropped:
        notes.append(f"took {dropped} stored tensors out of the list of inputs")
    return Loaded(model, infos, scalars, notes)


def _ranked(shapes: OpenShapes) -> OpenShapes:
    """Refuses inputs of unknown rank.

    Raises:
        ShapeNeeded: There is one.
    """
    unknown = [name for name, shape in shapes.items() if shape is None]
    if unknown:
        flags = " ".join(f"--shape {name}=1x3x224x224" for name in unknown)
        raise ShapeNeeded(f"inputs of unknown rank: {', '.join(unknown)}", hint=f"Give their shapes: {flags}")
    return shapes


def _fold(model: Any) -> tuple[Any, list[str]]:
    model, folded = fold_control_flow(model)
    return model, [f"folded {folded} If nodes"] if folded else []


def _fold_light(model: Any) -> tuple[Any, list[str]]:
    """What a light model gets in place of the simplifying tools, which would load its weights and copy them."""
    if not external_tensors(model):
        return model, []
    model = infer(model)
    folded = fold_small(model)
    prune(model.graph)
    return model, [f"computed {folded} constant operators; no simplifying tool was run on a model of this size"]


def _without_raising(model: Any) -> tuple[Any, list[str]]:
    return model, [f"kept opset {opset_of(model)}"]


# Two ways, the first that gives a right model is taken: not every graph survives the version converter.
_WAYS: tuple[Callable[[Any], tuple[Any, list[str]]], ...] = (raise_opset, _without_raising)


def _simplified(model: Any, oracle: Oracle, scratch: Path) -> tuple[Any, list[str]]:
    reasons: list[str] = []
    for way in _WAYS:
        copy = model.__class__.FromString(model.SerializeToString())
        try:
            lifted, notes = way(infer(copy))
            result = simplify(infer(lifted), oracle, scratch)
        except Rejected as reason:
            reasons.append(str(reason))
        else:
            return result.model, [*reasons, *notes, *result.notes]
    raise StepError(
        f"no way of simplifying the graph kept what it computes: {' | '.join(reasons)}",
        hint="Export the model again with a newer exporter, or with fixed shapes.",
    )


def _finish(model: Any, scratch: Path) -> tuple[Any, list[str]]:
    """Infers shapes, makes names unique, and checks the model."""
    del model.graph.value_info[:]
    model = infer(model)
    renamed = name_nodes(model)
    check(model, scratch)
    return model, [f"gave {renamed} operators names of their own"] if renamed else []


def _check_static(model: Any) -> None:
    if not is_static_form(model):
        count = sum(node.op_type == "If" for node in all_nodes(model))
        raise UnsupportedModel(
            f"{count} If nodes depend on values that only a run gives",
            hint="Freeze the input that they depend on: --constant INPUT=VALUE, or give shapes that decide them.",
        )


def _check_prepared(model: Any) -> None:
    if not is_prepared_form(model):
        message = f"opset {opset_of(model)} could not be raised to {MIN_OPSET}, which importers start from"
        raise UnsupportedModel(message, hint="Export the model again with a newer opset.")


def _open_notes(model: Any) -> list[str]:
    notes = []
    values = (*model.graph.value_info, *model.graph.output)
    open_ones = [value.name for value in values if not tensor_info(value).is_static]
    if open_ones:
        notes.append(f"{len(open_ones)} tensors keep a shape that depends on values, first {open_ones[0]!r}")
    return notes + _stay_notes(model)


def _stay_notes(model: Any) -> list[str]:
    counts = Counter(node.op_type for node in all_nodes(model) if node.op_type in CONTROL_FLOW)
    return [f"{count} {name} nodes stay" for name, count in sorted(counts.items())]


def _rework(source: Path, loaded: Loaded, shapes: OpenShapes, constants: Constants, rest: tuple[Path, int]) -> Any:
    """Everything that both forms have in common; `rest` is the scratch folder and the seed."""
    import numpy as np

    scratch, seed = rest
    model, notes = loaded.model, loaded.notes
    kinds = {info.name: info.dtype for info in loaded.infos}
    frozen: Feeds = {name: np.full(_sizes(shapes[name]), value, kinds[name]) for name, value in constants.items()}
    notes += raise_ir(model) + freeze_inputs(model, constants, shapes)
    feeds = [random_feeds(model, seed, sizes) | frozen for sizes in sizes_to_try(model)]
    for step in (inline_functions, _fold, _fold_light):
        model, said = step(model)
        notes += said
    oracle = Oracle(source, feeds, scratch)
    model, said = _simplified(model, oracle, scratch)
    light = bool(external_tensors(model))
    notes += oracle.notes + said + narrow_float64(model, scratch)
    if light:  # what was narrowed is inside the model now
        move_out(model, scratch)
    model, said = _finish(model, scratch)
    notes += said
    return model


def _write(model: Any, target: Path, scratch: Path) -> None:
    if external_tensors(model):
        write_large(model, scratch, target)
    else:
        save(model, target)


def prepare(source: Path, target: Path, scratch: Path, shapes: Shapes, constants: Constants, seed: int = 0) -> Prepared:
    """Writes the static form of `source` to `target`.

    Args:
        source: The ONNX file, external data beside it. It is only read.
        target: The file to write.
        scratch: A folder for intermediate files.
        shapes: Input -> fixed shape, at least for every input with an open dim.
        constants: Input -> value that it is frozen to.
        seed: For the random inputs on which the simplified graph is compared with the original.

    Raises:
        HubError: The model cannot be read, has operators that ONNX does not define, lacks a shape, or cannot be brought
            into the static form without changing what it computes.
    """
    loaded = load_checked(source, constants, scratch)
    fixed = full_shapes(loaded.infos, loaded.scalars | dict(shapes))
    loaded.notes.extend(write_shapes(loaded.model, fixed))
    model = _rework(source, loaded, fixed, constants, (scratch, seed))
    _check_static(model)
    _write(model, target, scratch)
    return Prepared(loaded.notes + _open_notes(model), dict(constants))


def prepare_dynamic(
    source: Path, target: Path, scratch: Path, shapes: Shapes, constants: Constants, seed: int = 0
) -> Prepared:
    """Writes the `prepared` form of `source` to `target`: dims that nobody fixed stay open, each under a name.

    `If` nodes are folded where constants and known shapes decide them; the others stay, like `Loop` and `Scan`. The
    simplified graph is compared with the original at two sizes of the open dims, where the original runs at two.

    Args:
        source: The ONNX file, external data beside it. It is only read.
        target: The file to write.
        scratch: A folder for intermediate files.
        shapes: Input -> fixed shape, for the inputs that shall be fixed.
        constants: Input -> value that it is frozen to; its open dims become 1.
        seed: For the random inputs of the comparison.

    Raises:
        HubError: The model cannot be read, has operators that ONNX does not define, an input of unknown rank, an opset
            that cannot be raised, or cannot be simplified without changing what it computes.
    """
    loaded = load_checked(source, constants, scratch)
    known = _ranked(open_shapes(loaded.infos, loaded.scalars | dict(shapes)))
    loaded.notes.extend(name_dims(loaded.model) + write_shapes(loaded.model, known))
    model = _rework(source, loaded, known, constants, (scratch, seed))
    _check_prepared(model)
    _write(model, target, scratch)
    return Prepared(loaded.notes + _stay_notes(model), dict(constants))
