"""Which nodes of a torch.fx graph are layers of torch.nn: a table from function to the layer that it is with constants.

A function of the table returns a `SourceLayer` when the node's weights are constants that a layer of torch.nn can hold,
and None when they are not; the node is then written as the function that it calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hub_pytorch.source_writer import facts
from hub_pytorch.source_writer.expressions import literal, value_text
from hub_pytorch.source_writer.layout import Expression, call, flat, named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import Tensor, fx

_CONV_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSED_NAMES = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_RECURRENT_NAMES = ("input", "hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional", "first")
_ONE_DIRECTION = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLayer:
    """One submodule.

    Attributes:
        kind: Its class in torch.nn.
        arguments: What its class is called with.
        weights: Name in the module -> the node that holds the tensor.
        inputs: What the module is called with.
        transposed: The weight is the transpose of its node's tensor.
        extra: Name in the module -> tensor, for what no node holds.
        states: Nodes of a recurrent layer's initial states; none for states of zero.
    """

    kind: str
    arguments: tuple[Expression, ...]
    weights: dict[str, fx.Node]
    inputs: tuple[fx.Node, ...]
    transposed: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    states: tuple[fx.Node, ...] = ()

    @property
    def uses(self) -> tuple[fx.Node, ...]:
        """The nodes that its call reads."""
        return (*self.inputs, *self.states)

    def constructor(self, dtype: torch.dtype) -> Expression:
        """The call that makes it."""
        import torch

        other = () if dtype == torch.float32 else (named("dtype", literal(dtype)),)
        return call(f"nn.{self.kind}", (*self.arguments, *other))

    def held(self, leaf: str, tensor: Tensor) -> Tensor:
        """A node's tensor as the module holds it."""
        if self.transposed and leaf == "weight":
            return tensor.t()
        return tensor.reshape(-1) if leaf == "bias" and tensor.ndim != 1 else tensor

    def call(self, name: str, texts: Mapping[fx.Node, str]) -> Expression:
        """The call that runs it."""
        states = [texts[state] for state in self.states]
        joined = (states[0] if len(states) == 1 else f"({', '.join(states)})",) if states else ()
        return call(f"self.{name}", (*(texts[node] for node in self.inputs), *joined))


class Constants:
    """The tensors that a graph's `get_attr` nodes stand for."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module

    def tensor(self, node: object) -> Tensor | None:
        """The tensor behind a node; None for one that is computed."""
        if not facts.is_node(node) or node.op != "get_attr":
            return None
        value: Any = self._module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value if hasattr(value, "is_floating_point") else None

    def known(self, node: fx.Node) -> Tensor:
        """The tensor behind a node that is a constant."""
        tensor = self.tensor(node)
        if tensor is None:
            raise TypeError(f"{node} is no constant")
        return tensor

    def weight(self, node: object, rank: int) -> Tensor | None:
        """The float tensor of that rank behind a node, or None."""
        tensor = self.tensor(node)
        return tensor if tensor is not None and tensor.is_floating_point() and tensor.ndim == rank else None

    def all_weights(self, nodes: Sequence[object], rank: int) -> bool:
        """Whether every one of these nodes holds a float tensor of that rank; None among them counts as one."""
        return all(node is None or self.weight(node, rank) is not None for node in nodes)

    def is_zero(self, node: object) -> bool:
        """Whether a node is known to be zero everywhere."""
        import torch

        tensor = self.tensor(node)
        if tensor is not None:
            return not bool(tensor.any())
        if not facts.is_node(node):
            return False
        return node.target in {torch.zeros, torch.zeros_like} or bool(node.target is torch.full and node.args[1] == 0)


def recognise(node: fx.Node, constants: Constants) -> SourceLayer | None:
    """The layer that a node is, if it is one."""
    found = table().get(node.target) if node.op == "call_function" else None
    return found(node, constants) if found else None


def table() -> dict[object, Callable[[fx.Node, Constants], SourceLayer | None]]:
    """From function to what recognises its layer."""
    import torch
    from torch.nn import functional

    convolutions = (functional.conv1d, functional.conv2d, functional.conv3d)
    transposed = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
    return {
        **dict.fromkeys(convolutions, _convolution),
        **dict.fromkeys(transposed, _transposed_convolution),
        functional.linear: _linear,
        functional.batch_norm: _batch_norm,
        functional.layer_norm: _layer_norm,
        functional.group_norm: _group_norm,
        functional.instance_norm: _instance_norm,
        functional.prelu: _prelu,
        functional.dropout: _dropout,
        functional.embedding: _embedding,
        torch.index_select: _row_embedding,
        torch.matmul: _matmul,
        torch.prelu: _prelu,
        torch.lstm: _recurrent,
        torch.gru: _recurrent,
        torch.rnn_tanh: _recurrent,
        torch.rnn_relu: _recurrent,
    }


def _arguments(node: fx.Node, names: Sequence[str], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A node's arguments by name; None, or the default, for one that is not given."""
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return {name: given.get(name, (defaults or {}).get(name)) for name in names}


