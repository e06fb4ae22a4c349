"""Networks of keras.applications with seeded weights, brought into a useful range by real photographs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.zoo import data

SEED = 7
PASSES, BATCH = 20, 16
SPREAD = 2.0  # standard deviation of the logits, about that of a trained classifier


def _spread_weights(model: Any) -> None:
    """Give batch normalisations weights as training leaves them: seeded scales around one, small shifts."""
    import keras

    random = np.random.default_rng(SEED)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            width = layer.gamma.shape[0]
            layer.gamma.assign(random.uniform(0.7, 1.3, width))
            layer.beta.assign(random.uniform(-0.3, 0.3, width))
            layer.momentum = 0.7  # twenty passes must be enough


def _settle(model: Any, image: npt.NDArray[np.float32]) -> None:
    """Run photographs in training mode, which moves the batch statistics to those of real images."""
    for batch in np.split(image, PASSES):
        model({"image": batch}, training=True)


def _centre_logits(model: Any, image: npt.NDArray[np.float32]) -> None:
    """Scale and shift the last layer so that the classes differ by the image and not by the layer's bias."""
    kernel, bias = model.layers[-1].get_weights()
    logits = model.predict_on_batch({"image": image[: PASSES * BATCH // 4]})
    scale = SPREAD / (logits - logits.mean(0)).std()
    model.layers[-1].set_weights([kernel * scale, (bias - logits.mean(0)) * scale])


def mobilenet_v2() -> Any:
    """MobileNetV2 (alpha 0.35, 96x96x3, 100 classes): ``image`` [N, 96, 96, 3] in -1..1 -> logits [N, 100].

    Untrained weights with default batch statistics make every image look the same, so that any int8 file of it seems
    broken; here the statistics are measured on photographs.
    """
    import keras

    keras.utils.set_random_seed(SEED)
    model = keras.applications.MobileNetV2(
        input_tensor=keras.Input((96, 96, 3), name="image"),
        alpha=0.35,
        weights=None,
        classes=100,
        classifier_activation=None,
    )
    _spread_weights(model)
    image = data.mobilenet("calibration", PASSES * BATCH, np.random.default_rng(SEED))["image"]
    _settle(model, image)
    _centre_logits(model, image)
    return model


def save_mobilenet(path: Path) -> Path:
    """Save `mobilenet_v2` as a ``.keras`` file."""
    with warnings.catch_warnings():
        # Keras reads TensorFlow's variables with np.array, whose `copy` they do not know yet.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        mobilenet_v2().save(path)
    return path
