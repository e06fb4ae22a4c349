"""From a node of a torch.fx graph to the Python expression that a person would write for it."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from hub.spec import UnsupportedModel
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
}
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
    arguments = tuple(value_text(item, texts) for item in node.args)
    keywords = tuple(named(name, value_text(item, texts)) for name, item in node.kwargs.items())
    if node.op == "call_method":
        return call(f"{flat(arguments[0])}.{node.target}", (*arguments[1:], *keywords))
    special = _SPECIAL.get(getattr(node.target, "__name__", ""))
    if special and not keywords and is_plain(node.target):
        return special(node, arguments)
    return call(function_name(node.target), (*arguments, *keywords))


def is_plain(target: Any) -> bool:
    """Whether a target is torch's own function or operator's, not another module's of the same name."""
    import torch

    name = target.__name__
    return any(getattr(owner, name, None) is target for owner in (torch, operator)) or target is getattr


def _infix(node: fx.Node, arguments: tuple[Expression, ...]) -> Expression:
    sign = _SIGNS[node.target.__name__]  # type: ignore[union-attr]  # a function
    return f"{_operand(arguments[0])} {sign} {_operand(arguments[1])}"


def _operand(item: Expression) -> str:
    text = flat(item)
    return f"({text})" if text.startswith("-") else text


def _power(node: fx.Node, arguments: tuple[Expression, ...]) -> Expression:
    del node
    return f"{_operand(arguments[0])}**{_operand(arguments[1])}"


def _negated(node: fx.Node, arguments: tuple[Expression, ...]) -> Expression:
    del node
    return f"-{_operand(arguments[0])}"


def _indexed(node: fx.Node, arguments: tuple[Expression, ...]) -> Expression:
    index = node.args[1]
    items = index if isinstance(index, tuple) else (index,)
    if isinstance(index, tuple) and not index:
        return f"{flat(arguments[0])}[()]"
    inner = arguments[1].items if isinstance(index, tuple) else (arguments[1],)  # type: ignore[union-attr]  # a tuple's
    written = [_slice(item, text) for item, text in zip(items, inner, strict=True)]
    return f"{flat(arguments[0])}[{', '.join(written)}]"


def _slice(item: Any, text: Expression) -> str:
    if not isinstance(item, slice):
        return flat(text)
    start, stop, step = ("" if flat(part) == "None" else flat(part) for part in text.items)  # type: ignore[union-attr]
    return f"{start}:{stop}" if step in {"", "1"} else f"{start}:{stop}:{step}"


def _attribute(node: fx.Node, arguments: tuple[Expression, ...]) -> Expression:
    return f"{flat(arguments[0])}.{node.args[1]}"


_SPECIAL: dict[str, Callable[[fx.Node, tuple[Expression, ...]], Expression]] = {
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


def value_text(value: Any, texts: Texts) -> Expression:
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


def literal(value: Any) -> str:
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
