"""Removes transposes between channels last and channels first.

TFLite's convolutions have channels last, ONNX's have them first, so the importer writes a transpose before and behind
each. Here every operator that does not care (`permute`) is given the order that needs the fewest transposes in all: a
minimum cut between what must have channels first and what must have them last. A value that is needed in both orders
is transposed once.

Words: a *potential* of 1 marks a value that is the channels-first form of what has potential 0, as far as transposes
and operators that do not care tie them together. A *side* is the order that an operator really works in. A *group* is
a value with all its transposed forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hub_tflite.to_onnx.builder import operand
from hub_tflite.to_onnx.cut import NEVER, FlowNetwork
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.permute import followers, permute, rank_of
from hub_tflite.to_onnx.windows import to_channels_first, to_channels_last

if TYPE_CHECKING:
    from onnx_ir import Graph, Model, Node, Value

    from hub_tflite.to_onnx.permute import Constants

_RANKS = (4, 5)  # pictures and volumes: what TFLite has channels-last and ONNX channels-first
_TRANSPOSE, _RESHAPE = 1000, 1
"""What a transpose costs, and one that only moves axes of size 1 and is a reshape."""
_LAST, _FIRST = "channels last", "channels first"
_SIDES = (_LAST, _FIRST)


class Potentials:
    """Ties values together with a difference of potential of -1, 0 or 1; a component spans two potentials at most."""

    def __init__(self) -> None:
        self._parent: dict[Value, tuple[Value, int]] = {}
        self._span: dict[Value, tuple[int, int]] = {}

    def _root(self, value: Value) -> tuple[Value, int]:
        offset = 0
        while value in self._parent:
            value, step = self._parent[value]
            offset += step
        return value, offset

    def tie(self, pairs: Iterable[tuple[Value, Value, int]]) -> bool:
        """Let each second value have the first's potential plus the difference; if it cannot, nothing changes."""
        before = dict(self._parent), dict(self._span)
        for first, second, difference in pairs:
            if not self._tie(first, second, difference):
                self._parent, self._span = before
                return False
        return True

    def _tie(self, first: Value, second: Value, difference: int) -> bool:
        (a, above), (b, below) = self._root(first), self._root(second)
        step = above + difference - below
        if a is b:
            return step == 0
        (low, high), (other_low, other_high) = self._span.get(a, (0, 0)), self._span.get(b, (0, 0))
        low, high = min(low, other_low + step), max(high, other_high + step)
        if high - low > 1:
            return False
        self._parent[b] = (a, step)
        self._span[a] = (low, high)
        return True

    def of(self, value: Value) -> int:
        """Return 0 or 1."""
        root, offset = self._root(value)
        return offset - self._span.get(root, (0, 0))[0]


@dataclass(slots=True)
class ValueForms:
    """A value of so many axes with its transposed forms: `root` is the one that no removed transpose makes."""

    root: Value
    rank: int
    forms: list[Value] = field(default_factory=list)


