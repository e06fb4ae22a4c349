from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plugins.keras.tests import keras_cases as cases
from plugins.keras.tests import keras_networks as networks

# Keras reads TensorFlow's variables through numpy's old __array__ protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
Network = Callable[..., Path]

# The Keras backend is fixed when Keras is imported: the edge's `environment` holds for a process of its own.
_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from plugins.keras.tests import keras_cases as cases, keras_networks as networks
from hub.spec import ConvertOptions
edge, path, output, name = sys.argv[2:]
cases.convert(edge, Path(path), Path(output), ConvertOptions(shapes=networks.shapes(name)))
"""


def _convert(edge: str, path: Path, output: Path, name: str) -> None:
    from hub_keras.edges import BY_ID

    here = str(Path(__file__).parents[3])
    environment = {**os.environ, **BY_ID[edge].environment}
    command = [sys.executable, "-c", _SCRIPT, here, edge, str(path), str(output), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_litert_torch(network: Network, tmp_path: Path) -> None:
    path, output = network("multi_io"), tmp_path / "m.tflite"
    _convert("keras.tflite-torch", path, output, "multi_io")
    assert cases.interface(output) == (["picture", "extra"], ["kind", "age"])
    feeds = networks.feeds("multi_io")
    assert cases.relative_error(cases.run_tflite(output, feeds), cases.reference(path, feeds)) < 1e-5


def test_onnx(network: Network, tmp_path: Path) -> None:
    import onnxruntime

    path, output = network("lstm_state"), tmp_path / "m.onnx"
    _convert("keras.onnx-torch", path, output, "lstm_state")
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in session.get_outputs()]
    assert [spec.name for spec in session.get_inputs()] == ["frame", "h", "c"]
    assert names == ["speech", "cell", "cell_1"]
    feeds = networks.feeds("lstm_state")
    results = {name: np.asarray(value) for name, value in zip(names, session.run(names, feeds), strict=True)}
    assert cases.relative_error(results, cases.reference(path, feeds)) < 1e-5


def test_backend_of_the_process_is_checked(network: Network) -> None:
    from hub.spec import SetupError
    from hub_keras.load import load_model

    with pytest.raises(SetupError, match="runs on tensorflow"):
        load_model(network("lstm"), backend="torch")
