"""What numerics a quantized program computes in, told from its graph: from torch's operators for quantization."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hub.spec import Numerics, UnsupportedModel
from hub_torchprogram import LIBRARY

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
_BITS = {15: 4, 3: 2}  # of integers that are held in 8 bits, by the number of steps in their range
_MULTIPLY = ("conv", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "lstm", "gru", "rnn")
# Operators that only move values, so that what they give is as quantized as what they take.
_MOVES = frozenset({
    "t", "transpose", "permute", "view", "reshape", "expand", "squeeze", "unsqueeze", "slice", "select", "clone",
    "contiguous", "flatten", "_to_copy", "to", "narrow", "alias", "detach", "unflatten", "constant_pad_nd", "pad",
})  # fmt: skip


def quantized_numerics(exported: torch.export.ExportedProgram) -> Numerics | None:
    """The numerics of a quantized program; None for a program without quantized values.

    `int8` needs integers of 8 bits on both sides of every operator that multiplies; one in float makes it `int8-mixed`.
    """
    nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
    if not any(_namespace(node) == LIBRARY for node in nodes):
        return None
    constants = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind.name != "USER_INPUT"}
    words = Counter(_word(node, constants) for node in nodes if _operator(node).startswith(_MULTIPLY))
    tables = {
        _width(node.all_input_nodes[0], constants) for node in nodes if _operator(node) in {"embedding", "index_select"}
    }
    return _static(words, nodes) or (
        Numerics.INT4_WEIGHTS
        if words["int4-weights"] or tables & {"4 weight", "2 weight"}
        else (Numerics.INT8_WEIGHTS if words["int8-weights"] or "8 weight" in tables else None)
    )


def _namespace(node: torch.fx.Node) -> str:
    return str(node.target).partition(".")[0]


def _operator(node: torch.fx.Node) -> str:
    return str(node.target).split(".")[1] if "." in str(node.target) else ""


def _word(node: torch.fx.Node, constants: set[str]) -> str:
    """How an operator multiplies: `int8`, `int16x8`, `int8-weights`, `int4-weights` or `float`."""
    operands = [_width(item, constants) for item in _tensors(node)[:2]]
    weights = [width for width in operands if width.endswith("weight")]
    moving = {width for width in operands if not width.endswith("weight")}
    if moving <= {"8", "16"} and (weights or moving):
        return "int16x8" if "16" in moving else "int8"
    if not weights or moving - {"float"}:
        return "float"
    return f"int{'4' if weights[0] in {'4 weight', '2 weight'} else '8'}-weights"


def _tensors(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The operands of an operator that multiplies: the second and third of addmm, the weights of a recurrent layer."""
    from torch.fx import Node

    given = [item for item in node.args if isinstance(item, Node)]
    return given[1:] if _operator(node) in {"addmm", "baddbmm"} else given


def _width(node: torch.fx.Node, constants: set[str]) -> str:
    """`8`, `16`: integers computed at run time; `8 weight`, `4 weight`: constant ones; `float` for anything else."""
    node = _origin(node)
    if node.op != "call_function" or not _operator(node).startswith("dequantize"):
        return "float"
    low, high, dtype = _bounds(node)
    bits = _BITS.get(high - low, dtype.itemsize * 8)
    return f"{bits} weight" if _origin(node.all_input_nodes[0]).name in constants else str(bits)


def _bounds(node: torch.fx.Node) -> tuple[int, int, torch.dtype]:
    """quant_min, quant_max and dtype, which are the last positional arguments, but for the group form's.

    Raises:
        UnsupportedModel: One of them is computed when the program runs.
    """
    import torch

    values = [item for item in node.args if not isinstance(item, torch.fx.Node)]
    found = values[:3] if _operator(node).endswith("group") else values[-3:]
    low, high, dtype = (*found, None, None, None)[:3]
    if not (isinstance(low, int) and isinstance(high, int) and isinstance(dtype, torch.dtype)):
        raise UnsupportedModel(f"{node.name} ({node.target}) does not say its integers' range and type")
    return low, high, dtype


def _origin(node: torch.fx.Node) -> torch.fx.Node:
    while node.op == "call_function" and _operator(node) in _MOVES and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _static(words: Counter[str], nodes: list[torch.fx.Node]) -> Numerics | None:
    """Numerics of a program that quantizes its activations."""
    widths = set(_activations(nodes))
    if words["int8"]:
        return Numerics.INT8 if set(words) == {"int8"} else Numerics.INT8_MIXED
    if words["int16x8"] or 16 in widths:  # noqa: PLR2004 - bits
        return Numerics.INT16X8
    if widths:
        return Numerics.INT8_MIXED if words else Numerics.INT8
    return None


def _activations(nodes: list[torch.fx.Node]) -> Iterator[int]:
    for node in nodes:
        if _namespace(node) == LIBRARY and _operator(node).startswith("quantize"):
            yield _bounds(node)[2].itemsize * 8
