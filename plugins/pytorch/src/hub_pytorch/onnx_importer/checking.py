"""Finding out which conditions on sizes matter: the graph's shapes are computed again at sizes that break them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, free_unbacked_symbols

from hub_onnxgraph import Refused
from hub_pytorch.onnx_importer.dimensions import Dimensions
from hub_pytorch.onnx_importer.sizes import is_symbolic

_SIZES = (1, 2, 3, 19, 4099)  # the smallest ones, and one larger than any that is checked otherwise


class Differs(Exception):
    """A tensor has another shape than the import found."""


class _Shapes(fx.Interpreter):
    """Runs a graph on tensors without data and compares each one's shape with what the import found."""

    def __init__(self, module: fx.GraphModule, sizes: Mapping[sympy.Basic, int]) -> None:
        super().__init__(module)
        self._sizes = sizes

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        expected = n.meta.get("val")
        if isinstance(expected, torch.Tensor) and [self._value(size) for size in expected.shape] != [
            self._value(have) if free else have
            for have, free in zip(result.shape, map(_unknown, expected.shape), strict=True)
        ]:
            raise Differs(str(n))
        return result

    def _value(self, size: Any) -> Any:
        if not is_symbolic(size):
            return size
        return None if _unknown(size) else int(size.node.expr.xreplace(self._sizes))


def _unknown(size: object) -> bool:
    return is_symbolic(size) and bool(free_unbacked_symbols(size))


def guards_that_matter(module: fx.GraphModule, dimensions: Dimensions) -> list[sympy.Basic]:
    """Return the conditions on sizes without which the graph is wrong, or may be.

    A condition that torch asked for only to choose a kernel, or a layout in memory, changes no shape where it fails.

    Args:
        module: The imported module, its nodes' `val` still there.
        dimensions: Its dynamic dimensions.
    """
    open_guards = [guard for guard in dimensions.guards if dimensions.may_not_matter(guard)]
    kept = [guard for guard in dimensions.guards if guard not in open_guards]
    if not open_guards or any(isinstance(n.target, torch._ops.HigherOrderOperator) for n in module.graph.nodes):  # noqa: SLF001 - their only name
        return dimensions.guards
    tried: set[sympy.Basic] = set()
    for sizes in _trials(dimensions):
        broken = [guard for guard in open_guards if not _holds(guard, sizes)]
        if not broken or not all(_holds(guard, sizes) for guard in kept):
            continue
        if _same_shapes(module, dimensions, sizes):
            tried.update(broken)
        else:
            kept += [guard for guard in broken if guard not in kept]
    return [guard for guard in dimensions.guards if guard in kept or guard not in tried]


def _trials(dimensions: Dimensions) -> Iterator[dict[sympy.Basic, int]]:
    usual = {dimensions.expression(name): size for name, size in dimensions.sizes.items()}
    for size in _SIZES:
        yield from ({**usual, symbol: size} for symbol in usual)
        yield dict.fromkeys(usual, size)


def _holds(guard: sympy.Basic, sizes: Mapping[sympy.Basic, int]) -> bool:
    return bool(guard.xreplace(sizes))


def _same_shapes(module: fx.GraphModule, dimensions: Dimensions, sizes: Mapping[sympy.Basic, int]) -> bool:
    """Whether the graph's shapes are those found, or the graph does not run at these sizes, and says so."""
    by_name = {name: sizes[dimensions.expression(name)] for name in dimensions.sizes}
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    with mode, torch.no_grad():
        inputs = []
        for node, axes in zip(nodes, dimensions.inputs.values(), strict=True):
            shape = [by_name[axes[i]] if i in axes else size for i, size in enumerate(node.meta["val"].shape)]
            inputs.append(torch.empty(shape, dtype=node.meta["val"].dtype))
        try:
            with _silent():
                _Shapes(module, sizes).run(*inputs)
        except Differs:
            return False
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, Refused):
            return True
    return True


@contextmanager
def _silent() -> Iterator[None]:
    """Torch logs each call that does not fit a size; here that is an answer."""
    logger = logging.getLogger(fake_tensor.__name__)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
