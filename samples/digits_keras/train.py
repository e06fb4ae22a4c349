"""Train three small Keras networks on the digits and write them with their data sets.

``digits.keras`` is a convolutional network (``image`` [N, 8, 8, 1]); ``digits_lstm.keras`` and ``digits_gru.keras``
read the image as eight rows (``rows`` [N, 8, 8]). Run from the repository's root:
``KERAS_BACKEND=tensorflow python -m samples.digits_keras.train``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
from keras import layers

from samples.digits.data import SEED, Part, load, write_sets

HERE = Path(__file__).resolve().parent
EPOCHS, BATCH = 30, 32


def _block(tensor: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    """Convolution, batch normalisation and ReLU, as most networks have them."""
    tensor = layers.Conv2D(filters, 3, padding="same", use_bias=False)(tensor)
    return layers.ReLU()(layers.BatchNormalization()(tensor))


def _head(name: str, inputs: keras.KerasTensor, features: keras.KerasTensor) -> keras.Model:
    outputs = layers.Dense(10, activation="softmax", name="probability")(features)
    return keras.Model(inputs, outputs, name=name)


def convolutional() -> keras.Model:
    """Two convolution blocks, pooling, a dense layer with ReLU and a softmax."""
    inputs = keras.Input((8, 8, 1), name="image")
    tensor = layers.MaxPooling2D()(_block(_block(inputs, 16), 24))
    return _head("digits", inputs, layers.Dense(32, activation="relu")(layers.Flatten()(tensor)))


def lstm() -> keras.Model:
    """An LSTM of 32 units over the eight rows."""
    inputs = keras.Input((8, 8), name="rows")
    return _head("digits_lstm", inputs, layers.LSTM(32)(inputs))


def gru() -> keras.Model:
    """A GRU of 32 units over the eight rows."""
    inputs = keras.Input((8, 8), name="rows")
    return _head("digits_gru", inputs, layers.GRU(32)(inputs))


BUILDERS: dict[str, tuple[Callable[[], keras.Model], tuple[int, ...]]] = {
    "digits": (convolutional, (8, 8, 1)),
    "digits_lstm": (lstm, (8, 8)),
    "digits_gru": (gru, (8, 8)),
}


def fit(model: keras.Model, part: Part, shape: tuple[int, ...]) -> None:
    """Fit ``model`` to the training part with Adam and a cosine schedule."""
    steps = EPOCHS * -(-len(part.label) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy")
    model.fit(part.image.reshape(-1, *shape), part.label, batch_size=BATCH, epochs=EPOCHS, verbose=0)


def accuracy(model: keras.Model, part: Part, shape: tuple[int, ...]) -> float:
    """Share of ``part`` that the model classifies correctly."""
    probability = model.predict(part.image.reshape(-1, *shape), verbose=0)
    return float((probability.argmax(1) == part.label).mean())


def main() -> None:
    """Train, save, and say how good each is."""
    split = load()
    for name, (build, shape) in BUILDERS.items():
        keras.utils.set_random_seed(SEED)
        model = build()
        fit(model, split.train, shape)
        keras.Model(model.inputs, model.outputs, name=name).save(HERE / f"{name}.keras")  # without the optimizer
        print(f"{name}: test accuracy {accuracy(model, split.test, shape):.4f}")
    write_sets(split, HERE, "image", (8, 8, 1))
    write_sets(split, HERE, "rows", (8, 8), "_rows")


if __name__ == "__main__":
    main()
