"""Operators that torch.onnx and LiteRT Torch do not know, written out: the values are PyTorch's own."""

# torch is untyped here, so its classes cannot be subclassed in strict mode.
# mypy: disable-error-code="misc"
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hub.spec import UnsupportedModel
from hub_pytorch.expanded import EXPANDED, FOR_LITERT, FOR_ONNX, expanded
from hub_pytorch.onnx_importer import import_onnx
from hub_pytorch.to_onnx import OnnxNames, _export_with_retry

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch and onnxscript use old parts
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the same
]

X = torch.tensor([[0.3, 2.0, 2.0, -1.0, 5.0, 5.0, 1.0], [-4.0, -4.0, 0.0, 9.0, -2.0, 9.0, 3.0]])
SCALES, ZEROS = torch.tensor([0.4, 0.7]), torch.tensor([0, 3], dtype=torch.int32)
FAKE_TENSOR = (torch.tensor([0.25]), torch.tensor([3], dtype=torch.int32), -128, 127)
CASES: dict[str, tuple[Any, ...]] = {
    "aten.cummax.default": (torch.ops.aten.cummax.default, X, 1),
    "aten.cummin.default": (torch.ops.aten.cummin.default, X, -1),
    "aten.round.default": (torch.ops.aten.round.default, X * 2.5),
    "aten.logcumsumexp.default": (torch.ops.aten.logcumsumexp.default, X * 40, 1),
    "aten.fake_quantize_per_tensor_affine.default": (
        torch.ops.aten.fake_quantize_per_tensor_affine.default, X, 0.25, 12, 0, 15,
    ),
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": (
        torch.ops.aten.fake_quantize_per_tensor_affine.tensor_qparams, X, *FAKE_TENSOR,
    ),
    "aten.fake_quantize_per_channel_affine.default": (
        torch.ops.aten.fake_quantize_per_channel_affine.default, X, SCALES, ZEROS, 0, -8, 7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_is_written_out_is_what_pytorch_computes(name: str) -> None:
    assert CASES.keys() == EXPANDED.keys() | FOR_LITERT.keys()
    operator, *arguments = CASES[name]
    torch.testing.assert_close(FOR_LITERT[name](*arguments), operator(*arguments))  # element types too


def test_infinities_add_up_to_themselves() -> None:
    x = torch.tensor([-math.inf, -math.inf, 0.0, math.inf, 1.0])
    torch.testing.assert_close(FOR_LITERT["aten.logcumsumexp.default"](x, 0), torch.logcumsumexp(x, 0))


class Everything(nn.Module):
    """Each operator that torch.onnx lacks."""

    def forward(self, x: Any) -> Any:
        most, where = torch.cummax(x, 1)
        least, there = torch.cummin(x, 1)
        ordered, places = torch.sort(x.round(), dim=1, stable=True)
        fake = torch.fake_quantize_per_tensor_affine(x, 0.25, 3, 0, 15)
        downwards = torch.argsort(x.round(), dim=1, descending=True, stable=True)
        return most, where, least, there, ordered, places, fake, downwards


def test_torch_onnx_takes_the_program(tmp_path: Path) -> None:
    module = Everything().eval()
    program = torch.export.export(module, (X,))
    names = OnnxNames(["x"], [f"y{i}" for i in range(8)], {})
    (note,) = _export_with_retry(program, names, tmp_path / "m.onnx")
    assert note.text == "wrote out in other operators: argsort, cummax, cummin, fake_quantize_per_tensor_affine, sort"
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for got, wanted in zip(session.run(None, {"x": X.numpy()}), module(X), strict=True):
        np.testing.assert_array_equal(got, wanted.numpy())


class Running(nn.Module):
    """A running extreme."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x, 1)


@pytest.mark.parametrize("function", [torch.cummax, torch.cummin])
def test_an_open_size_is_not_written_out_for_the_examples(function: Any, tmp_path: Path) -> None:
    """Steps for 8 places would see only the last 8 of 16: right along a fixed dimension, refused along an open one."""
    places = torch.export.export(
        Running(function), (X[:, :2].repeat(1, 4),), dynamic_shapes=[{1: torch.export.Dim("n")}]
    )
    with pytest.raises(UnsupportedModel, match=r"whose size s\d+ is open"):
        _export_with_retry(places, OnnxNames(["x"], ["y", "at"], {}), tmp_path / "places.onnx")

    rows = torch.export.export(Running(function), (X,), dynamic_shapes=[{0: torch.export.Dim("n")}])
    _export_with_retry(rows, OnnxNames(["x"], ["y", "at"], {}), tmp_path / "rows.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "rows.onnx"), providers=["CPUExecutionProvider"])
    for x in (X, torch.cat([X, X.flip(1), X])):
        for got, wanted in zip(session.run(None, {"x": x.numpy()}), function(x, 1), strict=True):
            np.testing.assert_array_equal(got, wanted.numpy())


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_the_smallest_integers_are_minima(kind: torch.dtype) -> None:
    ends = torch.iinfo(kind)
    x = torch.tensor([1, 0, ends.max, ends.min, 1], dtype=kind)
    torch.testing.assert_close(EXPANDED["aten.cummin.default"](x, 0), torch.cummin(x, 0))


def test_a_program_without_them_stays_itself() -> None:
    program = torch.export.export(nn.Linear(7, 2).eval(), (X,))
    assert not {str(node.target) for node in program.graph.nodes} & FOR_ONNX.keys()
    assert expanded(program) == (program, ())


@pytest.mark.parametrize("length", [None, 9, 14])
def test_a_real_signal_comes_back_from_its_frequencies(length: int | None) -> None:
    size = length or 12
    node = helper.make_node("DFT", ["x", "length" if length else "", "axis"], ["y"], inverse=1, onesided=1)
    numbers = {"axis": 1} | ({"length": length} if length else {})
    shapes = (("x", [2, size // 2 + 1, 2]), ("y", [2, size, 1]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    constants = [numpy_helper.from_array(np.asarray(item), name) for name, item in numbers.items()]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    signal = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    got = import_onnx(model)(torch.view_as_real(torch.fft.rfft(signal)))
    torch.testing.assert_close(got[..., 0], signal)
