"""OpenVINO's converter for objects of a framework loaded in this process: torch programs, TensorFlow functions."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hub_openvino.convert.frontends import failure

if TYPE_CHECKING:
    import openvino


def from_object(model: object, inputs: Sequence[tuple[openvino.PartialShape, openvino.Type]] = ()) -> openvino.Model:
    """Converts a model in memory.

    Args:
        model: An ExportedProgram, a ScriptModule or a concrete function.
        inputs: PartialShape and Type of each input, where the model does not say.

    Raises:
        UnsupportedModel: The frontend has no form of an operator; the message names it.
        StepError: The frontend fails.
    """
    import openvino

    # Its frontends log, and the frameworks warn of, what the frameworks' own exporters do.
    logging.getLogger("openvino").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            return openvino.convert_model(model, **({"input": list(inputs)} if inputs else {}))
    except _failures() as error:
        raise failure(error) from error


def _failures() -> tuple[type[Exception], ...]:
    """With what the converter fails; its frontends' exceptions have no base of their own."""
    from openvino import frontend
    from openvino.tools.ovc.error import Error, FrameworkError

    own = ("OpConversionFailure", "GeneralFailure", "NotImplementedFailure", "InitializationFailure")
    named = tuple(getattr(frontend, name) for name in (*own, "OpValidationFailure"))
    return (
        *named,
        Error,
        FrameworkError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        AssertionError,
    )