def _is_fixed(values: Sequence[object]) -> bool:
    """Whether all are numbers that are known."""
    parts = [part for value in values for part in (value if isinstance(value, list | tuple) else (value,))]
    return all(isinstance(part, int | float) for part in parts)


def _size(value: object) -> Expression:
    """`3` for sizes that are all 3, else a tuple."""
    sizes = list(value) if isinstance(value, list | tuple) else [value]
    return literal(sizes[0]) if len(set(sizes)) == 1 else value_text(tuple(sizes), {})


def _options(values: Mapping[str, object], defaults: Mapping[str, object]) -> tuple[Expression, ...]:
    """Keyword arguments that differ from their defaults."""
    texts = {name: _size(values[name]) for name in defaults}
    return tuple(named(name, text) for name, text in texts.items() if flat(text) != literal(defaults[name]))


def _without_bias(bias: object) -> tuple[Expression, ...]:
    return () if bias is not None else (named("bias", "False"),)


def _named_weights(**nodes: fx.Node | None) -> dict[str, fx.Node]:
    return {name: node for name, node in nodes.items() if node is not None}


def _convolution(node: fx.Node, constants: Constants) -> SourceLayer | None:
    given = _arguments(node, _CONV_NAMES, _CONV_DEFAULTS)
    rank = int(facts.called(node)[-2]) + 2
    weight = constants.weight(given["weight"], rank)
    fixed = _is_fixed([given[name] for name in _CONV_DEFAULTS])
    if weight is None or not fixed or not constants.all_weights([given["bias"]], 1):
        return None
    channels = (literal(weight.shape[1] * given["groups"]), literal(weight.shape[0]), _size(tuple(weight.shape[2:])))
    options = (*_options(given, _CONV_DEFAULTS), *_without_bias(given["bias"]))
    weights = _named_weights(weight=given["weight"], bias=given["bias"])
    return SourceLayer(
        kind=f"Conv{rank - 2}d", arguments=(*channels, *options), weights=weights, inputs=(given["input"],)
    )


def _transposed_convolution(node: fx.Node, constants: Constants) -> SourceLayer | None:
    defaults = {**_CONV_DEFAULTS, "output_padding": 0}
    given = _arguments(node, _TRANSPOSED_NAMES, defaults)
    rank = int(facts.called(node)[-2]) + 2
    weight = constants.weight(given["weight"], rank)
    fixed = _is_fixed([given[name] for name in defaults])
    if weight is None or not fixed or not constants.all_weights([given["bias"]], 1):
        return None
    channels = (literal(weight.shape[0]), literal(weight.shape[1] * given["groups"]), _size(tuple(weight.shape[2:])))
    options = (*_options(given, defaults), *_without_bias(given["bias"]))
    weights = _named_weights(weight=given["weight"], bias=given["bias"])
    kind = f"ConvTranspose{rank - 2}d"
    return SourceLayer(kind=kind, arguments=(*channels, *options), weights=weights, inputs=(given["input"],))


def _linear(node: fx.Node, constants: Constants) -> SourceLayer | None:
    given = _arguments(node, ("input", "weight", "bias"))
    weight = constants.weight(given["weight"], 2)
    if weight is None or not constants.all_weights([given["bias"]], 1):
        return None
    sizes = (literal(weight.shape[1]), literal(weight.shape[0]), *_without_bias(given["bias"]))
    weights = _named_weights(weight=given["weight"], bias=given["bias"])
    return SourceLayer(kind="Linear", arguments=sizes, weights=weights, inputs=(given["input"],))


