"""Writes TFLite files of the Keras layer zoo with TensorFlow's converter. Run as a program, in a process of its own.

    python -m plugins.tflite.tests.tflite_layer_files FOLDER NAME...

`FOLDER/NAME.KIND.tflite` for KIND in float, dynamic and int8, and `FOLDER/NAME.npz` with the feeds.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("float", "dynamic", "int8")
_CALIBRATION = 16


def frozen(model: Any) -> Any:
    """Trace a Keras model at batch 1 and make its variables constants, as hub-keras does."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specs = [tf.TensorSpec([1, *value.shape[1:]], value.dtype, name=value.name) for value in model.inputs]

    def call(*xs: Any) -> Any:
        return model(list(xs) if len(xs) > 1 else xs[0], training=False)

    return convert_variables_to_constants_v2(tf.function(call, input_signature=specs).get_concrete_function())


def converted(function: Any, kind: str, feeds: list[dict[str, Any]]) -> bytes:
    """Convert in one of `KINDS`; int8 keeps what it cannot quantize in float."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "int8":

        def samples() -> Iterator[list[Any]]:
            yield from (list(sample.values()) for sample in feeds)

        converter.representative_dataset = samples
    content: bytes = converter.convert()
    return content


def write(folder: Path, name: str, *, kinds: tuple[str, ...] = KINDS) -> None:
    """Write the files of one layer; a kind that the converter refuses is left out."""
    from plugins.keras.tests import keras_layer_zoo as zoo

    model = dict(zoo.cases())[name]()
    feeds = [zoo.feeds(name, seed) for seed in range(_CALIBRATION)]
    kept = {f"{key}@{seed}": value for seed in (0, 1) for key, value in feeds[seed].items()}
    np.savez(folder / f"{name}.npz", **kept)
    try:
        function = frozen(model)
    except Exception as error:  # noqa: BLE001 - Keras raises anything; the judge counts what was not written
        print(f"{name}: not traced: {type(error).__name__}", file=sys.stderr)  # noqa: T201 - the program's output
        return
    loops = {"While", "StatelessWhile", "LoopCond"} & {operation.type for operation in function.graph.get_operations()}
    for kind in kinds:
        if kind == "int8" and loops:
            continue  # TensorFlow 2.21's converter dies of a memory error here
        try:
            (folder / f"{name}.{kind}.tflite").write_bytes(converted(function, kind, feeds))
        except Exception as error:  # noqa: BLE001 - as above
            print(f"{name}.{kind}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    os.environ.update({"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""})
    warnings.simplefilter("ignore")
    for wanted in sys.argv[2:]:
        write(Path(sys.argv[1]), wanted)
