"""Run a Keras model or SavedModel in TensorFlow: the reference that every conversion is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.spec import ModelArtifact, Runtime, RuntimeOptions, StepError
from hub_keras.load import TENSORFLOW, load_model
from hub_keras.loaded import LoadedModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec.calibration import Feeds


class KerasSession:
    """A loaded model. Each run is independent and repeatable: inference mode, deterministic kernels."""

    def __init__(self, loaded: LoadedModel) -> None:
        import tensorflow as tf

        self._loaded = loaded
        # Traced anew for each shape: Keras cannot trace every layer (UpSampling2D) over sizes that are open.
        self._function = tf.function(loaded.call, autograph=False)

    def run(self, feeds: Feeds) -> Feeds:
        """Run once.

        Args:
            feeds: Arrays by input name; floats are cast to the input's float type, whole numbers to its integer type.

        Returns:
            Copies of the outputs by name, in the signature's order.

        Raises:
            StepError: An input is missing, or the model refuses the arrays.
        """
        import tensorflow as tf

        signature = self._loaded.signature
        missing = [spec.name for spec in signature.inputs if spec.name not in feeds]
        if missing:
            raise StepError(f"no array for input {', '.join(missing)}; given: {', '.join(feeds)}")
        tensors = [tf.constant(feeds[spec.name], dtype=spec.dtype.value) for spec in signature.inputs]
        try:
            results = self._function(tensors)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise StepError(f"Keras cannot run the model: {error}") from error
        return {spec.name: _copy(value) for spec, value in zip(signature.outputs, results, strict=True)}

    def intermediate(self, feeds: Feeds, names: tuple[str, ...]) -> Feeds:
        """Outputs of layers by layer name, for a layer-by-layer comparison.

        Raises:
            StepError: The model is a SavedModel, or has no such layer at its top level.
        """
        import keras

        model = self._loaded.model
        if not isinstance(model, keras.Model):
            raise StepError("a SavedModel does not tell its layers")
        known = {layer.name: layer for layer in model.layers}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise StepError(f"no layer {', '.join(unknown)}; layers: {', '.join(known)}")
        probe = keras.Model(model.inputs, {name: known[name].output for name in names})
        values = probe([feeds[spec.name] for spec in self._loaded.signature.inputs], training=False)
        return {name: _copy(values[name]) for name in names}

    def close(self) -> None:
        """Release the model and Keras' global state."""
        import keras

        del self._function, self._loaded
        keras.backend.clear_session()


def _copy(value: Any) -> npt.NDArray[np.generic]:
    import numpy as np

    return np.array(value.numpy())


class KerasRuntime(Runtime):
    """TensorFlow, through Keras or a SavedModel's serving signature."""

    name = "keras"
    formats = ("keras",)
    requires = ("keras>=3.11", "h5py>=3.11", TENSORFLOW)
    process = "keras-tensorflow"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> KerasSession:
        """See `hub.spec.Runtime`: on the CPU, in float32."""
        import tensorflow as tf

        options.check_cpu("Keras")
        options.check_float32("Keras")
        tf.config.experimental.enable_op_determinism()
        tf.random.set_seed(0)
        _use_threads(options.threads)
        return KerasSession(load_model(Path(artifact.path), allow_pickle=options.allow_pickle))


def _use_threads(threads: int) -> None:
    import tensorflow as tf

    if not threads or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        print(f"TensorFlow already runs with its own number of threads: {error}")  # noqa: T201 into the step's log
