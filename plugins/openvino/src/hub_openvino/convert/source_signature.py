"""From a model that a frontend read to an IR with the source's border: names, order, types, sizes; and to a file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from hub.spec import ConvertOptions, Dim, DType, IoBinding, Remark, Signature, TensorSpec, UnsupportedModel
from hub_openvino.border import DTYPES, TYPE_NAMES, store_symbols

if TYPE_CHECKING:
    import openvino

_NUMBERED = re.compile(r"(?:^|/)[A-Z][A-Za-z0-9]*_\d+")
"""A name, or a part of one, that OpenVINO gave: an operator's name and a number."""


class ConvertedIr(NamedTuple):
    """A model with the source's border, and what had to change."""

    model: openvino.Model
    bindings: tuple[IoBinding, ...]
    notes: tuple[Remark, ...]


def finish(
    model: openvino.Model, source: Signature, options: ConvertOptions, places: SignaturePlaces | None = None
) -> ConvertedIr:
    """Brings a frontend's model to the source's border, in place where it can.

    Args:
        model: As the frontend gave it.
        source: The source's signature.
        options: Shapes to fix, inputs to freeze.
        places: Which input and output is which; found by names where None.

    Raises:
        UnsupportedModel: An input or output of the source is not there, or an input does not take its shape.
    """
    found = places or SignaturePlaces.by_name(model, source)
    model = _ordered(model, found)
    frozen = _freeze(model, source, options)
    kept = [spec for spec in source.inputs if spec.name not in options.constants]
    _reshape(model, kept, options)
    bindings = (*frozen, *_name(model.inputs, kept, "input"), *_name(model.outputs, source.outputs, "output"))
    store_symbols(model, [_fixed(spec, options) for spec in kept])
    number_names(model)
    notes = tuple(Remark("note", "type-changed", binding.reason) for binding in bindings if binding.dtype)
    return ConvertedIr(model, bindings, notes)


class SignaturePlaces(NamedTuple):
    """The source's inputs and outputs in order, as indices of the model's."""

    inputs: Sequence[int]
    outputs: Sequence[int]

    @classmethod
    def by_name(cls, model: openvino.Model, source: Signature) -> SignaturePlaces:
        """Find them by tensor names and layer names.

        Raises:
            UnsupportedModel: One is not there.
        """
        inputs = [_place(spec.name, model.inputs, "input") for spec in source.inputs]
        # Two outputs may be one tensor: then each result is taken once.
        taken: list[int] = []
        for spec in source.outputs:
            taken.append(_place(spec.name, model.outputs, "output", taken))
        return cls(inputs, taken)

    @classmethod
    def by_position(cls, model: openvino.Model, source: Signature) -> SignaturePlaces:
        """Take them as they come.

        Raises:
            UnsupportedModel: There are more or fewer.
        """
        given, wanted = (len(model.inputs), len(model.outputs)), (len(source.inputs), len(source.outputs))
        if given != wanted:
            message = (
                f"OpenVINO's frontend gives {given[0]} inputs and {given[1]} outputs of {wanted[0]} and {wanted[1]}"
            )
            raise UnsupportedModel(message)
        return cls(range(wanted[0]), range(wanted[1]))


def _place(name: str, ports: Sequence[openvino.Output], what: str, taken: Sequence[int] = ()) -> int:
    fitting = [
        place for place, port in enumerate(ports) if place not in taken and (name in port.names or _own(port) == name)
    ]
    if not fitting:
        found = ", ".join(sorted({word for port in ports for word in port.names} or set(map(_own, ports))))
        message = f"OpenVINO's frontend lost the {what} {name}; it has {found or 'none'}"
        raise UnsupportedModel(message)
    return min(fitting, key=lambda place: _own(ports[place]) != name)


def _own(port: openvino.Output) -> str:
    return str(port.node.friendly_name).split("/sink_port_")[0]


def _ordered(model: openvino.Model, places: SignaturePlaces) -> openvino.Model:
    """The model with inputs and outputs in the source's order; what the source does not have goes."""
    import openvino

    same = (
        list(places.inputs) == list(range(len(model.inputs))),
        list(places.outputs) == list(range(len(model.outputs))),
    )
    if all(same) and len(places.inputs) == len(model.inputs) and len(places.outputs) == len(model.outputs):
        return model
    parameters, results = model.get_parameters(), model.get_results()
    return openvino.Model(
        [results[place] for place in places.outputs],
        model.get_sinks(),
        [parameters[place] for place in places.inputs],
        model.friendly_name,
    )


