"""Writes a torch.fx graph as a Python file and a safetensors file beside it."""

from __future__ import annotations

import re
from collections import ChainMap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hub_pytorch.sniff import SOURCE_MAGIC
from hub_pytorch.source_writer import facts
from hub_pytorch.source_writer.expressions import expression, literal
from hub_pytorch.source_writer.layers import Constants, SourceLayer
from hub_pytorch.source_writer.layout import (
    LINE_LENGTH,
    Bracketed,
    Expression,
    call,
    double_quoted,
    flat,
    lines_of,
    named,
    parenthesised,
    tupled,
)
from hub_pytorch.source_writer.locals import Locals
from hub_pytorch.source_writer.names import Names, attribute, attribute_names, identifier, is_computed, layer_path
from hub_pytorch.source_writer.statements import Statement, output_nodes, statements_of

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from torch import fx

    from hub.spec import Signature, TensorSpec

_BODY = 8
_SHORT = 32  # characters of an expression of sizes that is written where it is used
_HEAD = f'''{SOURCE_MAGIC.decode()}

Its weights lie beside it, in the file of the same name that ends in .safetensors.
`build()` returns the network with its weights, ready to run; `build().train()` trains.
"""
'''
_BUILD = '''
def build(weights: str | Path | None = None) -> Network:
    """The network with its weights, in evaluation mode.

    The weights are those beside this file unless another file is given.
    """
    network = Network()
    file = weights or Path(__file__).with_suffix(".safetensors")
    network.load_state_dict(load_file(file))
    return network.eval()
'''


@dataclass(frozen=True, slots=True)
class WrittenSource:
    """A written network.

    Attributes:
        text: The Python file.
        weights: Name -> tensor, for the safetensors file.
        layers: How many submodules of torch.nn it has.
    """

    text: str
    weights: dict[str, Any]
    layers: int


def write_source(module: fx.GraphModule, signature: Signature, shapes: Sequence[Sequence[int]]) -> WrittenSource:
    """Write a graph as source.

    Args:
        module: A graph of calls of torch's public functions on its own parameters and buffers.
        signature: Inputs and outputs, by the names that they are to have in the source's tables.
        shapes: A shape for each input, at which the graph runs.

    Raises:
        UnsupportedModel: Something in the graph has no source.
    """
    facts.learn(module, signature.inputs, shapes)
    writer = _ModuleWriter(module, signature)
    body = writer.forward()
    title = "# Name, element type and shape; a size that is a word may change from call to call."
    sides = {"INPUTS": signature.inputs, "OUTPUTS": signature.outputs}
    rows = [
        line for name, specs in sides.items() for line in lines_of(tupled(map(_row, specs)), 0, before=f"{name} = ")
    ]
    text = "\n".join(
        [*_header(body), title, *rows, *_sizes(signature.inputs, shapes), "", *writer.class_head(), *body, _BUILD]
    )
    return WrittenSource(text=text, weights=own(writer.weights), layers=writer.layers)


def _header(body: Sequence[str]) -> list[str]:
    """The imports that the file needs."""
    text = "\n".join(body)
    math = ["import math"] if "math." in text else []
    functional = ["from torch.nn import functional as F"] if re.search(r"\bF\.", text) else []
    imports = ["import torch", "from safetensors.torch import load_file", "from torch import nn", *functional]
    return [_HEAD, *math, "from pathlib import Path", "", *imports, ""]


def _sizes(inputs: Sequence[TensorSpec], shapes: Sequence[Sequence[int]]) -> list[str]:
    """The table of sizes at which the network is known to run; none where all are fixed."""
    pairs = [pair for spec, shape in zip(inputs, shapes, strict=True) for pair in zip(spec.shape, shape, strict=True)]
    known = {dim.symbol: size for dim, size in pairs if dim.symbol}
    if not known:
        return []
    items = tuple(f"{double_quoted(symbol)}: {size}" for symbol, size in known.items())
    title = "# Sizes at which the network was checked when it was written."
    return [title, *lines_of(Bracketed("{", items, "}"), 0, before="SIZES = ")]


def _row(spec: TensorSpec) -> Expression:
    sizes = [double_quoted(dim.symbol or "") if dim.size is None else literal(dim.size) for dim in spec.shape]
    return tupled((double_quoted(spec.name), double_quoted(spec.dtype.value), tupled(sizes)))


