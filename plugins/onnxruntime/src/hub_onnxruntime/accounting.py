"""Which operators of a file each node of the executed graph does the work of.

ONNX Runtime writes down the graph that it executes, and not how it came about. But its fusions keep the names of the
tensors at their border, and most rewrites keep the node's name. So: find out which tensor of the file each executed
tensor is, then walk the file's graph back from what a node gives, through tensors that no longer exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hub_onnxgraph.graphs import subgraphs
from hub_onnxgraph.numerics import operator_key

if TYPE_CHECKING:
    import onnx

REORDERS = frozenset({"ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"})
"""Nodes that ONNX Runtime adds to change a layout or a place, never a value."""

_MOVES = frozenset({*REORDERS, "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Identity"})
"""Where the file has no such node, ONNX Runtime put it around another one, and gave it that one's output."""

# The layout transformer names a node after its output (nchwc_transformer.cc); other rewrites append a token.
_RENAMED = re.compile(r"^(.+?)(?:_nchwc)?(?:/duplicated)?(?:_token_\d+)?$")
# Where QuantizeLinear and DequantizeLinear are moved over operators that only move values (qdq_propagation.cc).
_PROPAGATED = re.compile(r"^(.+)_(?:pre_q|q_to_dq|post_dq)$")
_FURTHEST = 6  # operators between the output of a fused convolution and the convolution: bias, sum, activation


class FlatGraph:
    """A graph with its subgraphs, flat: nodes in order, subgraphs before the node that holds them.

    Attributes:
        nodes: Without `Constant`.
        makers: Tensor -> index of the node that makes it.
        stored: Tensors in the file: initializers, and outputs of `Constant`.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.makers: dict[str, int] = {}
        self.stored: set[str] = set()
        self.named: dict[str, int] = {}
        self._add(graph)

    def _add(self, graph: onnx.GraphProto) -> None:
        self.stored |= {tensor.name for tensor in graph.initializer}
        self.stored |= {tensor.values.name for tensor in graph.sparse_initializer}
        for node in graph.node:
            for inner in subgraphs(node):
                self._add(inner)
            if node.op_type == "Constant":
                self.stored |= set(node.output)
                continue
            self.makers |= {name: len(self.nodes) for name in node.output if name}
            self.named.setdefault(node.name, len(self.nodes))
            self.nodes.append(node)

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Returns the node that makes a tensor; None for an input or a stored one."""
        index = self.makers.get(name)
        return None if index is None else self.nodes[index]

    def constants(self) -> set[int]:
        """Indexes of the nodes that compute from stored tensors only."""
        found: set[int] = set()
        known = set(self.stored)
        for index, node in enumerate(self.nodes):
            given = [name for name in node.input if name]
            if given and all(name in known for name in given) and not any(True for _ in subgraphs(node)):
                found.add(index)
                known |= set(node.output)
        return found


class Account(NamedTuple):
    """The file's operators, and what became of them.

    Attributes:
        covers: For each executed node, in order, indexes into `nodes`.
        nodes: The file's operators, constants not counted.
    """

    covers: list[tuple[int, ...]]
    nodes: list[onnx.NodeProto]

    def eliminated(self, executed: Sequence[int]) -> list[str]:
        """Operators of the file that none of these executed nodes stands for."""
        done = {index for place in executed for index in self.covers[place]}
        return [operator_key(node) for index, node in enumerate(self.nodes) if index not in done]

    def words(self, place: int) -> tuple[str, ...]:
        """What one executed node covers, in the file's words and order."""
        return tuple(operator_key(self.nodes[index]) for index in self.covers[place])


def account(file: onnx.GraphProto, executed: onnx.GraphProto) -> Account:
    """Settles the account of a file's graph (a GraphProto) against the executed one; every node has a name."""
    books = _Books(FlatGraph(file), FlatGraph(executed))
    return Account([books.covered(index) for index in range(len(books.executed.nodes))], books.file.nodes)


