"""TensorFlow's own converter, fed with frozen functions of fixed shape: what makes it reliable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.spec import ConvertJob, EffectError, Numerics, Remark, SampleFolder, StepError, TensorSpec
from hub_keras.flatbuffer import Slots, name_interface, refuse_custom
from hub_keras.loaded import LoadedModel
from hub_keras.recurrent import batch_of, close_list_shapes, unroll
from hub_keras.static import StaticInputs, TensorTools


@dataclass(frozen=True, slots=True)
class TfliteConversion:
    """A converter that is ready to be told a precision.

    Attributes:
        converter: A `tf.lite.TFLiteConverter`.
        slots: The names that it will give inputs and outputs in its signature; None when it writes no signature.
        notes: What was done to the model.
    """

    converter: Any
    slots: Slots | None = None
    notes: tuple[Remark, ...] = ()


Maker = Callable[[LoadedModel, StaticInputs, Path], TfliteConversion]


def positional(prefix: str, count: int) -> list[str]:
    """Names that sort in their order and that every tool takes: `in_000`, `in_001`."""
    return [f"{prefix}_{index:03d}" for index in range(count)]


def concrete_function(loaded: LoadedModel, static: StaticInputs) -> Any:
    """Trace a model over its border: fixed shapes, or open where the request leaves them open.

    Returns:
        A concrete function from `in_000`... to a dict of `out_000`....

    Raises:
        StepError: Keras cannot trace the model over this border.
    """
    import tensorflow as tf

    tools = TensorTools(constant=_constant, transpose=tf.transpose)
    specs = [
        tf.TensorSpec(_open_shape(static, spec), spec.dtype.value, name=name)
        for spec, name in zip(static.kept, positional("in", len(static.kept)), strict=True)
    ]

    def serve(*tensors: Any) -> dict[str, Any]:
        with _inlined():
            results = static.run(loaded.call, tensors, tools)
        slots = positional("out", len(results))
        return {slot: tf.identity(result, name=slot) for slot, result in zip(slots, results, strict=True)}

    try:
        return tf.function(serve, input_signature=specs, autograph=False).get_concrete_function()
    except (TypeError, ValueError, NotImplementedError, AttributeError, tf.errors.OpError) as error:
        opened = " with open dimensions" if static.is_open else ""
        raise StepError(f"Keras cannot trace the model{opened}: {' '.join(str(error).split())[:300]}") from error


def _open_shape(static: StaticInputs, spec: TensorSpec) -> list[int | None]:
    symbols = static.symbols(spec)
    return [None if axis in symbols else size for axis, size in enumerate(static.example(spec))]


@contextlib.contextmanager
def _inlined() -> Iterator[None]:
    """Trace nested functions into the outer graph.

    Keras calls a grouped convolution through a function of its own that must be compiled by XLA; freezing leaves such
    a call in the graph, and no converter knows it.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # noqa: FBT003 TensorFlow takes it by position
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _constant(value: float, shape: tuple[int, ...], dtype: str) -> Any:
    import tensorflow as tf

    return tf.constant(value, dtype=dtype, shape=shape)


