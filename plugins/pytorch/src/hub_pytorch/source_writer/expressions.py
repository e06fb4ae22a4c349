"""From a node of a torch.fx graph to the Python expression that a person would write for it."""

from __future__ import annotations

import inspect
import math
import operator
from typing import TYPE_CHECKING, Any

from hub.spec import UnsupportedModel
from hub_pytorch.source_writer import facts
from hub_pytorch.source_writer.layout import Expression, call, flat, listed, named, text, tupled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import fx

    Texts = Mapping[fx.Node, str]

# Functions of two arguments that have a sign. `operator` computes sizes, `torch` tensors; the sign does both.
_SIGNS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "truediv": "/",
    "floordiv": "//",
    "mod": "%",
    "matmul": "@",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and_": "&",
    "or_": "|",
}
_POOLING = {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
_MESSAGE = 60  # characters of a string on one line
_BUILTINS = frozenset({"max", "min", "float", "int", "getattr"})


def expression(node: fx.Node, texts: Texts) -> Expression:
    """The expression that computes a node.

    Args:
        node: A `call_function` or `call_method` node.
        texts: What stands for each node before it.

    Raises:
        UnsupportedModel: It calls something that has no public name in torch.
    """
    given = {name: item for name, item in node.kwargs.items() if not _is_default(node, name, item)}
    special = _SPECIAL.get(getattr(node.target, "__name__", "")) if node.op == "call_function" else None
    if special and not given and is_plain(node.target):
        return special(node, texts)
    arguments = tuple(value_text(item, texts) for item in node.args)
    keywords = tuple(named(name, value_text(item, texts)) for name, item in given.items())
    if node.op == "call_method":
        return call(f"{flat(arguments[0])}.{node.target}", (*arguments[1:], *keywords))
    return call(function_name(node.target), (*arguments, *keywords))


def _is_default(node: fx.Node, name: str, value: object) -> bool:
    """Whether a keyword argument says what its function does anyway."""
    function = str(getattr(node.target, "__name__", ""))
    if "_pool" in function and name in _POOLING:  # torch hides the signatures of some of these
        sizes = value if isinstance(value, list | tuple) else [value]
        return all(size == _POOLING[name] for size in sizes)
    if not inspect.isfunction(node.target):
        return False
    known = inspect.signature(node.target).parameters.get(name)
    return name.startswith("_") or (
        known is not None and isinstance(value, type(known.default)) and known.default == value
    )


def is_plain(target: Any) -> bool:
    """Whether a target is torch's own function or operator's, not another module's of the same name."""
    import torch

    name = target.__name__
    return any(getattr(owner, name, None) is target for owner in (torch, operator)) or target is getattr


def _infix(node: fx.Node, texts: Texts) -> Expression:
    sign, (first, second) = _SIGNS[facts.called(node)], node.args
    if sign == "+" and isinstance(first, int | float) and first < 0:  # torch's own order in sizes: -1 + n
        return f"{_operand(second, texts)} - {literal(-first)}"
    return f"{_operand(first, texts)} {sign} {_operand(second, texts)}"


def _operand(item: object, texts: Texts) -> str:
    written = flat(value_text(item, texts))
    return f"({written})" if written.startswith("-") else written


def _power(node: fx.Node, texts: Texts) -> Expression:
    return f"{_operand(node.args[0], texts)}**{_operand(node.args[1], texts)}"


def _negated(node: fx.Node, texts: Texts) -> Expression:
    return f"-{_operand(node.args[0], texts)}"


def _indexed(node: fx.Node, texts: Texts) -> Expression:
    index = node.args[1]
    items = index if isinstance(index, tuple) else (index,)
    written = ", ".join(_index(item, texts) for item in items) or "()"
    return f"{_operand(node.args[0], texts)}[{written}]"


def _index(item: object, texts: Texts) -> str:
    if not isinstance(item, slice):
        return flat(value_text(item, texts))
    parts = ("" if part is None else flat(value_text(part, texts)) for part in (item.start, item.stop, item.step))
    start, stop, step = parts
    return f"{start}:{stop}" if step in {"", "1"} else f"{start}:{stop}:{step}"


def _attribute(node: fx.Node, texts: Texts) -> Expression:
    return f"{_operand(node.args[0], texts)}.{node.args[1]}"


_SPECIAL: dict[str, Callable[[fx.Node, Texts], Expression]] = {
    **dict.fromkeys(_SIGNS, _infix),
    "pow": _power,
    "neg": _negated,
    "getitem": _indexed,
    "getattr": _attribute,
}


def function_name(target: Any) -> str:
    """The public name of a function: `torch.cat`, `F.relu`, `torch.ops.aten.sym_size.int`, `max`.

    Raises:
        UnsupportedModel: It has none.
    """
    import torch

    name = getattr(target, "__name__", "")
    if isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket):  # noqa: SLF001 - the only name of the types
        return f"torch.ops.{str(target).replace('::', '.')}"
    for prefix, owner in (("F", torch.nn.functional), ("torch", torch)):
        if getattr(owner, name, None) is target:
            return f"{prefix}.{name}"
    if name in _BUILTINS and getattr(target, "__module__", "") == "builtins":
        return name
    if getattr(math, name, None) is target:
        return f"math.{name}"
    raise UnsupportedModel(f"the graph calls {target}, which has no public name to write in a source file")


def value_text(value: object, texts: Texts) -> Expression:
    """An argument as source text.

    Raises:
        UnsupportedModel: It is of a kind that has no text.
    """
    import torch
    from torch import fx

    if isinstance(value, fx.Node):
        return texts[value]
    if isinstance(value, list | torch.Size):
        return listed(value_text(item, texts) for item in value)
    if isinstance(value, tuple):
        return tupled(value_text(item, texts) for item in value)
    if isinstance(value, slice):
        return call("slice", (value_text(part, texts) for part in (value.start, value.stop, value.step)))
    return text(value, _MESSAGE) if isinstance(value, str) else literal(value)


def literal(value: object) -> str:
    """A constant other than a string as source text.

    Raises:
        UnsupportedModel: It is of a kind that has no text.
    """
    import torch

    if isinstance(value, float):
        return number(value)
    if value is None or isinstance(value, bool | int):
        return repr(value)
    if value is ...:
        return "..."
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    raise UnsupportedModel(f"the graph holds a {type(value).__name__} as an argument, which has no text")


def number(value: float) -> str:
    """A float as text; one that float32 holds exactly is written as short as float32 allows (0.1, not 0.100000001)."""
    import numpy as np

    if not math.isfinite(value):
        return f'float("{value}")'
    short = np.float32(value)
    return repr(float(str(short))) if float(short) == value else repr(value)
