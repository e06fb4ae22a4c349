"""Calls NNCF, and says in hub's errors what it refuses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard

from hub.spec import StepError
from hub_openvino.convert.edges import ask_dynamic
from hub_openvino.failures import reason_of
from hub_openvino.quantize.recipes import RECURRENT, Static, WeightRecipe
from hub_openvino.silence import silence_telemetry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import openvino

    Samples = Sequence[Sequence[npt.NDArray[np.generic]]]

TOOL = "nncf"
_BODIES = ("If", "Loop", "TensorIterator")


def tool_version() -> str:
    """`nncf 3.4.0`."""
    return f"{TOOL} {version(TOOL)}"


def nncf_module() -> ModuleType:
    """NNCF with its telemetry cut off and its log quiet."""
    silence_telemetry()
    import nncf

    nncf.set_log_level(logging.ERROR)
    module: ModuleType = nncf
    return module


def _is_error(kind: object) -> TypeGuard[type[Exception]]:
    return isinstance(kind, type) and issubclass(kind, Exception)


def guarded(work: Callable[[], openvino.Model], model: openvino.Model, what: str) -> openvino.Model:
    """Run a piece of NNCF's work.

    Raises:
        StepError: NNCF fails; the message names the operators that it is known to fail on where the model has some.
    """
    import nncf.errors

    usual = (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError, NotImplementedError)
    errors: tuple[type[Exception], ...] = (*usual, *filter(_is_error, vars(nncf.errors).values()))
    try:
        return work()
    except errors as error:
        counts = Counter(node.get_type_name() for node in model.get_ops())
        hard = [f"{count} {name}" for name in (*_BODIES, *RECURRENT) if (count := counts[name])]
        holds = f"; the model holds {', '.join(hard)}" if hard else ""
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise StepError(f"{tool_version()} fails on {what}: {reason}{holds}") from error


def quantize(model: openvino.Model, samples: Samples, recipe: Static) -> openvino.Model:
    """Quantize weights and activations.

    Raises:
        StepError: NNCF fails.
    """
    nncf = nncf_module()
    arguments = _arguments(nncf, recipe)
    data = nncf.Dataset(list(samples))
    return guarded(
        lambda: nncf.quantize(model, data, subset_size=len(samples), **arguments), model, f"recipe {recipe.name!r}"
    )


def _arguments(nncf: ModuleType, recipe: Static) -> dict[str, object]:
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters, QuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

    kept = recipe.float_types
    ranges = RangeEstimatorParametersSet.MINMAX if recipe.min_max else RangeEstimatorParameters()
    return {
        "preset": nncf.QuantizationPreset(recipe.preset),
        "model_type": nncf.ModelType.TRANSFORMER if recipe.transformer else None,
        "fast_bias_correction": recipe.fast_bias,
        "ignored_scope": nncf.IgnoredScope(types=list(kept), validate=False) if kept else None,
        "advanced_parameters": nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix(recipe.overflow_fix),
            activations_quantization_params=QuantizationParameters(per_channel=False if recipe.per_tensor else None),
            activations_range_estimator_params=ranges,
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=recipe.smooth),
        ),
    }


def compress(model: openvino.Model, samples: Samples, recipe: WeightRecipe) -> openvino.Model:
    """Store weights in 8 or 4 bits, and say in the file whether activations are quantized on the fly.

    Raises:
        StepError: NNCF fails.
    """
    nncf = nncf_module()
    arguments: dict[str, object] = {"mode": nncf.CompressWeightsMode(recipe.mode)}
    if recipe.float_types:
        arguments["ignored_scope"] = nncf.IgnoredScope(types=list(recipe.float_types), validate=False)
    if recipe.mode.startswith("int4"):
        fallback = nncf.GroupSizeFallbackMode.ADJUST
        arguments |= {
            "group_size": recipe.group_size, "ratio": recipe.ratio, "all_layers": recipe.all_layers,
            "awq": recipe.awq, "scale_estimation": recipe.scale_estimation,
            "advanced_parameters": nncf.AdvancedCompressionParameters(group_size_fallback_mode=fallback),
        }  # fmt: skip
    if recipe.needs_samples:
        arguments |= {"dataset": nncf.Dataset(list(samples)), "subset_size": len(samples)}
    result = guarded(lambda: nncf.compress_weights(model, **arguments), model, f"recipe {recipe.name!r}")
    ask_dynamic(result, recipe.dynamic_group)
    return result
