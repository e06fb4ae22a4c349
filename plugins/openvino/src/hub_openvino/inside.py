"""An IR from inside: see `hub.spec.OpensInside`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hub.spec import DType, InnerLayer, InnerTensor, Inside, QuantParams, Read, StoredConstant

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import openvino

    Array = npt.NDArray[np.generic]
    Reals = npt.NDArray[np.float64]

_QUANTIZE = "FakeQuantize"
_NUMBERED = re.compile(r"[A-Z][A-Za-z]*_\d+")
"""What OpenVINO calls a layer without a name, when it writes a file: its kind and a number."""

_NO_LAYERS = frozenset({"Parameter", "Result", "Constant", _QUANTIZE})


_SCRIPT = """def run(path, feeds):
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(feeds)[0]
"""


class InsideOpenvino:
    """What `OpenvinoFormat` adds for the check layer by layer; see `hub.spec.OpensInside`."""

    @staticmethod
    def inside(path: Path) -> Inside:
        """Reads the main graph: what hangs on constants alone, such as weights that are unpacked, is a constant."""
        from hub_openvino.border import input_names
        from hub_openvino.describe import read_model

        model = read_model(path)
        nodes = model.get_ordered_ops()
        fixed = _fixed(nodes)
        layers, tensors = [], {}
        for node in nodes:
            kind, name = node.get_type_name(), node.friendly_name
            if kind == "Parameter":
                tensors[name] = InnerTensor(name=name, dtype=_dtype(node.output(0)))
            if name in fixed or kind in _NO_LAYERS:
                if kind == _QUANTIZE and name not in fixed:
                    tensors[name] = _quantized(node)
                continue
            sources = [port.get_source_output() for port in node.inputs()]
            layers.append(
                InnerLayer(
                    name=name,
                    operator=kind,
                    inputs=tuple(map(_name, sources)),
                    outputs=tuple(map(_name, node.outputs())),
                    epsilon=node.get_attributes().get("eps"),
                )
            )
            for port in (*sources, *node.outputs()):
                constant = port.get_node().friendly_name in fixed
                own = "" if _NUMBERED.fullmatch(port.get_node().friendly_name) else _name(port)
                tensor = InnerTensor(name=_name(port), stands_for=own, dtype=_dtype(port), constant=constant)
                tensors.setdefault(_name(port), tensor)
        parameters = (port.get_node().friendly_name for port in model.inputs)
        inputs = dict(zip(input_names(model), parameters, strict=True))
        return Inside(layers=_given_rounded(layers, tensors), tensors=tensors, inputs=inputs)

    @staticmethod
    def constants(path: Path, names: Sequence[str]) -> Mapping[str, StoredConstant]:
        """Reads constants, by name: OpenVINO itself computes what is unpacked."""
        import numpy as np
        import openvino

        from hub_openvino.describe import read_model

        model = read_model(path)
        nodes = {node.friendly_name: node for node in model.get_ordered_ops()}
        fixed = _fixed(nodes.values())
        found = {}
        for name in names:
            node = nodes[name]
            if node.get_type_name() == "Constant":
                values = node.get_data().astype(np.float64)
            else:
                alone = openvino.Model([node.output(0)], [], "constant")
                compiled = openvino.Core().compile_model(alone, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
                values = np.array(next(iter(compiled({}).values())), np.float64)
            found[name] = StoredConstant(values, _step(node, fixed))
        return found

    @staticmethod
    def cut(
        path: Path, into: Path, results: Sequence[str], reads: Sequence[Read], constants: Mapping[Read, Array]
    ) -> Path:
        """Writes a float model whose layers are fed apart from each other."""
        import openvino
        from openvino import opset13

        from hub_openvino.describe import read_model

        model = read_model(path)
        nodes = {node.friendly_name: node for node in model.get_ordered_ops()}
        outputs = {_name(port): port for node in nodes.values() for port in node.outputs()}
        shared: dict[int, openvino.Output] = {}
        for read, array in constants.items():
            port = outputs[read.result].get_node().input(read.slot)
            old = port.get_source_output()
            if id(array) not in shared:
                typed = array.astype(DType(_dtype(old)).value).reshape(list(old.get_shape()))
                shared[id(array)] = opset13.constant(typed).output(0)
            port.replace_source_output(shared[id(array)])
        parameters = []
        for read in reads:
            port = outputs[read.result].get_node().input(read.slot)
            parameter = opset13.parameter(port.get_partial_shape(), port.get_element_type(), name=read.fed)
            parameter.output(0).get_tensor().set_names({read.fed})
            port.replace_source_output(parameter.output(0))
            parameters.append(parameter)
        given = []
        for name in results:
            outputs[name].get_tensor().set_names({name})
            given.append(opset13.result(outputs[name]))
        file = into / "cut.xml"
        openvino.save_model(openvino.Model(given, parameters, "cut"), file, compress_to_fp16=False)
        return file

    script = _SCRIPT

    @staticmethod
    def part(path: Path, into: Path, inputs: Mapping[str, Array], output: str) -> Path:
        """Writes what computes a tensor from others; see `hub.spec.CutsOut`."""
        import openvino
        from openvino import opset13

        from hub_openvino.describe import read_model

        model = read_model(path)
        ports = {_name(port): port for node in model.get_ordered_ops() for port in node.outputs()}
        parameters = []
        for name, array in inputs.items():
            port = ports[name]
            parameter = opset13.parameter(list(array.shape), port.get_element_type(), name=f"fed {name}")
            port.get_tensor().set_names(set())
            parameter.output(0).get_tensor().set_names({name})
            for reader in port.get_target_inputs():
                reader.replace_source_output(parameter.output(0))
            parameters.append(parameter)
        part = openvino.Model([opset13.result(ports[output])], parameters, "part")
        file = into / "part.xml"
        openvino.save_model(part, file, compress_to_fp16=False)
        return file


def _name(port: openvino.Output) -> str:
    """A layer's name for its first output, with the output's number behind it for the others."""
    number = port.get_index()
    name: str = port.get_node().friendly_name
    return f"{name}:{number}" if number else name


def _dtype(port: openvino.Output) -> DType:
    from hub_openvino.border import DTYPES

    return DTYPES.get(port.get_element_type().get_type_name(), DType.UNKNOWN)


def _fixed(nodes: Iterable[openvino.Node]) -> set[str]:
    """Names of the nodes that hang on constants alone."""
    found: set[str] = set()
    for node in nodes:
        inputs = [port.get_source_output().get_node().friendly_name for port in node.inputs()]
        if node.get_type_name() == "Constant" or (inputs and all(name in found for name in inputs)):
            found.add(node.friendly_name)
    return found


def _levels(node: openvino.Node) -> tuple[Reals, Reals, int]:
    """The bounds of a FakeQuantize's results, and how many it gives."""
    import numpy as np

    low, high = (node.input(place).get_source_output().get_node().get_data().astype(np.float64) for place in (3, 4))
    return low, high, int(node.get_attributes()["levels"])


