"""TFLite to ONNX: whole networks, the border, open dimensions, transposes, the command, the second engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.spec import ConvertOptions, StepError, Support, UnsupportedModel, UsageError
from hub_tflite.describe import describe_file, signature_of
from hub_tflite.runtime import LiteRtSession
from hub_tflite.to_onnx import layout, write
from hub_tflite.to_onnx.edge import IMPORTER, convert
from hub_tflite.to_onnx.tf2onnx_edge import TF2ONNX, convert_second, dropped_biases, leftovers
from hub_tflitefile.schema import new, read, to_bytes
from plugins.tflite.tests import tflite_graphs as graphs
from plugins.tflite.tests import tflite_handmade as handmade
from plugins.tflite.tests.test_tflite_to_onnx_operators import difference, run_onnx

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Most transposes that a network may keep: at its input, and where space is flattened into features.
_TRANSPOSES = {"cnn_bn": 1, "depthwise": 2, "unet": 0, "multi_io": 2, "mobilenet": 1}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Converts a network of the Keras plugin's tests to TFLite, with a fixed or an open batch."""
    folder = tmp_path_factory.mktemp("networks")

    @cache
    def made(name: str, batch: int | None = 1) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow's own
            path = folder / f"{name}_{batch}.tflite"
            path.write_bytes(_written(name, batch))
        return path

    return made


def _written(name: str, batch: int | None) -> bytes:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from plugins.keras.tests import keras_networks

    model = keras_networks.build(name)
    specs = [
        tf.TensorSpec((batch, *shape[1:]), value.dtype, name=key)
        for (key, shape), value in zip(keras_networks.shapes(name).items(), model.inputs, strict=True)
    ]

    @tf.function(input_signature=specs, autograph=False)
    def call(*xs: Any) -> Any:
        return model(list(xs) if len(xs) > 1 else xs[0])

    frozen = convert_variables_to_constants_v2(call.get_concrete_function())
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([frozen], model).convert()
    return content


def _feeds(path: Path, size: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        spec.name: rng.standard_normal([dim.size or size for dim in spec.shape]).astype(spec.dtype.value)
        if spec.dtype.is_float
        else rng.integers(0, 100, [dim.size or size for dim in spec.shape]).astype(spec.dtype.value)
        for spec in signature_of(read(path)).inputs
    }


def _compared(source: Path, result: Path, size: int = 1) -> str:
    feeds = _feeds(source, size)
    return difference(LiteRtSession(source.read_bytes()).run(feeds), run_onnx(result, feeds))


def _transposes(path: Path) -> int:
    import onnx

    return sum(node.op_type == "Transpose" for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("name", [*_TRANSPOSES, "attention", "text"])
def test_a_network_computes_the_same_with_few_transposes(name: str, network: Any, tmp_path: Path) -> None:
    source, result = network(name), tmp_path / "result.onnx"
    convert(source, result)
    assert _compared(source, result) == ""
    assert _transposes(result) <= _TRANSPOSES.get(name, 4)


@pytest.mark.parametrize("name", ["cnn_bn", "depthwise", "unet", "multi_io", "attention", "text"])
def test_an_open_batch_stays_open(name: str, network: Any, tmp_path: Path) -> None:
    import onnx

    source, result = network(name, None), tmp_path / "result.onnx"
    convert(source, result)
    for size in (1, 3):
        assert _compared(source, result, size) == ""
    made, said = onnx.load(result).graph, signature_of(read(source))
    for values, specs in ((made.input, said.inputs), (made.output, said.outputs)):
        dims = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values]
        assert [value.name for value in values] == [spec.name for spec in specs]
        assert dims == [[str(dim) if dim.size is None else dim.size for dim in spec.shape] for spec in specs]


def test_a_network_of_litert_torch_keeps_channels_first(tmp_path: Path) -> None:
    """Its border is channels first, its convolutions are channels last: no transpose is left but attention's."""
    import torch

    torch.manual_seed(0)
    source, result = tmp_path / "torch.tflite", tmp_path / "torch.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and jax' own
        import litert_torch

        litert_torch.convert(_torch_network().eval(), (torch.randn(1, 3, 16, 16),)).export(str(source))
    convert(source, result)
    assert _compared(source, result) == ""
    assert _transposes(result) == 0


