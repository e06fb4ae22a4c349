"""Reading models of other formats with OpenVINO's frontends. Runs in a worker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import StepError, UnsupportedModel

if TYPE_CHECKING:
    import openvino

_OPERATORS = re.compile(r"(?:does not support the following \w+|No conversion rule found for) operations: ([^\n]+)")
_FAILED = re.compile(r"^-- ([\w.:]+?)(?:-\d+)? with a message", re.MULTILINE)
_NAMED = 12


def read_file(path: Path) -> openvino.Model:
    """Reads an ONNX or TFLite file (or an IR) and applies OpenVINO's own simplifications.

    `openvino.convert_model` would do the same through its converter, which reports home.

    Raises:
        UnsupportedModel: The frontend has no form of an operator; the message names it.
        StepError: The frontend fails.
    """
    import openvino

    try:
        model = openvino.Core().read_model(str(path))
    except (RuntimeError, ValueError) as error:
        raise failure(error) from error
    return simplified(model)


def simplified(model: openvino.Model) -> openvino.Model:
    """Applies the transformations that OpenVINO's converter applies: fusions, folded constants, no padding names."""
    from openvino import _offline_transformations as offline

    offline.apply_moc_transformations(model, cf=False, smart_reshape=True)
    offline.compress_quantize_weights_transformation(model)
    return model


def failure(error: Exception) -> UnsupportedModel | StepError:
    """A frontend's exception as hub's, with the operators that it names."""
    import openvino

    text = str(error)
    who = f"OpenVINO {openvino.__version__.partition('-')[0]}"
    lacking = sorted({word.strip() for found in _OPERATORS.findall(text) for word in found.split(",") if word.strip()})
    failed = sorted(set(_FAILED.findall(text)))
    if lacking:
        return UnsupportedModel(f"{who} has no form of {_listed(lacking)}", hint="export the model without them")
    if failed:
        message = f"{who} could not convert {_listed(failed)}: {_last(text)}"
        return UnsupportedModel(message, hint="fixed shapes may help: --shape INPUT=...")
    if "NotImplemented" in text or "OpConversionFailure" in text:
        return UnsupportedModel(f"{who} cannot convert the model: {_last(text)}")
    return StepError(f"{who} failed to read the model: {_last(text)}")


def _listed(words: list[str]) -> str:
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def _last(text: str) -> str:
    """The lines that say something, without OpenVINO's places in its own source."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "src/" not in line]
    told = [line for line in lines if not line.startswith(("FrontEnd API", "-- ", "Model wasn't", "Failed operations"))]
    return " ".join((told or lines)[:3])[:400] or text[:200]
