"""ONNX to `.pt2`: open dimensions stay open and are right at other sizes, integers stay integers, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from hub.spec import ConvertOptions, DescribeJob, Numerics, Signature, UnsupportedModel
from hub_onnxruntime.describe import OnnxFormat
from hub_pytorch import PyTorchFormat
from hub_pytorch.from_onnx import convert_from_onnx, convert_quantized
from hub_pytorch.to_onnx import convert_to_onnx
from hub_torchprogram import exported_program
from plugins.pytorch.tests.onnx_sources import (
    Array,
    all_feeds,
    by_onnxruntime,
    exported,
    prepared,
    signature_of,
    worst,
)
from plugins.pytorch.tests.source_networks import LAYERS
from plugins.pytorch.tests.torch_networks import NETWORKS as WHOLE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch and its exporters use old parts
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the same
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch.export tells of its own guesses
]
SMALL = {**LAYERS, "lstm": WHOLE["lstm"], "unet": WHOLE["unet"]}
IN_CI = {"convolutions", "embedding", "states", "attention", "unet", "numbers"}
PARITY = 1e-4
Feeds = dict[str, Array]


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(mode=False)


def by_pt2(path: Path, feeds: Feeds) -> list[Array]:
    with torch.no_grad():
        return [tensor.numpy() for tensor in exported_program(path).call(*map(torch.from_numpy, feeds.values()))]


def border(signature: Signature) -> list[list[Any]]:
    """Names, types and fixed sizes of inputs and outputs; None for an open dimension."""
    sides = (signature.inputs, signature.outputs)
    return [[(s.name, s.dtype, tuple(dim.size for dim in s.shape)) for s in side] for side in sides]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.scheduled] * (name not in IN_CI)) for name in SMALL]
)
def test_program_is_right_at_every_size_and_keeps_the_border(name: str, tmp_path: Path) -> None:
    source = exported(SMALL[name], tmp_path / "net.onnx")
    ready = prepared(source)
    convert_from_onnx(ready, signature_of(ready), tmp_path / "net.pt2")
    found = PyTorchFormat().describe(DescribeJob(path=str(tmp_path / "net.pt2"))).signature
    assert border(found)[0] == border(signature_of(source))[0]
    assert [spec.name for spec in found.outputs] == [spec.name for spec in signature_of(source).outputs]
    for given, wanted in zip(found.inputs, signature_of(source).inputs, strict=True):
        assert [dim.symbol for dim in given.shape] == [dim.symbol for dim in wanted.shape]
    for feeds in all_feeds(SMALL[name]):
        assert worst(by_pt2(tmp_path / "net.pt2", feeds), by_onnxruntime(source, feeds)) <= PARITY


def test_judge_sees_a_wrong_program(tmp_path: Path) -> None:
    source = exported(SMALL["perceptron"], tmp_path / "net.onnx")
    model = onnx.load(source)
    weight = next(item for item in model.graph.initializer if len(item.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    convert_from_onnx(tmp_path / "other.onnx", signature_of(source), tmp_path / "net.pt2")
    feeds = all_feeds(SMALL["perceptron"])[0]
    assert worst(by_pt2(tmp_path / "net.pt2", feeds), by_onnxruntime(source, feeds)) > PARITY


@pytest.mark.parametrize(
    "name",
    ["embedding", "states", *(pytest.param(n, marks=pytest.mark.scheduled) for n in ("batch norm", "transposed"))],
)
def test_there_and_back_keeps_values_and_border(name: str, tmp_path: Path) -> None:
    source = exported(SMALL[name], tmp_path / "net.onnx")
    ready = prepared(source)
    convert_from_onnx(ready, signature_of(ready), tmp_path / "net.pt2")
    convert_to_onnx(exported_program(tmp_path / "net.pt2"), ConvertOptions(), tmp_path / "back.onnx")
    assert border(signature_of(tmp_path / "back.onnx"))[0] == border(signature_of(source))[0]
    assert [s.name for s in signature_of(tmp_path / "back.onnx").outputs] == [
        s.name for s in signature_of(source).outputs
    ]
    for feeds in all_feeds(SMALL[name]):
        assert worst(by_onnxruntime(tmp_path / "back.onnx", feeds), by_onnxruntime(source, feeds)) <= PARITY


def test_dimension_that_torch_fixes_is_named_with_its_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = exported(SMALL["perceptron"], tmp_path / "net.onnx")
    imported = importlib_of("hub_pytorch.onnx_importer").import_onnx

    def fixing(model: onnx.ModelProto, folder: str) -> Any:
        graph = imported(model, folder)
        reshape = next(node for node in graph.graph.nodes if node.op == "placeholder")
        with graph.graph.inserting_after(reshape):
            baked = graph.graph.call_function(torch.reshape, (reshape, [*graph_sizes(graph), 6]))
        reshape.replace_all_uses_with(baked, delete_user_cb=lambda user: user is not baked)
        graph.recompile()
        return graph

    monkeypatch.setattr("hub_pytorch.onnx_importer.import_onnx", fixing)
    with pytest.raises(UnsupportedModel, match=r"batch|length") as caught:
        convert_from_onnx(source, signature_of(source), tmp_path / "net.pt2")
    assert "--shape steps=" in caught.value.hint


def importlib_of(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


def graph_sizes(graph: Any) -> list[int]:
    return [graph.meta["onnx_sizes"][name] for name in ("batch", "length")]


def test_unknown_operator_is_refused(tmp_path: Path) -> None:
    model = onnx.load(exported(SMALL["perceptron"], tmp_path / "net.onnx"))
    model.graph.node[0].op_type = "Nothing"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(UnsupportedModel, match="Nothing"):
        convert_from_onnx(tmp_path / "odd.onnx", signature_of(tmp_path / "net.onnx"), tmp_path / "net.pt2")


def with_data_beside(path: Path, target: Path) -> Path:
    """A copy of a file whose weights lie beside it, in a file of the same name with `.data`."""
    data = target.with_suffix(".data")
    onnx.save(onnx.load(path), target, save_as_external_data=True, location=data.name, size_threshold=0)
    return data


def test_data_beside_the_file_is_read(tmp_path: Path) -> None:
    source = exported(SMALL["perceptron"], tmp_path / "net.onnx")
    data = with_data_beside(source, tmp_path / "light.onnx")
    assert data.stat().st_size > 0
    convert_from_onnx(tmp_path / "light.onnx", signature_of(source), tmp_path / "net.pt2")
    for feeds in all_feeds(SMALL["perceptron"]):
        assert worst(by_pt2(tmp_path / "net.pt2", feeds), by_onnxruntime(source, feeds)) <= PARITY


def test_missing_data_is_named(tmp_path: Path) -> None:
    source = exported(SMALL["perceptron"], tmp_path / "net.onnx")
    with_data_beside(source, tmp_path / "light.onnx").unlink()
    with pytest.raises(UnsupportedModel, match=r"external and cannot be read.*light\.data"):
        convert_from_onnx(tmp_path / "light.onnx", signature_of(source), tmp_path / "net.pt2")


class Samples(CalibrationDataReader):  # type: ignore[misc] # untyped
    def __init__(self, feeds: list[Feeds]) -> None:
        self._rest = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._rest, None)


def quantized(name: str, folder: Path, **options: Any) -> Path:
    """A network that ONNX Runtime quantized, as QuantizeLinear and DequantizeLinear."""
    source, target = exported(SMALL[name], folder / "float.onnx"), folder / "quantized.onnx"
    quantize_static(source, target, Samples(all_feeds(SMALL[name])), **options)
    return target


def by_plain_onnxruntime(path: Path, feeds: Feeds) -> list[Array]:
    """Without optimizations: with them, ONNX Runtime rounds otherwise than the standard (16 bits, weights alone)."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