def _freeze(model: openvino.Model, source: Signature, options: ConvertOptions) -> list[IoBinding]:
    import numpy as np
    from openvino import opset13

    bindings = []
    for place, spec in reversed(list(enumerate(source.inputs))):
        if spec.name not in options.constants:
            continue
        value = options.constants[spec.name]
        parameter = model.get_parameters()[place]
        kind = np.dtype(DTYPES[parameter.get_element_type().get_type_name()].value)
        constant = opset13.constant(np.full(spec.fixed_shape if spec.is_static else (), value, kind))
        parameter.output(0).replace(constant.output(0))
        model.remove_parameter(parameter)
        bindings.append(
            IoBinding(direction="input", source=spec.name, target="", constant=value, reason=f"frozen to {value}")
        )
    if bindings:
        model.validate_nodes_and_infer_types()
    return bindings


def _reshape(model: openvino.Model, specs: Sequence[TensorSpec], options: ConvertOptions) -> None:
    """Give every input its sizes: those that are asked for, else the source's, open ones with their bounds."""
    import openvino

    wanted = {}
    for port, spec in zip(model.inputs, specs, strict=True):
        shape = openvino.PartialShape([_dimension(dim) for dim in _fixed(spec, options).shape])
        if not (len(spec.shape) == 1 and spec.shape[0].symbol == f"{spec.name}_rank") and port.partial_shape != shape:
            wanted[port] = shape
    if not wanted:
        return
    try:
        model.reshape(wanted)
    except (RuntimeError, ValueError, TypeError) as error:
        words = ", ".join(str(_fixed(spec, options)) for spec in specs)
        message = f"OpenVINO cannot reshape the model to {words}: {' '.join(str(error).split())[:300]}"
        raise UnsupportedModel(message, hint="name sizes that the model takes: --shape") from error


def _fixed(spec: TensorSpec, options: ConvertOptions) -> TensorSpec:
    import msgspec

    if spec.name not in options.shapes:
        return spec
    return msgspec.structs.replace(spec, shape=tuple(map(Dim.of, options.shapes[spec.name])))


def _dimension(dim: Dim) -> openvino.Dimension:
    import openvino

    if dim.size is not None:
        return openvino.Dimension(dim.size)
    return openvino.Dimension(dim.low, dim.high) if dim.high else openvino.Dimension(-1)


def _name(
    ports: Sequence[openvino.Output], specs: Sequence[TensorSpec], direction: Literal["input", "output"]
) -> Iterator[IoBinding]:
    """Names tensors and layers as the source does; yields the declared change of every type that differs."""
    import openvino

    for port, spec in zip(ports, specs, strict=True):
        port.get_tensor().add_names({spec.name})
        port.node.set_friendly_name(spec.name)
        if direction == "input" and spec.layout and len(spec.layout) == len(spec.shape):
            port.node.layout = openvino.Layout(spec.layout)
        kind = DTYPES.get(port.element_type.get_type_name(), DType.UNKNOWN)
        if kind != spec.dtype:
            reason = f"OpenVINO's frontend makes {direction} {spec.name} {kind.value} of {spec.dtype.value}"
            yield IoBinding(direction=direction, source=spec.name, target=spec.name, dtype=kind, reason=reason)


def number_names(model: openvino.Model, known: Collection[str] = ()) -> None:
    """Name the layers that OpenVINO named itself after their tensors, or number them by their place in this model.

    It numbers them by a counter of the process (`Multiply_7849`), so that the same conversion would give another file
    each time, and a list of layers to leave out would fit only one of them. What is `known`, as of the model that this
    one was made of, stays as it is.
    """
    inner = (node for node in model.get_ordered_ops() if node.get_type_name() not in {"Parameter", "Result"})
    nodes = [node for node in inner if node.friendly_name not in known and _NUMBERED.search(node.friendly_name)]
    taken = {node.friendly_name for node in model.get_ordered_ops()}
    counts: dict[str, int] = {}
    for node in nodes:
        word = min((name for port in node.outputs() for name in port.names if not name.isdigit()), default="")
        if not word or word in taken:
            kind = node.get_type_name()
            counts[kind] = next(n for n in itertools.count(counts.get(kind, 0) + 1) if f"{kind}_{n}" not in taken)
            word = f"{kind}_{counts[kind]}"
        taken.add(word)
        node.set_friendly_name(word)


def save(model: openvino.Model, path: Path, *, half: bool = False) -> None:
    """Write `.xml` and `.bin`; `half` stores float weights as float16, which OpenVINO's own default would do."""
    import openvino

    openvino.save_model(model, str(path), compress_to_fp16=half)


def type_name(dtype: DType) -> str:
    """OpenVINO's word for a type.

    Raises:
        UnsupportedModel: It has none.
    """
    if dtype not in TYPE_NAMES:
        raise UnsupportedModel(
            f"OpenVINO has no tensors of type {dtype.value}", hint="export the model with other types"
        )
    return TYPE_NAMES[dtype]
