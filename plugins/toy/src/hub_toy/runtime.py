"""The runtime: runs both formats with numpy, quantized layers in integer arithmetic."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from hub.spec import (
    ExecutedLayer,
    Execution,
    ModelArtifact,
    Runtime,
    RuntimeOptions,
    StepError,
    UnknownName,
)
from hub_toy.files import Array, ToyLayer, ToyModel, read

Floats = npt.NDArray[np.float32]
INT8_MAX = 127
_PROFILED_RUNS = 10


class ToySession:
    """An opened model; `outputs` are the values that it shows, the model's own outputs where none are named."""

    def __init__(self, model: ToyModel, outputs: Sequence[str] = ()) -> None:
        self._model = model
        self._outputs = outputs or [value.name for value in model.graph.outputs]

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run once.

        Raises:
            StepError: An input is missing.
        """
        missing = [value.name for value in self._model.graph.inputs if value.name not in feeds]
        if missing:
            raise StepError(f"no input {', '.join(missing)}; given: {', '.join(feeds)}", hint="feed every input")
        values = values_of(self._model, feeds)
        return {name: values[name].copy() for name in self._outputs}

    def intermediate(self, names: Sequence[str]) -> "ToySession":
        """Show other values of the model.

        Raises:
            UnknownName: There is no such value.
        """
        known = [layer.output for layer in self._model.graph.layers]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UnknownName(f"there is no value {', '.join(unknown)}", hint=f"known: {', '.join(known)}")
        return ToySession(self._model, names)

    def execution(self, feeds: dict[str, Array]) -> Execution:
        """Time every layer; nothing is fused here, so that each stands for itself."""
        seconds: dict[str, float] = defaultdict(float)
        for _ in range(_PROFILED_RUNS):
            values_of(self._model, feeds, seconds)
        total = sum(seconds.values())
        layers = self._model.graph.layers
        return Execution(
            runtime=ToyRuntime.name,
            version=np.__version__,
            device="cpu",
            operators=dict(Counter(layer.op for layer in layers)),
            layers=tuple(self._executed(layer, seconds[layer.name] / total) for layer in layers),
            timed_by=f"{_PROFILED_RUNS} runs",
        )

    def _executed(self, layer: ToyLayer, share: float) -> ExecutedLayer:
        whole = layer.op == "affine" and self._model.arrays[f"{layer.name}.w"].dtype == np.int8
        precision = "int8" if whole else "fp32"
        return ExecutedLayer(
            name=layer.name, operator=layer.op, precision=precision, device="cpu", covers=(layer.op,), time_share=share
        )

    def close(self) -> None:
        """Nothing to release."""


class ToyRuntime(Runtime):
    """Opens both formats."""

    name = "numpy"
    formats = ("toy", "toybin")
    requires = ("numpy>=2.0",)
    process = "toy"
    targets = MappingProxyType({".toybin": ("toybin", "")})  # `--to numpy` writes the binary format

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        """Open a model. Raises as `hub_toy.files.read`.

        Raises:
            DeviceMissing: Another device than the CPU is asked for.
            StepError: Another precision than float32 is.
        """
        options.check_cpu("numpy")
        options.check_float32("numpy")
        return ToySession(read(Path(artifact.path)))


def values_of(model: ToyModel, feeds: dict[str, Array], seconds: dict[str, float] | None = None) -> dict[str, Floats]:
    """Compute every named value of a model, inputs included; add each layer's time to `seconds`."""
    frozen = {name.removesuffix(".value"): array for name, array in model.arrays.items() if name.endswith(".value")}
    values = {name: array.astype(np.float32) for name, array in (frozen | feeds).items()}  # int64 inputs too
    for layer in model.graph.layers:
        start = time.perf_counter()
        values[layer.output] = _RUN[layer.op](layer, model.arrays, [values[name] for name in layer.inputs])
        if seconds is not None:
            seconds[layer.name] += time.perf_counter() - start
    return values


def quantize(array: Floats, scale: Floats) -> npt.NDArray[np.int8]:
    """Round to the symmetric int8 grid: real = scale * q, q in [-127, 127]."""
    return np.clip(np.round(array / scale), -INT8_MAX, INT8_MAX).astype(np.int8)


def scale_of(array: Floats, axis: int | None = None) -> Floats:
    """The scale that just holds the largest magnitude, per tensor or per slice; 1 where all is zero."""
    largest = np.abs(array).max(axis=axis, initial=0.0)
    return np.where(largest > 0, largest / INT8_MAX, 1).astype(np.float32)


def _affine(layer: ToyLayer, arrays: dict[str, Array], inputs: list[Floats]) -> Floats:
    (x,), w, b = inputs, arrays[f"{layer.name}.w"], arrays[f"{layer.name}.b"].astype(np.float32)
    if w.dtype != np.int8:
        return x @ w.astype(np.float32) + b
    x_scale = arrays.get(f"{layer.name}.x_scale", scale_of(x)).astype(np.float32)
    total = quantize(x, x_scale).astype(np.int32) @ w.astype(np.int32)
    return total.astype(np.float32) * x_scale * arrays[f"{layer.name}.w_scale"].astype(np.float32) + b


def _add(layer: ToyLayer, arrays: dict[str, Array], inputs: list[Floats]) -> Floats:  # noqa: ARG001 as in the table
    return inputs[0] + inputs[1]


def _relu(layer: ToyLayer, arrays: dict[str, Array], inputs: list[Floats]) -> Floats:  # noqa: ARG001 as in the table
    return np.maximum(inputs[0], 0)


def _softmax(layer: ToyLayer, arrays: dict[str, Array], inputs: list[Floats]) -> Floats:  # noqa: ARG001 as in the table
    powers: Floats = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
    total: Floats = powers.sum(axis=-1, keepdims=True)
    return powers / total


_RUN: dict[str, Callable[[ToyLayer, dict[str, Array], list[Floats]], Floats]] = {
    "affine": _affine,
    "add": _add,
    "relu": _relu,
    "softmax": _softmax,
}