INT8 = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QInt8}
SCHEMES = {
    "per tensor": INT8,
    "per channel": {**INT8, "per_channel": True},
    "unsigned": {**INT8, "activation_type": QuantType.QUInt8},
    "int16x8": {**INT8, "activation_type": QuantType.QInt16},
    "mixed": {**INT8, "nodes_to_exclude": ["/second/Conv"]},
}
NUMERICS = {"int16x8": Numerics.INT16X8, "mixed": Numerics.INT8_MIXED}


CASES = [
    *(("batch norm", scheme) for scheme in SCHEMES if scheme != "mixed"),
    ("embedding", "per channel"),
    ("perceptron", "unsigned"),
    ("batch norm", "mixed"),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the quantizer leaves files open
@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_quantized_program_holds_integers_and_computes_the_same(name: str, scheme: str, tmp_path: Path) -> None:
    source = quantized(name, tmp_path, **SCHEMES[scheme])
    summary = OnnxFormat().describe(DescribeJob(path=str(source)))
    convert_quantized(source, summary.signature, tmp_path / "net.pt2")
    found = PyTorchFormat().describe(DescribeJob(path=str(tmp_path / "net.pt2")))
    assert found.state.numerics is summary.state.numerics is NUMERICS.get(scheme, Numerics.INT8)
    assert found.signature.inputs == summary.signature.inputs
    step = 2**-15 if scheme == "int16x8" else 2**-8
    for feeds in all_feeds(SMALL[name]):
        assert worst(by_pt2(tmp_path / "net.pt2", feeds), by_plain_onnxruntime(source, feeds)) <= 2 * step


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the quantizer leaves files open
def test_quantized_program_goes_back_to_quantized_onnx(tmp_path: Path) -> None:
    source = quantized("batch norm", tmp_path, **SCHEMES["per channel"])
    summary = OnnxFormat().describe(DescribeJob(path=str(source)))
    convert_quantized(source, summary.signature, tmp_path / "net.pt2")
    convert_to_onnx(exported_program(tmp_path / "net.pt2"), ConvertOptions(), tmp_path / "back.onnx")
    back = OnnxFormat().describe(DescribeJob(path=str(tmp_path / "back.onnx")))
    assert back.state.numerics is Numerics.INT8
    for feeds in all_feeds(SMALL["batch norm"]):
        assert worst(by_onnxruntime(tmp_path / "back.onnx", feeds), by_plain_onnxruntime(source, feeds)) <= 2 * 2**-8


def weight_only(path: Path, kind: int, block: int) -> Path:
    """A product with a matrix that is stored in integers of that type."""
    random = np.random.default_rng(0)
    bits = {TensorProto.INT8: 8, TensorProto.INT4: 4, TensorProto.UINT4: 4}[kind]
    low = 0 if kind == TensorProto.UINT4 else -(2 ** (bits - 1))
    values = random.integers(low, low + 2**bits, (32, 6))
    scale = random.uniform(0.01, 0.02, (32 // block, 6) if block else (6,)).astype(np.float32)
    zero = np.zeros(scale.shape, np.int64) + (8 if kind == TensorProto.UINT4 else 0)
    attributes = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["real"], **attributes),
        helper.make_node("MatMul", ["x", "real"], ["y"]),
    ]
    constants = [
        helper.make_tensor("w", kind, values.shape, values.reshape(-1)),
        numpy_helper.from_array(scale, "scale"),
        helper.make_tensor("zero", kind, zero.shape, zero.reshape(-1)),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6])]
    graph = helper.make_graph(nodes, "weights", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.INT4, TensorProto.UINT4])
