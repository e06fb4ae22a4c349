"""Judging the importer by ONNX's node cases: import, save as `.keras`, load without the importer, run, compare."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from hub_keras.onnx_importer import UnsupportedOperator, import_onnx

ROUNDING = {"bfloat16": 1e-2, "float16": 1e-3}


def cases() -> list[Any]:
    """ONNX's cases with one data set, without the second form of each, where an operator is its definition."""
    from onnx.backend.test.loader import load_model_tests

    found = [case for case in load_model_tests(kind="node") if not case.name.endswith("_expanded")]
    return [case for case in found if len(case.data_sets) == 1]


def arrays(values: Any) -> list[Any]:
    return [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def frozen(model: onnx.ModelProto, inputs: list[Any], kept: int) -> onnx.ModelProto:
    """The model with all but its first inputs as constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value, content in list(zip(copy.graph.input, inputs, strict=True))[kept:]:
        copy.graph.initializer.append(numpy_helper.from_array(np.asarray(content), value.name))
        copy.graph.input.remove(value)
    return copy


def imported(case: Any, inputs: list[Any]) -> tuple[Any, list[Any]]:
    """The import and what to feed it: what must be known at import time is made constant, the first input is kept."""
    try:
        return import_onnx(case.model), inputs
    except UnsupportedOperator as refusal:
        fixed = "import time" in refusal.reason or "computed" in refusal.reason
        if not fixed or len(inputs) == 1 or not all(isinstance(v, np.ndarray | np.generic) for v in inputs):
            raise
    return import_onnx(frozen(case.model, inputs, 1)), inputs[:1]


def reloaded(model: Any) -> Any:
    """The model as Keras alone reads it back."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return keras.models.load_model(path)


def run(module: Any, feeds: list[Any]) -> list[Any]:
    """The outputs of a reloaded import."""
    import tensorflow as tf

    model = reloaded(module.model)
    tensors = [tf.constant(np.asarray(feed)) for feed in feeds]
    result = model(tensors if len(tensors) > 1 else tensors[0])
    return [np.asarray(part) for part in (result if isinstance(result, list | tuple) else [result])]


def agrees(got: Any, wanted: Any, case: Any) -> bool:
    target = np.asarray(wanted)
    if got.dtype.name != target.dtype.name or got.shape != target.shape:
        return False
    kind = "complex128" if np.iscomplexobj(got) else "float64"
    mine, theirs = got.astype(kind), target.astype(kind)
    if target.dtype.kind in "iu" and target.dtype.itemsize == 8:
        return bool((got == target).all())
    finite = np.abs(theirs[np.isfinite(theirs)])
    rounding = ROUNDING.get(got.dtype.name, 1e-6)
    rtol, atol = max(case.rtol, rounding), max(case.atol, rounding * float(finite.max(initial=0.0)))
    return bool(np.allclose(mine, theirs, rtol=rtol, atol=atol, equal_nan=True))


def verdict(case: Any) -> str:
    """passed, refused: operator: reason, or wrong: what was found."""
    inputs, outputs = (arrays(part) for part in case.data_sets[0])
    try:
        module, feeds = imported(case, inputs)
    except UnsupportedOperator as refusal:
        return f"refused: {refusal.op}: {refusal.reason}"
    results = run(module, feeds)
    right = len(results) == len(outputs) and all(map(agrees, results, outputs, [case] * len(outputs)))
    return "passed" if right else f"wrong: {[(r.dtype.name, r.shape) for r in results]}"
