"""Computing dynamic sizes in the graph: torch's expressions on sizes as calls of Python's own operators."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, Protocol

import sympy
import torch
from torch import fx
from torch.utils._sympy import functions as rules

from hub_onnxgraph import Refused


class NodeMaker(Protocol):
    """What is needed of the graph's builder."""

    def symbol_node(self, symbol: sympy.Symbol) -> fx.Node:
        """Return the node that reads a symbol's value off a tensor."""

    def proxy(self, node: fx.Node) -> Any:
        """Wrap a node."""

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Record a call."""


# Expression -> function of its parts; sizes are never negative, so that all kinds of remainder are the same.
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    sympy.Add: operator.add,
    sympy.Mul: operator.mul,
    sympy.Eq: operator.eq,
    sympy.Ne: operator.ne,
    sympy.Lt: operator.lt,
    sympy.Le: operator.le,
    sympy.Gt: operator.gt,
    sympy.Ge: operator.ge,
    sympy.And: operator.and_,
    sympy.Or: operator.or_,
    rules.FloorDiv: operator.floordiv,
    rules.CleanDiv: operator.floordiv,
    rules.Mod: operator.mod,
    rules.PythonMod: operator.mod,
    rules.Max: torch.sym_max,
    rules.Min: torch.sym_min,
    rules.Where: torch.sym_ite,
    rules.IntTrueDiv: operator.truediv,
    rules.FloatTrueDiv: operator.truediv,
    rules.ToFloat: torch.sym_float,
    rules.FloorToInt: math.floor,
    rules.CeilToInt: math.ceil,
    rules.PowByNatural: operator.pow,
    sympy.Not: torch.sym_not,
}
_TWO = 2  # the pieces of a choice: that of the condition, and the other
_FOLDED = {sympy.Add, sympy.Mul, sympy.And, sympy.Or, rules.Max, rules.Min}


class Recorder:
    """Writes expressions into one graph.

    Args:
        graph: The graph's builder.
        cache: What has been written already, by expression.
    """

    def __init__(self, graph: NodeMaker, cache: dict[sympy.Basic, Any]) -> None:
        self._graph = graph
        self._cache = cache

    def node_of(self, expression: sympy.Basic) -> Any:
        """Return the node that computes an expression; a number as it is.

        Raises:
            Refused: The expression has a part that is not implemented.
        """
        if expression.is_number or expression in {sympy.true, sympy.false}:
            if expression in {sympy.true, sympy.false}:
                return bool(expression)
            return int(expression) if expression.is_Integer else float(expression)
        if expression not in self._cache:
            self._cache[expression] = self._new(expression)
        return self._cache[expression]

    def _new(self, expression: sympy.Basic) -> Any:
        if expression.is_symbol:
            return self._graph.symbol_node(expression)
        if expression.func is sympy.Pow and expression.exp.is_Integer and expression.exp > 0:
            return self._call(operator.pow, [self.node_of(expression.base), int(expression.exp)])
        if expression.func is sympy.Piecewise and len(expression.args) == _TWO:
            (yes, condition), (no, _) = expression.args
            return self._call(torch.sym_ite, [self.node_of(part) for part in (condition, yes, no)])
        if expression.func not in _FUNCTIONS:
            raise Refused(f"size {expression} cannot be computed in the graph")
        parts = [self.node_of(part) for part in expression.args]
        function = _FUNCTIONS[expression.func]
        if expression.func in _FOLDED:
            return reduce(lambda a, b: self._call(function, [a, b]), parts)
        return self._call(function, parts)

    def _call(self, function: Callable[..., Any], parts: list[Any]) -> Any:
        if not any(isinstance(part, fx.Node) for part in parts):
            return function(*parts)
        wrapped = tuple(self._graph.proxy(part) if isinstance(part, fx.Node) else part for part in parts)
        return self._graph.create_proxy("call_function", function, wrapped, {}).node
