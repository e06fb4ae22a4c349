"""Keras models and SavedModels to OpenVINO IR by OpenVINO's TensorFlow frontend. Runs in a worker.

The source's reader has looked at the file before: one that would run code on loading does not come here unallowed.
The model is traced as one function of positional tensors over open dimensions, so that names and order are known.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hub.spec import ConvertJob, Signature, StepError, TensorSpec, UnsupportedModel
from hub_openvino.convert.objects import from_object
from hub_openvino.convert.source_signature import ConvertedIr, SignaturePlaces, finish

_HINT = "hub tries the ways over TFLite and ONNX next"
_FAILURES = (ValueError, TypeError, KeyError, OSError, AttributeError, IndexError, NotImplementedError, RuntimeError)

Call = Callable[[Sequence[object]], Sequence[object]]


def from_keras(job: ConvertJob) -> ConvertedIr:
    """Convert a `.keras` or HDF5 file.

    Raises:
        StepError: Keras cannot load or trace it, or the frontend fails.
        UnsupportedModel: It holds an operator that the frontend lacks.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # read when Keras is imported, and fixed from then on
    import keras

    path = Path(job.source.path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not job.options.allow_pickle)
    except _FAILURES as error:
        message = f"Keras {keras.__version__} cannot load {path.name} as it is: {' '.join(str(error).split())[:300]}"
        raise StepError(message, hint=_HINT) from error
    # Keras calls a model with its own structure of inputs, in an order that need not be the signature's.
    graph = getattr(model, "_functional", None) or model
    struct = getattr(graph, "_inputs_struct", None)
    own = [tensor.name for tensor in model.inputs or ()]
    wanted = [spec.name for spec in job.source.signature.inputs]
    order = [wanted.index(name) for name in own] if sorted(own) == sorted(wanted) else list(range(len(own)))
    if struct is None or len(own) != len(wanted):
        raise UnsupportedModel(f"{model.name} declares {len(own)} inputs of {len(wanted)}", hint=_HINT)

    def call(tensors: Sequence[object]) -> Sequence[object]:
        given = keras.tree.pack_sequence_as(struct, [tensors[place] for place in order])
        result = model(given, training=False)
        names = [spec.name for spec in job.source.signature.outputs]
        if isinstance(result, dict) and set(result) == set(names):
            return [result[name] for name in names]
        return list(keras.tree.flatten(result))

    return _convert(call, job)


def from_saved_model(job: ConvertJob) -> ConvertedIr:
    """Convert a SavedModel folder: the signature whose inputs are the source's.

    Raises:
        StepError: TensorFlow cannot load it, or the frontend fails.
        UnsupportedModel: No signature has these inputs, or it holds an operator that the frontend lacks.
    """
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(job.source.path)
    except _FAILURES as error:
        message = f"TensorFlow cannot load {Path(job.source.path).name}: {' '.join(str(error).split())[:300]}"
        raise StepError(message, hint=_HINT) from error
    inputs = [spec.name for spec in job.source.signature.inputs]
    outputs = [spec.name for spec in job.source.signature.outputs]
    fitting = [
        function
        for function in loaded.signatures.values()
        if set(function.structured_input_signature[1]) == set(inputs)
        and set(function.structured_outputs) == set(outputs)
    ]
    if not fitting:
        raise UnsupportedModel(f"no signature of the SavedModel takes {inputs} and gives {outputs}", hint=_HINT)
    function = fitting[0]

    def call(tensors: Sequence[object]) -> Sequence[object]:
        result = function(**dict(zip(inputs, tensors, strict=True)))
        return [result[name] for name in outputs]

    call.keep = loaded  # type: ignore[attr-defined]  # the function holds its variables by weak references
    return _convert(call, job)


def _convert(call: Call, job: ConvertJob) -> ConvertedIr:
    import msgspec

    signature = job.source.signature
    function = _traced(call, signature)
    model = from_object(function)

    def renamed(specs: Sequence[TensorSpec], prefix: str) -> tuple[TensorSpec, ...]:
        names = _names(prefix, len(specs))
        return tuple(msgspec.structs.replace(spec, name=name) for spec, name in zip(specs, names, strict=True))

    found = SignaturePlaces.by_name(
        model, Signature(inputs=renamed(signature.inputs, "in"), outputs=renamed(signature.outputs, "out"))
    )
    return finish(model, signature, job.options, found)


def _traced(call: Call, signature: Signature) -> object:
    import tensorflow as tf

    names = _names("in", len(signature.inputs))
    specs = [
        tf.TensorSpec([dim.size for dim in spec.shape], spec.dtype.value, name=name)
        for spec, name in zip(signature.inputs, names, strict=True)
    ]

    def serve(*tensors: object) -> dict[str, object]:
        results = call(tensors)
        slots = _names("out", len(results))
        return {slot: tf.identity(result, name=slot) for slot, result in zip(slots, results, strict=True)}

    try:
        return tf.function(serve, input_signature=specs, autograph=False).get_concrete_function()
    except (*_FAILURES, tf.errors.OpError) as error:
        message = f"TensorFlow cannot trace the model: {' '.join(str(error).split())[:300]}"
        raise StepError(message, hint=_HINT) from error


def _names(prefix: str, count: int) -> list[str]:
    """Names that sort in their order."""
    return [f"{prefix}_{number:03d}" for number in range(count)]
