"""Laying out Python source: expressions as trees of brackets, lines broken where they are too long."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LINE_LENGTH = 88  # ruff's default
_STEP = 4


@dataclass(frozen=True, slots=True)
class Bracketed:
    """Items between brackets, such as a call's arguments; broken one item a line where they do not fit.

    Attributes:
        start: Text up to and with the opening bracket.
        items: What stands between.
        end: The closing bracket and what follows it.
        lonely: A single item needs a comma after it (a tuple).
        comma: What follows an item on a line of its own; nothing for parentheses around one expression.
    """

    start: str
    items: tuple[Expression, ...]
    end: str
    lonely: bool = False
    comma: str = ","


Expression = str | Bracketed


def flat(expression: Expression) -> str:
    """An expression on one line."""
    return expression if isinstance(expression, str) else f"{expression.start}{_inside(expression)}{expression.end}"


def _inside(expression: Bracketed) -> str:
    comma = "," if expression.lonely and len(expression.items) == 1 else ""
    return f"{expression.comma} ".join(map(flat, expression.items)) + comma


def lines_of(expression: Expression, indent: int, before: str = "", after: str = "") -> list[str]:
    """An expression as lines.

    Args:
        expression: What to lay out.
        indent: Spaces in front of the first line.
        before: Text in front of it on the first line, such as `x = `.
        after: Text behind it on the last line, such as a comma.

    Returns:
        Lines of at most `LINE_LENGTH` characters wherever a bracket can be broken.
    """
    line = f"{' ' * indent}{before}{flat(expression)}{after}"
    if isinstance(expression, str) or not expression.items or len(line) <= LINE_LENGTH:
        return [line]
    inner = [f"{' ' * (indent + _STEP)}{_inside(expression)}"]
    if len(inner[0]) > LINE_LENGTH:
        inner = [text for item in expression.items for text in lines_of(item, indent + _STEP, after=expression.comma)]
    return [f"{' ' * indent}{before}{expression.start}", *inner, f"{' ' * indent}{expression.end}{after}"]


def call(function: str, arguments: Iterable[Expression]) -> Bracketed:
    """A call."""
    return Bracketed(f"{function}(", tuple(arguments), ")")


def listed(items: Iterable[Expression]) -> Bracketed:
    """A list."""
    return Bracketed("[", tuple(items), "]")


def tupled(items: Iterable[Expression]) -> Bracketed:
    """A tuple."""
    return Bracketed("(", tuple(items), ")", lonely=True)


def named(name: str, value: Expression) -> Expression:
    """A keyword argument."""
    if isinstance(value, str):
        return f"{name}={value}"
    return Bracketed(f"{name}={value.start}", value.items, value.end, value.lonely, value.comma)


def parenthesised(value: str) -> Bracketed:
    """An expression that may be put on a line of its own."""
    return Bracketed("(", (value,), ")", comma="")


def text(content: str, width: int) -> Expression:
    """A string literal; a long one in pieces, in parentheses."""
    if len(content) <= width:
        return double_quoted(content)
    words = re.findall(r"\S*\s*", content)
    pieces = [""]
    for word in words:
        if len(pieces[-1]) + len(word) > width:
            pieces.append("")
        pieces[-1] += word
    return Bracketed("(", tuple(double_quoted(piece) for piece in pieces if piece), ")", comma="")


def double_quoted(content: str) -> str:
    """A string literal in ASCII, with double quotes where that needs no escape; nothing in it can end it."""
    written = ascii(content)
    return f'"{written[1:-1]}"' if written[0] == "'" and '"' not in written else written
