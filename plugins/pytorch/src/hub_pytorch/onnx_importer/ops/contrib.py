"""ONNX Runtime's own operators, which its transformer optimizer writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.registry import op

if TYPE_CHECKING:
    from torch import Tensor

_DOMAIN = "com.microsoft"


@op("Gelu", 1, domain=_DOMAIN)
def gelu(x: Tensor) -> Tensor:
    """Exact GELU."""
    return functional.gelu(x)


@op("BiasGelu", 1, domain=_DOMAIN)
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Exact GELU of a sum."""
    return functional.gelu(torch.add(x, bias))


@op("FastGelu", 1, domain=_DOMAIN)
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU by tanh, of a sum."""
    return functional.gelu(x if bias is None else torch.add(x, bias), approximate="tanh")


@op("QuickGelu", 1, domain=_DOMAIN)
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    """GELU by the logistic function."""
    return torch.mul(x, torch.sigmoid(x * alpha))


@op("FusedMatMul", 1, domain=_DOMAIN)
def fused_matmul(a: Tensor, b: Tensor, *, alpha: float = 1.0, transA: int = 0, transB: int = 0) -> Tensor:  # noqa: N803
    """Product of matrices, transposed on demand, times alpha."""
    a = torch.transpose(a, -1, -2) if transA and a.ndim > 1 else a
    b = torch.transpose(b, -1, -2) if transB and b.ndim > 1 else b
    product = torch.matmul(a, b)
    return product if math.isclose(alpha, 1.0, rel_tol=0, abs_tol=0) else product * alpha


@op("SkipLayerNormalization", 1, domain=_DOMAIN)
def skip_layer_normalization(
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Tensor | None, ...]:
    """Layer normalization of a sum over the last axis; the sum is the fourth output."""
    total = torch.add(x, skip) if bias is None else torch.add(torch.add(x, skip), bias)
    return functional.layer_norm(total, [x.shape[-1]], scale, beta, epsilon), None, None, total
