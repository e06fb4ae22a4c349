"""Models of gigabytes: worked on with their weights in files. The same with the limits lowered, so that CI can."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import ExternalDataError
from hub_onnxruntime import large
from hub_onnxruntime.describe import summarize
from hub_onnxruntime.files import external_tensors, load
from hub_onnxruntime.prepare import prepare, prepare_dynamic
from hub_onnxruntime.runtime import ExplainedSession
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests import onnx_graphs as graphs


def stacked(folder: Path, width: int, count: int, *, dtype: type[Any] = np.float32) -> Path:
    """A stack of MatMul and Relu, its weights drawn from a seed and written one by one beside the model."""
    generator = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensors, nodes, last = [], [], "x"
    with (folder / "weights.bin").open("wb") as file:
        for index in range(count):
            name, offset = f"w{index}", file.tell()
            weights = generator.standard_normal((width, width), dtype=np.float32) / np.float32(width**0.5)
            file.write(weights.astype(dtype).tobytes())
            tensor = TensorProto(name=name, data_type=kind, dims=[width, width], data_location=TensorProto.EXTERNAL)
            place = {"location": "weights.bin", "offset": offset, "length": file.tell() - offset}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [last, name], [f"m{index}"]))
            nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"]))
            last = f"r{index}"
    return assembled(folder, nodes, tensors, (last, width, kind))


def assembled(folder: Path, nodes: list[Any], tensors: Sequence[Any], end: tuple[str, int, int]) -> Path:
    """The model file, with constants for the reshape at its end in the graph itself."""
    last, width, kind = end
    constants = {"two": np.array([2], np.int64), "rows": np.array([-1], np.int64), "half": np.array([width // 2])}
    nodes.append(helper.make_node("Concat", ["rows", "two", "half"], ["shape"], axis=0))
    nodes.append(helper.make_node("Reshape", [last, "shape"], ["y"]))
    stored = [*tensors, *(numpy_helper.from_array(array, name) for name, array in constants.items())]
    inputs = [graphs.value("x", ["n", width], kind)]
    outputs = [graphs.value("y", ["n", 2, width // 2], kind)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return graphs.saved(model, folder / "model.onnx")


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE_BYTES", 2**12)
    monkeypatch.setattr(large, "KEPT_BYTES", 2**10)


def prepared(source: Path, folder: Path, *, static: bool = False) -> tuple[list[str], Path]:
    scratch, out = folder / "scratch", folder / "out"
    for place in (scratch, out):
        place.mkdir()
    if static:
        done = prepare(source, out / "result.onnx", scratch, {"x": (3, 32)}, {})
    else:
        done = prepare_dynamic(source, out / "result.onnx", scratch, {}, {})
    return [note.text for note in done.notes], out / "result.onnx"


def same(first: Path, second: Path, width: int, *, dtype: type[Any] = np.float32) -> bool:
    feeds = {"x": np.random.default_rng(1).standard_normal((3, width)).astype(dtype)}
    return bool(np.allclose(OrtSession(first).run(feeds)["y"], OrtSession(second).run(feeds)["y"], 1e-5, 1e-6))


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize("static", [True, False])
def test_weights_stay_in_files_and_go_beside_the_result(static: bool, tmp_path: Path) -> None:
    source = stacked(tmp_path, 32, 3)
    content = (tmp_path / "weights.bin").read_bytes()
    notes, target = prepared(source, tmp_path, static=static)
    assert notes[0] == "left 12288 bytes of weights in files while working on the graph: the model is large"
    assert "computed 1 constant operators; no simplifying tool was run on a model of this size" in notes
    assert "raised the opset from 13 to 17" in notes
    assert [file.name for file in sorted(target.parent.iterdir())] == ["result.onnx", "result.onnx.data"]
    summary = summarize(target, "static" if static else "prepared")
    assert summary.state.form == ("static" if static else "prepared")
    assert [Path(file).name for file in summary.files] == ["result.onnx", "result.onnx.data"]
    assert target.stat().st_size < 2000
    assert (tmp_path / "weights.bin").read_bytes() == content
    assert same(source, target, 32)


@pytest.mark.usefixtures("low_limits")
def test_weights_inside_one_file_are_moved_out(tmp_path: Path) -> None:
    inside = load(stacked(tmp_path, 32, 2))
    tensor = next(tensor for tensor in inside.graph.initializer if tensor.name == "w1")
    values = numpy_helper.to_array(tensor).reshape(-1).tolist()
    tensor.CopyFrom(helper.make_tensor("w1", TensorProto.FLOAT, [32, 32], values))  # typed data, not raw
    (tmp_path / "weights.bin").unlink()
    source = graphs.saved(inside, tmp_path / "model.onnx")
    notes, target = prepared(source, tmp_path)
    assert notes[0].startswith("left 8192 bytes of weights in files")
    assert same(source, target, 32)


@pytest.mark.usefixtures("low_limits")
def test_large_float64_becomes_float32_and_is_written_anew(tmp_path: Path) -> None:
    source = stacked(tmp_path, 32, 2, dtype=np.float64)
    notes, target = prepared(source, tmp_path)
    assert any(note.startswith("computed float64 inside the graph in float32 (2 stored tensors") for note in notes)
    assert (target.parent / "result.onnx.data").stat().st_size == 8192
    assert same(source, target, 32, dtype=np.float64)


@pytest.mark.usefixtures("low_limits")
def test_small_tensors_outside_come_into_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(stacked(tmp_path, 32, 3), load_external_data=False)
    assert len(external_tensors(model)) == 3
    monkeypatch.setattr(large, "KEPT_BYTES", 4096)
    assert large.lighten(model, tmp_path, tmp_path) == 0
    assert not external_tensors(model)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.usefixtures("low_limits")
def test_a_wrong_offset_is_a_wrong_result_and_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: the comparison with the original sees it."""
    right = large._found

    def wrong(tensor: ir.ExternalTensor, folder: Path) -> ir.ExternalTensor:
        found = right(tensor, folder)
        return ir.ExternalTensor(found.path, 0, found.length, found.dtype, shape=found.shape, name=found.name)

    monkeypatch.setattr(large, "_found", wrong)
    with pytest.raises(Exception, match="differs by"):
        prepared(stacked(tmp_path, 32, 3), tmp_path)