def _torch_network() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8),
        nn.Hardswish(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ConstantPad2d((1, 0, 2, 1), 0.5),
        nn.PReLU(8), nn.Conv2d(8, 4, 1), nn.Softmax(dim=1), nn.AvgPool2d(2, ceil_mode=False),
    )  # fmt: skip


@pytest.mark.parametrize("perm", [[0, 3, 1, 2], [0, 2, 3, 1]])
def test_a_transpose_of_unknown_rank_stays(perm: list[int], tmp_path: Path) -> None:
    """The layout pass knows no order of axes there: it once dropped the second one and broke the first."""
    made = graphs.Graph()
    x, sizes = made.tensor("x", (2, 3, 4, 5)), made.tensor("sizes", (4,), "INT32", shapeSignature=[-1])
    unknown = [made.tensor(name, ()) for name in ("reshaped", "turned")]
    for index in unknown:
        made.tensors[index].hasRank = False
    y = made.tensor("y", tuple(np.array((2, 3, 4, 5))[perm].tolist()))
    made.add("RESHAPE", [x, sizes], [unknown[0]], "ReshapeOptions")
    made.add("TRANSPOSE", [unknown[0], made.constant("perm", np.int32(perm), "INT32")], [unknown[1]])
    made.add("NEG", [unknown[1]], [y])
    path = graphs.save(made.model([x, sizes], [y]), tmp_path / "m.tflite")
    convert(path, tmp_path / "m.onnx")
    feeds = {"x": np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5), "sizes": np.int32([2, 3, 4, 5])}
    assert difference(LiteRtSession(path.read_bytes()).run(feeds), run_onnx(tmp_path / "m.onnx", feeds)) == ""


def test_open_sizes_are_fixed_on_request(network: Any, tmp_path: Path) -> None:
    import onnx

    source, result = network("cnn_bn", None), tmp_path / "result.onnx"
    convert(source, result, {"image": (2, 32, 32, 3)})
    assert _compared(source, result, 2) == ""
    (output,) = onnx.load(result).graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [2, 10]
    with pytest.raises(UsageError, match="does not fit"):
        convert(source, result, {"image": (2, 32, 32, 4)})
    with pytest.raises(UsageError, match="no input picture"):
        convert(source, result, {"picture": (2, 32, 32, 3)})


def test_the_transpose_count_sees_a_pass_that_does_nothing(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout.LayoutPass, "run", lambda _: None)
    convert(network("cnn_bn"), tmp_path / "result.onnx")
    assert _transposes(tmp_path / "result.onnx") > _TRANSPOSES["cnn_bn"]


def dense() -> Any:
    """A matrix product of 16 KiB."""
    weights = handmade.constant(handmade.drawn(64, 64), np.float32)
    operands = [handmade.drawn(1, 64), weights, handmade.constant(handmade.drawn(64), np.float32)]
    return handmade.single("FULLY_CONNECTED", operands, [((1, 64), "FLOAT32")], "FullyConnectedOptions").model


_SHAPE = (2, 3, 4, 5)
_KINDS = ("RELU", "ADD", "CONCATENATION", "MEAN", "PAD", "TRANSPOSE", "MAX_POOL_2D", "SLICE", "SOFTMAX", "MUL")


def random_graph(seed: int) -> Any:
    """Operators that mind the order of axes, and such that do not, with transposes of all kinds among them."""
    rng = np.random.default_rng(seed)
    made = graphs.Graph()
    values = [made.tensor("x0", _SHAPE), made.tensor("x1", _SHAPE)]
    inputs = list(values)
    for _ in range(14):
        source = int(rng.choice(values))
        shape = tuple(made.tensors[source].shape)
        values.append(_step(made, rng, str(rng.choice(_KINDS)), (source, shape), values))
    ends = [int(value) for value in {*values[-3:], *rng.choice(values[2:], 2)}]
    return made.model(inputs, sorted(ends))


