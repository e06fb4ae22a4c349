"""ONNX to PyTorch source: it computes the same without hub, at other sizes too; it trains; torch.export takes it."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from hub.spec import (
    ConvertJob,
    ConvertOptions,
    DescribeJob,
    Dim,
    DType,
    ModelArtifact,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    Signature,
    State,
    Support,
    TensorSpec,
    UnsupportedModel,
    UsageError,
)
from hub_pytorch import PyTorchFormat
from hub_pytorch.edges import EDGES
from hub_pytorch.from_onnx import convert_to_source
from hub_pytorch.sniff import identify
from hub_pytorch.source_form import NO_CONSTANTS, source_call
from hub_pytorch.source_writer import write_source
from hub_torchprogram import is_data_dependent
from plugins.pytorch.tests.onnx_sources import (
    all_feeds,
    by_onnxruntime,
    exported,
    judge,
    prepared,
    signature_of,
    worst,
    write_wanted,
)
from plugins.pytorch.tests.source_networks import LAYERS
from plugins.pytorch.tests.torch_networks import NETWORKS as WHOLE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch and its exporter use old parts
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the same
    pytest.mark.filterwarnings("ignore::UserWarning"),  # the exporter tells of its own guesses
]
SMALL = {**LAYERS, "lstm": WHOLE["lstm"], "unet": WHOLE["unet"]}
PARITY = 1e-4


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(mode=False)


def written(name: str, folder: Path) -> Path:
    """A network's source in a folder, with what it should compute beside it."""
    network, work = SMALL[name], folder / "work"
    work.mkdir(exist_ok=True)
    source = exported(network, work / f"{name}.onnx")
    target = folder / f"{name}.py"
    ready = prepared(source)
    convert_to_source(ready, signature_of(ready), target)
    write_wanted(target.with_suffix(".npz"), source, all_feeds(network))
    return target


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in SMALL:
        written(name, folder)
    return folder


@pytest.fixture(scope="module")
def verdicts(sources: Path) -> dict[str, Any]:
    return judge(sources)


@pytest.mark.parametrize("name", SMALL)
def test_source_computes_the_same_without_hub_at_every_size(name: str, verdicts: dict[str, Any]) -> None:
    assert len(verdicts[name]["errors"]) == 1 + len(SMALL[name].sizes)
    assert max(verdicts[name]["errors"].values()) <= PARITY


@pytest.mark.parametrize("name", SMALL)
def test_exported_source_keeps_its_open_dimensions(name: str, verdicts: dict[str, Any]) -> None:
    assert verdicts[name]["exported"] <= PARITY


@pytest.mark.parametrize("name", SMALL)
def test_training_lowers_a_loss(name: str, verdicts: dict[str, Any]) -> None:
    assert verdicts[name]["losses"][-1] < verdicts[name]["losses"][0]


def test_judge_sees_a_wrong_weight_and_a_wrong_function(sources: Path, tmp_path: Path) -> None:
    for suffix in (".py", ".npz", ".safetensors"):
        shutil.copy(sources / f"unet{suffix}", tmp_path / f"weight{suffix}")
        shutil.copy(sources / f"unet{suffix}", tmp_path / f"function{suffix}")
    weights = load_file(tmp_path / "weight.safetensors")
    first = next(name for name in weights if name.endswith("weight"))
    save_file(weights | {first: weights[first] * 1.01}, tmp_path / "weight.safetensors")
    text = (tmp_path / "function.py").read_text()
    assert "torch.relu" in text
    (tmp_path / "function.py").write_text(text.replace("torch.relu", "torch.sigmoid"))
    found = judge(tmp_path)
    assert min(found["weight"]["errors"].values()) > PARITY
    assert min(found["function"]["errors"].values()) > PARITY


LAYER_KINDS = {
    "convolutions": {"Conv2d"},
    "batch norm": {"Conv2d", "Linear"} - {"Linear"},
    "norm alone": {"BatchNorm2d"},
    "instance norm": {"InstanceNorm2d"},
    "transposed": {"ConvTranspose2d"},
    "perceptron": {"Linear"},
    "layer norm": {"LayerNorm", "Linear"},
    "embedding": {"Embedding", "LayerNorm", "Linear"},
    "gru": {"GRU"},
    "states": {"LSTM", "Linear"},
    "signal": {"Conv1d"},
    "lstm": {"LSTM"},
}


