"""Recipes as data: what NNCF is asked for. `hub_openvino.quantize.tool` applies them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

from hub.spec import Processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """Arguments of `nncf.quantize`; the defaults here are NNCF's own.

    Attributes:
        name: For the notes.
        preset: `performance` (symmetric activations) or `mixed` (asymmetric where they are signed).
        transformer: Whether normalisations and element-wise products around attention stay in float.
        overflow_fix: Which weights use half of the 8-bit range: `first_layer_only`, `enable` (all), `disable`.
        per_tensor: Whether activations in front of depthwise convolutions get one range, not one per channel.
        min_max: Whether activation ranges are the extremes over all samples, not the mean of each sample's.
        smooth: Alpha of SmoothQuant in products; -1 for off.
        fast_bias: The bias correction from activation means alone.
        float_types: Operators that stay in float.
    """

    name: str
    preset: str = "performance"
    transformer: bool = False
    overflow_fix: str = "first_layer_only"
    per_tensor: bool = False
    min_max: bool = False
    smooth: float = 0.95
    fast_bias: bool = True
    float_types: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def settings(self) -> dict[str, object]:
        """As plain data, by the name of NNCF's function."""
        return {"quantize": asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spared:
    """A static recipe whose result loses the quantizers that hurt most, and the int8 weights of some layers.

    Attributes:
        base: The recipe.
        removed: Quantizers that are taken out.
        total: Quantizers that there were.
        float_weights: Layers that get their float weights back.
    """

    base: Static
    removed: tuple[str, ...]
    total: int
    float_weights: tuple[str, ...] = ()

    def __str__(self) -> str:
        exact = f", {len(self.float_weights)} layers with float weights" if self.float_weights else ""
        return f"{self.base}, {len(self.removed)} of {self.total} quantizers taken out{exact}"

    @property
    def settings(self) -> dict[str, object]:
        """As plain data."""
        weights = {"float_weights": list(self.float_weights)} if self.float_weights else {}
        return {**self.base.settings, "removed_quantizers": list(self.removed), **weights}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRecipe:
    """Arguments of `nncf.compress_weights`.

    Attributes:
        name: For the notes.
        mode: NNCF's word: `int8_asym`, `int4_sym` ….
        group_size: Weights that share a scale, along the axis that is summed over; -1 for a whole row; 0 for int8.
        all_layers: Whether embeddings and the last product get 4 bits too; else they get 8.
        ratio: Share of the other layers that get 4 bits.
        scale_estimation: Whether scales are fitted to the activations of the calibration samples.
        dynamic_group: Activations that share a scale when products quantize them on the fly, which OpenVINO does by
            default where the CPU multiplies int8 fast; 0 keeps them in float there too.
        awq: Whether channels with large activations are scaled up before rounding.
        float_types: Operators whose weights stay in float.
    """

    name: str
    mode: str
    group_size: int = 0
    all_layers: bool = False
    ratio: float = 1.0
    scale_estimation: bool = False
    awq: bool = False
    dynamic_group: int = 0
    float_types: tuple[str, ...] = ()

    @property
    def needs_samples(self) -> bool:
        """Whether NNCF reads calibration samples."""
        return self.scale_estimation or self.awq

    def __str__(self) -> str:
        return self.name

    @property
    def settings(self) -> dict[str, object]:
        """As plain data, by the name of NNCF's function."""
        return {"compress_weights": asdict(self)}


Recipe = Static | Spared | WeightRecipe

DEPTHWISE = "GroupConvolution"

PER_CHANNEL_MARGIN_DB = 1.0
"""By how much ranges per channel must win: they were fitted to the judged samples."""

DEFAULTS = Static(name="NNCF's defaults")


def static_recipes(processor: Processor, kinds: Collection[str] = (DEPTHWISE,)) -> tuple[Static, ...]:
    """Recipes for int8 weights and activations, NNCF's defaults first; `kinds` are the model's operators.

    Without VNNI, x86 kernels add pairs of u8 x s8 products in int16: weights in half of the range cannot saturate
    there (a digits LSTM: 26 dB with full range in all but the first layer, 46 dB with half), at one bit of weight
    noise, which costs transformers more than saturation does (a text recogniser: 21.7 dB against 13.1 dB).

    NNCF's ranges per channel in front of depthwise convolutions may fit the calibration samples too well: an image
    network has 16.1 dB with them and 16.0 without on the photographs it was calibrated on, 8.6 and 14.0 dB on others.
    A text detector gains 3 dB by them, so they are tried last and must win by `PER_CHANNEL_MARGIN_DB`. A model without
    such convolutions is the same with them.
    """
    saturates = processor.has_integer_dot is False and "avx2" in processor.features
    words = ", weights in half of their range" if saturates else ""
    own = Static(
        name=f"asymmetric activations{words}",
        preset="mixed",
        overflow_fix="enable" if saturates else "disable",
        per_tensor=True,
    )
    transformer = Static(
        name="transformer scheme",
        preset="mixed",
        transformer=True,
        smooth=-1.0,
        overflow_fix="first_layer_only" if saturates else "disable",
        per_tensor=True,
    )
    extremes = replace(own, name=f"{own.name}, ranges from extremes", min_max=True)
    per_channel = replace(own, name=f"{own.name}, ranges per channel", per_tensor=False)
    return DEFAULTS, own, transformer, extremes, *((per_channel,) if DEPTHWISE in kinds else ())


RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence", "LSTMCell", "GRUCell", "RNNCell")


def recurrent_in_float(recipe: Static) -> Static:
    """The recipe with recurrent layers in float.

    NNCF quantizes them, and OpenVINO computes noise: a voice-activity network goes from 15.8 dB to -14.2 dB with them.
    """
    return replace(recipe, name=f"{recipe.name}, recurrent layers in float", float_types=RECURRENT)


INT8_WEIGHTS = WeightRecipe(name="8 bits, asymmetric", mode="int8_asym")
INT8_BUT_DEPTHWISE = replace(INT8_WEIGHTS, name="8 bits but in depthwise convolutions", float_types=(DEPTHWISE,))
INT8_DYNAMIC = replace(INT8_WEIGHTS, name="8 bits, activations on the fly in groups of 32", dynamic_group=32)
INT4_GROUPS = WeightRecipe(name="4 bits, asymmetric, groups of 32", mode="int4_asym", group_size=32)
INT4_ALL = WeightRecipe(
    name="4 bits in embeddings and the last product too", mode="int4_asym", group_size=32, all_layers=True
)
INT4_FITTED = (
    WeightRecipe(name="4 bits, asymmetric, groups of 32, scales fitted", mode="int4_asym", group_size=32,
            scale_estimation=True),
    WeightRecipe(name="4 bits, asymmetric, groups of 32, scales fitted, AWQ", mode="int4_asym", group_size=32,
            scale_estimation=True, awq=True),
    INT4_GROUPS,
    INT4_ALL,
)  # fmt: skip