def _step(made: graphs.Graph, rng: Any, kind: str, source: tuple[int, tuple[int, ...]], values: list[int]) -> int:
    value, shape = source
    name = f"{kind.lower()}{len(made.tensors)}"
    if kind in {"ADD", "MUL", "CONCATENATION"}:
        alike = [other for other in values if tuple(made.tensors[other].shape) == shape]
        other = int(rng.choice(alike))
        if kind != "CONCATENATION" and rng.random() < 0.3:
            other = made.constant(f"{name}_c", handmade.drawn(shape[-1]))
        axis = int(rng.integers(4))
        sizes = tuple(n * 2 if kind == "CONCATENATION" and i == axis else n for i, n in enumerate(shape))
        if max(sizes) > 12:
            return value
        options = {"ADD": "AddOptions", "MUL": "MulOptions", "CONCATENATION": "ConcatenationOptions"}[kind]
        result = made.tensor(name, sizes)
        made.add(kind, [value, other], [result], options, **({"axis": axis} if kind == "CONCATENATION" else {}))
        return result
    return _single_step(made, rng, kind, value, name)


def _single_step(made: graphs.Graph, rng: Any, kind: str, value: int, name: str) -> int:
    shape = tuple(made.tensors[value].shape)
    operands, options, fields = [value], "", {}
    if kind == "TRANSPOSE":
        perms = [[0, 3, 1, 2], [0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 3, 1], [0, 2, 1, 3], [3, 0, 1, 2]]
        perm = perms[int(rng.integers(len(perms)))]
        operands.append(made.constant(f"{name}_p", np.int32(perm), "INT32"))
        shape = tuple(shape[axis] for axis in perm)
    elif kind == "MEAN":
        axis = int(rng.integers(1, 4))
        operands.append(made.constant(f"{name}_a", np.int32([axis]), "INT32"))
        options, fields = "ReducerOptions", {"keepDims": True}
        shape = tuple(1 if i == axis else n for i, n in enumerate(shape))
    elif kind == "PAD":
        around = rng.integers(0, 2, (4, 2)).astype(np.int32)
        operands.append(made.constant(f"{name}_p", around, "INT32"))
        shape = tuple(int(n + sum(row)) for n, row in zip(shape, around, strict=True))
    elif kind == "SLICE":
        operands += [
            made.constant(f"{name}_b", np.int32([0, 0, 0, 0]), "INT32"),
            made.constant(f"{name}_s", np.int32([-1, shape[1], -1, max(shape[3] - 1, 1)]), "INT32"),
        ]
        shape = (*shape[:3], max(shape[3] - 1, 1))
    elif kind == "MAX_POOL_2D":
        options = "Pool2DOptions"
        fields = {"padding": 0, "strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 3}
    elif kind == "SOFTMAX":
        options, fields = "SoftmaxOptions", {"beta": 1.0}
    result = made.tensor(name, shape)
    made.add(kind, operands, [result], options, **fields)
    return result


def _judged(seed: int, folder: Path) -> tuple[str, int]:
    source, result = folder / "random.tflite", folder / "random.onnx"
    source.write_bytes(to_bytes(random_graph(seed)))
    convert(source, result)
    return _compared(source, result), _transposes(result)


def test_random_graphs_survive_the_layout_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pass = [_judged(seed, tmp_path) for seed in range(60)]
    assert [said for said, _ in with_pass if said] == []
    monkeypatch.setattr(layout.LayoutPass, "run", lambda _: None)
    without = [_judged(seed, tmp_path) for seed in range(60)]
    assert [said for said, _ in without if said] == []
    worse = [(seed, a, b) for seed, ((_, a), (_, b)) in enumerate(zip(with_pass, without, strict=True)) if a > b]
    assert worse == []
    assert sum(count for _, count in with_pass) < sum(count for _, count in without)


def test_random_graphs_see_a_planted_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "permute", lambda *_: None)
    said = []
    for seed in range(10):
        try:
            said.append(_judged(seed, tmp_path)[0])
        except Exception as error:  # noqa: BLE001 - an invalid graph is seen as well
            said.append(type(error).__name__)
    assert any(said)


def test_the_border_is_the_signature(tmp_path: Path) -> None:
    """Order, names that differ from the tensors', an input that is an output, one tensor twice."""
    made = graphs.Graph()
    a, b, c = made.tensor("x0", (2, 3)), made.tensor("x1", (2, 3)), made.tensor("same", (2, 3))
    made.add("SUB", [a, b], [c], "SubOptions")
    model = made.model([a, b], [c, a, c])
    signature = model.signatureDefs[0]
    for entry, name in zip((*signature.inputs, *signature.outputs), ("q", "p", "r", "s", "t"), strict=True):
        entry.name = name.encode()
    source, result = graphs.save(model, tmp_path / "border.tflite"), tmp_path / "border.onnx"
    convert(source, result)
    feeds = {"q": handmade.drawn(2, 3), "p": handmade.drawn(3, 2).reshape(2, 3)}
    found = run_onnx(result, feeds)
    assert list(found) == [spec.name for spec in signature_of(read(source)).outputs]
    np.testing.assert_array_equal(found["r"], feeds["q"] - feeds["p"])
    np.testing.assert_array_equal(found["s"], feeds["q"])
    np.testing.assert_array_equal(found["t"], found["r"])


