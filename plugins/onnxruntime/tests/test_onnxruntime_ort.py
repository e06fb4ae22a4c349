"""The `.ort` form: written, read with flatbuffers, held against what ONNX Runtime says of the same file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hub.spec import DescribeJob, ModelNotFound, ModelSummary, ModelUnreadable, Numerics, StepError, UnsupportedModel
from hub_onnxruntime.describe import OnnxFormat, summarize
from hub_onnxruntime.plugin import hub_identify_format
from hub_onnxruntime.runtime import ExplainedSession
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests import onnx_graphs as graphs
from plugins.onnxruntime.tests import ort_models as models
from tests.zoo import fetch

_TYPES = {"float32": "tensor(float)", "int32": "tensor(int32)", "int64": "tensor(int64)"}


def read(path: Path) -> ModelSummary:
    return OnnxFormat().describe(DescribeJob(path=str(path), form="ort"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ort")
    return models.convert("onnxruntime.ort", models.attention(folder), folder)[0]


@pytest.mark.parametrize("name", ["ocr_cls", "ocr_det", "magika_onnx", "vad_fixed_onnx", "vad_ifless_onnx"])
def test_what_the_reader_says_is_what_the_runtime_says(name: str, tmp_path: Path) -> None:
    path, _ = models.convert("onnxruntime.ort", fetch.path(name), tmp_path)
    summary, session = read(path), onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for specs, values in (
        (summary.signature.inputs, session.get_inputs()),
        (summary.signature.outputs, session.get_outputs()),
    ):
        assert [(spec.name, _TYPES[spec.dtype.value]) for spec in specs] == [(v.name, v.type) for v in values]
        for spec, value in zip(specs, values, strict=True):
            sizes = [dim if isinstance(dim, int) else None for dim in value.shape]
            assert [dim.size for dim in spec.shape] == sizes
    assert summary.state.form == "ort"
    assert summary.state.numerics == Numerics.FP32
    assert summary.files == (str(path.resolve()),)
    assert not summary.custom_operators
    wanted = models.plain_run(fetch.path(name), models.sample(name))
    for found, right in zip(models.plain_run(path, models.sample(name)), wanted, strict=True):
        assert np.allclose(found, right, atol=1e-4 * max(1.0, np.abs(right).max()))


def test_its_operators_are_those_of_the_same_model_saved_as_onnx(small: Path, tmp_path: Path) -> None:
    same, _ = models.convert("onnxruntime.optimize", models.attention(tmp_path), tmp_path)
    written = summarize(same, "onnxruntime")
    assert read(small).operators == written.operators
    assert read(small).parameters == written.parameters
    assert Counter(layer.precision for layer in read(small).layers) == Counter(
        layer.precision for layer in written.layers
    )


def test_int8_is_read_as_int8(tmp_path: Path) -> None:
    path, _ = models.convert("onnxruntime.ort", models.qdq("ocr_cls", tmp_path), tmp_path)
    assert read(path).state.numerics == Numerics.INT8


def test_it_is_recognised_by_its_bytes(small: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "model.bin"
    renamed.write_bytes(small.read_bytes())
    found = hub_identify_format(renamed, renamed.read_bytes()[:65536])
    assert found is not None
    assert (found.format, found.form) == ("onnx", "ort")
    wrong = graphs.saved(graphs.dense(), tmp_path / "wrong.ort")
    with pytest.raises(ModelUnreadable, match=r"named \.ort"):
        hub_identify_format(wrong, wrong.read_bytes()[:65536])


@pytest.mark.parametrize("part", [0.0005, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_unreadable(part: float, small: Path, tmp_path: Path) -> None:
    content, path = small.read_bytes(), tmp_path / "cut.ort"
    path.write_bytes(content[: max(9, int(part * len(content)))])
    with pytest.raises(ModelUnreadable, match="damaged"):
        read(path)
    with pytest.raises(StepError, match=r"refuses cut\.ort"):
        OrtSession(path)


def test_damaged_bytes_never_end_in_anything_else(small: Path, tmp_path: Path) -> None:
    """A planted fault in one of the offsets and lengths at a time: read as another model, or refused."""
    content, path, random = bytearray(small.read_bytes()), tmp_path / "flipped.ort", np.random.default_rng(0)
    refused = 0
    for place in random.integers(8, len(content), 150):
        damaged = content.copy()
        damaged[place : place + 4] = bytes(random.integers(0, 256, 4, dtype=np.uint8))
        path.write_bytes(damaged)
        try:
            assert read(path).state.form == "ort"
        except ModelUnreadable:
            refused += 1
    assert refused


def test_no_file_and_another_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        read(tmp_path / "none.ort")
    with pytest.raises(ModelUnreadable, match=r"is no \.ort model"):
        read(graphs.saved(graphs.dense(), tmp_path / "m.ort"))


def test_its_session_has_no_intermediates_and_says_why(small: Path) -> None:
    session = OrtSession(small)
    assert session.run({"x": np.ones((1, 3, 32), np.float32)})["y"].shape == (1, 3, 32)
    with pytest.raises(UnsupportedModel, match="outputs that it was saved with"):
        session.intermediate(["sum"])


def test_its_execution_is_what_is_in_the_file(small: Path) -> None:
    execution = ExplainedSession(small).execution({"x": np.ones((1, 3, 32), np.float32)})
    assert execution.operators == read(small).operators
    assert Counter(layer.operator for layer in execution.layers) == execution.operators
    assert all(layer.covers == (layer.operator,) for layer in execution.layers)
    assert not execution.eliminated
    assert execution.settings["graph optimization level"] == "as saved"
