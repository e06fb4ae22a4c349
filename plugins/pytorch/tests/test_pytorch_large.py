"""Weights of gigabytes: beside the ONNX file, and in memory once. The same with the limit lowered, so that CI can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hub.spec import ConvertOptions
from hub_pytorch import to_onnx
from hub_pytorch.examples import ExampleInputs
from hub_pytorch.export import export_eager
from hub_pytorch.reference import ModelReference
from hub_torchprogram import exported_program, save_exported

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch and onnxscript use old parts
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the same
]


def layers(width: int, count: int) -> nn.Module:
    """A stack of Linear and ReLU, drawn from a seed."""
    torch.manual_seed(0)
    made: list[nn.Module] = []
    for _ in range(count):
        layer = nn.utils.skip_init(nn.Linear, width, width, bias=False)
        nn.init.normal_(layer.weight, 0, (2 / width) ** 0.5)
        made += [layer, nn.ReLU()]
    return nn.Sequential(*made).eval()


def converted(module: nn.Module, width: int, folder: Path) -> Path:
    example = ExampleInputs({"input": torch.randn(2, width)}, {"input": {0: "batch"}})
    save_exported(*export_eager(module, example, ModelReference()), folder / "model.pt2")
    to_onnx.convert_to_onnx(exported_program(folder / "model.pt2"), ConvertOptions(), folder / "result.onnx")
    return folder / "result.onnx"


def agree(module: nn.Module, path: Path, width: int) -> bool:
    feeds = torch.randn(3, width)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": feeds.numpy()})
    with torch.no_grad():
        wanted = module(feeds).numpy()
    return bool(np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max())


def test_weights_above_the_limit_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "_EXTERNAL_ABOVE_BYTES", 2**12)
    module = layers(64, 2)
    path = converted(module, 64, tmp_path)
    data = tmp_path / "result.onnx.data"
    assert data.stat().st_size >= 2 * 64 * 64 * 4
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    assert {entry.value for t in tensors for entry in t.external_data if entry.key == "location"} == {data.name}
    assert agree(module, path, 64)


def test_weights_below_the_limit_stay_in_the_file(tmp_path: Path) -> None:
    path = converted(layers(64, 2), 64, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.pt2", "result.onnx"]
    assert path.stat().st_size > 2 * 64 * 64 * 4


_MEASURED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_pytorch_large import agree, converted, layers

folder = Path(sys.argv[2])
module = layers(8192, 9)
path = converted(module, 8192, folder)
assert agree(module, path, 8192)
"""

_PEAK = """
import sys
from pathlib import Path
from hub.spec import ConvertOptions
from hub_torchprogram import exported_program
from hub_pytorch.to_onnx import convert_to_onnx

convert_to_onnx(exported_program(Path(sys.argv[1])), ConvertOptions(), Path(sys.argv[2]))
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
"""


@pytest.mark.scheduled
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_model_of_more_than_two_gibibytes(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", _MEASURED, here, str(tmp_path)], check=True)
    size = (tmp_path / "result.onnx.data").stat().st_size
    assert size > 2**31
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "model.pt2"), str(tmp_path / "again.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 1.5 * size  # the weights once, and torch itself
