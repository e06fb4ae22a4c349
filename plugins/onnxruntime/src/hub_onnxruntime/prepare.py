"""Brings an ONNX model into the form that converters take: `static`, or `prepared`, which keeps open dims.

Both are float32 inside, of a recent opset, without local functions, simplified. `static` also has fixed shapes and no
`If`. Input and output names, order and element types stay. Everything that is done is said in a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import DType, Remark, ShapeNeeded, StepError, UnsupportedModel
from hub_onnxgraph.graphs import add_constant, all_nodes, graphs, name_nodes, opset_of, proto_of, prune, raise_opset
from hub_onnxgraph.signature import TensorInfo, inputs_of, outputs_of, tensor_info
from hub_onnxquant.random_inputs import random_feeds, sizes_to_try
from hub_onnxruntime import large
from hub_onnxruntime.describe import is_prepared_form
from hub_onnxruntime.files import check, external_files, external_tensors, load, load_structure, save
from hub_onnxruntime.float32 import compute_in_float32, other_floats
from hub_onnxruntime.folding import fold_control_flow, fold_small, infer
from hub_onnxruntime.large import lighten, move_out, opened, size_on_disk, write_large
from hub_onnxruntime.operators import CONTROL_FLOW, MIN_OPSET, custom_operators
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
from hub_onnxruntime.simplify import Oracle, Rejected, simplify

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from hub.spec.calibration import Feeds

_NUMERIC = frozenset(dtype.value for dtype in DType) - {DType.STRING.value, DType.UNKNOWN.value}
MIN_IR = 8  # the IR version that came with opset 17

Constants = Mapping[str, int | float | bool]


class Preparation(NamedTuple):
    """What `prepare` did: notes in order, and the inputs that were frozen away."""

    notes: list[Remark]
    frozen: dict[str, int | float | bool]


def freeze_inputs(graph: ir.Graph, constants: Constants, shapes: OpenShapes, kinds: Mapping[str, str]) -> list[Remark]:
    """Turns inputs into constants; they leave the graph's inputs. `kinds` has each input's element type."""
    import numpy as np
    import onnx_ir as ir

    notes = []
    for value in [value for value in graph.inputs if value.name in constants]:
        name = str(value.name)
        graph.inputs.remove(value)
        value.const_value = ir.tensor(np.full(_sizes(shapes[name]), constants[name], kinds[name]), name=name)
        value.shape = ir.Shape(_sizes(shapes[name]))
        graph.register_initializer(value)
        text = f"froze input {name!r} to {constants[name]}: it is no longer an input"
        notes.append(Remark("note", "input-frozen", text))
    return notes


def _sizes(shape: Dims | None) -> tuple[int, ...]:
    """A frozen input's shape, whose open dims are 1 by now."""
    return tuple(int(dim) for dim in shape or ())


def inline_functions(model: ir.Model) -> list[Remark]:
    """Replaces calls of the model's local functions by their bodies, in place."""
    from onnx_ir.passes.common import InlinePass

    count = len(model.functions)
    if count:
        InlinePass()(model)
    return [Remark("note", "functions-inlined", f"inlined {count} local functions")] if count else []


def raise_ir(model: ir.Model) -> list[Remark]:
    """Raises the IR version to the least that the opset needs and that allows stored tensors that are no inputs."""
    before = model.ir_version
    model.ir_version = max(before, MIN_IR)
    text = f"raised the IR version from {before} to {MIN_IR}"
    return [Remark("note", "ir-raised", text)] if before < MIN_IR else []


class OpenedModel(NamedTuple):
    """A model, its inputs, the shapes that frozen inputs get where they have none, and notes.

    Attributes:
        model: In one piece, or light.
        light: Whether its large tensors are in the scratch folder.
        infos: Its inputs, without those that are stored.
        scalars: Frozen input -> shape.
        notes: What was done.
    """

    model: ir.Model
    light: bool
    infos: list[TensorInfo]
    scalars: dict[str, tuple[int, ...]]
    notes: list[Remark]