def _quantized(node: openvino.Node) -> InnerTensor:
    """What a FakeQuantize gives stands for what it is given; its bounds are constants of the file."""
    name, source = node.friendly_name, node.input(0).get_source_output()
    low, high, levels = _levels(node)
    scale = (high - low) / (levels - 1)
    axis = next((place - scale.ndim for place, size in enumerate(scale.shape) if size > 1), None)
    first = round(float((low / scale).flat[0]))
    return InnerTensor(
        name=name,
        rounds=_name(source),
        dtype=_dtype(node.output(0)),
        quant=QuantParams(
            scale=tuple(map(float, scale.flat)), zero_point=(0,) * scale.size, axis=axis if scale.size > 1 else None
        ),
        low=first,
        high=first + levels - 1,
    )


def _given_rounded(layers: Sequence[InnerLayer], tensors: Mapping[str, InnerTensor]) -> tuple[InnerLayer, ...]:
    """Layers whose results are only read rounded give them so."""
    read = {name for layer in layers for name in layer.inputs}
    rounded: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.quant and name in read:
            rounded.setdefault(tensor.rounds, []).append(name)

    def given(name: str) -> str:
        return rounded[name][0] if name not in read and len(rounded.get(name, ())) == 1 else name

    return tuple(msgspec.structs.replace(layer, outputs=tuple(map(given, layer.outputs))) for layer in layers)


def _step(node: openvino.Node, fixed: set[str]) -> Reals:
    """Distance of two neighbours of a constant's grid: from the FakeQuantize or the product that unpacks it."""
    import numpy as np

    kind = node.get_type_name()
    if kind == _QUANTIZE:
        low, high, levels = _levels(node)
        return (high - low) / (levels - 1)
    sources = [port.get_source_output().get_node() for port in node.inputs()]
    if kind == "Multiply" and sources[1].get_type_name() == "Constant":
        scale: Reals = sources[1].get_data().astype(np.float64)
        return scale
    if kind in {"Convert", "Reshape"} and sources:
        inner = _step(sources[0], fixed)
        return inner if kind == "Convert" or not inner.any() else inner.max().reshape(())
    return np.zeros(())
