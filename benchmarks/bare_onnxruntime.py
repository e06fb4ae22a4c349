"""ONNX Runtime as its users call it, with every setting left alone: its quantizers, and its session.

`python -m benchmarks.bare_onnxruntime FLOAT.onnx CALIBRATION.npz PRECISION=OUTPUT.onnx…` notes what came of each.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


class Model:
    """An open `.onnx` or `.ort` file."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    def feeds(self, arrays: Arrays) -> Arrays:
        """One sample in the model's own terms: only its inputs, in its types, with its rank."""
        return {name: _as_input(arrays[name], value) for name, value in self._inputs.items()}

    def run(self, arrays: Arrays) -> list[np.ndarray[Any, Any]]:
        """Run once."""
        return list(self._session.run(None, self.feeds(arrays)))

    def turn(self, arrays: Arrays) -> Callable[[], object]:
        """A function that runs the model on one sample and does nothing else."""
        feeds, session = self.feeds(arrays), self._session
        return lambda: session.run(None, feeds)


_TYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


def _as_input(array: np.ndarray[Any, Any], value: Any) -> np.ndarray[Any, Any]:
    shaped = array if array.ndim == len(value.shape) else array[None]
    return np.ascontiguousarray(shaped, _TYPES.get(value.type, array.dtype))


class Reader:
    """The calibration data as `quantize_static` takes it."""

    def __init__(self, model: Path, samples: Path) -> None:
        opened = Model(model, 1)
        self._samples: Iterator[Arrays] = (opened.feeds(sample) for sample in rows(samples))

    def get_next(self) -> Arrays | None:
        """The next sample, None after the last."""
        return next(self._samples, None)


def rows(path: Path) -> Iterator[Arrays]:
    """Samples of a file, without labels."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "label"}
    for number in range(len(next(iter(arrays.values())))):
        yield {name: array[number] for name, array in arrays.items()}


def fp16(model: Path, _: Path, output: Path) -> None:
    """`convert_float_to_float16`."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(model)), output)


def int8_dynamic(model: Path, _: Path, output: Path) -> None:
    """`quantize_dynamic`."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, output)


def int8(model: Path, samples: Path, output: Path) -> None:
    """`quantize_static`."""
    from onnxruntime.quantization import quantize_static

    quantize_static(model, output, Reader(model, samples))


def int4_weights(model: Path, _: Path, output: Path) -> None:
    """`MatMulNBitsQuantizer`."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(model))
    quantizer.process()
    quantizer.model.save_model_to_file(str(output))


def fp32(model: Path, _: Path, output: Path) -> None:
    """Nothing: the exporter's file is what a session gets."""
    shutil.copy(model, output)


PRECISIONS = {"fp32": fp32, "fp16": fp16, "int8-dynamic": int8_dynamic, "int8": int8, "int4-weights": int4_weights}


Maker = Callable[[Path, Path, Path], None]


def make(makers: dict[str, Maker], model: Path, samples: Path, wanted: list[str]) -> None:
    """Make every artifact; what came of it, and the seconds, are noted beside it."""
    for precision, output in (word.split("=", 1) for word in wanted):
        start, error = time.perf_counter(), ""
        try:
            makers[precision](model, samples, Path(output))
        except Exception as failure:  # noqa: BLE001 whatever a tool raises is the cell's result
            error = " ".join(f"{type(failure).__name__}: {failure}".split())[:200]
        note = {"path": output, "error": error, "seconds": time.perf_counter() - start}
        Path(output).with_suffix(".json").write_text(json.dumps(note))


if __name__ == "__main__":
    make(PRECISIONS, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