def from_frozen(loaded: LoadedModel, static: StaticInputs, scratch: Path) -> TfliteConversion:
    """Make a converter of a frozen function: variables are constants, functions are inlined."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    del scratch
    frozen = convert_variables_to_constants_v2(concrete_function(loaded, static))
    function, notes = _close_lists(frozen, static)
    return TfliteConversion(tf.lite.TFLiteConverter.from_concrete_functions([function]), notes=notes)


def _close_lists(frozen: Any, static: StaticInputs) -> tuple[Any, tuple[Remark, ...]]:
    graph, batch = frozen.graph.as_graph_def(), batch_of(static)
    closed = close_list_shapes(graph, batch) if batch is not None else 0
    if not closed:
        return frozen, ()
    names = [[tensor.name for tensor in tensors] for tensors in (frozen.inputs, frozen.outputs)]
    text = f"gave {closed} tensor lists of a loop their batch size, {batch}"
    return _function_of(graph, *names), (Remark("note", "lists-sized", text),)


def _function_of(graph: Any, inputs: list[str], outputs: list[str]) -> Any:
    import tensorflow as tf

    wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    find = wrapped.graph.get_tensor_by_name
    return wrapped.prune([find(name) for name in inputs], [find(name) for name in outputs])


def from_unrolled(loaded: LoadedModel, static: StaticInputs, scratch: Path) -> TfliteConversion:
    """As `from_frozen`, with the steps of recurrent layers written one by one: loops cannot be quantized."""
    notes = unroll(loaded, static)
    prepared = from_frozen(loaded, static, scratch)
    return TfliteConversion(prepared.converter, notes=(*notes, *prepared.notes))


def from_saved(loaded: LoadedModel, static: StaticInputs, scratch: Path) -> TfliteConversion:
    """Make a converter of a SavedModel with one signature of fixed shape."""
    import tensorflow as tf

    function = concrete_function(loaded, static)
    # Reached through the attributes of a Keras model, weights come out as variables that nobody initialises: the
    # result loads, and computes garbage.
    module = tf.Module()
    module.weights = list({id(variable): variable for variable in function.graph.variables}.values())
    if not hasattr(loaded.model, "layers"):
        module.model = loaded.model
    folder = str(scratch / "static_savedmodel")
    tf.saved_model.save(module, folder, signatures={"serving_default": function})
    slots = positional("in", len(static.kept)), positional("out", len(static.outputs))
    return TfliteConversion(tf.lite.TFLiteConverter.from_saved_model(folder), slots)


def write_tflite(
    loaded: LoadedModel, static: StaticInputs, job: ConvertJob, make: Maker, numerics: Numerics = Numerics.FP32
) -> tuple[Remark, ...]:
    """Convert a model into `job.output` with TFLite's own operators only.

    Returns:
        Notes.

    Raises:
        StepError: The converter refused; with what it said.
        EffectError: It wrote Flex or custom operators, or another interface.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    output = Path(job.output)
    prepared = make(loaded, static, Path(job.scratch))
    prepared.converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if job.options.allow_custom_ops:
        prepared.converter.target_spec.supported_ops.append(tf.lite.OpsSet.SELECT_TF_OPS)
    settings = _PRECISIONS.get(numerics)
    if settings:
        settings(prepared.converter, static, job)
    try:
        data = prepared.converter.convert()
    except (ConverterError, ValueError, RuntimeError, TypeError, KeyError, tf.errors.OpError) as error:
        raise StepError(f"TensorFlow's converter failed: {error}") from error
    if not isinstance(data, bytes) or not data:
        raise EffectError(f"TensorFlow's converter gave {type(data).__name__} of length {len(data)}")
    output.write_bytes(data)
    if not job.options.allow_custom_ops:
        refuse_custom(output)
    renamed = name_interface(output, [spec.name for spec in static.kept], static.outputs, prepared.slots)
    return (*static.notes, *prepared.notes, *renamed)


def _optimize(converter: Any) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def _fp16(converter: Any, static: StaticInputs, job: ConvertJob) -> None:
    import tensorflow as tf

    del static, job
    _optimize(converter)
    converter.target_spec.supported_types = [tf.float16]


def _int8_dynamic(converter: Any, static: StaticInputs, job: ConvertJob) -> None:
    del static, job
    _optimize(converter)


def _int8(converter: Any, static: StaticInputs, job: ConvertJob) -> None:
    import tensorflow as tf

    _optimize(converter)
    converter.representative_dataset = lambda: representative(static, job.calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if job.options.io_dtype == "int8":
        converter.inference_input_type = converter.inference_output_type = tf.int8


def _int16x8(converter: Any, static: StaticInputs, job: ConvertJob) -> None:
    import tensorflow as tf

    _optimize(converter)
    converter.representative_dataset = lambda: representative(static, job.calibration)
    name = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
    converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, name)]


_PRECISIONS: dict[Numerics, Callable[[Any, StaticInputs, ConvertJob], None]] = {
    Numerics.FP16: _fp16,
    Numerics.INT8_DYNAMIC: _int8_dynamic,
    Numerics.INT8: _int8,
    Numerics.INT16X8: _int16x8,
}


def representative(static: StaticInputs, folder: str) -> Iterator[list[Any]]:
    """Yield calibration samples as lists in the order of the kept inputs.

    Raises:
        StepError: There are no samples, or one lacks an input.
    """
    source = SampleFolder(folder)
    if not folder or not len(source):
        raise StepError(f"no calibration samples in {folder!r}", hint="--calibration DATA")
    for feeds in source:
        missing = [spec.name for spec in static.kept if spec.name not in feeds]
        if missing:
            raise StepError(f"a calibration sample lacks {', '.join(missing)}; it has {', '.join(feeds)}")
        yield [_as_taken(feeds[spec.name], static, spec) for spec in static.kept]


def _as_taken(array: Any, static: StaticInputs, spec: TensorSpec) -> Any:
    import numpy as np

    axes = static.permutation(spec)
    moved = np.ascontiguousarray(np.transpose(array, axes)) if axes else array
    return moved.astype(spec.dtype.value, copy=False)
