"""Judge: recurrent layers in every form that LiteRT's kernels have, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub_onnxgraph.errors import UnsupportedOperator
from hub_tflite.runtime import LiteRtSession
from hub_tflite.to_onnx.edge import convert
from hub_tflitefile.schema import to_bytes
from plugins.tflite.tests.tflite_graphs import Graph

BATCH, TIME, WIDTH, UNITS = 2, 5, 3, 4
TOLERANCE = 1e-5
"""Relative to the largest value: float32 sums in another order."""
RELU, RELU6, TANH = 1, 3, 4
_INPUTS, _NORM = 24, range(20, 24)


class Cell:
    """The operands of an LSTM in the operator's order, -1 where one is absent."""

    def __init__(self, seed: int, outputs: int = UNITS, dtype: Any = np.float32) -> None:
        self.graph = Graph()
        self.rng = np.random.default_rng(seed)
        self.outputs = outputs
        self.dtype = dtype

    def weight(self, name: str, *shape: int) -> int:
        values = self.rng.uniform(-0.8, 0.8, shape).astype(np.float32)
        if self.dtype == np.float32:
            return self.graph.constant(name, values)
        scale = np.abs(values).max() / 127
        index = self.graph.constant(name, np.rint(values / scale).astype(np.int8), "INT8")
        self.graph.tensors[index].quantization = quantization(float(scale))
        return index

    def vector(self, name: str, size: int = UNITS) -> int:
        return self.graph.constant(name, self.rng.uniform(-0.5, 0.5, size).astype(np.float32))

    def state(self, name: str, width: int) -> int:
        return self.graph.tensor(name, (BATCH, width), isVariable=True)

    def operands(self, prefix: str, *, coupled: bool, peephole: bool, projected: bool) -> list[int]:
        """Operands 1 to 17 of UNIDIRECTIONAL_SEQUENCE_LSTM."""
        inner = [self.weight(f"{prefix}w{gate}", UNITS, WIDTH) for gate in "ifco"]
        again = [self.weight(f"{prefix}r{gate}", UNITS, self.outputs) for gate in "ifco"]
        views = [self.vector(f"{prefix}p{gate}") if peephole else -1 for gate in "ifo"]
        biases = [self.vector(f"{prefix}b{gate}") for gate in "ifco"]
        if coupled:
            inner[0] = again[0] = views[0] = biases[0] = -1
        last = (
            [self.weight(f"{prefix}wp", self.outputs, UNITS), self.vector(f"{prefix}bp", self.outputs)]
            if projected
            else [-1, -1]
        )
        return [*inner, *again, *views, *biases, *last]


def quantization(scale: float, point: int = 0) -> Any:
    from hub_tflitefile.schema import new

    return new("QuantizationParametersT", scale=np.array([scale], np.float32), zeroPoint=np.array([point], np.int64))


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "time_major": {"time_major": True},
    "relu": {"activation": RELU},
    "coupled": {"coupled": True},
    "peephole": {"peephole": True},
    "coupled peephole": {"coupled": True, "peephole": True},
    "projected": {"outputs": 3, "projected": True},
    "projected, clipped": {"outputs": 3, "projected": True, "proj_clip": 0.2},
    "cell clipped": {"cell_clip": 0.3},
    "normalized": {"norm": True},
    "normalized, coupled, projected": {"norm": True, "coupled": True, "projected": True, "outputs": 3},
    "relu6": {"activation": RELU6},
}


def sequence_lstm(  # noqa: PLR0913 - the operator's own options
    *, outputs: int = UNITS, activation: int = TANH, norm: bool = False, time_major: bool = False,
    cell_clip: float = 0.0, proj_clip: float = 0.0, dtype: Any = np.float32, **form: bool,
) -> Any:  # fmt: skip
    cell = Cell(0, outputs, dtype)
    given = {"coupled": False, "peephole": False, "projected": False} | form
    shape = (TIME, BATCH) if time_major else (BATCH, TIME)
    x = cell.graph.tensor("x", (*shape, WIDTH))
    operands = cell.operands("", **given)
    states = [cell.state("h", outputs), cell.state("c", UNITS)]
    norms = [cell.vector(f"n{gate}") for gate in "ifco"] if norm else [-1] * 4
    if norm and given["coupled"]:
        norms[0] = -1
    y = cell.graph.tensor("y", (*shape, outputs))
    inputs = [x, *operands, *states, *(norms if norm else [])]
    cell.graph.add(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], "UnidirectionalSequenceLSTMOptions",
        fusedActivationFunction=activation, timeMajor=time_major, cellClip=cell_clip, projClip=proj_clip,
    )  # fmt: skip
    return cell.graph.model([x], [y])


