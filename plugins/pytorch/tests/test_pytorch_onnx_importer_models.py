"""The ONNX importer on whole networks: real ones, classic graphs, and recurrent ones that torch.onnx wrote."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import onnxslim
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper

from hub_pytorch.onnx_importer import import_onnx, unsupported_operators

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning"
    ),  # torch, onnxscript and litert_torch use old parts of torch
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the same
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),  # torchao is compiled at its first import
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch.export tells of its own guesses
]
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
REAL = {
    "vad_onnx": {"input": [1, 512], "state": [2, 1, 128]},
    "vad_op15_onnx": {"input": [1, 576], "state": [2, 1, 128]},
    "ocr_det": {"x": [1, 3, 160, 160]},
    "ocr_rec": {"x": [1, 3, 48, 320]},
    "ocr_cls": {"x": [1, 3, 48, 192]},
    "magika_onnx": {"bytes": [1, 2048]},
}


def prepared(path: Path, shapes: dict[str, list[int]]) -> onnx.ModelProto:
    """Fixed shapes, a fixed sampling rate, folded."""
    model = onnx.load(path)
    rate = [value for value in model.graph.input if value.name == "sr"]
    for value in rate:
        model.graph.input.remove(value)
        model.graph.initializer.append(numpy_helper.from_array(np.array(16000), "sr"))
    for value in model.graph.input:
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.shape.dim.extend(
            onnx.TensorShapeProto.Dimension(dim_value=size) for size in shapes[value.name]
        )
    return onnxslim.slim(model)


def feeds_for(model: onnx.ModelProto, seed: int = 0) -> Feeds:
    random = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    feeds: Feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.name not in weights:
            real = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            drawn = random.standard_normal(shape) / 4 if real else random.integers(0, 256, shape)
            feeds[value.name] = drawn.astype(np.float32 if real else np.int32)
    return feeds


def by_onnxruntime(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def arguments(module: Any, feeds: Feeds) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(feeds[name]) for name in module.meta["onnx_inputs"])


def run(module: Any, feeds: Feeds) -> list[Array]:
    with torch.no_grad():
        result = module(*arguments(module, feeds))
    return [value.numpy() for value in (result if isinstance(result, tuple) else (result,))]


def run_tflite(module: Any, feeds: Feeds, path: Path) -> list[Array]:
    import litert_torch

    litert_torch.convert(module.eval(), arguments(module, feeds)).export(str(path))
    interpreter = Interpreter(str(path), num_threads=1)
    runner = interpreter.get_signature_runner()
    given = dict(zip(sorted(runner.get_input_details()), (feeds[n] for n in module.meta["onnx_inputs"]), strict=True))
    results = runner(**given)
    return [np.array(results[name]) for name in sorted(results)]


def worst(got: list[Array], wanted: list[Array]) -> float:
    """The largest error relative to the largest value of an output, or to 0.01 where all are smaller."""
    assert [(a.shape, a.dtype) for a in got] == [(b.shape, b.dtype) for b in wanted]
    return max(
        float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(b).max(), 0.01))
        for a, b in zip(got, wanted, strict=True)
    )


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_network_is_the_same_and_can_be_exported(name: str, request: pytest.FixtureRequest) -> None:
    model = prepared(request.getfixturevalue(name), REAL[name])
    assert unsupported_operators(model) == {}
    module, feeds = import_onnx(model), feeds_for(model)
    wanted = by_onnxruntime(model, feeds)
    assert worst(run(module, feeds), wanted) <= 2e-5
    exported = torch.export.export(module, arguments(module, feeds)).module()
    again = exported(*arguments(module, feeds))
    assert worst([v.detach().numpy() for v in (again if isinstance(again, tuple) else (again,))], wanted) <= 2e-5


@pytest.mark.real
@pytest.mark.parametrize("name", ["vad_onnx", "magika_onnx"])
def test_real_network_becomes_tflite(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = prepared(request.getfixturevalue(name), REAL[name])
    module, feeds = import_onnx(model), feeds_for(model)
    assert worst(run_tflite(module, feeds, tmp_path / "net.tflite"), by_onnxruntime(model, feeds)) <= 1e-4


def test_weights_keep_their_names(vad_fixed_onnx: Path) -> None:
    model = onnx.load(vad_fixed_onnx)
    module = import_onnx(model)
    names = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert names >= {name for name, _ in module.named_parameters()}


HEAVY = {"light_vgg19", "light_zfnet512", "light_bvlc_alexnet"}  # plain convolutions, of which CI has others


def with_random_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The classic graphs fill their weights with one value, under which errors cannot show: draw them instead."""
    random = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = shapes[node.input[0]]
            spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
            drawn = random.standard_normal(shape) * spread if len(shape) > 1 else random.uniform(0.8, 1.2, shape)
            model.graph.initializer.append(numpy_helper.from_array(drawn.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


@pytest.mark.real
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.scheduled] * (path.stem in HEAVY))
        for path in sorted(LIGHT.glob("*.onnx"))
    ],
)
def test_classic_graph_is_the_same(path: Path) -> None:
    model = with_random_weights(onnx.load(path))
    feeds = feeds_for(model)
    assert worst(run(import_onnx(model), feeds), by_onnxruntime(model, feeds)) <= 2e-5  # sums in another order


class First(torch.nn.Module):  # type: ignore[misc] # torch is Any to mypy
    """A recurrent layer without its state."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


RECURRENT: dict[str, Callable[[], torch.nn.Module]] = {
    "lstm": lambda: torch.nn.LSTM(6, 8, 2, batch_first=True),
    "both ways": lambda: torch.nn.LSTM(6, 8, bidirectional=True, batch_first=True),
    "gru": lambda: torch.nn.GRU(6, 8, batch_first=True),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_network_of_torch_comes_back_and_becomes_tflite(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    file = io.BytesIO()
    torch.onnx.export(First(RECURRENT[kind]()).eval(), (torch.randn(1, 7, 6),), file, dynamo=True, external_data=False)
    model = onnx.load_from_string(file.getvalue())
    feeds = feeds_for(model)
    module, wanted = import_onnx(model), by_onnxruntime(model, feeds)
    assert worst(run(module, feeds), wanted) <= 2e-5
    assert worst(run_tflite(module, feeds, tmp_path / "net.tflite"), wanted) <= 1e-4
