"""Numerics (element types and quantization scheme) and states (format, numerics, form)."""

from enum import StrEnum

import msgspec


class Numerics(StrEnum):
    """What a model's weights and activations are computed in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_MIXED = "int8-mixed"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_WEIGHTS = "int8-weights"
    INT16X8 = "int16x8"
    INT4_WEIGHTS = "int4-weights"
    FP8 = "fp8"

    @property
    def meaning(self) -> str:
        """One line for a person."""
        return _MEANING[self]

    @property
    def is_quantized(self) -> bool:
        """Whether values are held as integers with a scale."""
        return self.value.startswith("int")

    @property
    def needs_calibration(self) -> bool:
        """Whether activation ranges must be measured on data."""
        return self in {Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT16X8, Numerics.FP8}


_MEANING = {
    Numerics.FP32: "float32 weights and activations",
    Numerics.FP16: "float16 weights (activations float16 where the backend computes in it)",
    Numerics.BF16: "bfloat16 weights and activations",
    Numerics.INT8: "static W8A8: int8 weights and activations in every layer that the backend can quantize",
    Numerics.INT8_MIXED: "static W8A8 in most layers; the layers that int8 breaks stay in float, and are named",
    Numerics.INT8_DYNAMIC: "int8 weights; activations quantized on the fly from their range at run time",
    Numerics.INT8_WEIGHTS: "int8 weights, dequantized before use; float activations",
    Numerics.INT16X8: "static W8A16: int8 weights, int16 activations",
    Numerics.INT4_WEIGHTS: "int4 weights, float activations",
    Numerics.FP8: "fp8 E4M3 weights and activations",
}


STATIC = "static"
"""Form of a model whose dimensions are all fixed; control flow that only a run decides may be left in it."""

PREPARED = "prepared"
"""Form of a model that went through the same preparation and kept its symbolic dimensions."""

STATEFUL = "stateful"
"""Form of a model that keeps what was an input and an output of its source from one run to the next."""

_ORDER = (STATIC, PREPARED, "")


def form_satisfies(form: str, least: str) -> bool:
    """Whether a model in one form is also one in another: static is prepared, and prepared is plain.

    Every other form (`torchscript`, `savedmodel`, a backend's own) is only itself.
    """
    if form in _ORDER and least in _ORDER:
        return _ORDER.index(form) <= _ORDER.index(least)
    return form == least


class State(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A node of the planner's graph.

    Attributes:
        format: The format's name (`onnx`, `tflite`).
        numerics: What it computes in.
        form: A restricted or variant form of the format ('' is the plain one): `static`, `prepared`, `stateful`,
            `torchscript`, `builder`, `savedmodel`.
    """

    format: str
    numerics: Numerics = Numerics.FP32
    form: str = ""

    def satisfies(self, wanted: "State") -> bool:
        """Whether a model in this state is one in the wanted state, whose form may be a looser one."""
        return (
            self.format == wanted.format and self.numerics == wanted.numerics and form_satisfies(self.form, wanted.form)
        )

    def __str__(self) -> str:
        return f"{self.format}{'+' + self.form if self.form else ''}/{self.numerics.value}"
