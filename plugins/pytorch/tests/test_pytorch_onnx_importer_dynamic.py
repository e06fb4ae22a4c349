"""The ONNX importer with dynamic dimensions, loops and branches: each result at several sizes against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.fx.experimental import _config as shape_config

from hub_pytorch.onnx_importer import import_onnx

Array = npt.NDArray[Any]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch uses old parts of itself
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the same
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch.export tells of its own guesses
]
random = np.random.default_rng(11)

SOURCES = {
    "shape arithmetic": """(float[b, t, 12] x) => (float[b, t, 3, 4] y)
        <int64 zero = {0}, int64 one = {1}, int64[2] tail = {3, 4}, int64[1] first = {0}> {
            s = Shape(x)  b0 = Gather(s, zero)  b1 = Unsqueeze(b0, first)
            t0 = Gather(s, one)  t1 = Unsqueeze(t0, first)
            target = Concat<axis = 0>(b1, t1, tail)  y = Reshape(x, target) }""",
    "branch": """(float[b, t, 12] x) => (float[b, t, 12] y) <float zero = {0}> {
            s = ReduceSum<keepdims = 0>(x)  c = Greater(s, zero)  z = Neg(x)
            y = If(c) <then_branch = yes () => (float[b, t, 12] a) { a = Mul(z, z) },
                       else_branch = no () => (float[b, t, 12] d) { e = Add(x, x)  d = Add(e, z) }> }""",
    "loop until": """(float[b, t, 12] x) => (float[b, t, 12] y)
        <int64 most = {50}, bool go = {1}, float high = {30}, float one = {1}> {
            y = Loop(most, go, x) <body = step (int64 i, bool c, float[b, t, 12] s) => (bool d, float[b, t, 12] o) {
                o = Add(s, one)  r = ReduceMax<keepdims = 0>(o)  d = Less(r, high) }> }""",
    "loop over an axis": """(float[b, t, 12] x) => (float[b, t, 12] y, float[n, t, 12] z)
        <int64 zero = {0}, bool go = {1}, float one = {1}> {
            s = Shape(x)  n = Gather(s, zero)
            y, z = Loop(n, go, x) <body = step (int64 i, bool c, float[b, t, 12] v)
                => (bool d, float[b, t, 12] o, float[t, 12] q) {
                o = Add(v, one)  q = Gather(x, i)  d = Identity(c) }> }""",
    "slices and halves": """(float[b, t, 12] x) => (float[b, h, 12] y, float[b, t, 12] z)
        <int64 one = {1}, int64 two = {2}, int64[1] zero = {0}, int64[1] last = {-1}, int64[1] axis = {1},
         int64[1] far = {9223372036854775807}, int64[1] back = {-9223372036854775807}> {
            s = Shape(x)  t = Gather(s, one)  h = Div(t, two)  h1 = Unsqueeze(h, zero)
            y = Slice(x, h1, far, axis)  z = Slice(x, last, back, axis, last) }""",
    "reflected": """(float[b, t, 12] x) => (float[b, u, 12] y) <int64[6] pads = {0, 3, 0, 0, 2, 1}> {
            y = Pad<mode = "reflect">(x, pads) }""",
    "same padding": """(float[b, t, 12] x) => (float[b, t, 6] y) <float[3] w = {1, 2, 3}, int64[2] axes = {0, 1},
        int64[1] one = {1}, int64[4] four = {-1, 1, 1, 12}> {
            k = Unsqueeze(w, axes)  r = ReduceMean<axes = [1]>(x)
            y = Conv<auto_pad = "SAME_LOWER", strides = [2]>(r, k) }""",
    "resized": """(float[b, t, 12] x) => (float[b, t, 24] y, float[b, u, 12] z)
        <float[3] scales = {1, 1, 2}, float[3] halves = {1, 0.5, 1}> {
            y = Resize<mode = "linear">(x, "", scales)
            z = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
                (x, "", halves) }""",
    "windows": """(float[b, t, 12] x) => (float[b, t, 6] y, float[b, t, 5] z) {
            y = MaxPool<kernel_shape = [3], strides = [2], ceil_mode = 1>(x)
            z = AveragePool<kernel_shape = [3], strides = [2], pads = [0, 0]>(x) }""",
}
SIZES = ((3, 8), (1, 5), (4, 1), (2, 13))


def network(name: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> net {SOURCES[name]}')


def by_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def run(module: Any, feeds: dict[str, Array], names: list[str]) -> list[Array]:
    with torch.no_grad():
        result = module(*(torch.from_numpy(feeds[name]) for name in names))
    return [value.numpy() for value in (result if isinstance(result, tuple | list) else (result,))]


def exported(module: Any) -> Any:
    """torch.export with every dimension dynamic that the importer says is."""
    rows = [(dims, spec) for dims, spec in zip(module.meta["onnx_dynamic"].values(), shapes(module), strict=True)]
    dynamic = tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for dims, _ in rows)
    with shape_config.patch(backed_size_oblivious=True):
        program = torch.export.export(
            module,
            tuple(torch.zeros(shape) for _, shape in rows),
            dynamic_shapes=dynamic,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    return program.module()


def shapes(module: Any) -> list[list[int]]:
    sizes = module.meta["onnx_sizes"]
    rest = module.meta["rest"]
    return [
        [sizes[dims[i]] if i in dims else size for i, size in enumerate(rest[name])]
        for name, dims in module.meta["onnx_dynamic"].items()
    ]


def imported(model: onnx.ModelProto) -> Any:
    module = import_onnx(model)
    module.meta["rest"] = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return module


def agree(got: list[Array], wanted: list[Array]) -> bool:
    assert [a.shape for a in got] == [b.shape for b in wanted]
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("name", SOURCES)
def test_network_is_right_at_every_size(name: str) -> None:
    model = network(name)
    module = imported(model)
    assert set(module.meta["onnx_sizes"]) == {"b", "t"}
    sizes = [size for size in SIZES if size[1] > 3 or name not in {"reflected", "windows"}]
    for form in (module, exported(module)):
        for batch, steps in sizes:
            x = random.standard_normal((batch, steps, 12)).astype(np.float32)
            assert agree(run(form, {"x": x}, ["x"]), by_onnxruntime(model, {"x": x})), (batch, steps)


def recurrent(op: str, gates: int, direction: str) -> onnx.ModelProto:
    directions = 2 if direction == "bidirectional" else 1
    hidden, size = 5, 3
    weights = {
        "w": random.standard_normal((directions, gates * hidden, size)),
        "r": random.standard_normal((directions, gates * hidden, hidden)),
        "b": random.standard_normal((directions, 2 * gates * hidden)),
    }
    inputs = {"x": ["t", "n", size], "h": [directions, "n", hidden]}
    names = ["x", "w", "r", "b", "", "h"]
    outputs = ["y", "h_last"]
    if op == "LSTM":
        inputs["c"] = inputs["h"]
        names.append("c")
        outputs.append("c_last")
    node = helper.make_node(op, names, outputs, hidden_size=hidden, direction=direction)
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_recurrence_takes_any_number_of_steps(op: str, gates: int, direction: str) -> None:
    model = recurrent(op, gates, direction)
    module = imported(model)
    names = [value.name for value in model.graph.input]
    for form in (module, exported(module)):
        for steps, batch in ((6, 2), (1, 4), (9, 1)):
            rest = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
            shapes = {n: [steps, batch, 3] if n == "x" else [rest[n][0], batch, 5] for n in names}
            feeds = {n: random.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
            assert agree(run(form, feeds, names), by_onnxruntime(model, feeds)), (steps, batch)


def test_judge_sees_a_size_that_was_baked_in() -> None:
    module = imported(network("shape arithmetic"))
    reshape = next(node for node in module.graph.nodes if node.target is torch.reshape)
    reshape.args = (reshape.args[0], [3, 8, 3, 4])
    module.recompile()
    x = random.standard_normal((3, 8, 12)).astype(np.float32)
    assert agree(run(module, {"x": x}, ["x"]), by_onnxruntime(network("shape arithmetic"), {"x": x}))
    with pytest.raises(RuntimeError, match="shape"):
        run(module, {"x": x[:2]}, ["x"])


TRAINED = {
    "convolutions": """(float[b, 1, 8, 8] x) => (float[b, 2] y)
        <float[2, 9] unused = {0}> { c = Conv<pads = [1, 1, 1, 1]>(x, kernel)  r = Relu(c)
          p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm<transB = 1>(f, dense, bias) }""",
    "lstm": """(float[5, b, 3] x) => (float[b, 2] y) <int64[1] zero = {0}> {
          s, h, c = LSTM<hidden_size = 4>(x, w, r)  q = Squeeze(h, zero)  y = Gemm<transB = 1>(q, dense, bias) }""",
}
WEIGHTS = {
    "convolutions": {"kernel": (4, 1, 3, 3), "dense": (2, 4), "bias": (2,)},
    "lstm": {"w": (1, 16, 3), "r": (1, 16, 4), "dense": (2, 4), "bias": (2,)},
}


@pytest.mark.parametrize("name", TRAINED)
def test_imported_network_trains(name: str) -> None:
    text = TRAINED[name].replace("<float[2, 9] unused = {0}>", "")
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> net {text}')
    for weight, shape in WEIGHTS[name].items():
        drawn = random.standard_normal(shape).astype(np.float32) / 2
        model.graph.initializer.append(numpy_helper.from_array(drawn, weight))
    module = import_onnx(model).train().requires_grad_(requires_grad=True)
    assert {n for n, _ in module.named_parameters()} == set(WEIGHTS[name])
    x = torch.from_numpy(random.standard_normal((6, 1, 8, 8) if name == "convolutions" else (5, 6, 3))).float()
    target = torch.tensor([0, 1, 0, 1, 1, 0])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), target)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] * 0.98
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())
