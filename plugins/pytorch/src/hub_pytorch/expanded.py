"""Operators that the exporters have no counterpart for, in operators that they have: exactly, but for rounding."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

from hub.spec import Remark, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    Function = Callable[..., torch.Tensor]


def _running(x: torch.Tensor, dim: int, joined: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Everything up to each place, joined: in log2(n) steps, each joining with what stands twice as far before.

    Raises:
        UnsupportedModel: The dimension is open, so that the number of steps would be the example's.
    """
    import torch

    step, size = 1, x.shape[dim]
    if not isinstance(size, int):
        raise UnsupportedModel(
            f"a running maximum, minimum or logarithm of sums along dimension {dim}, whose size {size} is open: "
            "it is written out in as many steps as its size asks for",
            hint="fix that size of the input: --shape NAME=... (`hub inspect` names the inputs)",
        )
    while step < size:
        first, rest = x.narrow(dim, 0, step), x.narrow(dim, step, size - step)
        x = torch.cat([first, joined(rest, x.narrow(dim, 0, size - step))], dim)
        step *= 2
    return x


def _cummax(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return _extreme(x, dim, torch.maximum)


def _cummin(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Not the maximum of -x: the smallest integer has no negative, and unsigned ones have none at all.
    import torch

    return _extreme(x, dim, torch.minimum)


def _extreme(
    x: torch.Tensor, dim: int, joined: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of equal elements the last one is named, as PyTorch does."""
    import torch

    if not x.dim():
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    found = _running(x, dim, joined)
    # In 32 bits: LiteRT Torch gives the maximum of 64-bit integers in 32.
    places = torch.arange(x.shape[dim], dtype=torch.int32).reshape(
        [-1 if i == dim % x.dim() else 1 for i in range(x.dim())]
    )
    reached = torch.where(x == found, places, torch.zeros_like(places))
    return found, _running(reached, dim, torch.maximum).to(torch.int64)


def _logcumsumexp(x: torch.Tensor, dim: int) -> torch.Tensor:
    import torch

    def joined(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        # Equal infinities have a difference that is no number.
        apart = torch.where(a == b, torch.zeros_like(a), torch.abs(a - b))
        return torch.maximum(a, b) + torch.log1p(torch.exp(-apart))

    return _running(x, dim, joined) if x.dim() else x.clone()


def _to_even(x: torch.Tensor) -> torch.Tensor:
    """Rounded, halves to even numbers, by floors: TFLite's reference kernels have no rounding."""
    import torch

    low = torch.floor(x)
    part, odd = x - low, low - 2 * torch.floor(low * 0.5)
    return torch.where((part > 0.5) | ((part == 0.5) & (odd == 1)), low + 1, low)  # noqa: PLR2004 - a half


def _rounded(
    x: torch.Tensor,
    scale: float | torch.Tensor,
    zero: float | torch.Tensor,
    low: int,
    high: int,
    nearest: Function | None = None,
) -> torch.Tensor:
    """To the nearest of the numbers that integers from low to high stand for."""
    import torch

    steps = (nearest or torch.round)(x * (1.0 / scale))
    return (torch.clamp(steps + zero, low, high) - zero) * scale


def _fake_quantized(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, low: int, high: int, nearest: Function | None = None
) -> torch.Tensor:
    return _rounded(x, scale, zero.to(x.dtype), low, high, nearest)


def _fake_quantized_channels(  # noqa: PLR0913, PLR0917 - as above
    x: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    axis: int,
    low: int,
    high: int,
    nearest: Function | None = None,
) -> torch.Tensor:
    shape = [-1 if i == axis % x.dim() else 1 for i in range(x.dim())]
    return _rounded(x, scale.reshape(shape), zero.to(x.dtype).reshape(shape), low, high, nearest)


def _by_floors(function: Function) -> Function:
    """The same without an operation that rounds."""

    @wraps(function)
    def call(*arguments: torch.Tensor | float) -> torch.Tensor:
        return function(*arguments, nearest=_to_even)

    return call


def _sorted(
    x: torch.Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """ONNX's TopK is stable: of equal elements the lower index comes first."""
    import torch

    del stable
    return torch.sort(x, dim=dim, descending=descending)


def _order(x: torch.Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> torch.Tensor:
    return _sorted(x, stable=stable, dim=dim, descending=descending)[1]


EXPANDED: dict[str, Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]] = {
    "aten.cummax.default": _cummax,
    "aten.cummin.default": _cummin,
    "aten.fake_quantize_per_channel_affine.default": _fake_quantized_channels,
    "aten.fake_quantize_per_tensor_affine.default": _rounded,
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": _fake_quantized,
}
"""Operators that neither torch.onnx nor LiteRT Torch knows."""

FOR_ONNX = {**EXPANDED, "aten.sort.stable": _sorted, "aten.argsort.stable": _order}
FOR_LITERT = {
    **EXPANDED,
    "aten.fake_quantize_per_channel_affine.default": _by_floors(_fake_quantized_channels),
    "aten.fake_quantize_per_tensor_affine.default": _by_floors(_rounded),
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": _by_floors(_fake_quantized),
    "aten.logcumsumexp.default": _logcumsumexp,
    "aten.round.default": _to_even,
}


def expand_in(graph_module: torch.fx.GraphModule) -> tuple[Remark, ...]:
    """Write out what LiteRT Torch has no lowering for, in place."""
    found = [node for node in graph_module.graph.nodes if str(node.target) in FOR_LITERT]
    names = sorted({_word(str(node.target)) for node in found})
    for node in found:
        node.target = FOR_LITERT[str(node.target)]
    return _note(names)


def expanded(exported: torch.export.ExportedProgram) -> tuple[torch.export.ExportedProgram, tuple[Remark, ...]]:
    """The program with what torch.onnx does not know written out; itself where there is nothing of it."""
    found = {
        node.target: FOR_ONNX[str(node.target)]
        for module in exported.graph_module.modules()
        for node in getattr(getattr(module, "graph", None), "nodes", ())
        if str(node.target) in FOR_ONNX
    }
    if not found:
        return exported, ()
    return exported.run_decompositions(found), _note(sorted({_word(str(target)) for target in found}))


def _word(target: str) -> str:
    return target.removeprefix("aten.").partition(".")[0]


def _note(names: list[str]) -> tuple[Remark, ...]:
    text = f"wrote out in other operators: {', '.join(names)}"
    return (Remark("note", "operators-written-out", text),) if names else ()
