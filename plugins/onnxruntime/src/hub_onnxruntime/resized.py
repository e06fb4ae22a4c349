"""Inputs and outputs that are read otherwise than they are written: sizes that the user overrides, and dictionaries.

Exporters write the example's sizes as if no others went. ONNX Runtime refuses to be fed sizes that are not declared,
whatever the operators could take. So the input is given open dimensions in their place, in memory or in a copy; whether
the operators take the wanted sizes is what running it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Remark, TensorSpec, UnsupportedModel
from hub_onnxgraph.graphs import opset_of
from hub_onnxgraph.signature import real_inputs
from hub_onnxruntime.files import external_tensors, load_structure, save
from hub_onnxruntime.operators import MIN_OPSET

if TYPE_CHECKING:
    import onnx

RESIZED = "resized"
"""Form of a file whose declared sizes the user overrides, or that writes dictionaries: it is read otherwise."""


def open_sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Open each size of an input that a wanted shape contradicts, in place; returns what was declared, in words.

    Shapes that follow from inputs are forgotten, those of outputs keep their rank.
    """
    changed = []
    for value in real_inputs(model.graph):
        dims, wanted = value.type.tensor_type.shape.dim, shapes.get(value.name, ())
        declared = "x".join(str(dim.dim_value or dim.dim_param or "?") for dim in dims)
        pairs = list(zip(dims, wanted, strict=True)) if len(dims) == len(wanted) else []
        other = [place for place, (dim, size) in enumerate(pairs) if dim.dim_value > 0 and dim.dim_value != size]
        for place in other:
            dims[place].dim_param = f"{value.name}_dim{place}"
        if other:
            changed.append(f"{value.name} {declared}")
    if changed:
        del model.graph.value_info[:]
        for output in model.graph.output:
            for place, dim in enumerate(output.type.tensor_type.shape.dim):
                dim.dim_param = f"{output.name}_dim{place}"
    return changed


def cut_zip_maps(model: onnx.ModelProto) -> list[str]:
    """Give an output that ZipMap writes as dictionaries the tensor of their values, in place; returns them in words.

    Scikit-learn's exporters write class probabilities so: a row of the tensor is a dictionary, a column a class.
    """
    from onnx import TensorProto, helper

    graph, cut = model.graph, []
    outputs = {value.name: value for value in graph.output}
    for node in list(graph.node):
        if node.op_type != "ZipMap" or node.output[0] not in outputs:
            continue
        name = str(node.output[0])
        labels = [item.decode() if isinstance(item, bytes) else str(item) for item in _labels(node)]
        outputs[name].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", len(labels)]))
        place = list(graph.node).index(node)
        graph.node[place].CopyFrom(helper.make_node("Identity", [node.input[0]], [name], name=node.name))
        cut.append(f"{name} (columns {', '.join(labels)})")
    if cut and not opset_of(model):  # a file of ai.onnx.ml alone need not import what Identity is of
        model.opset_import.append(helper.make_opsetid("", MIN_OPSET))
    return cut


def _labels(node: onnx.NodeProto) -> Sequence[int | bytes]:
    found = [[*item.ints, *item.strings] for item in node.attribute if item.name.startswith("classlabels_")]
    return found[0] if found else []


def zip_map_findings(cut: Sequence[str]) -> list[Remark]:
    """What to tell of them."""
    text = f"ZipMap writes dictionaries, read as the tensors of their values: {'; '.join(cut)}"
    return [Remark("finding", "dictionaries-as-tensors", text)] if cut else []


def resized_findings(changed: Sequence[str]) -> list[Remark]:
    """What to tell of them."""
    text = (
        f"the file declares {', '.join(changed)}, which --shape overrides: what it gives at that size is the reference"
    )
    return [Remark("finding", "declared-size-overridden", text)] if changed else []


def resized_file(source: Path, folder: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """Return a copy of a file whose inputs take the wanted shapes; the file itself where it takes them already.

    Raises:
        UnsupportedModel: Its weights are in other files.
    """
    model = load_structure(source)
    cut = cut_zip_maps(model)
    if not open_sizes(model, shapes) and not cut:
        return source
    if external_tensors(model):
        raise UnsupportedModel(
            f"{source.name} is read otherwise than it is written, and has its weights in other files",
            hint="save it as one file first",
        )
    path = folder / "resized.onnx"
    save(model, path)
    return path


def resized_bytes(source: Path, inputs: Sequence[TensorSpec]) -> bytes:
    """Return a file with the dimensions open that are open in a signature, its external data left where it is."""
    model = load_structure(source)
    cut_zip_maps(model)
    wanted = {spec.name: [0 if dim.size is None else dim.size for dim in spec.shape] for spec in inputs}
    open_sizes(model, wanted)
    content: bytes = model.SerializeToString()
    return content