def test_weights_alone_stay_integers(kind: int, block: int, tmp_path: Path) -> None:
    source = weight_only(tmp_path / "net.onnx", kind, block)
    summary = OnnxFormat().describe(DescribeJob(path=str(source)))
    convert_quantized(source, summary.signature, tmp_path / "net.pt2")
    found = PyTorchFormat().describe(DescribeJob(path=str(tmp_path / "net.pt2")))
    wanted = Numerics.INT8_WEIGHTS if kind == TensorProto.INT8 else Numerics.INT4_WEIGHTS
    assert (summary.state.numerics, found.state.numerics) == (wanted, wanted)
    for batch in (1, 5):
        feeds = {"x": np.random.default_rng(batch).standard_normal((batch, 32)).astype(np.float32)}
        assert worst(by_pt2(tmp_path / "net.pt2", feeds), by_plain_onnxruntime(source, feeds)) <= PARITY


def test_reader_tells_a_program_whose_integers_are_gone(tmp_path: Path) -> None:
    """The plain importer computes the real weights: the reader must not call the result quantized."""
    source = weight_only(tmp_path / "net.onnx", TensorProto.INT8, 0)
    summary = OnnxFormat().describe(DescribeJob(path=str(source)))
    convert_from_onnx(source, summary.signature, tmp_path / "net.pt2")
    assert PyTorchFormat().describe(DescribeJob(path=str(tmp_path / "net.pt2"))).state.numerics is Numerics.FP32


@pytest.mark.parametrize("count", [1, 2])
def test_the_file_is_called_as_programs_of_torch_export_are(count: int, tmp_path: Path) -> None:
    names = ["sum", "difference"][:count]
    nodes = [helper.make_node(op, ["a", "b"], [name]) for op, name in zip(["Add", "Sub"], names, strict=False)]
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ["a", "b", *names]}
    graph = helper.make_graph(nodes, "g", [ends["a"], ends["b"]], [ends[name] for name in names])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
    convert_from_onnx(tmp_path / "net.onnx", signature_of(tmp_path / "net.onnx"), tmp_path / "net.pt2")
    a, b = torch.rand(2, 3), torch.rand(2, 3)
    got = torch.export.load(tmp_path / "net.pt2").module()(a, b)
    torch.testing.assert_close(got, a + b if count == 1 else (a + b, a - b))
    found = PyTorchFormat().describe(DescribeJob(path=str(tmp_path / "net.pt2"))).signature
    assert [spec.name for spec in found.outputs] == names
