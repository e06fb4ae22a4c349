# torch is untyped here, so its classes cannot be subclassed in strict mode.
# mypy: disable-error-code="misc"
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn

from hub.spec import (
    ConvertJob,
    ConvertOptions,
    DescribeJob,
    ModelArtifact,
    RuntimeOptions,
    ShapeNeeded,
    State,
    StepOutput,
    UnknownName,
)
from hub_pytorch import PyTorchFormat, hub_register_edges, hub_save_live_model
from hub_pytorch.runtime import PyTorchRuntime

Feeds = dict[str, npt.NDArray[Any]]
ExampleInputs = dict[str, torch.Tensor]

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning"
    ),  # torch, onnxscript and litert_torch use old parts of torch
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the same
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),  # torchao is compiled at its first import
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch.export tells of its own guesses
]


class SmallCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, image: Any) -> Any:
        return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], *, both: bool = False) -> None:
        super().__init__()
        self.cell = kind(6, 8, batch_first=True, bidirectional=both)

    def forward(self, sequence: Any) -> dict[str, Any]:
        every, last = self.cell(sequence)
        return {"every": every, "last": last[0] if isinstance(last, tuple) else last}


class Stateful(nn.Module):
    """An LSTM cell with explicit state, inputs not in the order of the alphabet."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 8)

    def forward(self, x: Any, hidden: Any, cell: Any) -> tuple[Any, Any, Any]:
        out, (hidden, cell) = self.cell(x, (hidden, cell))
        return out, hidden, cell


class Scripted(nn.Module):
    """The same for TorchScript, with a branch on a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 8)

    def forward(
        self, x: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if x.shape[0] > 4:
            x = x * 2
        out, (hidden, cell) = self.cell(x, (hidden, cell))
        return out, hidden, cell


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)

    def forward(self, tokens: Any, mask: Any) -> dict[str, Any]:
        embedded = self.table(tokens) * mask.unsqueeze(-1)
        return {"scores": self.head(embedded.sum(1)), "next": tokens + 1}


class Sorted(nn.Module):
    def forward(self, x: Any) -> dict[str, Any]:
        rising, falling = torch.sort(x), torch.sort(x, dim=0, descending=True, stable=True)
        upwards = torch.argsort(x, dim=0)
        sorted_twice = {"rising": rising[0], "order": rising[1], "falling": falling[0], "places": falling[1]}
        return {**sorted_twice, "upwards": upwards}


class SamePadding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv1d(4, 6, 4, padding="same", dilation=2, groups=2)
        self.narrow = nn.Conv1d(6, 2, (3,), padding="valid")

    def forward(self, x: Any) -> Any:
        return self.narrow(self.wide(x))