def load_whole(path: Path, scratch: Path) -> tuple[onnx.ModelProto, list[Remark]]:
    """Loads a model into one piece, or as a light one with its large tensors in `scratch` where it takes gigabytes."""
    structure = load_structure(path)
    outside = external_files(structure, path.parent)
    if size_on_disk(path, outside) >= large.LARGE_BYTES:
        kept = lighten(structure, path.parent, scratch)
        text = f"left {kept} bytes of weights in files while working on the graph: the model is large"
        return structure, [Remark("note", "weights-left-in-files", text)]
    count = len(external_tensors(structure))
    if not count:
        return structure, []
    return load(path), [
        Remark("note", "external-data-taken-in", f"took {count} tensors of external data into the file")
    ]


def write_out_sparse(model: onnx.ModelProto) -> list[Remark]:
    """Stores sparse tensors in full, in place: onnx-ir and the importers have no sparse ones."""
    import numpy as np
    from onnx import numpy_helper

    count = 0
    for graph in graphs(model.graph):
        for tensor in graph.sparse_initializer:
            values, places = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
            full = np.zeros(tuple(tensor.dims), values.dtype)
            full[np.unravel_index(places, full.shape) if places.ndim == 1 else tuple(places.T)] = values
            add_constant(graph, tensor.values.name, full)
            count += 1
        del graph.sparse_initializer[:]
    return [Remark("note", "sparse-stored-in-full", f"stored {count} sparse tensors in full")] if count else []


def load_checked(path: Path, constants: Constants, scratch: Path) -> OpenedModel:
    """Loads a model and refuses what no form of it can hold.

    Raises:
        HubError: It cannot be read, has foreign operators or values that are no numbers, or lacks an input to freeze.
    """
    from onnx_ir.passes.common import RemoveInitializersFromInputsPass

    proto, notes = load_whole(path, scratch)
    foreign = custom_operators(proto)
    if foreign:
        raise UnsupportedModel(
            f"operators that ONNX does not define: {', '.join(foreign)}",
            hint="Export the model again without them, or write a hub plugin that converts them.",
        )
    infos = inputs_of(proto.graph)
    odd = [f"{info.name} ({info.dtype})" for info in [*infos, *outputs_of(proto.graph)] if info.dtype not in _NUMERIC]
    if odd:
        raise UnsupportedModel(
            f"inputs or outputs that are no tensors of numbers: {', '.join(odd)}",
            hint="Export the part of the model that takes and gives numbers; keep strings and sequences outside.",
        )
    check_names(constants, infos, "constant")
    scalars = {
        info.name: (1,) * len(info.shape or ()) for info in infos if info.name in constants and not info.is_static
    }
    notes += write_out_sparse(proto)
    model = opened(proto, scratch)
    RemoveInitializersFromInputsPass()(model)
    dropped = len(proto.graph.input) - len(model.graph.inputs)
    if dropped:
        text = f"took {dropped} stored tensors out of the list of inputs"
        notes.append(Remark("note", "stored-tensors-no-inputs", text))
    return OpenedModel(model, bool(external_tensors(proto)), infos, scalars, notes)


def _fold_light(model: ir.Model) -> tuple[ir.Model, list[Remark]]:
    """What a light model gets in place of the simplifying tools, which would load its weights and copy them."""
    folded, notes = fold_small(model)
    count = len(model.graph) - len(folded.graph)
    text = f"computed {count} constant operators; no simplifying tool was run on a model of this size"
    return folded, [Remark("note", "not-simplified-large", text), *notes]


def _without_raising(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Remark]]:
    return model, [Remark("note", "opset-kept", f"kept opset {opset_of(model)}")]


# Two ways, the first that gives a right model is taken: not every graph survives the version converter.
_WAYS: tuple[Callable[[onnx.ModelProto], tuple[onnx.ModelProto, list[Remark]]], ...] = (
    lambda model: raise_opset(model, MIN_OPSET),
    _without_raising,
)


def _simplified(model: onnx.ModelProto, oracle: Oracle, scratch: Path) -> tuple[onnx.ModelProto, list[Remark]]:
    reasons: list[str] = []
    for way in _WAYS:
        try:
            lifted, notes = way(infer(model))
            result = simplify(infer(lifted), oracle, scratch)
        except (Rejected, UnsupportedModel) as reason:
            reasons.append(str(reason))
        else:
            rejected = [Remark("note", "simplifying-again", reason) for reason in reasons]
            return result.model, [*rejected, *notes, *result.notes]
    raise StepError(
        f"no way of simplifying the graph kept what it computes: {' | '.join(reasons)}",
        hint="Export the model again with a newer exporter, or with fixed shapes.",
    )


