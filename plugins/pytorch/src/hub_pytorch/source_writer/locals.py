"""Names of a forward function's local variables."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from hub_pytorch.source_writer import facts
from hub_pytorch.source_writer.names import Names, identifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import fx

    from hub_pytorch.source_writer.statements import Statement

_CHAIN = "x"
_LONGEST = 24


class Locals:
    """Calls a value `x` while nothing else of that name is still needed, as a person would, else after its function.

    Args:
        names: Where names are taken from; those of the inputs are gone.
        statements: All statements in order.
        outputs: The nodes that are returned.
        inputs: Input -> its name.
        dims: Name of each input -> axis -> name of the dimension.
    """

    def __init__(
        self,
        names: Names,
        statements: Sequence[Statement],
        outputs: Sequence[fx.Node],
        inputs: Mapping[fx.Node, str],
        dims: Mapping[str, Mapping[int, str]],
    ) -> None:
        self._names = names
        self._holder = next((node for node, name in inputs.items() if name == _CHAIN), None)
        uses = [(node, index) for index, statement in enumerate(statements) for node in statement.uses]
        self._last = dict(uses) | dict.fromkeys(outputs, len(statements))
        self._uses = Counter(node for node, _ in uses)
        self._dims = dict(zip(inputs, dims.values(), strict=False))

    def used_once(self, node: fx.Node) -> bool:
        """Whether one statement alone reads a value."""
        return self._uses[node] == 1

    def name(self, index: int, node: fx.Node) -> str:
        """A name for the value of that node, which the statement at that index computes."""
        free = self._holder is None or self._last.get(self._holder, -1) <= index
        if free and facts.rank(node) is not None:
            self._holder = node
            return _CHAIN
        return self._names.take(identifier(self._base(node), "value")[:_LONGEST].strip("_"))

    def _base(self, node: fx.Node) -> str:
        """A size is called as its dimension in the ONNX file, a tensor after what computes it."""
        if facts.rank(node) is not None:
            return re.sub(r"_\d+$", "", node.name)
        owner, axis = (*node.args, None, None)[:2]
        if node.op != "call_method" or node.target != "size" or not facts.is_node(owner) or not isinstance(axis, int):
            return "size"
        return self._dims.get(owner, {}).get(axis, "size")