class UNet(nn.Module):
    """Down, up by a transposed convolution whose padding TFLite does not know, and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 3, 3, 2, 1, output_padding=1)

    def forward(self, image: Any) -> Any:
        return torch.cat([self.up(self.down(image).relu()), image], 1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], ExampleInputs]] = {
    "cnn": (SmallCnn, {"image": torch.zeros(2, 3, 16, 16)}),
    "lstm": (lambda: Recurrent(nn.LSTM), {"sequence": torch.zeros(2, 5, 6)}),
    "bilstm": (lambda: Recurrent(nn.LSTM, both=True), {"sequence": torch.zeros(2, 5, 6)}),
    "gru": (lambda: Recurrent(nn.GRU), {"sequence": torch.zeros(2, 5, 6)}),
    "stateful": (
        Stateful,
        {"x": torch.zeros(1, 1, 6), "hidden": torch.zeros(1, 1, 8), "cell": torch.zeros(1, 1, 8)},
    ),
    "transformer": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        {"src": torch.zeros(2, 7, 8)},
    ),
    "tokens": (Tokens, {"tokens": torch.zeros(1, 4, dtype=torch.int64), "mask": torch.zeros(1, 4)}),
    "same": (SamePadding, {"x": torch.zeros(1, 4, 9)}),
    "unet": (UNet, {"image": torch.zeros(1, 3, 16, 16)}),
}


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[nn.Module, ExampleInputs, ModelArtifact]:
    make, example = NETWORKS[request.param]
    module = make().eval()
    return module, example, saved(module, example, tmp_path)


def saved(module: nn.Module, example: ExampleInputs, folder: Path) -> ModelArtifact:
    path = hub_save_live_model(module, folder, example)
    assert path is not None
    return artifact(path)


def artifact(path: Path, form: str = "") -> ModelArtifact:
    summary = PyTorchFormat().describe(DescribeJob(path=str(path), form=form))
    return ModelArtifact(
        path=str(path), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )


def converted(source: ModelArtifact, edge: str, folder: Path, options: ConvertOptions | None = None) -> StepOutput:
    suffix = ".tflite" if "tflite" in edge else ".onnx" if "onnx-" in edge else ".pt2"
    step = next(item for item in hub_register_edges() if item.id == edge)
    job = ConvertJob(
        target=step.gives.states(source.state.numerics)[0],
        source=source,
        output=str(folder / f"result{suffix}"),
        scratch=str(folder),
        options=options or ConvertOptions(),
    )
    return step.convert(job)


def drawn(example: ExampleInputs, seed: int = 1) -> Feeds:
    generator = np.random.default_rng(seed)
    return {
        name: generator.standard_normal(tensor.shape).astype(np.float32)
        if tensor.is_floating_point()
        else generator.integers(0, 10, tensor.shape).astype(str(tensor.dtype).removeprefix("torch."))
        for name, tensor in example.items()
    }


def reference(module: nn.Module, feeds: Feeds, names: list[str]) -> Feeds:
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(module(**{k: torch.from_numpy(v) for k, v in feeds.items()}))
    return dict(zip(names, (leaf.numpy() for leaf in leaves), strict=True))


def assert_close(got: Feeds, wanted: Feeds, relative: float = 1e-4) -> None:
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert np.abs(got[name] - array).max() <= relative * np.abs(array).max(), name


def run_tflite(path: Path, feeds: Feeds) -> Feeds:
    """Run by signature; inputs and outputs in the order of the file."""
    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    outputs = {name: np.array(value) for name, value in runner(**feeds).items()}
    places = {detail["index"]: i for i, detail in enumerate(interpreter.get_output_details())}
    order = {name: places[detail["index"]] for name, detail in runner.get_output_details().items()}
    return {name: outputs[name] for name in sorted(outputs, key=order.__getitem__)}


def run_onnx(path: Path, feeds: Feeds) -> Feeds:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


Exported = tuple[nn.Module, ExampleInputs, ModelArtifact]


def test_runtime_gives_what_the_module_gives(exported: Exported) -> None:
    module, example, source = exported
    feeds = drawn(example)
    session = PyTorchRuntime().open(source, RuntimeOptions())
    got = session.run(feeds)
    assert [spec.name for spec in source.signature.inputs] == list(example)
    assert_close(got, reference(module, feeds, [spec.name for spec in source.signature.outputs]), 1e-5)


def test_tflite_computes_the_same_and_keeps_the_border(exported: Exported, tmp_path: Path) -> None:
    module, example, source = exported
    output = converted(source, "pytorch.tflite-litert", tmp_path)
    assert output.bindings == ()
    feeds = drawn(example)
    got = run_tflite(tmp_path / "result.tflite", feeds)
    assert_close(got, reference(module, feeds, [spec.name for spec in source.signature.outputs]))
    interpreter = Interpreter(model_path=str(tmp_path / "result.tflite"))
    assert [item["name"] for item in interpreter.get_input_details()] == [f"serving_default_{name}" for name in example]
    names = [item["name"] for item in interpreter.get_tensor_details() if item["name"]]
    assert not [name for name in names if "Wrapped" in name], "the name of hub's own class says nothing about a layer"


def test_onnx_computes_the_same_and_keeps_the_border(exported: Exported, tmp_path: Path) -> None:
    module, example, source = exported
    output = converted(source, "pytorch.onnx-dynamo", tmp_path)
    assert output.bindings == ()
    model = onnx.load(tmp_path / "result.onnx")
    assert [item.name for item in model.graph.input] == list(example)
    feeds = drawn(example)
    got = run_onnx(tmp_path / "result.onnx", feeds)
    assert_close(got, reference(module, feeds, [spec.name for spec in source.signature.outputs]))


def test_a_transposed_convolution_is_rewritten_and_noted(tmp_path: Path) -> None:
    source = saved(UNet().eval(), NETWORKS["unet"][1], tmp_path)
    notes = converted(source, "pytorch.tflite-litert", tmp_path).notes
    assert any("transposed convolution" in note.text for note in notes)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 5, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 3, "output_padding": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "dilation": 2},
        {"kernel_size": (3, 4), "stride": (2, 1), "padding": (0, 2), "groups": 2},
    ],
)
@pytest.mark.parametrize("rank", [1, 2])
def test_any_transposed_convolution_survives(rank: int, arguments: dict[str, Any], tmp_path: Path) -> None:
    flat = {name: value[-1] if isinstance(value, tuple) and rank == 1 else value for name, value in arguments.items()}
    module = (nn.ConvTranspose1d if rank == 1 else nn.ConvTranspose2d)(4, 6, **flat).eval()
    example = {"input": torch.zeros(1, 4, *[7, 9][:rank])}
    source = saved(module, example, tmp_path)
    converted(source, "pytorch.tflite-litert", tmp_path)
    feeds = drawn(example)
    assert_close(run_tflite(tmp_path / "result.tflite", feeds), reference(module, feeds, ["output"]))


def test_sorts_become_what_every_kernel_set_has(tmp_path: Path) -> None:
    module, example = Sorted().eval(), {"x": torch.zeros(2, 9)}
    source = saved(module, example, tmp_path)
    output = converted(source, "pytorch.tflite-litert", tmp_path)
    assert any("top n of n" in note.text for note in output.notes)
    assert output.bindings == ()
    feeds = drawn(example)
    got = run_tflite(tmp_path / "result.tflite", feeds)
    wanted = reference(module, feeds, [spec.name for spec in source.signature.outputs])
    assert_close({name: got[name] for name in wanted}, wanted)


class Padded(nn.Module):
    """Paddings and positions: integer arithmetic that TFLite's reference kernels lack, unless it is done before."""

    def __init__(self, pads: tuple[int, ...], mode: str) -> None:
        super().__init__()
        self.pads, self.mode, self.table = pads, mode, nn.Embedding(9, 3)

    def forward(self, x: Any) -> Any:
        padded = nn.functional.pad(x, self.pads, mode=self.mode)
        far = (torch.arange(padded.shape[-1]) - 5).abs().clamp(max=8)
        return padded.unsqueeze(-1) * self.table(far)


