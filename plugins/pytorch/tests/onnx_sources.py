"""Making ONNX files for the tests of ONNX -> PyTorch, and what ONNX Runtime computes on them."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from hub.spec import DescribeJob, Signature
from hub_onnxruntime.describe import OnnxFormat
from hub_onnxruntime.prepare import prepare_dynamic
from plugins.pytorch.tests.torch_networks import ExampleInputs, Network, at

Array = npt.NDArray[Any]
JUDGE = Path(__file__).with_name("source_judge.py")
OPSET = 17


def exported(network: Network, path: Path) -> Path:
    """A network as PyTorch's older exporter writes it: in a moment, every dimension of `dims` open."""
    torch.manual_seed(0)
    inputs = tuple(network.example.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter tells of its own age
        torch.onnx.export(
            network.make().eval(),
            inputs,
            str(path),
            input_names=list(network.example),
            dynamic_axes=network.dims,
            dynamo=False,
            opset_version=OPSET,
        )
    return path


def prepared(path: Path) -> Path:
    """The prepared form of a file, as hub's route makes it."""
    scratch, target = path.with_suffix(".scratch"), path.with_suffix(".prepared.onnx")
    scratch.mkdir()
    prepare_dynamic(path, target, scratch, {}, {})
    return target


def signature_of(path: Path) -> Signature:
    return OnnxFormat().describe(DescribeJob(path=str(path), form="prepared")).signature


def by_onnxruntime(path: Path, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def arrays(example: ExampleInputs) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in example.items()}


def all_feeds(network: Network) -> list[dict[str, Array]]:
    """Its example inputs, and inputs at each of its other sizes."""
    return [arrays(network.example), *(arrays(at(network, sizes)) for sizes in network.sizes)]


def write_wanted(path: Path, source: Path, feeds: Iterable[dict[str, Array]]) -> None:
    """What the judge of sources reads: inputs and what ONNX Runtime makes of them."""
    rows: dict[str, Array] = {}
    for number, given in enumerate(feeds):
        wanted = by_onnxruntime(source, given)
        rows |= {f"{number}/in/{name}": array for name, array in given.items()}
        rows |= {f"{number}/out/{index}": array for index, array in enumerate(wanted)}
    np.savez(path, allow_pickle=False, **rows)


def judge(folder: Path) -> dict[str, Any]:
    """Judge every source of a folder in a process without hub."""
    command = [sys.executable, "-S", "-W", "ignore", str(JUDGE), sysconfig.get_paths()["purelib"], str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def worst(got: Iterable[Array], wanted: list[Array]) -> float:
    """The largest error relative to the largest value of an output, or to 0.01 where all are smaller."""
    pairs = list(zip(got, wanted, strict=True))
    assert [(a.shape, a.dtype) for a, _ in pairs] == [(b.shape, b.dtype) for _, b in pairs]
    return max(float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(b).max(), 0.01)) for a, b in pairs)
