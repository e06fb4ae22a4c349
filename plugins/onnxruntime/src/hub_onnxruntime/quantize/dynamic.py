"""Dynamic int8: weights in integers, activations from the range that they have in each run. ONNX Runtime's own tool."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import StepError
from hub_onnxquant.qdq import Signedness

if TYPE_CHECKING:
    from onnx import ModelProto

_QUIET = logging.ERROR  # it advises pre-processing, which was done


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Settings of `onnxruntime.quantization.quantize_dynamic`.

    Attributes:
        operators: Operator types to quantize. Gemm counts as MatMul.
        weights: `uint8` where signed weights saturate, else `int8`.
    """

    operators: tuple[str, ...]
    weights: str

    def __str__(self) -> str:
        return f"{self.weights} weights of {', '.join(self.operators)}"

    @property
    def settings(self) -> dict[str, object]:
        """For the receipt."""
        return {**asdict(self), "per_channel": True, "reduce_range": False, "MatMulConstBOnly": True}


def weights_for(signedness: Signedness) -> str:
    """Returns the weights' type that is exact with unsigned activations on a processor."""
    return "uint8" if signedness is Signedness.U8U8 else "int8"


def quantize(model: ModelProto, settings: Dynamic) -> ModelProto:
    """Returns a quantized copy.

    Raises:
        StepError: The tool fails.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kind = QuantType.QUInt8 if settings.weights == "uint8" else QuantType.QInt8
    root = logging.getLogger()
    level = root.level
    root.setLevel(_QUIET)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        try:
            quantize_dynamic(
                source, target, list(settings.operators), per_channel=True, reduce_range=False, weight_type=kind
            )
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
            raise StepError(f"ONNX Runtime's quantize_dynamic fails: {type(error).__name__}: {error}") from error
        finally:
            root.setLevel(level)
        return onnx.load(target)
