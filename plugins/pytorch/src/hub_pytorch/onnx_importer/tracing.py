"""Building a torch.fx graph with proxies that know their shape and dtype, fixed or dynamic."""

from __future__ import annotations

import itertools
import keyword
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from hub_onnxgraph import Refused
from hub_pytorch.onnx_importer.arithmetic import Recorder
from hub_pytorch.onnx_importer.dimensions import Dimensions, undecided
from hub_pytorch.onnx_importer.sizes import is_symbolic, leaves_of, plain

Array = npt.NDArray[np.object_]


class TracedValue(fx.Proxy):
    """A tensor of the graph under construction. Its dtype and rank are known, its sizes as far as they are fixed."""

    tracer: GraphBuilder

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape: an int for a fixed size, a torch.SymInt for a dynamic one."""
        return tuple(plain(size) for size in self.node.meta["val"].shape)

    @property
    def ndim(self) -> int:
        """The rank."""
        return len(self.node.meta["val"].shape)

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype."""
        dtype: torch.dtype = self.node.meta["val"].dtype
        return dtype


def copied(value: TracedValue) -> TracedValue:
    """A tensor of the graph of its own."""
    return value.tracer.create_proxy("call_function", torch.clone, (value,), {})


class Known(TracedValue):
    """A tensor of numbers that are known up to the dynamic sizes, such as a shape.

    It becomes nodes of the graph when it is used as a tensor, and only then.

    Attributes:
        content: The numbers: int, bool, torch.SymInt or torch.SymBool in a numpy array of objects.
    """

    def __init__(self, content: Array, dtype: torch.dtype, tracer: GraphBuilder) -> None:
        self.content = content
        self._dtype = dtype
        super().__init__(None, tracer)  # type: ignore[arg-type] # its node is made when it is asked for

    @property
    def node(self) -> fx.Node:
        """The tensor's node in the graph that is being built now."""
        return self.tracer.tensor_of(self)

    @node.setter
    def node(self, node: fx.Node | None) -> None:
        del node

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, which is fixed."""
        return tuple(self.content.shape)

    @property
    def ndim(self) -> int:
        """The rank."""
        return int(self.content.ndim)

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype."""
        return self._dtype


@dataclass(eq=False)
class TracedFrame:
    """One graph under construction: the module's own, or that of a branch or a loop's body.

    Attributes:
        graph: The graph.
        captured: Nodes of the surrounding graph to the placeholders that stand for them here.
        attributes: Constants by identity.
        sizes: What has been computed of sizes, by expression.
        contents: Tensors made of known numbers, by identity.
        modules: Graphs within this graph, by name.
    """

    graph: fx.Graph
    captured: dict[fx.Node, fx.Node] = field(default_factory=dict)
    attributes: dict[int, fx.Node] = field(default_factory=dict)
    sizes: dict[Any, Any] = field(default_factory=dict)
    contents: dict[int, tuple[Known, fx.Node]] = field(default_factory=dict)
    modules: dict[str, Any] = field(default_factory=dict)


