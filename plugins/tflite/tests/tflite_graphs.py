"""TFLite graphs written operator by operator, around a network trained on scikit-learn's digits."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hub_tflitefile.schema import code_of, new, to_bytes

Floats = npt.NDArray[np.float32]
INPUT, OUTPUT = "image", "scores"


class Graph:
    """Builds one graph; tensors are named, operators are added in order."""

    def __init__(self) -> None:
        self.codes: list[Any] = []
        self.buffers = [new("BufferT")]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []

    def tensor(self, name: str, shape: tuple[int, ...], kind: str = "FLOAT32", buffer: int = 0, **more: Any) -> int:
        made = new(
            "TensorT", name=name.encode(), shape=list(shape), type=code_of("TensorType", kind), buffer=buffer, **more
        )
        made.hasRank = True
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, name: str, values: npt.NDArray[Any], kind: str = "FLOAT32") -> int:
        self.buffers.append(new("BufferT", data=np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)))
        return self.tensor(name, values.shape, kind, len(self.buffers) - 1)

    def add(self, name: str, inputs: list[int], outputs: list[int], options: str = "", **fields: Any) -> None:
        number = code_of("BuiltinOperator", name)
        code = new("OperatorCodeT", builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=1)
        self.codes.append(code)
        made = new("OperatorT", opcodeIndex=len(self.codes) - 1, inputs=inputs, outputs=outputs)
        if options:
            made.builtinOptionsType = code_of("BuiltinOptions", options)
            made.builtinOptions = new(f"{options}T", **fields)
        self.operators.append(made)

    def inner(self) -> Graph:
        """Makes another subgraph of the same model."""
        made = Graph()
        made.codes, made.buffers = self.codes, self.buffers
        return made

    def model(self, inputs: list[int], outputs: list[int], *, signature: bool = True) -> Any:
        graph = new("SubGraphT", tensors=self.tensors, inputs=inputs, outputs=outputs, operators=self.operators)
        model = new("ModelT", version=3, operatorCodes=self.codes, subgraphs=[graph], buffers=self.buffers)
        model.description = b"hub-tflite tests"
        if signature:
            model.signatureDefs = [self._signature(inputs, outputs)]
        return model

    def _signature(self, inputs: list[int], outputs: list[int]) -> Any:
        def entries(indices: list[int]) -> list[Any]:
            return [new("TensorMapT", name=self.tensors[i].name, tensorIndex=i) for i in indices]

        return new(
            "SignatureDefT",
            signatureKey=b"serving_default",
            subgraphIndex=0,
            inputs=entries(inputs),
            outputs=entries(outputs),
        )


@cache
def digits() -> tuple[Floats, npt.NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target


@cache
def weights() -> list[Floats]:
    """Weights and biases of 64 -> 64 -> 10, trained on the first 1,400 digits; 92 % right on the other 397."""
    from sklearn.neural_network import MLPClassifier

    images, labels = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged after 100 rounds, and good enough
        network = MLPClassifier((64,), max_iter=100, learning_rate_init=5e-3, random_state=0).fit(
            images[:1400], labels[:1400]
        )
    pairs = zip(network.coefs_, network.intercepts_, strict=True)
    return [array.astype(np.float32) for pair in pairs for array in pair]


def classifier(middle: str = "RELU", *, batch: int = 1, matmul: bool = False, **more: bool) -> Any:
    """The digits network, with `middle` between its layers; `matmul` writes its products as BATCH_MATMUL."""
    w1, b1, w2, b2 = weights()
    made = Graph()
    image = made.tensor(INPUT, (batch, 64))
    hidden = made.tensor("hidden", (batch, 64))
    active = made.tensor("active", (batch, 64))
    logits, scores = made.tensor("logits", (batch, 10)), made.tensor(OUTPUT, (batch, 10))
    _dense(made, image, hidden, (w1, b1), matmul=matmul)
    _MIDDLES[middle](made, hidden, active)
    _dense(made, active, logits, (w2, b2), matmul=matmul)
    made.add("SOFTMAX", [logits], [scores], "SoftmaxOptions", beta=1.0)
    return made.model([image], [scores], signature=more.get("signature", True))


def detector_head() -> Any:
    """The digits network as a detector ends: four numbers in pixels and ten scores below one in one output."""
    w1, b1, w2, b2 = weights()
    corners = np.random.default_rng(0).uniform(0, 20, (64, 4)).astype(np.float32)
    made = Graph()
    image, hidden, active = (made.tensor(name, (1, 64)) for name in (INPUT, "hidden", "active"))
    boxes, logits, likely = made.tensor("boxes", (1, 4)), made.tensor("logits", (1, 10)), made.tensor("likely", (1, 10))
    both = made.tensor(OUTPUT, (1, 14))
    _dense(made, image, hidden, (w1, b1), matmul=False)
    made.add("RELU", [hidden], [active])
    _dense(made, active, boxes, (corners, np.zeros(4, np.float32)), matmul=False)
    _dense(made, active, logits, (w2, b2), matmul=False)
    made.add("LOGISTIC", [logits], [likely])
    made.add("CONCATENATION", [boxes, likely], [both], "ConcatenationOptions", axis=1)
    return made.model([image], [both])


def coarse_weights() -> Any:
    """The digits network, whose first weights int8 destroys: each column has a large one, for a pixel always black."""
    w1, b1, w2, b2 = weights()
    w1 = w1.copy()
    w1[0] = 150
    made = Graph()
    image, hidden, scores = made.tensor(INPUT, (1, 64)), made.tensor("hidden", (1, 64)), made.tensor(OUTPUT, (1, 10))
    active = made.tensor("active", (1, 64))
    _dense(made, image, hidden, (w1, b1), matmul=False)
    made.add("RELU", [hidden], [active])
    _dense(made, active, scores, (w2, b2), matmul=False)
    return made.model([image], [scores])


def shared_weight() -> Any:
    """A recurrence unrolled twice: one matrix in two products, as LSTMs come out of the converters."""
    w1, b1, w2, b2 = weights()
    made = Graph()
    image, scores = made.tensor(INPUT, (1, 64)), made.tensor(OUTPUT, (1, 10))
    kernel, offset = made.constant("kernel", w1.T.copy() / 2), made.constant("offset", b1)
    first, second = made.tensor("first", (1, 64)), made.tensor("second", (1, 64))
    for source, result in ((image, first), (first, second)):
        made.add("FULLY_CONNECTED", [source, kernel, offset], [result], "FullyConnectedOptions")
    _dense(made, second, scores, (w2, b2), matmul=False)
    return made.model([image], [scores])


def loop() -> Any:
    """The digits network with its first layer in the body of a WHILE that runs once."""
    w1, b1, w2, b2 = weights()
    made = Graph()
    image, start = made.tensor(INPUT, (1, 64)), made.constant("start", np.zeros((1,), np.int32), "INT32")
    end, hidden, scores = (
        made.tensor("end", (1,), "INT32"),
        made.tensor("hidden", (1, 64)),
        made.tensor(OUTPUT, (1, 10)),
    )
    made.add("WHILE", [start, image], [end, hidden], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2)
    _dense(made, hidden, scores, (w2, b2), matmul=False)
    model = made.model([image], [scores])
    model.subgraphs += [_condition(made.inner()), _body(made.inner(), (w1, b1))]
    return model


def _condition(made: Graph) -> Any:
    count, values = made.tensor("c_count", (1,), "INT32"), made.tensor("c_values", (1, 64))
    limit, more = made.constant("limit", np.ones((1,), np.int32), "INT32"), made.tensor("more", (1,), "BOOL")
    made.add("LESS", [count, limit], [more], "LessOptions")
    return new("SubGraphT", tensors=made.tensors, inputs=[count, values], outputs=[more], operators=made.operators)


def _body(made: Graph, layer: tuple[Floats, Floats]) -> Any:
    count, values = made.tensor("b_count", (1,), "INT32"), made.tensor("b_values", (1, 64))
    one, following = made.constant("one", np.ones((1,), np.int32), "INT32"), made.tensor("b_next", (1,), "INT32")
    linear, result = made.tensor("b_linear", (1, 64)), made.tensor("b_result", (1, 64))
    made.add("ADD", [count, one], [following], "AddOptions")
    _dense(made, values, linear, layer, matmul=False)
    made.add("RELU", [linear], [result])
    inputs, outputs = [count, values], [following, result]
    return new("SubGraphT", tensors=made.tensors, inputs=inputs, outputs=outputs, operators=made.operators)


def _dense(made: Graph, source: int, result: int, layer: tuple[Floats, Floats], *, matmul: bool) -> None:
    weight, bias = layer
    name = made.tensors[result].name.decode()
    offset = made.constant(f"{name}_bias", bias)
    if not matmul:
        kernel = made.constant(f"{name}_kernel", weight.T.copy())
        made.add("FULLY_CONNECTED", [source, kernel, offset], [result], "FullyConnectedOptions")
        return
    kernel = made.constant(f"{name}_kernel", weight)
    product = made.tensor(f"{name}_product", tuple(made.tensors[result].shape))
    made.add("BATCH_MATMUL", [source, kernel], [product], "BatchMatMulOptions")
    made.add("ADD", [product, offset], [result], "AddOptions")


def _plain(name: str, options: str = "", **fields: Any) -> Any:
    return lambda made, source, result: made.add(name, [source], [result], options, **fields)


def _scalar_maximum(made: Graph, source: int, result: int) -> None:
    zero = made.constant("zero", np.zeros(1, np.float32))
    made.add("MAXIMUM", [zero, source], [result], "MaximumMinimumOptions")


def _masked(made: Graph, source: int, result: int) -> None:
    """RELU(source + (-3.4e38 where masked)): the form attention masks have."""
    shape = tuple(made.tensors[source].shape)
    mask = made.constant("mask", np.where(np.arange(64) % 16 == 15, np.float32(-3.4e38), np.float32(0))[None])
    summed = made.tensor("summed", shape)
    made.add("ADD", [source, mask], [summed], "AddOptions")
    made.add("RELU", [summed], [result])


def _normed(made: Graph, source: int, result: int) -> None:
    """RELU(source) over the sum of it."""
    active, total = made.tensor("positive", (1, 64)), made.tensor("total", (1, 1))
    axis = made.constant("axis", np.array([1], np.int32), "INT32")
    made.add("RELU", [source], [active])
    made.add("SUM", [active, axis], [total], "ReducerOptions", keepDims=True)
    made.add("DIV", [active, total], [result], "DivOptions")


_MIDDLES: dict[str, Any] = {
    "NORMED": _normed,
    "RELU": _plain("RELU"),
    "RELU6": _plain("RELU6"),
    "RELU_0_TO_1": _plain("RELU_0_TO_1"),
    "RELU_N1_TO_1": _plain("RELU_N1_TO_1"),
    "LEAKY_RELU": _plain("LEAKY_RELU", "LeakyReluOptions", alpha=0.1),
    "EXP": _plain("EXP", "ExpOptions"),
    "MAXIMUM": _scalar_maximum,
    "MASKED": _masked,
}


def save(model: Any, path: Path) -> Path:
    path.write_bytes(to_bytes(model))
    return path


def save_samples(folder: Path, rows: slice) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(digits()[0][rows]):
        np.savez(folder / f"{number:04d}.npz", **{INPUT: image[None]})
    return folder