class _Books:
    """The two graphs and what their tensors have to do with each other."""

    def __init__(self, file: FlatGraph, executed: FlatGraph) -> None:
        self.file, self.executed = file, executed
        self.constant = file.constants()
        self.alias: dict[str, str] = {}
        for name in (*executed.makers, *executed.stored):
            match = _PROPAGATED.match(name)
            bare = match.group(1) if match and name not in file.makers else name
            if bare in file.makers:
                self.alias[name] = bare
        for node in reversed(executed.nodes):
            # A tensor that a node takes where its original takes another one is that one.
            if self._is_added(node):
                pairs = list(zip(node.input, (self.alias.get(name, name) for name in node.output), strict=False))
            else:
                original = self.anchor(node)
                pairs = _operands(node, original) if original is not None else []
            for mine, theirs in pairs:
                if mine and mine not in self.executed.stored and theirs in self.file.makers:
                    self.alias.setdefault(mine, self._as_taken(mine, theirs))
        for node in executed.nodes:
            self._from_name(node)
        self.existing = set(self.alias.values())

    def anchor(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Returns the file's node of the same type that an executed node was made of, where a name tells."""
        makers = (self.file.maker(name) for name in node.output)
        named = self._named(node.name)
        candidates = [*makers, *named]
        return next((item for item in candidates if item is not None and _is_form_of(node, item)), None)

    def _is_added(self, node: onnx.NodeProto) -> bool:
        return node.op_type in REORDERS or (node.op_type in _MOVES and self.anchor(node) is None)

    def _named(self, name: str) -> Iterator[onnx.NodeProto]:
        match = _RENAMED.match(name)
        bare = match.group(1) if match else name
        for word in (name, bare):
            if word in self.file.named:
                yield self.file.nodes[self.file.named[word]]
        maker = self.file.maker(bare)
        for _ in range(_FURTHEST):
            if maker is None:
                return
            yield maker
            maker = next((m for given in maker.input if (m := self.file.maker(given)) is not None), None)

    def _as_taken(self, mine: str, theirs: str) -> str:
        """The quantized tensor, where the file's node takes it dequantized and the executed one as it is."""
        dequantize, maker = self.file.maker(theirs), self.executed.maker(mine)
        while maker is not None and self._is_added(maker):
            maker = self.executed.maker(maker.input[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return theirs
        return theirs if maker is None or maker.op_type == "DequantizeLinear" else str(dequantize.input[0])

    def _from_name(self, node: onnx.NodeProto) -> None:
        """What a node gives is what its original gives, where no consumer said otherwise."""
        if self._is_added(node):
            given = self.alias.get(node.input[0], "")
            self.alias |= {name: given for name in node.output if given and name not in self.alias}
            return
        match = _RENAMED.match(node.name)
        original = self.anchor(node)
        theirs = list(original.output) if original is not None else []
        if match and match.group(1) in self.file.makers and match.group(1) != node.name:
            theirs = [match.group(1), *theirs[1:]]
        for mine, name in zip(node.output, theirs, strict=False):
            self.alias.setdefault(mine, name)

    def covered(self, index: int) -> tuple[int, ...]:
        """Returns the file's nodes whose work an executed node does."""
        node = self.executed.nodes[index]
        given = {self.alias.get(name, name) for name in node.input}
        roots = [self.alias[name] for name in node.output if name in self.alias]
        if set(roots) <= given:
            return ()
        found: set[int] = set()
        for root in roots:
            self._walk(root, node, given, found)
        return tuple(sorted(found))

    def _walk(self, name: str, node: onnx.NodeProto, given: set[str], found: set[int]) -> None:
        stack = [name]
        while stack:
            index = self.file.makers.get(stack.pop())
            if index is None or index in found:
                continue
            maker = self.file.nodes[index]
            found.add(index)
            for inner in (*self._inputs(maker, node), *self._branch(maker, node)):
                made = self.file.makers.get(inner)
                folded = made in self.constant and not given & set(self.file.nodes[made].input)
                if made is not None and inner not in self.existing and not folded:
                    stack.append(inner)

    def _inputs(self, maker: onnx.NodeProto, node: onnx.NodeProto) -> list[str]:
        """What a file's node takes, without what the executed node of the same type takes ready made."""
        if maker.op_type != node.op_type or len(maker.input) != len(node.input):
            return list(maker.input)
        pairs = zip(maker.input, node.input, strict=True)
        return [theirs for theirs, mine in pairs if mine not in self.executed.stored]

    def _branch(self, maker: onnx.NodeProto, node: onnx.NodeProto) -> list[str]:
        """For an `If` that was decided beforehand: the output of the branch whose last operator runs in its place."""
        if maker.op_type != "If" or node.op_type == "If":
            return []
        outputs = [value.name for graph in subgraphs(maker) for value in graph.output]
        made = [(name, self.file.maker(name)) for name in outputs]
        return [name for name, last in made if last is not None and last.op_type == node.op_type][:1]


def _is_form_of(node: onnx.NodeProto, original: onnx.NodeProto) -> bool:
    """Whether an executed node is a file's node as it is, in integers, or with an activation more or less."""
    kind = original.op_type
    return node.op_type in {kind, f"QLinear{kind}", f"Q{kind}"} or {kind, node.op_type} == {"Conv", "FusedConv"}


def _operands(node: onnx.NodeProto, original: onnx.NodeProto) -> list[tuple[str, str]]:
    """Pairs the tensors that an executed node computes with and those of its original.

    Integer operators take a scale and a zero point behind each operand (QLinearConcat before the first as well).
    """
    if not node.op_type.startswith("Q") or node.op_type == original.op_type:
        return list(zip(node.input, original.input, strict=False))
    first = 2 if node.op_type == "QLinearConcat" else 0
    return list(zip(node.input[first::3], original.input, strict=False))