class GraphBuilder(fx.Tracer):
    """Records torch calls made on `TracedValue` as nodes, running each on fake tensors to learn its shape.

    Real tensors that meet one become parameters or buffers of `root`, named by `name_constant`, or else after
    `current`. They are made contiguous: LiteRT Torch mixes up constants that are not (litert-torch issue 1061).

    Attributes:
        graph: The graph being built.
        root: The module that will own its constants.
        current: Name of the ONNX value being computed.
        dimensions: The dynamic dimensions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = torch.nn.Module()
        self.current = "constant"
        self.dimensions = Dimensions()
        self.dimensions.env.hub_builder = self  # type: ignore[attr-defined] # how a size finds its graph
        self._frames = [TracedFrame(fx.Graph(tracer_cls=fx.Tracer))]
        self.graph = self._frames[0].graph
        self._fake_mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=self.dimensions.env)
        self._inputs: dict[str, TracedValue] = {}
        self._origins: dict[Any, tuple[fx.Node, int | None]] = {}
        self._names: dict[int, tuple[Any, str]] = {}
        self._trainable: set[int] = set()
        self._used: set[str] = set()

    def proxy(self, node: fx.Node) -> TracedValue:
        """Wrap a node."""
        return TracedValue(node, self)

    def placeholder(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> TracedValue:
        """Add an input; a dynamic size is a torch.SymInt."""
        node = self.graph.placeholder(self._unique(re.sub(r"\W", "_", name)))
        with self._computing():
            self.describe(node, torch.empty(tuple(shape), dtype=dtype))
        self._inputs[name] = self.proxy(node)
        return self._inputs[name]

    def known(self, content: Array, dtype: torch.dtype) -> Known | torch.Tensor:
        """Return known numbers as a real tensor when none is dynamic, as `Known` otherwise."""
        flat = [plain(item) for item in content.reshape(-1)]
        if not any(is_symbolic(item) for item in flat):
            return torch.tensor(flat, dtype=dtype).reshape(content.shape)
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        return Known(array.reshape(content.shape), dtype, self)

    def tensor_of(self, value: Known) -> fx.Node:
        """Return the node of a tensor of known numbers."""
        cache = self._frames[-1].contents
        if id(value) not in cache:
            items = [torch.scalar_tensor if is_symbolic(item) else torch.tensor for item in value.content.reshape(-1)]
            scalars = [
                self.create_proxy("call_function", make, (item,), {"dtype": value.dtype})
                for make, item in zip(items, value.content.reshape(-1), strict=True)
            ]
            whole = self.create_proxy("call_function", torch.stack, (scalars,), {})
            if value.ndim != 1:
                whole = self.create_proxy("call_function", torch.reshape, (whole, list(value.shape)), {})
            cache[id(value)] = (value, whole.node)
        return cache[id(value)][1]

    def with_sizes(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TracedValue | torch.Tensor:
        """Record a call that takes dynamic sizes and no value."""
        if function is torch.tensor:
            return self.known(np.array(args[0], dtype=object), kwargs["dtype"])
        return self.create_proxy("call_function", function, args, kwargs)

    def name_constant(self, tensor: torch.Tensor, name: str, *, weight: bool = False) -> None:
        """Give a real tensor the name it will have in the module; a weight of float type becomes a parameter."""
        self._names.setdefault(id(tensor), (tensor, name))
        if weight and tensor.is_floating_point():
            self._trainable.add(id(tensor))

    def create_arg(self, a: Any) -> Any:
        """Turn real tensors into attributes, sizes into nodes, outer values into captured ones."""
        if isinstance(a, torch.Tensor):
            return self._attribute(a)
        if isinstance(a, fx.Proxy):
            return self._local(a.node)
        return self.size_of(a) if is_symbolic(a) else super().create_arg(a)

    def size_of(self, size: Any) -> Any:
        """Return the node that computes a dynamic size, or the plain number."""
        expression = plain(size)
        if not is_symbolic(expression):
            return expression
        return Recorder(self, self._frames[-1].sizes).node_of(size.node.expr)

    def symbol_node(self, symbol: sympy.Symbol) -> fx.Node:
        """Return the node that reads a dimension's size off the tensor that has it.

        Raises:
            Refused: The tensor lies inside of a branch or loop that is over.
        """
        owner, axis = self._origins[symbol]
        local = self._local(owner)
        if axis is None:
            return local
        return self.create_proxy("call_method", "size", (self.proxy(local), axis), {}).node

    def create_proxy(  # noqa: PLR0913, PLR0917 - torch.fx's own signature
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> TracedValue:
        """Record one call and learn its result's shape and dtype."""
        value = cast("TracedValue", super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn))
        try:
            self.describe(value.node, self._evaluate(value.node))
        except BaseException:
            self.graph.erase_node(value.node)
            raise
        return value

    def _evaluate(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        with self._computing(), self.dimensions.guards_of_torch():
            if isinstance(node.target, str):
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            return node.target(*args, **kwargs)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with self._fake_mode, enable_python_dispatcher(), torch.no_grad(), undecided():
            yield

    def describe(self, node: fx.Node, result: object) -> None:
        """Keep what is known of a node's result, and where its sizes that no input has can be read."""
        node.meta["val"] = result
        if isinstance(result, torch.Tensor):
            for axis, size in enumerate(result.shape):
                self._remember(node, axis, size)
        else:
            self._remember(node, None, result)

    def _remember(self, node: fx.Node, axis: int | None, size: Any) -> None:
        if is_symbolic(size) and size.node._expr.is_symbol:  # noqa: SLF001 - .expr has replacements applied
            self._origins.setdefault(size.node._expr, (node, axis))  # noqa: SLF001 - as above

    def stacked(self, fake: torch.Tensor, count: int) -> torch.Tensor:
        """A fake tensor of a number of results like one."""
        with self._computing():
            return torch.empty((count, *fake.shape), dtype=fake.dtype)

    def constant(self, tensor: torch.Tensor) -> TracedValue:
        """Return a real tensor as a value of the graph."""
        return self.proxy(self._attribute(tensor))

    def _attribute(self, tensor: torch.Tensor) -> fx.Node:
        root = self._frames[0]
        if id(tensor) not in root.attributes:
            # What an operator has made of a weight's elements alone is a parameter too, under the weight's name.
            source, suffix = getattr(tensor, "weight_of", (None, ""))
            if source is not None and id(source) in self._trainable:
                self._names[id(tensor)] = (tensor, self._names[id(source)][1] + suffix)
                self._trainable.add(id(tensor))
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
            graph = self._frames[0].graph
            node = graph.create_node("get_attr", target)
            node.meta["val"] = self._fake_mode.from_tensor(tensor, static_shapes=True)
            root.attributes[id(tensor)] = node
        return self._local(root.attributes[id(tensor)])

    def _local(self, node: fx.Node) -> fx.Node:
        """Return what stands for a node in the graph being built."""
        return self._seen_from(len(self._frames) - 1, node)

    def _seen_from(self, depth: int, node: fx.Node) -> fx.Node:
        frame = self._frames[depth]
        if node.graph is frame.graph:
            return node
        if not depth:
            raise Refused("a value is used outside of the branch or loop that computes it")
        outer = self._seen_from(depth - 1, node)
        if outer not in frame.captured:
            stand_in = frame.graph.placeholder(f"captured_{len(frame.captured)}")
            stand_in.meta["val"] = outer.meta["val"]
            frame.captured[outer] = stand_in
        return frame.captured[outer]

    @contextmanager
    def frame(self) -> Iterator[TracedFrame]:
        """Build another graph meanwhile, which may use values of those around it."""
        self._frames.append(TracedFrame(fx.Graph(tracer_cls=fx.Tracer)))
        self.graph = self._frames[-1].graph
        try:
            yield self._frames[-1]
        finally:
            self._frames.pop()
            self.graph = self._frames[-1].graph

    def add_module(self, name: str, module: torch.nn.Module) -> fx.Node:
        """Give the graph being built a graph module; return the node that stands for it."""
        modules = self._frames[-1].modules
        stem = re.sub(r"\W", "_", name)
        path = self._free_path(stem) if len(self._frames) == 1 else f"{stem}_{len(modules)}"
        modules[path] = module
        if len(self._frames) == 1:
            self.root.add_module(path, module)
        node = self.graph.create_node("get_attr", path)
        node.meta["val"] = None
        return node

    def _free_path(self, wanted: str) -> str:
        """A free dotted attribute path close to the wanted name."""
        parts = [re.sub(r"\W", "_", f"{part}_" if keyword.iskeyword(part) else part) for part in wanted.split(".")]
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
        stem = name if name.isidentifier() and not keyword.iskeyword(name) else f"_{name}"
        found, suffix = stem, 1
        while found in self._used:
            found, suffix = f"{stem}_{suffix}", suffix + 1
        self._used.add(found)
        return found

    def assert_dimensions(self) -> None:
        """Record in the graph that dimensions of the same name have the same size."""
        for name, ((first, axis), *others) in self.dimensions.places():
            for other, there in others:
                same = operator.eq(self._input_size(first, axis), self._input_size(other, there))
                self._assert(same.node, f"dimension {name} differs between inputs {first} and {other}")

    def assert_guards(self, guards: Sequence[sympy.Basic]) -> None:
        """Record in the graph, as assertions, what was taken to hold of dynamic sizes.

        Args:
            guards: The conditions.

        Raises:
            Refused: Such a condition cannot be written in the graph.
        """
        recorder = Recorder(self, {})  # what was computed before may have been dropped as unused
        for expression in guards:
            self._assert(recorder.node_of(expression), f"the sizes must fulfil {self.dimensions.words(expression)}")

    def _assert(self, condition: object, message: str) -> None:
        if isinstance(condition, fx.Node):
            self.graph.call_function(torch._assert, (condition, message))  # noqa: SLF001 - the one that torch.fx keeps

    def _input_size(self, name: str, axis: int) -> TracedValue:
        return self.create_proxy("call_method", "size", (self._inputs[name], axis), {})


class FunctionWatch(TorchFunctionMode):
    """Refuses to compute a real tensor with a dynamic size: torch would take the size that the graph is checked at."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let through every other call."""
        del types
        leaves = list(leaves_of([*args, *(kwargs or {}).values()]))
        if any(is_symbolic(leaf) for leaf in leaves) and any(
            isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor) for leaf in leaves
        ):
            raise Refused(f"a constant and a dynamic size in {getattr(func, '__name__', func)}")
        return func(*args, **(kwargs or {}))
