"""What a careful engineer writes without hub: digits.pt2 to int8 TFLite with the same tools, compared as hub compares.

The same steps: run the source, convert, run the float file with both kernel sets, quantize on the same calibration
samples, run the result with both kernel sets, compare. In one process, with nothing isolated, cached or recorded.
"""

import sys
from pathlib import Path

import numpy as np

SAMPLES = Path(__file__).parents[1] / "samples" / "digits_torch"


def outputs_of(path: Path, images: np.ndarray, *, reference_kernels: bool) -> np.ndarray:
    """Run a TFLite file over single images."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.BUILTIN_REF if reference_kernels else OpResolverType.AUTO
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kind)
    runner = interpreter.get_signature_runner()
    name = next(iter(runner.get_input_details()))
    return np.concatenate([np.array(next(iter(runner(**{name: image[None]}).values()))) for image in images])


def sqnr(source: np.ndarray, result: np.ndarray) -> float:
    """Signal to quantization noise ratio in dB."""
    return float(10 * np.log10((source**2).sum() / ((source - result) ** 2).sum()))


def convert(program: object, path: Path) -> None:
    """PyTorch to float TFLite."""
    import litert_torch
    import torch

    litert_torch.convert(program.module(), (torch.zeros(1, 1, 8, 8),)).export(str(path))  # type: ignore[attr-defined]


def quantize(float_path: Path, path: Path, images: np.ndarray) -> None:
    """Float TFLite to int8."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    runner = Interpreter(str(float_path)).get_signature_runner()
    name = next(iter(runner.get_input_details()))
    border = [{"regex": ".*", "operation": side, "algorithm_key": "no_quantize"} for side in ("INPUT", "OUTPUT")]
    tool = quantizer.Quantizer(str(float_path), [*recipe.static_wi8_ai8(), *border])
    ranges = tool.calibrate({"serving_default": [{name: image[None]} for image in images]})
    path.write_bytes(tool.quantize(ranges).quantized_model)


def main(folder: Path) -> None:
    """All steps."""
    import torch

    program = torch.export.load(str(SAMPLES / "digits.pt2"))
    test = np.load(SAMPLES / "test.npz")["image"]
    calibration = np.load(SAMPLES / "calibration.npz")["image"]
    with torch.no_grad():
        source = np.concatenate([program.module()(torch.from_numpy(image[None])).numpy() for image in test])
    float_path, int8_path = folder / "float.tflite", folder / "int8.tflite"
    convert(program, float_path)
    quantize(float_path, int8_path, calibration)
    for path in (float_path, int8_path):
        for reference_kernels in (False, True):
            got = outputs_of(path, test, reference_kernels=reference_kernels)
            print(path.name, reference_kernels, f"{sqnr(source, got):.1f} dB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
