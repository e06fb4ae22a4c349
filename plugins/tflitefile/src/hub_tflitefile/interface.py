"""A file's inputs and outputs: found, named, and their scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import QuantParams
from hub_tflitefile.schema import new, numbers, text
from hub_tflitefile.tables import SignatureDefT, TensorMapT

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT, SubGraphT, TensorT

SIGNATURE_KEY = "serving_default"

Named = list[tuple[str, int]]
"""Names with the tensors' places in the graph."""


class GraphInterface(NamedTuple):
    """The main graph: that of the first signature, else the first.

    Attributes:
        graph: The subgraph.
        inputs: (name, tensor index) in the graph's order; names are the signature's where there is one, else the
            tensors'.
        outputs: Likewise.
    """

    graph: SubGraphT
    inputs: Named
    outputs: Named


def unique_names(graph: SubGraphT) -> list[str]:
    """Returns a name for every tensor: its own, with its place behind it where an earlier tensor has it already."""
    names: dict[str, None] = {}
    for index, tensor in enumerate(graph.tensors):
        name = text(tensor.name)
        while name in names:
            name += f"#{index}"
        names[name] = None
    return list(names)


def interface_of(model: ModelT) -> GraphInterface:
    """Returns the main graph with its named inputs and outputs."""
    signature = model.signatureDefs[0] if model.signatureDefs else None
    graph = model.subgraphs[int(signature.subgraphIndex) if signature else 0]
    inputs = _named(graph, numbers(graph.inputs), signature.inputs if signature else None)
    outputs = _named(graph, numbers(graph.outputs), signature.outputs if signature else None)
    return GraphInterface(graph, inputs, outputs)


def _named(graph: SubGraphT, indices: list[int], maps: list[TensorMapT] | None) -> Named:
    if not maps:
        return [(text(graph.tensors[index].name), index) for index in indices]
    # A tensor that is listed twice has a place for each of its names.
    free = {index: [place for place, other in enumerate(indices) if other == index] for index in indices}
    placed = []
    for entry in maps:
        places = free.get(int(entry.tensorIndex)) or [len(indices)]
        placed.append((places.pop(0), (text(entry.name), int(entry.tensorIndex))))
    return [pair for _, pair in sorted(placed, key=lambda item: item[0])]


def signature_def(inputs: Named, outputs: Named) -> SignatureDefT:
    """Makes a signature of the first subgraph."""
    return new(
        SignatureDefT,
        signatureKey=SIGNATURE_KEY.encode(),
        subgraphIndex=0,
        inputs=[new(TensorMapT, name=name.encode(), tensorIndex=index) for name, index in inputs],
        outputs=[new(TensorMapT, name=name.encode(), tensorIndex=index) for name, index in outputs],
    )


def rename(signature: SignatureDefT, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> list[tuple[str, str]]:
    """Renames inputs and outputs (old name -> new name) in a signature; returns what was renamed."""
    renamed = []
    for entries, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for entry in entries or []:
            old = text(entry.name)
            if names.get(old, old) != old:
                entry.name = names[old].encode()
                renamed.append((old, names[old]))
    return renamed


def quant_params(tensor: TensorT) -> QuantParams | None:
    """Returns scale and zero point; None for a tensor without."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
        return None
    points = numbers(quantization.zeroPoint) or [0] * len(quantization.scale)
    axis = int(quantization.quantizedDimension) if len(quantization.scale) > 1 else None
    return QuantParams(scale=tuple(float(s) for s in quantization.scale), zero_point=tuple(points), axis=axis)
