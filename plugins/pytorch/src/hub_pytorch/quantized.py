"""Quantized ONNX -> PyTorch: QuantizeLinear and DequantizeLinear become torch's own operators, weights stay integers.

The importer alone would compute the real values of quantized weights at once, and write the rest as arithmetic. Here
they become `quantized_decomposed`, the operators that PyTorch's own quantization puts into exported programs, which
torch.onnx turns back into QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import onnx
import torch

from hub_onnxgraph import Operator
from hub_onnxgraph.tensors import positive_axis
from hub_pytorch.onnx_importer import narrow
from hub_pytorch.onnx_importer.interpreter import TorchImporter
from hub_torchprogram import register_operators

_MATRIX = 2


class QuantizedGrid(NamedTuple):
    """How integers stand for reals; `None` for the parts that do not fit torch's operators.

    Attributes:
        scale: float32, a constant.
        zero: In the integers' type, a constant of the same shape.
        low: The smallest integer.
        high: The largest.
        axis: Of the values, along which a scale of rank 1 runs.
        block: How many values along the axis share a scale; 0 for all.
    """

    scale: Any
    zero: Any
    low: int
    high: int
    axis: int
    block: int

    @property
    def is_single(self) -> bool:
        """Whether one scale is for all."""
        return bool(self.scale.numel() == 1) and not self.block


class QuantizedImporter(TorchImporter):
    """Translates one quantized model. Use once."""

    def call(self, row: Operator, arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """Keep quantization as torch's operators; compute everything else as the importer does."""
        kept = _KEPT.get(row.name) if not row.domain else None
        result = kept(self, arguments, attributes) if kept else None
        return super().call(row, arguments, attributes) if result is None else result

    def value_of(self, x: Any) -> Any:
        """A value of the graph, also for a constant."""
        return self._builder.constant(x) if isinstance(x, torch.Tensor) else x

    def record(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Record a call of one of torch's operators for quantization."""
        target = getattr(torch.ops.quantized_decomposed, name).default
        return self._builder.create_proxy("call_function", target, arguments, options)


def import_quantized(model: onnx.ModelProto, folder: str = "") -> Any:
    """Translate a quantized ONNX model. Arguments, result and errors as `onnx_importer.import_onnx`."""
    register_operators()
    return QuantizedImporter(model, folder).run()


def _grid(x: Any, integers: Any, scale: Any, zero: Any, attributes: dict[str, Any]) -> QuantizedGrid | None:
    """The grid of a node; None where it is computed at run time, or its integers have no operator in torch."""
    known = isinstance(scale, torch.Tensor) and isinstance(zero, torch.Tensor)
    if not known or scale.dtype != torch.float32 or zero.dtype.is_floating_point:
        return None
    low, high = narrow.limits(zero.dtype, narrow.kind_of(integers))
    axis = positive_axis(attributes.get("axis", 1), x.ndim) if scale.numel() > 1 else 0
    return QuantizedGrid(scale, zero, low, high, axis, attributes.get("block_size", 0))


def _quantize(importer: QuantizedImporter, arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """QuantizeLinear of what is computed; a constant is quantized at once."""
    x, scale, zero = (*arguments, None)[:3]
    grid = None if isinstance(x, torch.Tensor) else _grid(x, zero, scale, zero, attributes)
    if grid is None or grid.block or x.dtype != torch.float32 or attributes.get("precision"):
        return None
    bounds = (grid.low, grid.high, grid.zero.dtype)
    if grid.is_single:
        result = importer.record("quantize_per_tensor", x, float(grid.scale), int(grid.zero), *bounds)
    else:
        result = importer.record("quantize_per_channel", x, grid.scale, _wide(grid.zero), grid.axis, *bounds)
    kind = narrow.kind_of(zero)
    return result if kind is None else narrow.marked(result, kind)


def _dequantize(importer: QuantizedImporter, arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """DequantizeLinear; a constant stays in integers."""
    x, scale, zero = (*arguments, None)[:3]
    zero = torch.zeros_like(scale, dtype=x.dtype) if zero is None and isinstance(scale, torch.Tensor) else zero
    grid = None if x.dtype.is_floating_point else _grid(x, x, scale, zero, attributes)
    if grid is None or attributes.get("output_dtype", 1) not in {0, 1}:
        return None
    if grid.block:
        if not isinstance(x, torch.Tensor) or x.ndim != _MATRIX or x.shape[grid.axis] % grid.block:
            return None
        turned = grid.axis == 0
        values, scales, zeros = (
            tensor.t().contiguous() if turned else tensor for tensor in (x, grid.scale, _wide(grid.zero))
        )
        ranges = (grid.low, grid.high, x.dtype, grid.block, torch.float32)
        real = importer.record("dequantize_per_channel_group", importer.value_of(values), scales, zeros, *ranges)
        return torch.t(real) if turned else real
    value, bounds = importer.value_of(x), (grid.low, grid.high, x.dtype)
    if grid.is_single:
        return importer.record("dequantize_per_tensor", value, float(grid.scale), int(grid.zero), *bounds)
    return importer.record("dequantize_per_channel", value, grid.scale, _wide(grid.zero), grid.axis, *bounds)


def _wide(zero: Any) -> Any:
    return zero.to(torch.int32)


_KEPT: dict[str, Callable[[QuantizedImporter, tuple[Any, ...], dict[str, Any]], Any]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
