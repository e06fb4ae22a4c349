"""OpenVINO and NNCF as their users call them, with every setting left alone.

`python -m benchmarks.bare_openvino FLOAT.onnx CALIBRATION.npz PRECISION=OUTPUT.xml…` notes beside each what came of it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bare_onnxruntime import Arrays, make, rows


class Model:
    """A compiled `.xml` (or `.onnx`) file."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        self._compiled = core.compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": threads})
        self._request = self._compiled.create_infer_request()
        self.outputs = [_name(port) or str(place) for place, port in enumerate(self._compiled.outputs)]

    def feeds(self, arrays: Arrays) -> Arrays:
        """One sample in the model's own terms: only its inputs, in its types, with its rank."""
        return feeds_of(self._compiled.inputs, arrays)

    def run(self, arrays: Arrays) -> list[np.ndarray[Any, Any]]:
        """Run once."""
        self._request.infer(self.feeds(arrays))
        return [np.array(self._request.get_output_tensor(place).data) for place in range(len(self.outputs))]

    def turn(self, arrays: Arrays) -> Callable[[], object]:
        """A function that runs the model on one sample and does nothing else."""
        import openvino

        for name, array in self.feeds(arrays).items():
            self._request.set_tensor(name, openvino.Tensor(array))
        return self._request.infer  # type: ignore[no-any-return]


def _name(port: Any) -> str:
    return min(port.get_names(), default="")


def feeds_of(ports: Any, arrays: Arrays) -> Arrays:
    """One sample by the names of a model's inputs; a single input takes a single array whatever their names are."""
    found = {}
    for port in ports:
        names = [name for name in port.get_names() if name in arrays]
        array = arrays[names[0]] if names or len(arrays) > 1 else next(iter(arrays.values()))
        rank = len(port.get_partial_shape())
        shaped = array if array.ndim == rank else array[None]
        found[_name(port)] = np.ascontiguousarray(shaped, port.get_element_type().to_dtype())
    return found


def _converted(model: Path) -> Any:
    import openvino

    return openvino.convert_model(model)


def _save(model: Any, output: Path) -> None:
    import openvino

    openvino.save_model(model, output)


def fp32(model: Path, _: Path, output: Path) -> None:
    """`convert_model`, without the compression to fp16 that `save_model` does unasked."""
    import openvino

    openvino.save_model(_converted(model), output, compress_to_fp16=False)


def fp16(model: Path, _: Path, output: Path) -> None:
    """`convert_model`, `save_model`."""
    _save(_converted(model), output)


def int8(model: Path, samples: Path, output: Path) -> None:
    """`nncf.quantize`."""
    import nncf

    converted = _converted(model)
    dataset = nncf.Dataset([feeds_of(converted.inputs, sample) for sample in rows(samples)])
    _save(nncf.quantize(converted, dataset), output)


def int8_weights(model: Path, _: Path, output: Path) -> None:
    """`nncf.compress_weights`."""
    import nncf

    _save(nncf.compress_weights(_converted(model)), output)


def int4_weights(model: Path, _: Path, output: Path) -> None:
    """`nncf.compress_weights` with a 4-bit mode."""
    import nncf

    _save(nncf.compress_weights(_converted(model), mode=nncf.CompressWeightsMode.INT4_SYM), output)


PRECISIONS = {"fp32": fp32, "fp16": fp16, "int8-weights": int8_weights, "int8": int8, "int4-weights": int4_weights}


if __name__ == "__main__":
    make(PRECISIONS, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