@pytest.mark.parametrize(
    ("pads", "mode"),
    [
        ((3, 2), "reflect"),
        ((3, 2, 1, 4), "reflect"),
        ((2, 0, 1, 9), "replicate"),
        ((-1, 2), "reflect"),
        ((3, 2, 1, 4), "circular"),
    ],
)
def test_paddings_and_positions_need_no_integer_kernels(pads: tuple[int, ...], mode: str, tmp_path: Path) -> None:
    module = Padded(pads, mode).eval()
    example = {"x": torch.zeros([2, 5, 6][: 1 + len(pads) // 2] if len(pads) == 2 else [1, 2, 5, 6])}
    source = saved(module, example, tmp_path)
    notes = converted(source, "pytorch.tflite-litert", tmp_path).notes
    assert any("in advance" in note.text for note in notes)
    feeds = drawn(example)
    assert_close(run_tflite(tmp_path / "result.tflite", feeds), reference(module, feeds, ["output"]))
    kernels = OpResolverType.BUILTIN_REF
    Interpreter(model_path=str(tmp_path / "result.tflite"), experimental_op_resolver_type=kernels).allocate_tensors()


def test_nhwc_on_request_is_declared_and_right(tmp_path: Path) -> None:
    module, example = UNet().eval(), NETWORKS["unet"][1]
    source = saved(module, example, tmp_path)
    output = converted(source, "pytorch.tflite-litert", tmp_path, ConvertOptions(io_layout="nhwc"))
    assert {(item.direction, item.source, item.permutation) for item in output.bindings} == {
        ("input", "image", (0, 2, 3, 1)),
        ("output", "output", (0, 2, 3, 1)),
    }
    feeds = drawn(example)
    got = run_tflite(tmp_path / "result.tflite", {"image": feeds["image"].transpose(0, 2, 3, 1).copy()})
    wanted = reference(module, feeds, ["output"])["output"].transpose(0, 2, 3, 1)
    assert_close(got, {"output": wanted})


def test_a_frozen_input_leaves_the_signature(tmp_path: Path) -> None:
    module, example = Tokens().eval(), NETWORKS["tokens"][1]
    source = saved(module, example, tmp_path)
    output = converted(source, "pytorch.tflite-litert", tmp_path, ConvertOptions(constants={"mask": 0.5}))
    (bound,) = output.bindings
    assert (bound.source, bound.target, bound.constant) == ("mask", "", 0.5)
    feeds = drawn(example)
    got = run_tflite(tmp_path / "result.tflite", {"tokens": feeds["tokens"]})
    full = {**feeds, "mask": np.full((1, 4), 0.5, np.float32)}
    assert_close(got, reference(module, full, ["scores", "next"]))


@pytest.fixture
def dynamic(tmp_path: Path) -> tuple[nn.Module, ModelArtifact]:
    module = SmallCnn().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "dynamic.pt2")
    return module, artifact(tmp_path / "dynamic.pt2")


def test_a_symbolic_dimension_is_named_and_bounded(dynamic: tuple[nn.Module, ModelArtifact]) -> None:
    dim = dynamic[1].signature.inputs[0].shape[0]
    assert dim.symbol
    assert (dim.low, dim.high) == (1, 64)
    assert dynamic[1].signature.outputs[0].shape[0].symbol == dim.symbol


def test_onnx_keeps_a_symbolic_dimension(dynamic: tuple[nn.Module, ModelArtifact], tmp_path: Path) -> None:
    module, source = dynamic
    converted(source, "pytorch.onnx-dynamo", tmp_path)
    for size in (1, 2, 5):
        feeds = drawn({"image": torch.zeros(size, 3, 16, 16)})
        assert_close(run_onnx(tmp_path / "result.onnx", feeds), reference(module, feeds, ["output"]))


def test_tflite_asks_for_a_symbolic_dimension(dynamic: tuple[nn.Module, ModelArtifact], tmp_path: Path) -> None:
    with pytest.raises(ShapeNeeded) as caught:
        converted(dynamic[1], "pytorch.tflite-litert", tmp_path)
    assert "--shape image=1x3x16x16" in caught.value.hint


@pytest.mark.parametrize("edge", ["pytorch.tflite-litert", "pytorch.onnx-dynamo"])
def test_a_symbolic_dimension_is_fixed_on_request(
    edge: str, dynamic: tuple[nn.Module, ModelArtifact], tmp_path: Path
) -> None:
    module, source = dynamic
    converted(source, edge, tmp_path, ConvertOptions(shapes={"image": (3, 3, 16, 16)}))
    feeds = drawn({"image": torch.zeros(3, 3, 16, 16)})
    run = run_tflite if "tflite" in edge else run_onnx
    assert_close(run(next(tmp_path.glob("result.*")), feeds), reference(module, feeds, ["output"]))


def test_a_shape_for_no_input_is_refused(dynamic: tuple[nn.Module, ModelArtifact], tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no input named img"):
        converted(dynamic[1], "pytorch.tflite-litert", tmp_path, ConvertOptions(shapes={"img": (1, 3, 16, 16)}))


def test_names_that_are_no_words_survive(tmp_path: Path) -> None:
    from hub_torchprogram import exported_signature, save_exported

    module, example = SmallCnn().eval(), NETWORKS["cnn"][1]
    program = torch.export.export(module, tuple(example.values()))
    names = {"inputs": ["input.1:0"], "outputs": ["443/scores"]}
    save_exported(program, exported_signature(program, names), tmp_path / "named.pt2")
    source = artifact(tmp_path / "named.pt2")
    output = converted(source, "pytorch.tflite-litert", tmp_path)
    assert any("input_1_0 -> input.1:0" in note.text for note in output.notes)
    feeds = {"input.1:0": drawn(example)["image"]}
    wanted = reference(module, {"image": feeds["input.1:0"]}, ["443/scores"])
    assert_close(run_tflite(tmp_path / "result.tflite", feeds), wanted)
    converted(source, "pytorch.onnx-dynamo", tmp_path)
    assert_close(run_onnx(tmp_path / "result.onnx", feeds), wanted)


@pytest.fixture
def scripted(tmp_path: Path) -> tuple[nn.Module, ModelArtifact]:
    module = Scripted().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated; its files are in the field
        torch.jit.script(module).save(tmp_path / "model.jit")
    shapes: dict[str, tuple[int, ...]] = {"x": (1, 1, 6), "hidden": (1, 1, 8), "cell": (1, 1, 8)}
    job = DescribeJob(path=str(tmp_path / "model.jit"), shapes=shapes)
    summary = PyTorchFormat().describe(job)
    state = State(format="pytorch", form="torchscript")
    assert summary.state == state
    return module, ModelArtifact(
        path=job.path, state=state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )


@pytest.mark.parametrize("edge", ["pytorch.export-torchscript", "pytorch.onnx-torchscript"])
def test_torchscript_converts(edge: str, scripted: tuple[nn.Module, ModelArtifact], tmp_path: Path) -> None:
    module, source = scripted
    shapes = {spec.name: spec.fixed_shape for spec in source.signature.inputs}
    converted(source, edge, tmp_path, ConvertOptions(shapes=shapes))
    feeds = drawn({name: torch.zeros(shape) for name, shape in shapes.items()})
    wanted = reference(module, feeds, ["output_0", "output_1", "output_2"])
    own = PyTorchRuntime().open(source, RuntimeOptions()).run(feeds)
    assert_close(own, wanted, 1e-6)
    if edge == "pytorch.onnx-torchscript":
        assert_close(run_onnx(tmp_path / "result.onnx", feeds), wanted)
        return
    program = artifact(tmp_path / "result.pt2")
    assert program.signature.inputs == source.signature.inputs
    assert_close(PyTorchRuntime().open(program, RuntimeOptions()).run(feeds), wanted, 1e-6)


@pytest.mark.parametrize("name", ["cnn", "bilstm", "tokens", "unet"])
def test_an_exported_onnx_file_comes_back(name: str, tmp_path: Path) -> None:
    make, example = NETWORKS[name]
    module = make().eval()
    source = saved(module, example, tmp_path)
    converted(source, "pytorch.onnx-dynamo", tmp_path)
    static = ModelArtifact(
        path=str(tmp_path / "result.onnx"),
        state=State(format="onnx", form="static"),
        signature=source.signature,
        sha256="",
        size_bytes=1,
    )
    notes = converted(static, "pytorch.import-onnx", tmp_path).notes
    assert any("ONNX nodes" in note.text for note in notes)
    back = artifact(tmp_path / "result.pt2")
    assert [spec.name for spec in back.signature.outputs] == [spec.name for spec in source.signature.outputs]
    assert [str(spec) for spec in back.signature.inputs] == [str(spec) for spec in source.signature.inputs]
    feeds = drawn(example)
    names = [spec.name for spec in source.signature.outputs]
    assert_close(PyTorchRuntime().open(back, RuntimeOptions()).run(feeds), reference(module, feeds, names))