@pytest.mark.parametrize("name", LAYER_KINDS)
def test_weights_are_in_layers(name: str, sources: Path) -> None:
    summary = PyTorchFormat().describe(DescribeJob(path=str(sources / f"{name}.py")))
    assert LAYER_KINDS[name] <= set(summary.operators)


def test_names_follow_the_file(sources: Path) -> None:
    names = {name.rpartition(".")[0] for name in load_file(sources / "embedding.safetensors")}
    assert names == {"table", "norm", "head"}
    text = (sources / "states.py").read_text()
    assert "h: torch.Tensor,  # float32 [1, batch, 8]" in text


def test_layer_that_is_used_twice_is_one_layer(sources: Path) -> None:
    assert (sources / "one layer twice.py").read_text().count("nn.Linear") == 1


def test_numbers_are_written_as_numbers(sources: Path) -> None:
    text = (sources / "numbers.py").read_text()
    assert "* 0.3" in text
    assert len(load_file(sources / "numbers.safetensors")) == 2  # the layer's own


def test_sources_are_clean(sources: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F", str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for path in sources.glob("*.py"):
        compile(path.read_text(), path.name, "exec")


@pytest.mark.parametrize("name", ["states", "unet"])
def test_hub_reads_a_source_without_running_it(name: str, sources: Path, tmp_path: Path) -> None:
    for suffix in (".py", ".safetensors"):
        shutil.copy(sources / f"{name}{suffix}", tmp_path / f"copy{suffix}")
    path = tmp_path / "copy.py"
    path.write_text(path.read_text() + "\nraise SystemExit('it ran')\n")
    found = identify(path, path.read_bytes())
    summary = PyTorchFormat().describe(DescribeJob(path=str(path)))
    assert found is not None
    assert (found.format, found.form, summary.state.numerics) == ("pytorch", "builder", Numerics.FP32)
    ready = sources / "work" / f"{name}.prepared.onnx"
    assert [(s.name, s.dtype, s.shape) for s in summary.signature.inputs] == [
        (s.name, s.dtype, s.shape) for s in signature_of(ready).inputs
    ]
    assert [Path(file).name for file in summary.files] == ["copy.py", "copy.safetensors"]
    assert summary.parameters == sum(tensor.numel() for tensor in load_file(tmp_path / "copy.safetensors").values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("INPUTS", "ENTRIES"), "INPUTS"),
        (lambda text: text.replace('"float32"', '"float31"'), "float31"),
        (lambda text: text[: len(text) // 2] + "(", "never closed"),
    ],
)
def test_damaged_source_is_unreadable(change: Any, reason: str, sources: Path, tmp_path: Path) -> None:
    shutil.copy(sources / "unet.safetensors", tmp_path / "unet.safetensors")
    path = tmp_path / "unet.py"
    path.write_text(change((sources / "unet.py").read_text()))
    with pytest.raises(ModelUnreadable, match=reason):
        PyTorchFormat().describe(DescribeJob(path=str(path)))


def test_source_without_its_weights_is_unreadable(sources: Path, tmp_path: Path) -> None:
    shutil.copy(sources / "unet.py", tmp_path / "unet.py")
    with pytest.raises(ModelUnreadable, match=r"unet\.safetensors"):
        PyTorchFormat().describe(DescribeJob(path=str(tmp_path / "unet.py")))
    with pytest.raises(ModelUnreadable, match="does not build"):
        source_call(tmp_path / "unet.py")


def source_job(path: Path, output: Path, options: ConvertOptions) -> tuple[ConvertJob, ModelSummary]:
    summary = PyTorchFormat().describe(DescribeJob(path=str(path)))
    artifact = ModelArtifact(
        path=str(path), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )
    onnx = State(format="onnx")
    job = ConvertJob(target=onnx, source=artifact, output=str(output), scratch=str(output.parent), options=options)
    return job, summary


TRACE = next(edge for edge in EDGES if edge.id == "pytorch.onnx-trace")


@pytest.mark.parametrize("name", ["states", "unet"])
def test_source_is_traced_to_onnx(name: str, sources: Path, tmp_path: Path) -> None:
    job, summary = source_job(sources / f"{name}.py", tmp_path / "back.onnx", ConvertOptions())
    new = {binding.source: binding.target for binding in TRACE.convert(job).bindings}
    back = signature_of(tmp_path / "back.onnx")
    for found, given in ((back.inputs, summary.signature.inputs), (back.outputs, summary.signature.outputs)):
        assert [spec.name for spec in found] == [new.get(spec.name, spec.name) for spec in given]
    for feeds in all_feeds(SMALL[name]):
        wanted = by_onnxruntime(sources / "work" / f"{name}.onnx", feeds)
        assert worst(by_onnxruntime(tmp_path / "back.onnx", feeds), wanted) <= PARITY


def test_branch_that_was_added_to_a_source_is_not_traced(sources: Path, tmp_path: Path) -> None:
    shutil.copy(sources / "perceptron.safetensors", tmp_path / "branch.safetensors")
    text = (sources / "perceptron.py").read_text()
    assert text.count("        return ") == 1
    branch = "        if steps.sum() > 0:\n            return -steps[..., :1]\n        return "
    (tmp_path / "branch.py").write_text(text.replace("        return ", branch))
    job, _ = source_job(tmp_path / "branch.py", tmp_path / "back.onnx", ConvertOptions())
    with pytest.raises(UnsupportedModel) as caught:
        TRACE.convert(job)
    assert is_data_dependent(caught.value)
    assert not (tmp_path / "back.onnx").exists()


def test_source_freezes_no_inputs(sources: Path, tmp_path: Path) -> None:
    options = ConvertOptions(constants={"steps": 1.0})
    job, summary = source_job(sources / "perceptron.py", tmp_path / "back.onnx", options)
    verdicts = [edge.check(summary, options) for edge in EDGES if edge.takes(summary.state)]
    assert {verdict.support for verdict in verdicts} == {Support.NOTIMPL}
    assert {verdict.reason for verdict in verdicts} == {NO_CONSTANTS}
    with pytest.raises(UnsupportedModel, match="freezes no inputs"):
        TRACE.convert(job)


@pytest.mark.parametrize("asked", [{"submodule": "encoder"}, {"dtypes": {"steps": DType.INT32}}])
def test_request_that_a_source_does_not_take_is_refused(asked: dict[str, Any], sources: Path) -> None:
    with pytest.raises(UsageError, match=r"perceptron\.py"):
        PyTorchFormat().describe(DescribeJob(path=str(sources / "perceptron.py"), **asked))


HOSTILE = ['x"""\nimport os\nos.abort()\n#', "'; raise SystemExit #", "class", "self", "torch", "a b\\", "é"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_a_file_cannot_become_code(name: str, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name} of", 3])
    result = helper.make_tensor_value_info(f"{name} out", TensorProto.FLOAT, [f"{name} of", 2])
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), f"{name}.weight")
    node = helper.make_node("MatMul", [name, weight.name], [result.name], name=name)
    graph = helper.make_graph([node], "graph", [value], [result], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    shape = (Dim(symbol=f"{name} of"), Dim(size=3))
    signature = Signature(
        inputs=(TensorSpec(name=name, dtype=DType.FLOAT32, shape=shape),),
        outputs=(TensorSpec(name=result.name, dtype=DType.FLOAT32, shape=(shape[0], Dim(size=2))),),
    )
    convert_to_source(tmp_path / "m.onnx", signature, tmp_path / "m.py")
    tree = ast.parse((tmp_path / "m.py").read_text())
    kinds = [type(item).__name__ for item in tree.body]
    assert kinds == [
        "Expr",
        *["ImportFrom", "Import", "ImportFrom", "ImportFrom"],
        *["Assign"] * 3,
        "ClassDef",
        "FunctionDef",
    ]
    found = source_call(tmp_path / "m.py")({name: torch.ones(4, 3)})
    assert found[result.name].tolist() == [[6.0, 9.0]] * 4


def test_function_without_a_public_name_is_refused() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(unknown, (x,)))
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    spec = TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim(size=2),))
    with pytest.raises(UnsupportedModel, match="no public name"):
        write_source(module, Signature(inputs=(spec,), outputs=(spec,)), [(2,)])


def unknown(x: Any) -> Any:
    return x + 1


def test_branch_that_depends_on_data_is_refused() -> None:
    root = torch.nn.Module()
    inner = torch.fx.Graph()
    inner.output((inner.call_function(torch.neg, (inner.placeholder("x"),)),))
    root.add_module("branch", torch.fx.GraphModule(torch.nn.Module(), inner))
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    branches = [graph.get_attr("branch"), graph.get_attr("branch")]
    chosen = graph.call_function(torch.any, (x,))
    graph.output(graph.call_function(torch.ops.higher_order.cond, (chosen, *branches, (x,))))
    spec = TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim(size=2),))
    with pytest.raises(UnsupportedModel, match="branch or loop"):
        write_source(torch.fx.GraphModule(root, graph), Signature(inputs=(spec,), outputs=(spec,)), [(2,)])
