"""Fourier transforms, as products with constant matrices of cosines and sines; sampling at given points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axis
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.values import is_constant, scalar

if TYPE_CHECKING:
    from torch import Tensor

_COMPLEX = 2
_MAX_GRID_RANK = 5


def _transform(x: Tensor, count: int, inverse: bool) -> Tensor:
    """Transform [..., N, 1 or 2] along N to its first `count` frequencies: [..., count, 2]."""
    size = x.shape[-2]
    turns = torch.remainder(torch.outer(torch.arange(size), torch.arange(count)), size)
    angles = turns.to(torch.float64) * ((1 if inverse else -1) * 2 * math.pi / size)
    cos, sin = (torch.cos(angles).to(x.dtype), torch.sin(angles).to(x.dtype))
    real = torch.select(x, -1, 0)
    parts = [torch.matmul(real, cos), torch.matmul(real, sin)]
    if x.shape[-1] == _COMPLEX:
        imaginary = torch.select(x, -1, 1)
        parts = [parts[0] - torch.matmul(imaginary, sin), parts[1] + torch.matmul(imaginary, cos)]
    result = torch.stack(parts, -1)
    return result / size if inverse else result


def _fit(x: Tensor, axis: int, size: int) -> Tensor:
    """Cut or zero-pad an axis."""
    have = x.shape[axis]
    if size <= have:
        return torch.narrow(x, axis, 0, size)
    return functional.pad(x, [*[0, 0] * (x.ndim - 1 - axis), 0, size - have])


def _dft(x: Tensor, length: Tensor | None, axis: int, inverse: bool, onesided: bool) -> Tensor:
    axis = positive_axis(axis, x.ndim)
    if inverse and onesided:
        return _real_inverse(x, length, axis)
    x = x if length is None else _fit(x, axis, scalar(length, "dft_length"))
    size = x.shape[axis]
    moved = torch.transpose(x, axis, x.ndim - 2)
    result = _transform(moved, size // 2 + 1 if onesided else size, inverse)
    return torch.transpose(result, axis, x.ndim - 2)


def _real_inverse(x: Tensor, length: Tensor | None, axis: int) -> Tensor:
    """The real signal [..., N, ..., 1] that has these first N // 2 + 1 frequencies; N is even unless it is given."""
    size = 2 * (x.shape[axis] - 1) if length is None else scalar(length, "dft_length")
    count = size // 2 + 1
    moved = torch.transpose(_fit(x, axis, count), axis, x.ndim - 2)
    turns = torch.remainder(torch.outer(torch.arange(count), torch.arange(size)), size)
    angles = turns.to(torch.float64) * (2 * math.pi / size)
    # Every frequency stands for its mirror image too, but for the first, and the last of an even length.
    twice = torch.tensor([1 if k in {0, size / 2} else 2 for k in range(count)]).reshape(-1, 1) / size
    cos, sin = ((wave * twice).to(x.dtype) for wave in (torch.cos(angles), torch.sin(angles)))
    made = torch.matmul(torch.select(moved, -1, 0), cos) - torch.matmul(torch.select(moved, -1, 1), sin)
    return torch.transpose(torch.unsqueeze(made, -1), axis, x.ndim - 2)


@op("DFT", 17)
def dft_17(x: Tensor, length: Tensor | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    """Discrete Fourier transform along an axis given as an attribute."""
    return _dft(x, length, axis, bool(inverse), bool(onesided))


@op("DFT", 20)
def dft(
    x: Tensor, length: Tensor | None = None, axis: Tensor | None = None, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Discrete Fourier transform along an axis given as an input."""
    return _dft(x, length, -2 if axis is None else scalar(axis, "axis"), bool(inverse), bool(onesided))


@op("STFT", 17)
def stft(
    signal: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None, *, onesided: int = 1
) -> Tensor:
    """Transforms of windows: [B, L, 1 or 2] to [B, frames, frequencies, 2]."""
    refuse_if(window is None and length is None, "neither window nor frame_length")
    size = window.shape[0] if window is not None else scalar(length, "frame_length")
    hop = scalar(step, "frame_step")
    frames = (signal.shape[1] - size) // hop + 1
    index = torch.arange(frames).reshape(-1, 1) * hop + torch.arange(size)
    cut = torch.index_select(signal, 1, index.reshape(-1))
    cut = torch.reshape(cut, [signal.shape[0], frames, size, signal.shape[2]])
    cut = cut if window is None else torch.mul(cut, torch.reshape(window, [size, 1]))
    return _transform(cut, size // 2 + 1 if onesided else size, inverse=False)


_GRID_MODES = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "nearest": "nearest",
    "cubic": "bicubic",
    "bicubic": "bicubic",
}


@op("GridSample", 16, 20, 22)
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """Values at the points of a grid, which is in -1..1."""
    refuse_if(mode not in _GRID_MODES, f"mode {mode}")
    refuse_if(not 4 <= x.ndim <= _MAX_GRID_RANK, f"rank {x.ndim}, torch has 4 and 5")  # noqa: PLR2004 - NCHW
    refuse_if(x.ndim == _MAX_GRID_RANK and "cubic" in mode, "cubic sampling in three dimensions")
    return functional.grid_sample(x, grid, _GRID_MODES[mode], padding_mode, bool(align_corners))


@op("AffineGrid", 20)
def affine_grid(theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    """The grid that an affine map makes of an image of a known size."""
    refuse_if(not is_constant(size), "size must be known at import time")
    return functional.affine_grid(theta, size.tolist(), bool(align_corners))