def difference(model: Any, folder: Path, *, fault: bool = False) -> float:
    """Largest error relative to the largest value, over two runs on other inputs: state must not be kept."""
    from hub_onnxruntime.session import OrtSession

    path, output = folder / "cell.tflite", folder / "cell.onnx"
    path.write_bytes(to_bytes(model))
    step = convert(path, output)
    if any(tensor.isVariable for tensor in model.subgraphs[0].tensors):
        assert any("keeps state" in note.text for note in step.notes)
    tflite, onnx = LiteRtSession(path.read_bytes(), "reference"), OrtSession(output)
    worst = 0.0
    shape = model.subgraphs[0].tensors[0].shape
    for seed in (0, 1):
        feeds = {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
        wanted, found = tflite.run(feeds), onnx.run({"x": -feeds["x"]} if fault else feeds)
        assert list(wanted) == list(found)
        for name, array in wanted.items():
            assert array.shape == found[name].shape
            worst = max(worst, float(np.abs(array - found[name]).max() / np.abs(array).max()))
    return worst


@pytest.mark.parametrize("form", FORMS)
def test_lstm_over_time(form: str, tmp_path: Path) -> None:
    assert difference(sequence_lstm(**FORMS[form]), tmp_path) < TOLERANCE


def test_the_judge_sees_a_fault(tmp_path: Path) -> None:
    assert difference(sequence_lstm(), tmp_path, fault=True) > 1000 * TOLERANCE


def test_plain_lstm_is_one_operator(tmp_path: Path) -> None:
    import onnx

    difference(sequence_lstm(), tmp_path)
    assert "LSTM" in {node.op_type for node in onnx.load(tmp_path / "cell.onnx").graph.node}


def test_hybrid_lstm_has_int8_weights(tmp_path: Path) -> None:
    """LiteRT rounds activations on the fly here, ONNX does not: 8 bits of a bounded state, below 2 %."""
    assert difference(sequence_lstm(dtype=np.int8), tmp_path) < 0.02


def single_lstm() -> Any:
    cell = Cell(2)
    x = cell.graph.tensor("x", (BATCH, WIDTH))
    operands = cell.operands("", coupled=False, peephole=False, projected=False)
    y = cell.graph.tensor("y", (BATCH, UNITS))
    states = [cell.state("h", UNITS), cell.state("c", UNITS)]
    cell.graph.add("LSTM", [x, *operands, *states], [y], "LSTMOptions", fusedActivationFunction=TANH)
    return cell.graph.model([x], [y])


def basic_lstm() -> Any:
    cell = Cell(3)
    x, y = cell.graph.tensor("x", (BATCH, WIDTH)), cell.graph.tensor("y", (BATCH, UNITS))
    h, c = (cell.state(name, UNITS) for name in "hc")
    w, b = cell.weight("w", 4 * UNITS, WIDTH + UNITS), cell.vector("b", 4 * UNITS)
    rest = [
        cell.graph.tensor(name, (BATCH, size)) for name, size in (("s", UNITS), ("j", WIDTH + UNITS), ("g", 4 * UNITS))
    ]
    cell.graph.add("LSTM", [x, h, w, b, c], [y, *rest], "LSTMOptions", fusedActivationFunction=TANH, kernelType=1)
    return cell.graph.model([x], [y, rest[0]])


def bidirectional_lstm(*, merged: bool, time_major: bool) -> Any:
    cell = Cell(4)
    shape = (TIME, BATCH) if time_major else (BATCH, TIME)
    x = cell.graph.tensor("x", (*shape, WIDTH))
    form = {"coupled": False, "peephole": True, "projected": False}
    operands = [*cell.operands("f", **form), *cell.operands("b", **form)]
    states = [cell.state(name, UNITS) for name in ("fh", "fc", "bh", "bc")]
    outputs = [cell.graph.tensor("y", (*shape, 2 * UNITS if merged else UNITS))]
    outputs += [] if merged else [cell.graph.tensor("z", (*shape, UNITS))]
    cell.graph.add(
        "BIDIRECTIONAL_SEQUENCE_LSTM", [x, *operands, *states, *[-1] * 9], outputs, "BidirectionalSequenceLSTMOptions",
        fusedActivationFunction=TANH, timeMajor=time_major, mergeOutputs=merged,
    )  # fmt: skip
    return cell.graph.model([x], outputs)


def plain_rnn(operator: str, *, both: bool = False, activation: int = TANH, merged: bool = False) -> Any:
    cell = Cell(5)
    single = operator == "RNN"
    shape = (BATCH,) if single else (BATCH, TIME)
    x = cell.graph.tensor("x", (*shape, WIDTH))
    operands = [x]
    for side in ("f", "b")[: 1 + both]:
        operands += [cell.weight(f"{side}w", UNITS, WIDTH), cell.weight(f"{side}r", UNITS, UNITS)]
        operands += [cell.vector(f"{side}b"), cell.state(f"{side}h", UNITS)]
    outputs = [cell.graph.tensor("y", (*shape, 2 * UNITS if merged else UNITS))]
    outputs += [cell.graph.tensor("z", (*shape, UNITS))] if both and not merged else []
    if both:
        cell.graph.add(
            operator, [*operands, -1, -1, -1], outputs, "BidirectionalSequenceRNNOptions",
            fusedActivationFunction=activation, mergeOutputs=merged,
        )  # fmt: skip
    else:
        options = "RNNOptions" if single else "SequenceRNNOptions"
        cell.graph.add(operator, operands, outputs, options, fusedActivationFunction=activation)
    return cell.graph.model([x], outputs)


def svdf() -> Any:
    cell = Cell(6)
    rank, memory = 2, 6
    x, y = cell.graph.tensor("x", (BATCH, WIDTH)), cell.graph.tensor("y", (BATCH, UNITS))
    weights = [cell.weight("wf", UNITS * rank, WIDTH), cell.weight("wt", UNITS * rank, memory), cell.vector("b")]
    state = cell.state("s", UNITS * rank * memory)
    cell.graph.add("SVDF", [x, *weights, state], [y], "SVDFOptions", rank=rank, fusedActivationFunction=RELU)
    return cell.graph.model([x], [y])


OTHERS = {
    "LSTM": single_lstm,
    "LSTM basic": basic_lstm,
    "BIDIRECTIONAL_SEQUENCE_LSTM": lambda: bidirectional_lstm(merged=False, time_major=False),
    "BIDIRECTIONAL_SEQUENCE_LSTM merged": lambda: bidirectional_lstm(merged=True, time_major=True),
    "UNIDIRECTIONAL_SEQUENCE_RNN": lambda: plain_rnn("UNIDIRECTIONAL_SEQUENCE_RNN"),
    "UNIDIRECTIONAL_SEQUENCE_RNN relu": lambda: plain_rnn("UNIDIRECTIONAL_SEQUENCE_RNN", activation=RELU),
    "BIDIRECTIONAL_SEQUENCE_RNN": lambda: plain_rnn("BIDIRECTIONAL_SEQUENCE_RNN", both=True),
    "BIDIRECTIONAL_SEQUENCE_RNN merged": lambda: plain_rnn("BIDIRECTIONAL_SEQUENCE_RNN", both=True, merged=True),
    "RNN": lambda: plain_rnn("RNN"),
    "SVDF": svdf,
}


@pytest.mark.parametrize("operator", OTHERS)
def test_other_recurrent_layers(operator: str, tmp_path: Path) -> None:
    assert difference(OTHERS[operator](), tmp_path) < TOLERANCE


def test_no_activation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperator, match="activation number 0"):
        difference(sequence_lstm(activation=0), tmp_path)


def test_an_activation_that_no_onnx_word_says_is_refused(tmp_path: Path) -> None:
    model = plain_rnn("UNIDIRECTIONAL_SEQUENCE_RNN", activation=RELU6)
    with pytest.raises(UnsupportedOperator, match="activation number 3"):
        difference(model, tmp_path)
