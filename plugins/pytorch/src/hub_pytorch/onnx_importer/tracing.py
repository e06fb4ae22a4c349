"""Building a torch.fx graph with proxies that know their shape and dtype."""

from __future__ import annotations

import itertools
import re
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode


class Value(fx.Proxy):  # type: ignore[misc] # torch is Any to mypy
    """A tensor of the graph under construction. Its shape and dtype are static and known."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as plain integers."""
        return tuple(int(size) for size in self.node.meta["val"].shape)

    @property
    def ndim(self) -> int:
        """The rank."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """The torch dtype."""
        return self.node.meta["val"].dtype


class GraphBuilder(fx.Tracer):  # type: ignore[misc] # torch is Any to mypy
    """Records torch calls made on `Value` as nodes, running each on fake tensors to learn its shape.

    Real tensors that meet a `Value` become parameters or buffers of `root`, named by `name_constant`, or else after
    `current`. They are made contiguous: LiteRT Torch mixes up constants that are not (litert-torch issue 1061).

    Attributes:
        graph: The graph being built.
        root: The module that will own its constants.
        current: Name of the ONNX value being computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph = fx.Graph(tracer_cls=fx.Tracer)
        self.root = torch.nn.Module()
        self._fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._names: dict[int, tuple[Any, str]] = {}
        self._trainable: set[int] = set()
        self._attributes: dict[int, fx.Node] = {}
        self._used: set[str] = set()
        self.current = "constant"

    def proxy(self, node: fx.Node) -> Value:
        """Wrap a node."""
        return Value(node, self)

    def placeholder(self, name: str, shape: tuple[int, ...], dtype: Any) -> Value:
        """Add an input."""
        node = self.graph.placeholder(self._unique(re.sub(r"\W", "_", name)))
        with self._fake_mode:
            node.meta["val"] = torch.empty(shape, dtype=dtype)
        return self.proxy(node)

    def name_constant(self, tensor: Any, name: str, *, weight: bool = False) -> None:
        """Give a real tensor the name it will have in the module; a weight of float type becomes a parameter."""
        self._names.setdefault(id(tensor), (tensor, name))
        if weight and tensor.is_floating_point():
            self._trainable.add(id(tensor))

    def create_arg(self, a: Any) -> Any:
        """Turn real tensors into attributes of the module; the rest as torch.fx does."""
        return self._attribute(a) if isinstance(a, torch.Tensor) else super().create_arg(a)

    def create_proxy(  # noqa: PLR0913, PLR0917 - torch.fx's own signature
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Value:
        """Record one call and learn its result's shape and dtype."""
        value: Value = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        try:
            value.node.meta["val"] = self._evaluate(value.node)
        except BaseException:
            self.graph.erase_node(value.node)
            raise
        return value

    def _evaluate(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        with self._fake_mode, torch.no_grad():
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)

    def constant(self, tensor: Any) -> Value:
        """Return a real tensor as a value of the graph."""
        return self.proxy(self._attribute(tensor))

    def _attribute(self, tensor: Any) -> fx.Node:
        if id(tensor) not in self._attributes:
            self._attributes[id(tensor)] = self._new_attribute(tensor)
        return self._attributes[id(tensor)]

    def _new_attribute(self, tensor: Any) -> fx.Node:
        _, wanted = self._names.setdefault(id(tensor), (tensor, f"{self.current}_constant"))
        target = self._free_path(wanted)
        *folders, leaf = target.split(".")
        owner = self.root
        for folder in folders:
            if not hasattr(owner, folder):
                owner.add_module(folder, torch.nn.Module())
            owner = getattr(owner, folder)
        if id(tensor) in self._trainable:
            owner.register_parameter(leaf, torch.nn.Parameter(tensor.contiguous(), requires_grad=False))
        else:
            owner.register_buffer(leaf, tensor.contiguous())
        return self._attribute_node(target, tensor)

    def _attribute_node(self, target: str, tensor: Any) -> fx.Node:
        node = self.graph.create_node("get_attr", target)
        node.meta["val"] = self._fake_mode.from_tensor(tensor)
        return node

    def _free_path(self, wanted: str) -> str:
        """A free dotted attribute path close to the wanted name."""
        parts = [re.sub(r"\W", "_", part) for part in wanted.split(".")]
        flat = "_".join(parts)
        candidates = itertools.chain([".".join(parts), flat], (f"{flat}_{i}" for i in itertools.count(1)))
        return next(path for path in candidates if self._is_free(path))

    def _is_free(self, path: str) -> bool:
        owner: Any = self.root
        *folders, leaf = path.split(".")
        for folder in folders:
            if not folder or (hasattr(owner, folder) and folder not in owner._modules):  # noqa: SLF001 - no public view
                return False
            owner = getattr(owner, folder, torch.nn.Module())
        return bool(leaf) and not hasattr(owner, leaf)

    def _unique(self, name: str) -> str:
        stem = name if name.isidentifier() else f"_{name}"
        found, suffix = stem, 1
        while found in self._used:
            found, suffix = f"{stem}_{suffix}", suffix + 1
        self._used.add(found)
        return found