def _open_notes(model: onnx.ModelProto) -> list[Remark]:
    notes = []
    values = (*model.graph.value_info, *model.graph.output)
    open_ones = [value.name for value in values if not tensor_info(value).is_static]
    if open_ones:
        text = f"{len(open_ones)} tensors keep a shape that depends on values, first {open_ones[0]!r}"
        notes.append(Remark("note", "shapes-depend-on-values", text))
    return notes + _stay_notes(model)


def _stay_notes(model: onnx.ModelProto) -> list[Remark]:
    counts = Counter(node.op_type for node in all_nodes(model) if node.op_type in CONTROL_FLOW)
    return [Remark("note", "control-flow-stays", f"{n} {name} nodes stay") for name, n in sorted(counts.items())]


def _rework(
    source: Path, loaded: OpenedModel, shapes: OpenShapes, constants: Constants, rest: tuple[Path, int]
) -> onnx.ModelProto:
    """Everything that both forms have in common; `rest` is the scratch folder and the seed."""
    import numpy as np

    scratch, seed = rest
    model, notes = loaded.model, loaded.notes
    kinds = {info.name: info.dtype for info in loaded.infos}
    frozen: Feeds = {name: np.full(_sizes(shapes[name]), value, kinds[name]) for name, value in constants.items()}
    notes += raise_ir(model) + freeze_inputs(model.graph, constants, shapes, kinds) + inline_functions(model)
    model, said = fold_control_flow(model)
    notes += said
    if loaded.light:
        model, said = _fold_light(model)
        notes += said
    proto = proto_of(model)
    if model is not loaded.model:
        # onnx-ir's pass also drops the names of outputs that nothing reads: onnx2tf takes no LSTM without its first one
        prune(proto.graph)
    oracle = Oracle(source, [random_feeds(proto, seed, sizes) | frozen for sizes in sizes_to_try(proto)], scratch)
    proto, said = _simplified(proto, oracle, scratch)
    notes += oracle.notes + said
    if other_floats(proto):
        model = opened(infer(proto), scratch)
        notes += compute_in_float32(model)
        proto = move_out(model, scratch / "narrowed.data") if loaded.light else proto_of(model)
    del proto.graph.value_info[:]
    proto = infer(proto)
    renamed = name_nodes(proto)
    check(proto, scratch)
    text = f"gave {renamed} operators names of their own"
    notes += [Remark("note", "operators-named", text)] if renamed else []
    return proto


def _write(model: onnx.ModelProto, target: Path, scratch: Path) -> None:
    if external_tensors(model):
        write_large(model, scratch, target)
    else:
        save(model, target)


def prepare(
    source: Path, target: Path, scratch: Path, shapes: Shapes, constants: Constants, seed: int = 0
) -> Preparation:
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
    loaded.notes.extend(write_shapes(loaded.model.graph, fixed))
    model = _rework(source, loaded, fixed, constants, (scratch, seed))
    _write(model, target, scratch)
    return Preparation(loaded.notes + _open_notes(model), dict(constants))


def prepare_dynamic(
    source: Path, target: Path, scratch: Path, shapes: Shapes, constants: Constants, seed: int = 0
) -> Preparation:
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
    known = open_shapes(loaded.infos, loaded.scalars | dict(shapes))
    unranked = [name for name, shape in known.items() if shape is None]
    if unranked:
        flags = " ".join(f"--shape {name}=1x3x224x224" for name in unranked)
        raise ShapeNeeded(f"inputs of unknown rank: {', '.join(unranked)}", hint=f"Give their shapes: {flags}")
    loaded.notes.extend(name_dims(loaded.model.graph, loaded.infos) + write_shapes(loaded.model.graph, known))
    model = _rework(source, loaded, known, constants, (scratch, seed))
    if not is_prepared_form(model):
        message = f"opset {opset_of(model)} could not be raised to {MIN_OPSET}, which importers start from"
        raise UnsupportedModel(message, hint="Export the model again with a newer opset.")
    _write(model, target, scratch)
    return Preparation(loaded.notes + _stay_notes(model), dict(constants))