@dataclass
class _ModuleWriter:
    """Writes one class. `forward` comes first: it finds out what `__init__` must make."""

    module: Any
    signature: Signature
    weights: dict[str, Any] = field(default_factory=dict)
    layers: int = 0

    def __post_init__(self) -> None:
        self.constants = Constants(self.module)
        self.attributes = attribute_names()
        self.made: list[str] = []
        self.texts: MutableMapping[fx.Node, str] = {}
        self.known: dict[tuple[Any, ...], str] = {}
        self.statements = statements_of(self.module, self.constants)
        self.outputs = output_nodes(self.module.graph)

    def class_head(self) -> list[str]:
        """The class up to its forward function."""
        start = ["", "class Network(nn.Module):", '    """The network; forward takes and gives what the tables say."""']
        return [*start, "", "    def __init__(self) -> None:", "        super().__init__()", *self.made, ""]

    def forward(self) -> list[str]:
        """The forward function."""
        names = Names()
        placeholders = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, self.signature.inputs, strict=True):
            self.texts[node] = names.take(identifier(spec.name, "input"))
        head = forward_head([self.texts[node] for node in placeholders], self.signature)
        locals_ = Locals(names, self.statements, self.outputs, self.texts, self.module.meta.get("onnx_dynamic", {}))
        lines = [line for index, item in enumerate(self.statements) for line in self._statement(index, item, locals_)]
        returned: Expression = tupled(self._text(node) for node in self.outputs)
        if len(self.outputs) == 1:
            returned = self._text(self.outputs[0])
        return [*head, *lines, *lines_of(returned, _BODY, before="return "), ""]

    def _statement(self, index: int, statement: Statement, locals_: Locals) -> list[str]:
        value = self._value(statement)
        if statement.is_assertion:
            return lines_of(value, _BODY)
        if statement.is_size and locals_.used_once(statement.node) and len(flat(value)) <= _SHORT:
            self.texts[statement.node] = f"({value})" if isinstance(value, str) else flat(value)
            return []
        for node in statement.results:
            self.texts[node] = locals_.name(index, node)
        return assignment(self._targets(statement), value, _BODY)

    def _value(self, statement: Statement) -> Expression:
        """What a statement computes: a layer's call, or a function's where another layer has the layer's weight."""
        name = self._layer(statement.node, statement.layer) if statement.layer else ""
        if statement.layer and name:
            for node in statement.uses:
                self._text(node)
            return statement.layer.call(name, self.texts)
        if statement.layer and statement.layer.transposed:
            texts = [self._text(node) for node in (*statement.layer.inputs, *statement.layer.weights.values())]
            return " + ".join([f"{texts[0]} @ {texts[1]}", *texts[2:]])
        for node in statement.node.all_input_nodes:
            if node not in statement.numbers:
                self._text(node)
        return expression(statement.node, ChainMap(dict(statement.numbers), self.texts))

    def _targets(self, statement: Statement) -> str:
        if not statement.is_recurrent:
            return self.texts[statement.node]
        names = [self.texts[statement.parts[i]] if i in statement.parts else "_" for i in range(3)]
        is_lstm = statement.layer is not None and statement.layer.kind == "LSTM"
        return f"{names[0]}, ({names[1]}, {names[2]})" if is_lstm else f"{names[0]}, {names[1]}"

    def _text(self, node: fx.Node) -> str:
        """What stands for a node; a constant is made an attribute when it is first needed."""
        import torch

        if node not in self.texts:
            tensor, name = self.constants.known(node), self.attributes.take(attribute(str(node.target), "constant"))
            self.weights[name] = tensor.detach()
            typed = () if tensor.dtype == torch.float32 else (named("dtype", literal(tensor.dtype)),)
            empty = call("torch.empty", (*(map(literal, tensor.shape) if tensor.ndim else ("()",)), *typed))
            if isinstance(tensor, torch.nn.Parameter) and not is_computed(str(node.target)):
                self.made += assignment(f"self.{name}", call("nn.Parameter", (empty,)), _BODY)
            else:
                self.made += lines_of(call("self.register_buffer", (double_quoted(name), empty)), _BODY)
            self.texts[node] = f"self.{name}"
        return self.texts[node]

    def _layer(self, node: fx.Node, layer: SourceLayer) -> str:
        """The attribute that holds a layer; empty when its weight is another's already."""
        import torch

        held = {name: self.constants.known(weight) for name, weight in layer.weights.items()}
        made = layer.constructor(next((tensor.dtype for tensor in held.values()), torch.float32))
        key = (flat(made), *layer.weights.values())
        if key in self.known and layer.weights:
            return self.known[key]
        if layer.weights and next(iter(layer.weights.values())) in self.texts:
            return ""
        weight = str(next(iter(layer.weights.values()), node).target) if held else ""
        path = layer_path(weight, str(node.meta.get("onnx", "")), layer.kind.lower())
        name = self.attributes.take(attribute(path, layer.kind.lower()))
        for leaf, tensor in held.items():
            self.weights[f"{name}.{leaf}"] = layer.held(leaf, tensor)
            turned = ".t()" if layer.transposed and leaf == "weight" else ""
            if turned or self.weights[f"{name}.{leaf}"] is tensor:
                self.texts.setdefault(layer.weights[leaf], f"self.{name}.{leaf}{turned}")
        self.weights |= {f"{name}.{leaf}": tensor for leaf, tensor in layer.extra.items()}
        self.made += assignment(f"self.{name}", made, _BODY)
        self.layers += 1
        self.known[key] = name
        return name


def own(weights: dict[str, Any]) -> dict[str, Any]:
    """Weights that share no memory, as safetensors wants them; those that are alone in theirs are not copied."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in weights.items():
        held = tensor.detach().contiguous()
        storage = held.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != held.nbytes
        seen.add(storage.data_ptr())
        owned[name] = held.clone() if shared else held
    return owned


def forward_head(names: Sequence[str], signature: Signature) -> list[str]:
    """The first lines of the forward function, a comment for the shape of each input."""
    inputs = [
        _commented(f"        {name}: torch.Tensor,", spec) for name, spec in zip(names, signature.inputs, strict=True)
    ]
    several = len(signature.outputs) > 1
    result = "tuple[torch.Tensor, ...]" if several else "torch.Tensor"
    return ["    def forward(", "        self,", *inputs, f"    ) -> {result}:"]


def _commented(line: str, spec: TensorSpec) -> str:
    """A line with the type and shape of a tensor behind it, where there is room."""
    sizes = ", ".join(re.sub(r"[^\w+*/() -]", "_", str(dim), flags=re.ASCII) for dim in spec.shape)
    commented = f"{line}  # {spec.dtype.value} [{sizes}]"
    return commented if len(commented) <= LINE_LENGTH else line


def assignment(target: str, value: Expression, indent: int) -> list[str]:
    """One statement, in parentheses where it is too long and has no brackets to break."""
    line = f"{' ' * indent}{target} = {flat(value)}"
    if isinstance(value, str) and len(line) > LINE_LENGTH:
        value = parenthesised(value)
    return lines_of(value, indent, before=f"{target} = ")