def test_several_signatures_are_told(tmp_path: Path) -> None:
    model = dense()
    other = new("SignatureDefT", signatureKey=b"other", subgraphIndex=0)
    other.inputs, other.outputs = model.signatureDefs[0].inputs, model.signatureDefs[0].outputs
    model.signatureDefs.append(other)
    source = graphs.save(model, tmp_path / "two.tflite")
    (note,) = convert(source, tmp_path / "two.onnx").notes
    assert note.text == "the signature serving_default was converted, other left out"


def test_large_weights_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "EXTERNAL_ABOVE_BYTES", 10_000)
    source, result = graphs.save(dense(), tmp_path / "c.tflite"), tmp_path / "c.onnx"
    convert(source, result)
    assert (tmp_path / "c.onnx.data").stat().st_size > 10_000 > result.stat().st_size
    import onnxruntime

    feeds = _feeds(source)
    found = onnxruntime.InferenceSession(result, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(found[0], LiteRtSession(source.read_bytes()).run(feeds)["y0"], rtol=1e-5, atol=1e-6)


def test_check_names_all_unknown_operators(tmp_path: Path) -> None:
    made = graphs.Graph()
    x, y, z = (made.tensor(name, (2, 3)) for name in "xyz")
    made.add("LSH_PROJECTION", [x, x], [y])
    made.add("SKIP_GRAM", [y], [z])
    path = tmp_path / "odd.tflite"
    graphs.save(made.model([x], [z]), path)
    verdict = IMPORTER.check(describe_file(path), ConvertOptions())
    assert verdict.support is Support.NOTIMPL
    assert "LSH_PROJECTION, SKIP_GRAM" in verdict.reason
    good = describe_file(graphs.save(dense(), path))
    assert IMPORTER.check(good, ConvertOptions())
    assert not IMPORTER.honours


def test_the_second_engine_is_used_only_where_it_is_right(network: Any, tmp_path: Path) -> None:
    source, result = network("cnn_bn"), tmp_path / "second.onnx"
    convert_second(source, result, tmp_path)
    assert _compared(source, result) == ""
    assert TF2ONNX.check(describe_file(source), ConvertOptions())
    kept = next(made for made in handmade.good() if "keepNumDims=True" in made.name)
    path = graphs.save(kept.model, tmp_path / "kept.tflite")
    assert dropped_biases(read(path)) == ["y0"]
    with pytest.raises(UnsupportedModel, match="drops the bias of FULLY_CONNECTED in y0"):
        convert_second(path, result, tmp_path)
    with pytest.raises(UnsupportedModel, match="left TFL_RELU_0_TO_1"):
        convert_second(graphs.save(next(handmade.good()).model, tmp_path / "r.tflite"), result, tmp_path)


def test_leftovers_are_operators_outside_the_standard() -> None:
    from onnx import helper

    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("TFL_GELU", ["y"], ["z"])]
    nodes.append(helper.make_node("Odd", ["z"], ["w"], domain="there"))
    model = helper.make_model(helper.make_graph(nodes, "g", [], []), opset_imports=[helper.make_opsetid("", 17)])
    assert leftovers(model) == ["Odd", "TFL_GELU"]


def test_a_failure_of_the_second_engine_is_coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tf2onnx.convert

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(tf2onnx.convert, "from_tflite", fail)
    with pytest.raises(StepError, match="tf2onnx failed: ValueError: no"):
        convert_second(graphs.save(dense(), tmp_path / "c.tflite"), tmp_path / "c.onnx", tmp_path)


def test_the_command_converts_and_compares(tmp_path: Path) -> None:
    source = graphs.save(dense(), tmp_path / "digits.tflite")
    hub = Path(sys.executable).with_name("hub")
    words = [str(hub), "convert", str(source), "--to", "onnx", "-o", str(tmp_path / "digits.onnx"), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["result"]["state"]["numerics"] == "fp32"
    assert (tmp_path / "digits.onnx").exists()
