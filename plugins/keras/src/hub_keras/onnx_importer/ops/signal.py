"""Fourier transforms as products with constant matrices of cosines and sines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import cast, number, size_of
from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.graph import KerasGraph
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, fixed, graph_of, is_constant, plain, scalar, value_of
from hub_onnxgraph import Refused, refuse_if
from hub_onnxgraph.tensors import positive_axis

if TYPE_CHECKING:
    from keras import KerasTensor

_COMPLEX = 2


def _waves(rows: int, columns: int, around: int, dtype: str) -> tuple[Array, Array]:
    """Cosines and sines [rows, columns] of so many steps around the circle, negative for backwards; exact to dtype."""
    turns = np.outer(np.arange(rows), np.arange(columns)) % abs(around)
    angles = turns * (2 * math.pi / around)
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def _transform(graph: KerasGraph, x: KerasTensor, count: int, *, inverse: bool) -> KerasTensor:
    """Transform [..., N, 1 or 2] along N to its first `count` frequencies: [..., count, 2]."""
    size, dtype = int(x.shape[-2]), str(x.dtype)
    cos, sin = (graph.constant(wave) for wave in _waves(size, count, size if inverse else -size, dtype))
    real = x[(..., 0)]
    parts = [ops.matmul(real, cos), ops.matmul(real, sin)]
    if x.shape[-1] == _COMPLEX:
        imaginary = x[(..., 1)]
        parts = [
            ops.subtract(parts[0], ops.matmul(imaginary, sin)),
            ops.add(parts[1], ops.matmul(imaginary, cos)),
        ]
    result = ops.stack(parts, axis=-1)
    return ops.divide(result, np.asarray(size, dtype)) if inverse else result


def _fit(x: KerasTensor, axis: int, size: int) -> KerasTensor:
    """Cut or zero-pad an axis."""
    have = int(x.shape[axis])
    if size <= have:
        return x[tuple([slice(None)] * axis + [slice(0, size)])]
    return ops.pad(x, [(0, size - have if i == axis else 0) for i in range(len(x.shape))])


def _dft(x: KerasValue, length: Item | None, axis: int, *, inverse: bool, onesided: bool) -> KerasValue:
    where = positive_axis(axis, x.ndim)
    size_of(x, where, "DFT")
    if inverse and onesided:
        return _real_inverse(x, length, where)
    tensor = x.plain() if length is None else _fit(x.plain(), where, number(scalar(length, "dft_length"), "dft_length"))
    size = int(tensor.shape[where])
    last = x.ndim - 2
    moved = ops.swapaxes(tensor, where, last) if where != last else tensor
    result = _transform(x.graph, moved, size // 2 + 1 if onesided else size, inverse=inverse)
    return x.made(ops.swapaxes(result, where, last) if where != last else result)


def _real_inverse(x: KerasValue, length: Item | None, where: int) -> KerasValue:
    """The real signal [..., N, ..., 1] that has these first N // 2 + 1 frequencies; N is even unless it is given."""
    tensor, last = x.plain(), x.ndim - 2
    have = 2 * (int(tensor.shape[where]) - 1)
    size = have if length is None else number(scalar(length, "dft_length"), "dft_length")
    count = size // 2 + 1
    fitted = ops.swapaxes(_fit(tensor, where, count), where, last)
    # Every frequency stands for its mirror image too, but for the first, and the last of an even length.
    twice = np.asarray([1 if k in {0, size / 2} else 2 for k in range(count)])[:, None] / size
    cos, sin = ((wave * twice).astype(x.dtype) for wave in _waves(count, size, size, "float64"))
    products = [ops.matmul(fitted[(..., i)], x.graph.constant(wave)) for i, wave in enumerate((cos, sin))]
    made = ops.expand_dims(ops.subtract(*products), axis=-1)
    return x.made(ops.swapaxes(made, where, last))


@op("DFT", 17)
def dft_17(
    x: KerasValue, length: Item | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> KerasValue:
    """Discrete Fourier transform along an axis given as an attribute."""
    return _dft(x, length, axis, inverse=bool(inverse), onesided=bool(onesided))


@op("DFT", 20)
def dft(
    x: KerasValue, length: Item | None = None, axis: Item | None = None, *, inverse: int = 0, onesided: int = 0
) -> KerasValue:
    """Discrete Fourier transform along an axis given as an input."""
    where = -2 if axis is None else int(scalar(axis, "axis"))
    return _dft(x, length, where, inverse=bool(inverse), onesided=bool(onesided))


@op("STFT", 17)
def stft(
    signal: Item, step: Item, window: Item | None = None, length: Item | None = None, *, onesided: int = 1
) -> KerasValue:
    """Transforms of windows: [B, L, 1 or 2] to [B, frames, frequencies, 2]."""
    graph = graph_of(signal, window)
    value = value_of(graph, signal)
    if window is not None:
        size = fixed(window, 0)
    elif length is not None:
        size = number(scalar(length, "frame_length"), "frame_length")
    else:
        raise Refused("neither window nor frame_length")
    hop = number(scalar(step, "frame_step"), "frame_step")
    frames = (size_of(value, 1, "STFT") - size) // hop + 1
    index = np.arange(frames)[:, None] * hop + np.arange(size)
    cut = ops.take(value.plain(), index.astype("int32"), axis=1)
    if window is not None:
        cut = ops.multiply(cut, ops.reshape(cast(plain(graph, window), value.dtype), [size, 1]))
    return value.made(_transform(graph, cut, size // 2 + 1 if onesided else size, inverse=False))


@op("MelWeightMatrix", 17)
def mel_weight_matrix(bins: Item, length: Item, rate: Item, low: Item, high: Item, *, output_datatype: int = 1) -> None:
    """A matrix of known parameters is computed at once and never gets here."""
    del output_datatype
    computed = [not is_constant(item) for item in (bins, length, rate, low, high)]
    refuse_if(any(computed), "its parameters must be known at import time")
