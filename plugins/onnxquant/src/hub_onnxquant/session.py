"""Runs a model in memory, as ONNX defines it, to judge what a recipe gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import StepError
from hub_onnxquant.bfloat16 import widened
from hub_onnxquant.half import HalfType
from hub_onnxquant.runtime_options import UNSOUND_FP8, runtime_failures, session_options
from hub_onnxquant.source import typed_copy

if TYPE_CHECKING:
    from onnx import ModelProto

    from hub.spec import Feeds


class GraphSession:
    """An open model in ONNX Runtime on the CPU.

    Pairs of QuantizeLinear and DequantizeLinear are computed as ONNX defines them, in float between the pairs: no
    integer kernel's saturation, so that the figure is the model's and not this processor's.

    Args:
        model: The model in one piece.

    Raises:
        StepError: ONNX Runtime refuses it.
    """

    def __init__(self, model: ModelProto) -> None:
        import onnxruntime as ort

        if any(tensor.data_type == HalfType.BFLOAT16 for tensor in model.graph.initializer):
            content = widened(typed_copy(model))  # the CPU has hardly a kernel for it
        else:
            content = model.SerializeToString()
        try:
            self._session = ort.InferenceSession(
                content,
                session_options("optimized", 0),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["QDQSelectorActionTransformer", *UNSOUND_FP8],
            )
        except runtime_failures() as error:
            raise StepError(f"ONNX Runtime {ort.__version__} refuses the model: {error}") from error
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Feeds) -> Feeds:
        """Runs once.

        Raises:
            StepError: A feed does not fit, or a kernel failed.
        """
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))
        except runtime_failures() as error:
            raise StepError(f"ONNX Runtime failed on the model: {error}") from error

    def close(self) -> None:
        """Releases the model."""
        del self._session
