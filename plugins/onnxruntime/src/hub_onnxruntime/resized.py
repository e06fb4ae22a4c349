"""Sizes that a file declares and that the user overrides: exporters write the example's sizes as if no others went.

ONNX Runtime refuses to be fed other sizes than those declared, whatever the operators could take. So the input is given
open dimensions in their place, in memory or in a copy; whether the operators take the wanted sizes is what running it
shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Remark, TensorSpec, UnsupportedModel
from hub_onnxgraph.signature import real_inputs
from hub_onnxruntime.files import external_tensors, load_structure, save

if TYPE_CHECKING:
    import onnx

RESIZED = "resized"
"""Form of a file whose declared sizes the user overrides."""


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
    if not open_sizes(model, shapes):
        return source
    if external_tensors(model):
        raise UnsupportedModel(
            f"{source.name} declares other sizes than those asked for, and has its weights in other files",
            hint="save it as one file first",
        )
    path = folder / "resized.onnx"
    save(model, path)
    return path


def resized_bytes(source: Path, inputs: Sequence[TensorSpec]) -> bytes:
    """Return a file with the dimensions open that are open in a signature, its external data left where it is."""
    model = load_structure(source)
    wanted = {spec.name: [0 if dim.size is None else dim.size for dim in spec.shape] for spec in inputs}
    open_sizes(model, wanted)
    content: bytes = model.SerializeToString()
    return content