@pytest.mark.parametrize("limit", [2**12, 2**30], ids=["large", "small"])
def test_data_with_a_second_hard_link_is_read(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of models are made of them; the loaders of onnx and onnx-ir refuse them."""
    monkeypatch.setattr(large, "LARGE_BYTES", limit)
    monkeypatch.setattr(large, "KEPT_BYTES", 2**10)
    source = stacked(tmp_path, 32, 2)
    (tmp_path / "store").hardlink_to(tmp_path / "weights.bin")
    _, target = prepared(source, tmp_path)
    assert same(source, target, 32)


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin"])
def test_data_of_a_large_model_outside_its_folder_is_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    source = stacked(folder, 32, 2)
    (tmp_path / "secret.bin").write_bytes(bytes(8192))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = onnx.load(source, load_external_data=False)
    model.graph.initializer[1].external_data[0].value = location
    with pytest.raises(ExternalDataError, match="outside the model's folder"):
        prepared(graphs.saved(model, source), tmp_path)
    for check in (large.lighten, lambda model, source, _: large.opened(model, source)):  # and where nobody asked before
        with pytest.raises((ExternalDataError, ValueError), match="outside"):
            read(check(model, folder, tmp_path))


def read(light: Any) -> None:
    """Reads every tensor of a model, as whoever writes it does."""
    for value in light.graph.initializers.values():
        value.const_value.numpy()


def test_intermediates_of_a_model_with_external_data(tmp_path: Path) -> None:
    source = stacked(tmp_path, 32, 2)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)}
    session = ExplainedSession(source)
    inner = session.intermediate(["r1"]).run(feeds)["r1"]
    assert np.allclose(inner.reshape(3, 2, 16), session.run(feeds)["y"], 1e-6)
    assert session.execution(feeds).layers


_MEASURED = """
import sys
from pathlib import Path
from hub_onnxruntime.describe import summarize
from hub_onnxruntime.prepare import prepare_dynamic

source, target, scratch = map(Path, sys.argv[1:])
summarize(source)
prepare_dynamic(source, target, scratch, {}, {})
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
"""


@pytest.mark.scheduled
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_model_of_more_than_two_gibibytes(tmp_path: Path) -> None:
    source = stacked(tmp_path, 8192, 9)
    size = (tmp_path / "weights.bin").stat().st_size
    assert size > 2**31
    scratch, target = tmp_path / "scratch", tmp_path / "out.onnx"
    scratch.mkdir()
    command = [sys.executable, "-c", _MEASURED, str(source), str(target), str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < size / 4  # no copy of the weights in memory, not even one
    assert (tmp_path / "out.onnx.data").stat().st_size == size
    assert same(source, target, 8192)
