"""Networks whose inputs leave more open than the batch, or are nested, shared or several: what borders must survive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
Sizes = dict[str, tuple[int, ...]]


def _pictures() -> Any:
    """Fully convolutional: height and width are open."""
    from keras import Input, Model, layers

    inputs = Input((None, None, 3), name="picture")
    first = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    second = layers.Conv2D(8, 3, padding="same", activation="gelu")(layers.MaxPooling2D()(first))
    up = layers.Conv2DTranspose(6, 2, strides=2, padding="same")(second)
    merged = layers.BatchNormalization()(layers.Concatenate()([first, up]))
    return Model(inputs, layers.Conv2D(2, 1, activation="sigmoid", name="mask")(merged), name="pictures")


def _widened() -> Any:
    """Enlarged to a size that is not known: Keras 3.15 cannot trace this in TensorFlow."""
    from keras import Input, Model, layers

    inputs = Input((None, None, 3), name="picture")
    wide = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(4, 3, padding="same")(inputs))
    return Model(inputs, layers.UpSampling2D(2, name="wide")(wide), name="widened")


def _sequence() -> Any:
    """Recurrent over an open time dimension."""
    from keras import Input, Model, layers

    inputs = Input((None, 5), name="frames")
    x = layers.LSTM(6, return_sequences=True)(inputs)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    return Model(inputs, layers.TimeDistributed(layers.Dense(3), name="tags")(x), name="sequence")


def _tokens() -> Any:
    """Attention over an open number of int64 tokens."""
    from keras import Input, Model, layers

    inputs = Input((None,), dtype="int64", name="tokens")
    x = layers.Embedding(30, 8)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    outputs = [layers.Dense(4, name="tag")(x), layers.Dense(2, name="kind")(layers.GlobalMaxPooling1D()(x))]
    return Model(inputs, outputs, name="tokens_open")


def _nested() -> Any:
    """A dict of a list and a tensor goes in, nested outputs come out; one model and one layer are called twice."""
    from keras import Input, Model, Sequential, layers

    tower = Sequential([layers.Input((6,)), layers.Dense(5, activation="tanh"), layers.Dense(4)], name="tower")
    shared = layers.Dense(3, name="shared")
    right, left, flag = Input((6,), name="right"), Input((6,), name="left"), Input((1,), dtype="int32", name="flag")
    a, b = tower(right), tower(left)
    inputs = {"pair": [right, left], "flag": flag}
    total = layers.Add(name="total")([shared(a), shared(b)])
    gated = layers.Multiply(name="gated")([total, layers.Embedding(3, 3, name="table")(flag)[:, 0]])
    return Model(inputs, {"z": [gated, total], "a": layers.Subtract(name="difference")([a, b])}, name="nested")


def _masked() -> Any:
    """Tokens with padding, and a mask that is an input of its own."""
    from keras import Input, Model, layers

    tokens, mask = Input((8,), dtype="int32", name="tokens"), Input((8,), dtype="bool", name="mask")
    x = layers.Embedding(20, 6, mask_zero=True)(tokens)
    read = layers.Bidirectional(layers.LSTM(4))(x)
    attended = layers.Attention()([x, x], mask=[mask, mask])
    return Model([tokens, mask], [read, layers.GlobalAveragePooling1D(name="pooled")(attended)], name="masked")


def _passed_on() -> Any:
    """An output that is an input, one output given twice, and an output named like the layer's own operator."""
    from keras import Input, Model, layers

    inputs = Input((7, 7, 2), name="x")
    conv2d = layers.Conv2D(3, 3, name="conv2d")(inputs)
    return Model(inputs, [conv2d, inputs, conv2d], name="passed_on")


def _bytes() -> Any:
    """Pixels as uint8, scaled inside."""
    from keras import Input, Model, layers

    inputs = Input((8, 8, 3), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    return Model(inputs, layers.GlobalAveragePooling2D(name="means")(layers.Conv2D(4, 3)(x)), name="bytes")


_BUILDERS: dict[str, Callable[[], Any]] = {
    "pictures": _pictures,
    "widened": _widened,
    "sequence": _sequence,
    "tokens_open": _tokens,
    "nested": _nested,
    "masked": _masked,
    "passed_on": _passed_on,
    "bytes": _bytes,
}
NAMES = tuple(_BUILDERS)

# Two sizes of everything that is open.
_SIZES: dict[str, tuple[Sizes, Sizes]] = {
    "pictures": ({"picture": (1, 8, 12, 3)}, {"picture": (3, 20, 6, 3)}),
    "widened": ({"picture": (1, 8, 12, 3)}, {"picture": (3, 10, 6, 3)}),
    "sequence": ({"frames": (1, 5, 5)}, {"frames": (3, 9, 5)}),
    "tokens_open": ({"tokens": (1, 4)}, {"tokens": (3, 11)}),
    "nested": (
        {"pair_0": (1, 6), "pair_1": (1, 6), "flag": (1, 1)},
        {"pair_0": (3, 6), "pair_1": (3, 6), "flag": (3, 1)},
    ),
    "masked": ({"tokens": (1, 8), "mask": (1, 8)}, {"tokens": (3, 8), "mask": (3, 8)}),
    "passed_on": ({"x": (1, 7, 7, 2)}, {"x": (3, 7, 7, 2)}),
    "bytes": ({"pixels": (1, 8, 8, 3)}, {"pixels": (3, 8, 8, 3)}),
}
# Upper bound (excluded) of the whole numbers that an input takes.
_WHOLE = {"tokens": (20, "int32"), "flag": (3, "int32"), "mask": (2, "bool"), "pixels": (256, "uint8")}


def feeds(name: str, size: int) -> Arrays:
    """Draw inputs by name, at the first (0) or second (1) size of everything that is open."""
    rng = np.random.default_rng([size, len(name)])
    return {key: _draw(rng, key, shape, name) for key, shape in _SIZES[name][size].items()}


def _draw(rng: np.random.Generator, key: str, shape: tuple[int, ...], name: str) -> npt.NDArray[Any]:
    if key not in _WHOLE:
        return rng.standard_normal(shape, dtype=np.float32)
    high, dtype = _WHOLE[key]
    drawn = rng.integers(0, high, shape).astype("int64" if name == "tokens_open" else dtype)
    if key == "mask":
        drawn[:, 0] = True  # a row with nothing to read has no mean
    return drawn


def build(name: str) -> Any:
    """Build one network with seeded weights."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    return _BUILDERS[name]()


def save(name: str, folder: Path) -> Path:
    """Build one network and save it as `<folder>/<name>.keras`."""
    path = folder / f"{name}.keras"
    build(name).save(path)
    return path