def _matmul(node: fx.Node, constants: Constants) -> SourceLayer | None:
    """A product with a constant matrix; whoever writes it may add the bias that follows."""
    x, matrix = node.args
    weight = constants.weight(matrix, 2)
    if weight is None or facts.dtype(x) != weight.dtype or not facts.is_node(x) or not facts.is_node(matrix):
        return None
    sizes = (literal(weight.shape[0]), literal(weight.shape[1]), named("bias", "False"))
    return SourceLayer(kind="Linear", arguments=sizes, weights={"weight": matrix}, inputs=(x,), transposed=True)


def with_bias(product: SourceLayer, node: fx.Node, constants: Constants) -> SourceLayer | None:
    """A linear layer whose bias is what that node adds to it; None when the node adds something else."""
    import torch

    if node.target is not torch.add or node.kwargs or product.kind != "Linear" or "bias" in product.weights:
        return None
    size = int(flat(product.arguments[1]))
    given = [item for item in node.args if facts.is_node(item)]
    biases = [item for item in given if _is_row(constants.tensor(item), size, facts.rank(node) or 0)]
    if len(biases) != 1:
        return None
    return SourceLayer(
        kind="Linear",
        arguments=product.arguments[:2],
        weights={**product.weights, "bias": biases[0]},
        inputs=product.inputs,
        transposed=product.transposed,
    )


def over_any_rank(table: SourceLayer, node: fx.Node) -> SourceLayer | None:
    """An embedding of indices of any rank, where they are flattened before it and its rows are shaped after it."""
    import torch

    flattened = table.inputs[0]
    if table.kind != "Embedding" or node.target is not torch.reshape or flattened.target is not torch.reshape:
        return None
    index, shape = flattened.args[0], facts.shape(node)
    if (
        not facts.is_node(index)
        or flattened.args[1] != [-1]
        or shape is None
        or shape[:-1] != facts.shape(index)
        or shape[-1] != int(flat(table.arguments[1]))
    ):
        return None
    return SourceLayer(kind=table.kind, arguments=table.arguments, weights=table.weights, inputs=(index,))


def _is_row(tensor: Tensor | None, size: int, rank: int) -> bool:
    """Whether a constant has one element for each of the last axis, and none of its axes is more than the rank."""
    if tensor is None or not tensor.is_floating_point() or not 1 <= tensor.ndim <= rank:
        return False
    return bool(tensor.shape[-1] == size == tensor.numel())


def _batch_norm(node: fx.Node, constants: Constants) -> SourceLayer | None:
    import torch

    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = _arguments(node, names, {"eps": 1e-5})
    held = [given[name] for name in names[1:5]]
    spatial = {2: 1, 3: 1, 4: 2, 5: 3}.get(facts.rank(given["input"]) or 0)
    weight = constants.weight(given["weight"], 1)
    if weight is None or spatial is None or given["training"] or None in held or not constants.all_weights(held, 1):
        return None
    return SourceLayer(
        kind=f"BatchNorm{spatial}d",
        arguments=(literal(weight.shape[0]), *_epsilon(given["eps"])),
        weights={name: given[name] for name in names[1:5]},
        inputs=(given["input"],),
        extra={"num_batches_tracked": torch.tensor(0)},
    )


def _epsilon(eps: float) -> tuple[Expression, ...]:
    text = literal(float(eps))
    return () if math.isclose(eps, 1e-5, rel_tol=1e-6) else (named("eps", text),)


def _layer_norm(node: fx.Node, constants: Constants) -> SourceLayer | None:
    given = _arguments(node, ("input", "normalized_shape", "weight", "bias", "eps"), {"eps": 1e-5})
    shape = given["normalized_shape"]
    held = [given["weight"], given["bias"]]
    if held[0] is None or not _is_fixed(shape) or not constants.all_weights(held, len(shape)):
        return None
    sizes = _size(shape) if len(shape) == 1 else value_text(tuple(shape), {})
    arguments = (sizes, *_epsilon(given["eps"]), *_without_bias(given["bias"]))
    weights = _named_weights(weight=given["weight"], bias=given["bias"])
    return SourceLayer(kind="LayerNorm", arguments=arguments, weights=weights, inputs=(given["input"],))


