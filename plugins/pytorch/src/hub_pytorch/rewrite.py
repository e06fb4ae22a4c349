"""Exact rewrites of a traced graph for what LiteRT's converter cannot take. Each one leaves a note."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hub.spec import Remark
from hub_pytorch.expanded import expand_in
from hub_pytorch.transposed import rewrite_transposed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch.fx.node import Argument

_PADS = {"reflection_pad": "reflect", "replication_pad": "replicate"}
_NAMED_PADDING = {f"aten.conv{rank}d.padding" for rank in (1, 2, 3)}
_RANDOM = ("aten.rand", "aten.normal", "aten.bernoulli", "aten.multinomial", "aten.empty", "aten.dropout")


def rewrite_for_litert(graph_module: torch.fx.GraphModule) -> tuple[Remark, ...]:
    """Rewrite a graph in place so that LiteRT Torch converts it to operators that every TFLite kernel set has.

    Args:
        graph_module: The graph of an ExportedProgram's `module()`, before decomposition.

    Returns:
        One note for each kind of rewrite.
    """
    notes = tuple(note for rewrite in _REWRITES for note in rewrite(graph_module))
    if notes:
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()
    return notes


def rewrite_pads(graph_module: torch.fx.GraphModule) -> tuple[Remark, ...]:
    """Turn padding by reflection or repetition into a gather with constant indices.

    LiteRT Torch computes the indices at run time, with integer operators that TFLite's reference kernels lack.
    """
    found = [(node, mode) for node in graph_module.graph.nodes if (mode := _pad_mode(node))]
    for node, mode in found:
        node.target, node.args, node.kwargs = _padded, (node.args[0], node.args[1], mode), {}
    if not found:
        return ()
    text = f"rewrote {len(found)} paddings by {found[0][1]} as gathers with constant indices"
    return (Remark("note", "paddings-rewritten", text),)


def _pad_mode(node: torch.fx.Node) -> str:
    if node.op != "call_function":
        return ""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    if name == "pad":
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")  # noqa: PLR2004 - its place
        pads = cast("list[int]", node.args[1])  # as the operator's schema says
        known = {"reflect", "replicate", "circular"} if min(pads) >= 0 else {"reflect", "replicate"}
        return mode if isinstance(mode, str) and mode in known else ""
    return _PADS.get(name.rstrip("123d"), "")


def _padded(tensor: torch.Tensor, pads: Sequence[int], mode: str) -> torch.Tensor:
    import torch

    for number in range(len(pads) // 2):
        dim = tensor.dim() - 1 - number
        places = pad_places(tensor.shape[dim], pads[2 * number], pads[2 * number + 1], mode)
        tensor = torch.index_select(tensor, dim, torch.tensor(places))
    return tensor


def pad_places(size: int, low: int, high: int, mode: str) -> list[int]:
    """Which element of an axis each element of the padded axis repeats (negative pads crop, but not in `circular`).

    `reflect` mirrors without repeating the edge, `replicate` repeats the edge, `circular` goes around, as
    torch.nn.functional.pad defines them.
    """
    places = range(-low, size + high)
    period = max(2 * (size - 1), 1)
    table: dict[str, Callable[[int], int]] = {
        "reflect": lambda place: min(place % period, period - place % period) if size > 1 else 0,
        "replicate": lambda place: min(max(place, 0), size - 1),
        "circular": lambda place: place % size,
    }
    return [table[mode](place) for place in places]


def rewrite_same(graph_module: torch.fx.GraphModule) -> tuple[Remark, ...]:
    """Give convolutions with `padding="same"` or `"valid"` their padding in numbers."""
    found = [node for node in graph_module.graph.nodes if str(node.target) in _NAMED_PADDING]
    for node in found:
        node.target = _numbered(node.target)
    text = f'gave {len(found)} convolutions with padding "same" or "valid" their padding in numbers'
    return (Remark("note", "paddings-numbered", text),) if found else ()


def _numbered(operator: torch._ops.OpOverload) -> Callable[..., torch.Tensor]:
    def conv(  # noqa: PLR0913, PLR0917 - the operator's own parameters
        tensor: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Sequence[int] = (1,),
        padding: str = "valid",
        dilation: Sequence[int] = (1,),
        groups: int = 1,
    ) -> torch.Tensor:
        import torch

        rank = weight.dim() - 2
        steps, strides = (([*item] * (rank if len(item) == 1 else 1)) for item in (dilation, stride))
        totals = [
            step * (size - 1) if padding == "same" else 0 for step, size in zip(steps, weight.shape[2:], strict=True)
        ]
        # PyTorch puts the odd element at the end (torch.nn.functional.conv2d, padding='same').
        pads = [pad for total in reversed(totals) for pad in (total // 2, total - total // 2)]
        padded = torch.nn.functional.pad(tensor, pads) if any(pads) else tensor
        made: torch.Tensor = operator.overloadpacket.default(padded, weight, bias, strides, [0] * rank, steps, groups)
        return made

    return conv


def rewrite_sorts(graph_module: torch.fx.GraphModule) -> tuple[Remark, ...]:
    """Turn sorting into the top n of n, which TFLite has; of equal elements the first stays first."""
    found = [node for node in graph_module.graph.nodes if str(node.target) in _SORTS]
    for node in found:
        node.target = _SORTS[str(node.target)]
        node.kwargs = {key: value for key, value in node.kwargs.items() if key in {"dim", "descending"}}
    text = f"rewrote {len(found)} sorts as the top n of n"
    return (Remark("note", "sorts-rewritten", text),) if found else ()


def _sorted(tensor: torch.Tensor, dim: int = -1, descending: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    last = tensor.movedim(dim, -1)
    values, places = torch.topk(last if descending else -last, tensor.shape[dim])
    return (values if descending else -values).movedim(-1, dim), places.movedim(-1, dim)


def _order(tensor: torch.Tensor, dim: int = -1, descending: bool = False) -> torch.Tensor:
    return _sorted(tensor, dim, descending)[1]


def _sorted_stable(
    tensor: torch.Tensor, stable: bool = True, dim: int = -1, descending: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    del stable  # TFLite's top k is stable: of equal elements the lower index comes first
    return _sorted(tensor, dim, descending)


def fold_constants(graph_module: torch.fx.GraphModule) -> tuple[Remark, ...]:
    """Compute once what depends on no input and no weight (positions, masks, indices), and keep it as a buffer."""
    import torch

    values: dict[torch.fx.Node, Argument] = {}
    for node in graph_module.graph.nodes:
        if _is_constant(node, values, graph_module):
            with torch.no_grad():
                values[node] = _value(node, values, graph_module)
    border = [node for node in values if node.op == "call_function" and any(user not in values for user in node.users)]
    folded = [(node, value) for node in border if isinstance(value := values[node], torch.Tensor)]
    for number, (node, value) in enumerate(folded):
        name = f"folded_{number}"
        graph_module.register_buffer(name, value.clone().contiguous())
        with graph_module.graph.inserting_before(node):
            constant = graph_module.graph.get_attr(name)
        constant.meta = dict(node.meta)
        node.replace_all_uses_with(constant)
    text = f"computed {len(folded)} constant tensors (positions, masks, indices) in advance"
    return (Remark("note", "constants-computed", text),) if folded else ()


def _is_constant(
    node: torch.fx.Node, values: dict[torch.fx.Node, Argument], graph_module: torch.fx.GraphModule
) -> bool:
    import torch

    if any(getattr(getattr(user.target, "_schema", None), "is_mutable", False) for user in node.users):
        return False
    if node.op == "get_attr":
        value = _attribute(graph_module, str(node.target))
        return isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - no public name
        return False
    pure = not node.target._schema.is_mutable and not str(node.target).startswith(_RANDOM)  # noqa: SLF001 - likewise
    return pure and bool(node.target._schema.returns) and all(item in values for item in node.all_input_nodes)  # noqa: SLF001


def _value(node: torch.fx.Node, values: dict[torch.fx.Node, Argument], graph_module: torch.fx.GraphModule) -> Argument:
    from torch.fx import node as fx_node

    if node.op == "get_attr":
        return cast("torch.Tensor", _attribute(graph_module, str(node.target)))
    args, kwargs = fx_node.map_arg((node.args, node.kwargs), values.__getitem__)
    return cast("Callable[..., Argument]", node.target)(*args, **kwargs)


def _attribute(owner: object, path: str) -> object:
    for part in path.split("."):
        owner = getattr(owner, part, None)
    return owner


_SORTS: dict[str, Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]] = {
    "aten.argsort.default": _order,
    "aten.argsort.stable": _order,
    "aten.sort.default": _sorted,
    "aten.sort.stable": _sorted_stable,
}


def lay_out_constants(graph_module: torch.fx.GraphModule) -> tuple[Remark, ...]:
    """Make every weight and constant contiguous.

    LiteRT Torch tells constants apart by their address: views of one storage are mixed up (litert-torch issue 1061).
    """
    import torch

    attributes = (
        _attribute(graph_module, str(node.target)) for node in graph_module.graph.nodes if node.op == "get_attr"
    )
    held = [
        *graph_module.parameters(),
        *graph_module.buffers(),
        *(a for a in attributes if isinstance(a, torch.Tensor)),
    ]
    scattered = {id(tensor): tensor for tensor in held if not tensor.is_contiguous()}
    for tensor in scattered.values():
        tensor.data = tensor.data.contiguous()
    text = f"laid out {len(scattered)} constants contiguously"
    return (Remark("note", "constants-laid-out", text),) if scattered else ()


_REWRITES: tuple[Callable[[torch.fx.GraphModule], tuple[Remark, ...]], ...] = (
    rewrite_transposed,
    rewrite_same,
    rewrite_pads,
    rewrite_sorts,
    expand_in,
    fold_constants,
    lay_out_constants,
)
