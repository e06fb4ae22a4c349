"""Transposed convolutions in a form that TFLite has."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hub.spec import Remark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

_RANKS = {"conv_transpose1d": 1, "conv_transpose2d": 2, "conv_transpose3d": 3}


def rewrite_transposed(graph_module: torch.fx.GraphModule) -> tuple[Remark, ...]:
    """Rewrite transposed convolutions in place.

    TFLite's TRANSPOSE_CONV knows no padding but VALID (none) and SAME (output = input * stride). Any other transposed
    convolution is computed unpadded and then cropped, which is what padding means there (PyTorch, ConvTranspose2d:
    output size = (input - 1) * stride - 2 * padding + kernel + output_padding).

    Args:
        graph_module: The graph of an ExportedProgram's `module()`, before decomposition.

    Returns:
        A note; nothing when nothing was rewritten.
    """
    found = [node for node in graph_module.graph.nodes if _transposed_rank(node) and not _is_native(node)]
    for node in found:
        node.target = _unpadded(node.target, _transposed_rank(node))
    if not found:
        return ()
    text = f"rewrote {len(found)} transposed convolutions as unpadded ones, cropped after (TFLite has no padding)"
    return (Remark("note", "deconvolutions-rewritten", text),)


def _transposed_rank(node: torch.fx.Node) -> int:
    name = str(node.target).split(".")[1:2]
    return _RANKS.get(name[0], 0) if node.op == "call_function" and name else 0


def _argument(node: torch.fx.Node, index: int, name: str, default: int) -> list[int]:
    rank = _transposed_rank(node)
    given = node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
    value = cast("int | list[int]", given)  # as the operator's schema says
    return [*value] * (rank if len(value) == 1 else 1) if isinstance(value, list | tuple) else [value] * rank


def _is_native(node: torch.fx.Node) -> bool:
    stride, padding = _argument(node, 3, "stride", 1), _argument(node, 4, "padding", 0)
    extra, dilation = _argument(node, 5, "output_padding", 0), _argument(node, 7, "dilation", 1)
    kernel = _weight_shape(node)[2:]
    if any(extra) or any(step > 1 for step in dilation):
        return False
    same = all(size - 2 * pad == step for size, pad, step in zip(kernel, padding, stride, strict=True))
    return same or not any(padding) or all(step == 1 for step in stride)


def _weight_shape(node: torch.fx.Node) -> Sequence[int]:
    weight = node.all_input_nodes[1]
    if "val" in weight.meta:
        return [*weight.meta["val"].shape]
    owner: object = node.graph.owning_module
    for part in str(weight.target).split("."):
        owner = getattr(owner, part)
    return [*cast("torch.Tensor", owner).shape]


def _unpadded(operator: torch._ops.OpOverload, rank: int) -> Callable[..., torch.Tensor]:
    def conv_transpose(  # noqa: PLR0913, PLR0917 - the operator's own parameters
        tensor: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] = (0,),
        output_padding: Sequence[int] = (0,),
        groups: int = 1,
        dilation: Sequence[int] = (1,),
    ) -> torch.Tensor:
        import torch

        wide = _per_axis(stride, rank)
        dense = _dilated(weight, _per_axis(dilation, rank))
        full = operator(tensor, dense, None, wide, [0] * rank, [0] * rank, groups, [1] * rank)
        # The crop on the far side may be negative: output_padding beyond the padding adds positions without a product.
        low, extra = _per_axis(padding, rank), _per_axis(output_padding, rank)
        pads = [pad for axis in reversed(range(rank)) for pad in (-low[axis], extra[axis] - low[axis])]
        cropped = _crop_or_pad(full, pads, rank)
        return cropped if bias is None else cropped + torch.reshape(bias, (1, -1, *([1] * rank)))

    return conv_transpose


def _per_axis(value: Sequence[int], rank: int) -> list[int]:
    return [*value] * (rank if len(value) == 1 else 1)


def _crop_or_pad(tensor: torch.Tensor, pads: list[int], rank: int) -> torch.Tensor:
    import torch

    for axis in range(rank):
        low, high = pads[2 * (rank - 1 - axis) : 2 * (rank - 1 - axis) + 2]
        dim, size = axis + 2, tensor.shape[axis + 2]
        tensor = torch.narrow(tensor, dim, -low, size + low + min(high, 0))
    positive = [max(pad, 0) for pad in pads]
    return torch.nn.functional.pad(tensor, positive) if any(positive) else tensor


def _dilated(weight: torch.Tensor, dilation: list[int]) -> torch.Tensor:
    import torch

    for axis, step in enumerate(dilation):
        if step > 1:
            # Zeros between the taps: [.., n] -> [.., n, step] -> [.., n * step], without the zeros after the last tap.
            dim = axis + 2
            shape = [*weight.shape]
            spread = torch.nn.functional.pad(
                weight.unsqueeze(dim + 1), [0, 0] * ((weight.dim() - dim) - 1) + [0, (step - 1)]
            )
            shape[dim] *= step
            weight = spread.reshape(shape).narrow(dim, 0, shape[dim] - step + 1)
    return weight
