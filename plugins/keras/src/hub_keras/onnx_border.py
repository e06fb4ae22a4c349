"""Finish an ONNX file: the source's names, symbols and order at its border, and a check of what is inside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hub.spec import Dim, EffectError, Signature, StepError, TensorSpec, UnsupportedModel
from hub_keras.static import StaticInputs

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class OnnxSignature:
    """What an ONNX file takes and gives.

    Attributes:
        inputs: Names in order.
        outputs: Names in order.
        symbols: Input -> axis -> symbol of the axes that are open.
        shapes: Output -> its dimensions, in the border's layout.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symbols: dict[str, dict[int, str]]
    shapes: dict[str, tuple[Dim, ...]]

    @classmethod
    def of(cls, static: StaticInputs, signature: Signature) -> Self:
        """The border that a request asks for."""
        return cls(
            inputs=tuple(spec.name for spec in static.kept),
            outputs=static.outputs,
            symbols={spec.name: static.symbols(spec) for spec in static.kept},
            shapes={spec.name: _moved(spec, static) for spec in signature.outputs},
        )

    @property
    def input_slots(self) -> list[str]:
        """Names for an exporter to give, which no value inside has: `hub_in_000`."""
        return [f"hub_in_{index:03d}" for index in range(len(self.inputs))]

    @property
    def output_slots(self) -> list[str]:
        """As `input_slots`."""
        return [f"hub_out_{index:03d}" for index in range(len(self.outputs))]


def _moved(spec: TensorSpec, static: StaticInputs) -> tuple[Dim, ...]:
    axes = static.forward if spec.name in static.moved_outputs else range(len(spec.shape))
    return tuple(spec.shape[axis] for axis in axes)


def finish(model: onnx.ModelProto, border: OnnxSignature, path: Path, *, external: bool = False) -> None:
    """Name the inputs and outputs of an ONNX model, check it, and write it.

    Args:
        model: A ModelProto; its inputs and outputs are in the border's order. Changed in place.
        border: Names and symbols to give.
        path: File to write.
        external: Write large weights to `<path>.data` beside it, which a model over 2 GiB needs.

    Raises:
        EffectError: It has another number of inputs or outputs.
        UnsupportedModel: An operator in it is none of ONNX's.
        StepError: ONNX's checker refuses it.
    """
    import onnx

    _refuse_foreign(model)
    counts = len(model.graph.input), len(model.graph.output)
    if counts != (len(border.inputs), len(border.outputs)):
        raise EffectError(f"the exporter wrote {counts[0]} inputs and {counts[1]} outputs for {border}")
    _rename(model.graph, border)
    _name_dims(model.graph, border)
    onnx.save_model(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=1024)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StepError(f"ONNX's checker refuses the exported model: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its control flow, outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from graphs_of(inner)


def _refuse_foreign(model: onnx.ModelProto) -> None:
    """Refuse operators that ONNX does not have, which an exporter leaves where it knows no better."""
    import onnx

    ours = {function.name for function in model.functions}
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    foreign = {
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for node in nodes
        if node.op_type not in ours
        and (node.domain not in {"", "ai.onnx", "ai.onnx.ml"} or not onnx.defs.has(node.op_type, node.domain))
    }
    if foreign:
        message = f"ONNX has no operator for {', '.join(sorted(foreign))}"
        raise UnsupportedModel(message)


def _rename(graph: onnx.GraphProto, border: OnnxSignature) -> None:
    """Give the border's names; a value inside that has one of them already gets another."""
    import onnx

    wanted = {*border.inputs, *border.outputs}
    slots = [value.name for value in (*graph.input, *graph.output)]
    # An Identity comes before an output that is also an input, or that is given twice.
    seen = {value.name for value in graph.input}
    for index, value in enumerate(graph.output):
        if value.name in seen:
            name = _free(f"hub_copy_{index}", set(slots))
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [name]))
            value.name = name
        seen.add(value.name)
    names = dict(
        zip([value.name for value in (*graph.input, *graph.output)], (*border.inputs, *border.outputs), strict=True)
    )
    used = {name for inner in graphs_of(graph) for name in _names(inner)}
    fresh = {name: _free(name, used | wanted) for name in sorted(used & wanted - names.keys())}
    names = fresh | names
    for inner in graphs_of(graph):
        for value in (*inner.input, *inner.output, *inner.initializer, *inner.value_info):
            value.name = names.get(value.name, value.name)
        for node in inner.node:
            for values in (node.input, node.output):
                values[:] = [names.get(value, value) for value in values]


def _free(name: str, taken: set[str]) -> str:
    counted = (f"{name}__{count}" for count in range(1, len(taken) + 2))
    return next(candidate for candidate in counted if candidate not in taken)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info))
    for node in graph.node:
        yield from (*node.input, *node.output)


def _name_dims(graph: onnx.GraphProto, border: OnnxSignature) -> None:
    """Give open dimensions the source's symbols: `batch`, and not `unk__17`."""
    renamed: dict[str, str] = {}
    for value in graph.input:
        for axis, symbol in border.symbols[value.name].items():
            renamed[value.type.tensor_type.shape.dim[axis].dim_param] = symbol
    for value in graph.output:
        _name_output(value.type.tensor_type.shape.dim, border.shapes[value.name], renamed)
    for value in graph.input:
        for axis, symbol in border.symbols[value.name].items():
            value.type.tensor_type.shape.dim[axis].dim_param = symbol
    for value in graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in renamed:
                dim.dim_param = renamed[dim.dim_param]


def _name_output(dims: Sequence[onnx.TensorShapeProto.Dimension], said: Iterable[Dim], renamed: dict[str, str]) -> None:
    for dim, known in zip(dims, said, strict=False):
        if dim.HasField("dim_value"):
            continue
        if known.size is not None:
            dim.dim_value = known.size
        else:
            dim.dim_param = renamed.get(dim.dim_param) or str(known.symbol)