def _group_norm(node: fx.Node, constants: Constants) -> SourceLayer | None:
    given = _arguments(node, ("input", "num_groups", "weight", "bias", "eps"), {"eps": 1e-5})
    held = [given["weight"], given["bias"]]
    weight = constants.weight(given["weight"], 1)
    if weight is None or None in held or not constants.all_weights(held, 1):
        return None
    arguments = (literal(given["num_groups"]), literal(weight.shape[0]), *_epsilon(given["eps"]))
    return SourceLayer(
        kind="GroupNorm", arguments=arguments, weights={"weight": held[0], "bias": held[1]}, inputs=(given["input"],)
    )


def _instance_norm(node: fx.Node, constants: Constants) -> SourceLayer | None:
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    given = _arguments(node, names, {"eps": 1e-5, "use_input_stats": True})
    held = [given["weight"], given["bias"]]
    spatial = (facts.rank(given["input"]) or 0) - 2
    plain = given["running_mean"] is None and given["use_input_stats"]
    weight = constants.weight(given["weight"], 1)
    if weight is None or not plain or spatial not in {1, 2, 3} or not constants.all_weights(held, 1) or None in held:
        return None
    channels = literal(weight.shape[0])
    return SourceLayer(
        kind=f"InstanceNorm{spatial}d",
        arguments=(channels, *_epsilon(given["eps"]), named("affine", "True")),
        weights={"weight": held[0], "bias": held[1]},
        inputs=(given["input"],),
    )


def _prelu(node: fx.Node, constants: Constants) -> SourceLayer | None:
    given = _arguments(node, ("input", "weight"))
    weight = constants.weight(given["weight"], 1)
    if weight is None:
        return None
    return SourceLayer(
        kind="PReLU",
        arguments=(literal(weight.shape[0]),),
        weights={"weight": given["weight"]},
        inputs=(given["input"],),
    )


def _dropout(node: fx.Node, constants: Constants) -> SourceLayer | None:
    del constants
    given = _arguments(node, ("input", "p", "training"), {"p": 0.5})
    return SourceLayer(kind="Dropout", arguments=(literal(float(given["p"])),), weights={}, inputs=(given["input"],))


def _embedding(node: fx.Node, constants: Constants) -> SourceLayer | None:
    given = _arguments(node, ("input", "weight", "padding_idx", "max_norm"))
    weight = constants.weight(given["weight"], 2)
    if weight is None or given["padding_idx"] is not None or given["max_norm"] is not None:
        return None
    return _embedding_of(given["weight"], weight, given["input"])


def _row_embedding(node: fx.Node, constants: Constants) -> SourceLayer | None:
    """Rows of a constant table, picked by a list of indices."""
    table, axis, index = node.args
    weight = constants.weight(table, 2)
    if weight is None or axis != 0 or not facts.is_node(table) or not facts.is_node(index):
        return None
    return _embedding_of(table, weight, index)


def _embedding_of(node: fx.Node, weight: Tensor, index: fx.Node) -> SourceLayer:
    sizes = tuple(map(literal, weight.shape))
    return SourceLayer(kind="Embedding", arguments=sizes, weights={"weight": node}, inputs=(index,))


def _recurrent(node: fx.Node, constants: Constants) -> SourceLayer | None:
    """One recurrent layer in one or both directions, as ONNX has it."""
    given = _arguments(node, _RECURRENT_NAMES)
    params = list(given["params"])
    names = (*_ONE_DIRECTION, *(f"{name}_reverse" for name in _ONE_DIRECTION))
    held = [tensor for item in params if (tensor := constants.tensor(item)) is not None]
    if given["num_layers"] != 1 or len(params) not in {4, 8} or len(held) < len(params) or not given["has_biases"]:
        return None
    hidden, size = held[1].shape[1], held[0].shape[1]
    kinds = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
    name = facts.called(node)
    both = (named("bidirectional", "True"),) if given["bidirectional"] else ()
    other = (named("nonlinearity", '"relu"'),) if name == "rnn_relu" else ()
    first = (named("batch_first", "True"),) if given["first"] else ()
    states = given["hx"] if isinstance(given["hx"], tuple | list) else (given["hx"],)
    return SourceLayer(
        kind=kinds[name],
        arguments=(literal(size), literal(hidden), *other, *first, *both),
        weights=dict(zip(names, params, strict=False)),
        inputs=(given["input"],),
        states=() if all(map(constants.is_zero, states)) else tuple(states),
    )
