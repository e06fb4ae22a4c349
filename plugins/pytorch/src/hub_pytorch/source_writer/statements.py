"""From a torch.fx graph to the statements of a forward function, in order, without the ones that nothing needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.spec import UnsupportedModel
from hub_pytorch.source_writer import facts
from hub_pytorch.source_writer.expressions import is_plain, literal
from hub_pytorch.source_writer.layers import Constants, SourceLayer, over_any_rank, recognise, with_bias
from hub_pytorch.source_writer.names import is_computed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, fx

# Where a tensor of one element can be a Python number: the other operand then says type and shape.
_TAKES_NUMBERS = ("add", "sub", "mul", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge", "where", "remainder", "fmod")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One assignment of the forward function.

    Attributes:
        node: The node whose value it computes.
        uses: The nodes that it reads, weights of layers not among them.
        layer: The layer it calls; None for a function call.
        numbers: Constants that are written as numbers in it.
        parts: For a recurrent layer: position in its result -> the node that takes it.
    """

    node: fx.Node
    uses: tuple[fx.Node, ...]
    layer: SourceLayer | None = None
    numbers: dict[fx.Node, str]
    parts: dict[int, fx.Node]

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """The nodes that have a value after it."""
        return tuple(self.parts.values()) if self.is_recurrent else (self.node,)

    @property
    def is_assertion(self) -> bool:
        """Whether it only checks something, and has no value."""
        return is_assertion(self.node)

    @property
    def is_size(self) -> bool:
        """Whether its value is a size, or a check of sizes, and no tensor."""
        return self.is_assertion or isinstance(self.node.meta.get("val"), int | float)

    @property
    def is_recurrent(self) -> bool:
        """Whether it calls a recurrent layer, whose result is a tuple."""
        return _is_recurrent(self.layer)


def is_assertion(node: fx.Node) -> bool:
    """Whether a node checks something, and has no value."""
    import torch

    return bool(node.target is torch._assert)  # noqa: SLF001 - public in all but name: torch.fx keeps it


def statements_of(module: fx.GraphModule, constants: Constants) -> list[Statement]:
    """The statements that a graph's outputs need, in order."""
    layers = _layers(module.graph, constants)
    found = list(_statements(module.graph, layers, constants))
    needed = set(output_nodes(module.graph))
    kept = []
    for statement in reversed(found):
        if statement.is_assertion or needed & set(statement.results):
            needed.update(statement.uses)
            kept.append(statement)
    statements = kept[::-1]
    early: set[fx.Node] = set()
    for statement in statements:
        if statement.is_size and all(node.op == "placeholder" or node in early for node in statement.uses):
            early.add(statement.node)
    return sorted(statements, key=lambda statement: statement.node not in early)


def output_nodes(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The nodes that a graph returns.

    Raises:
        UnsupportedModel: It returns something else.
    """
    from torch import fx

    returned = graph.output_node().args[0]
    nodes = tuple(returned) if isinstance(returned, tuple | list) else (returned,)
    if not all(isinstance(node, fx.Node) for node in nodes):
        raise UnsupportedModel("the graph returns something besides tensors")
    return nodes


def _layers(graph: fx.Graph, constants: Constants) -> dict[fx.Node, SourceLayer | None]:
    """Node -> layer; None for a node that is part of the layer of the node after it."""
    found: dict[fx.Node, SourceLayer | None] = {}
    for node in graph.nodes:
        layer = recognise(node, constants)
        if layer:
            found[node] = layer
        for product in node.all_input_nodes:
            whole = _joined(product, node, found.get(product), constants)
            if whole:
                found[node], found[product] = whole, None
    return found


def _joined(first: fx.Node, second: fx.Node, layer: SourceLayer | None, constants: Constants) -> SourceLayer | None:
    """The layer that two nodes are together, the second being the only one that uses the first."""
    if layer is None or len(first.users) > 1:
        return None
    return with_bias(layer, second, constants) or over_any_rank(layer, second)


def _statements(
    graph: fx.Graph, layers: dict[fx.Node, SourceLayer | None], constants: Constants
) -> Iterator[Statement]:
    parts: set[fx.Node] = set()
    for node in graph.nodes:
        layer = layers.get(node)
        if node.op not in {"call_function", "call_method"} or node in parts or (node in layers and layer is None):
            if node.op == "call_module" or (node.op == "get_attr" and constants.tensor(node) is None):
                hint = "fix what decides it (--shape, --constant), or convert to .pt2, which holds branches and loops"
                raise UnsupportedModel(
                    f"a branch or loop that depends on data ({node.target}) has no source yet", hint=hint
                )
            continue
        numbers = {} if layer else _numbers(node, constants)
        uses = layer.uses if layer else tuple(item for item in node.all_input_nodes if item not in numbers)
        statement = Statement(node=node, uses=uses, layer=layer, numbers=numbers, parts=_parts(node, layer))
        if statement.is_recurrent:
            parts |= set(statement.parts.values())
        yield statement


def _is_recurrent(layer: SourceLayer | None) -> bool:
    return layer is not None and layer.kind in {"LSTM", "GRU", "RNN"}


def _parts(node: fx.Node, layer: SourceLayer | None) -> dict[int, fx.Node]:
    """Position -> the node that takes it, for a recurrent layer.

    Raises:
        UnsupportedModel: Its result is used whole, or a part of it twice over.
    """
    import operator

    if not _is_recurrent(layer):
        return {}
    users = [(user.args[1], user) for user in node.users if user.target is operator.getitem]
    parts = {place: user for place, user in users if isinstance(place, int)}
    if len(parts) != len(node.users):
        raise UnsupportedModel(f"the result of {node.name} is used in a way that has no source")
    return parts


def _numbers(node: fx.Node, constants: Constants) -> dict[fx.Node, str]:
    """The arguments of a node that can be written as numbers."""
    name = facts.called(node)
    operands = node.args[1:] if name == "where" else node.args
    if name not in _TAKES_NUMBERS or not is_plain(node.target):
        return {}
    nodes = [item for item in operands if facts.is_node(item)]
    return {item: text for item in nodes if (text := _number(item, operands, constants))}


def _number(item: fx.Node, operands: Iterable[object], constants: Constants) -> str:
    """A constant of one element as text, where another operand says its type and at least its rank."""
    tensor = constants.tensor(item)
    if tensor is None or tensor.numel() != 1 or not _is_number(item, tensor):
        return ""
    others = [other for other in operands if other is not item and constants.tensor(other) is None]
    if not any(
        bool(facts.dtype(other) == tensor.dtype) and (facts.rank(other) or 0) >= tensor.ndim for other in others
    ):
        return ""
    return literal(tensor.item())


def _is_number(node: fx.Node, tensor: Tensor) -> bool:
    """Whether a constant of one element is a number rather than a weight that was trained: by its rank or its name."""
    import torch

    if tensor.dtype in {torch.bool, torch.uint8}:
        return False
    return bool(tensor.ndim == 0) or is_computed(str(node.target))
