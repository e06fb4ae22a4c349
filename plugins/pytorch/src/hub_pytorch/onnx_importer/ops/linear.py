"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.registry import op

if TYPE_CHECKING:
    from torch import Tensor


@op("MatMul", 1, 9, 13)
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product with numpy's broadcasting."""
    return torch.matmul(a, b)


@op("Gemm", 7, 9, 11, 13)
def gemm(  # noqa: PLR0913 - the operator's own parameters
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """The sum alpha A B + beta C, the factors transposed on demand."""
    a = torch.t(a) if transA else a
    if transB and alpha == beta == 1.0 and (c is None or c.ndim == 1):
        return functional.linear(a, b, c)
    product = torch.matmul(a, torch.t(b) if transB else b)
    product = product if alpha == 1.0 else product * alpha
    if c is None:
        return product
    return torch.add(product, c if beta == 1.0 else c * beta)


@op("Einsum", 12, 28)
def einsum(*xs: Tensor, equation: str) -> Tensor:
    """Sum of products by Einstein's notation."""
    return torch.einsum(equation.replace(" ", ""), *xs)


@op("Det", 11, 22)
def det(x: Tensor) -> Tensor:
    """Determinant of square matrices."""
    return torch.det(x)