class LayoutPass:
    """The pass over one graph; see the module."""

    def __init__(self, graph: Graph, constants: Constants) -> None:
        self._graph = graph
        self._constants = constants
        self._potentials = Potentials()
        self._removed: dict[Node, int] = {}
        self._free: dict[Node, tuple[list[int], list[int]]] = {}
        self._side: dict[Node, int] = {}

    def run(self) -> None:
        """Choose the sides, then rewrite the graph."""
        self._tie()
        if not self._removed:
            return
        groups = self._groups()
        self._choose(groups)
        for node, side in self._side.items():
            value = operand(node, self._free[node][0][0])
            if side != self._potentials.of(value):
                permute(node, _perm(rank_of(value) or 0, side), self._constants)
        for group in groups:
            self._rewrite(group)
        for node in self._removed:
            if not any(output.uses() or output.is_graph_output() for output in node.outputs):
                self._graph.remove(node, safe=True)

    def _tie(self) -> None:
        for node in self._graph:
            difference = _layout_step(node)
            if difference and self._potentials.tie([(operand(node), node.outputs[0], difference)]):
                self._removed[node] = difference
        for node in self._graph:
            found = next((f for rank in _RANKS if (f := followers(node, rank))), None)
            if found and node not in self._removed:
                values = [operand(node, i) for i in found[0]] + [node.outputs[i] for i in found[1]]
                if self._potentials.tie((values[0], value, 0) for value in values[1:]):
                    self._free[node] = found

    def _groups(self) -> list[ValueForms]:
        groups: dict[Value, ValueForms] = {}
        values = [*self._graph.inputs, *(output for node in self._graph for output in node.outputs)]
        values += [v for node in self._graph for v in node.inputs if v is not None and not _is_made_in(v, self._graph)]
        for value in dict.fromkeys(values):
            root = self._root(value)
            rank = rank_of(root)
            if rank in _RANKS:
                groups.setdefault(root, ValueForms(root, rank)).forms.append(value)
        return list(groups.values())

    def _root(self, value: Value) -> Value:
        while (producer := value.producer()) in self._removed:
            value = operand(producer)
        return value

    def _consumers(self, group: ValueForms) -> Iterator[tuple[Value, Node | None, int]]:
        """Yield (form, node, input) for every use; no node for an output of the graph."""
        for form in group.forms:
            for use in form.uses():
                if use.node not in self._removed:
                    yield form, use.node, use.idx
            if form.is_graph_output():
                yield form, None, 0

    def _wanted(self, form: Value, node: Node | None, place: int) -> Node | str:
        """What decides the side that a use needs: the node itself, or a fixed one."""
        if node is not None and node in self._free and place in self._free[node][0]:
            return node
        return _SIDES[self._potentials.of(form)]

    def _made(self, group: ValueForms) -> Node | str:
        producer = group.root.producer()
        if producer in self._free and group.root.index() in self._free[producer][1]:
            return producer
        return _SIDES[self._potentials.of(group.root)]

    def _choose(self, groups: Sequence[ValueForms]) -> None:
        network = FlowNetwork()
        for number, group in enumerate(groups):
            made = self._made(group)
            perm = _perm(group.rank, 1 - self._potentials.of(group.root))
            cost = _RESHAPE if _moves_nothing(group.root, perm) else _TRANSPOSE
            network.edge(made, ("first", number), cost)
            network.edge(("last", number), made, cost)
            for form, node, place in self._consumers(group):
                wanted = self._wanted(form, node, place)
                network.edge(("first", number), wanted, NEVER)
                network.edge(wanted, ("last", number), NEVER)
        side = network.source_side(_LAST, _FIRST)
        self._side = {node: int(node not in side) for node in self._free}

    def _side_of(self, what: Node | str) -> int:
        return _SIDES.index(what) if isinstance(what, str) else self._side[what]

    def _rewrite(self, group: ValueForms) -> None:
        """Give each use the form it needs."""
        made = self._side_of(self._made(group))
        needs = [
            (form, node, place, self._side_of(self._wanted(form, node, place)))
            for form, node, place in self._consumers(group)
        ]
        forms = {made: group.root}
        if any(side != made for *_, side in needs):
            forms[1 - made] = self._transposed(group, 1 - made)
        for form, node, place, side in needs:
            if node is None:
                self._output(form, forms[side])
            elif node.inputs[place] is not forms[side]:
                node.replace_input_with(place, forms[side])

    def _transposed(self, group: ValueForms, side: int) -> Value:
        root = group.root
        perm = _perm(group.rank, side)
        producer = root.producer()
        made = _permuting_node(root, perm, self._constants)
        if producer is not None and producer.graph is self._graph:
            self._graph.insert_after(producer, made)
        else:
            self._graph.insert_before(next(iter(self._graph)), made)
        made.outputs[0].name = f"{root.name}_{_SIDES[side].replace(' ', '_')}"
        return made.outputs[0]

    def _output(self, wanted: Value, found: Value) -> None:
        """Let an output of the graph be `found` under the name it had."""
        if wanted is found:
            return
        if found.is_graph_output() or found.is_graph_input() or found.producer() is None:
            copy = ir.node("Identity", [found])
            copy.name = f"{wanted.name}_copy"
            self._graph.append(copy)
            found = copy.outputs[0]
        name, wanted.name = wanted.name, f"{wanted.name}_inner"
        found.name, found.type = name, wanted.type
        if wanted.producer() in self._removed:  # of the same sizes, and with the names of open ones
            found.shape = wanted.shape
        for place, value in enumerate(self._graph.outputs):
            if value is wanted:
                self._graph.outputs[place] = found


def _is_made_in(value: Value, graph: Graph) -> bool:
    producer = value.producer()
    return producer is not None and producer.graph is graph


def _perm(rank: int, side: int) -> list[int]:
    return to_channels_first(rank) if side else to_channels_last(rank)


def _layout_step(node: Node) -> int:
    """1 for a transpose to channels first, -1 for one to channels last, 0 for another node."""
    if node.op_type != "Transpose" or "perm" not in node.attributes or rank_of(node.inputs[0]) not in _RANKS:
        return 0
    perm = list(node.attributes["perm"].as_ints())
    return 1 if perm == to_channels_first(len(perm)) else -1 if perm == to_channels_last(len(perm)) else 0


def _moves_nothing(value: Value, perm: Sequence[int]) -> bool:
    """Whether only axes of size 1 change places, so that both orders are the same in memory."""
    if value.shape is None or not all(isinstance(size, int) for size in value.shape[1:]):
        return False
    moved = [axis for axis in perm[1:] if value.shape[axis] != 1]
    return moved == sorted(moved)


def _permuting_node(value: Value, perm: Sequence[int], constants: Constants) -> Node:
    sizes = [] if value.shape is None else [value.shape[axis] for axis in perm]
    if _moves_nothing(value, perm):
        made = ir.node("Reshape", [value, constants(np.asarray([0, *sizes[1:]], np.int64))])
    else:
        made = ir.node("Transpose", [value], attributes={"perm": list(perm)})
    made.name = f"{value.name}_layout"
    made.outputs[0].type = value.type
    made.outputs[0].shape = ir.Shape(sizes) if sizes else None
    return made


def arrange(model: Model, constants: Constants) -> None:
    """Run the pass over the main graph and every body in it.

    Args:
        model: Shapes inferred as far as they can be.
        constants: Stores an array in the graph and returns its value.
    """
    graphs = [model.graph]
    graphs += [g for node in ir.traversal.RecursiveGraphIterator(model.graph) for g in _bodies(node)]
    for graph in graphs:
        LayoutPass(graph, constants).run()


def _bodies(node: Node) -> Iterator[Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
