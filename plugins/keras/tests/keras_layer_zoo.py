"""A small model for every public Keras layer class and activation: seeded weights, seeded inputs, no import of hub.

`cases()` yields (name, builder); `feeds(name)` draws inputs. The name starts with the layer class, a variant follows
after a dash: `Conv2D-same-strided`. `EXCLUDED` says which classes have no model and why; `uncovered()` is empty.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
Shape = tuple[int, ...]

# Classes that are no layer of a trained model, hold code, or take what no tensor format has.
EXCLUDED = {
    "FlaxLayer": "wraps code of another framework",
    "JaxLayer": "wraps code of another framework",
    "TorchModuleWrapper": "wraps code of another framework",
    "TFSMLayer": "points at files outside the model",
    "Lambda": "holds code",
    "InputSpec": "is no layer",
    "Layer": "is the abstract base",
    "Wrapper": "is an abstract base",
    "StringLookup": "takes strings",
    "TextVectorization": "takes strings",
    "HashedCrossing": "is a tf.data preprocessing step on string hashes",
    "Equalization": "gives the very tensor that it took in inference: Keras 3.15 calls such a model a cycle",
    "MaxNumBoundingBoxes": "takes dicts of bounding boxes",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One input: its shape without the batch, and what values it takes.

    Attributes:
        shape: Without the batch dimension.
        low: Smallest value of uniform draws; with `high` 0, floats are standard normal.
        high: Upper bound (excluded for whole numbers); 0 for standard normal floats.
        dtype: Element type.
    """

    shape: Shape
    low: float = 0.0
    high: float = 0.0
    dtype: str = "float32"

    def draw(self, rng: np.random.Generator, batch: int) -> npt.NDArray[Any]:
        """Draw one array `[batch, *shape]`."""
        shape = (batch, *self.shape)
        if self.dtype != "float32":
            return rng.integers(int(self.low), int(self.high), shape).astype(self.dtype)
        drawn = rng.uniform(self.low, self.high, shape) if self.high else rng.standard_normal(shape)
        return drawn.astype(np.float32)


@dataclass(frozen=True, slots=True)
class LayerCase:
    """A model of one layer.

    Attributes:
        name: Layer class and variant.
        sources: Its inputs, named `x0`, `x1`, ...
        apply: Symbolic inputs -> symbolic output, or a list of them.
    """

    name: str
    sources: tuple[Source, ...]
    apply: Callable[[Sequence[Any]], Any]

    def build(self) -> Any:
        """Build the model with seeded weights, none of which has its trivial initial value."""
        import keras

        keras.backend.clear_session()
        keras.utils.set_random_seed(_seed(self.name))
        inputs = [
            keras.Input(source.shape, dtype=source.dtype, name=f"x{index}") for index, source in enumerate(self.sources)
        ]
        outputs = self.apply(inputs)
        made = list(outputs) if isinstance(outputs, list | tuple) else outputs
        model = keras.Model(inputs if len(inputs) > 1 else inputs[0], made, name=_identifier(self.name))
        _spread(model, np.random.default_rng(_seed(self.name)))
        return model

    def feeds(self, seed: int = 0, batch: int = 1) -> Arrays:
        """Draw inputs by name."""
        rng = np.random.default_rng([seed, _seed(self.name)])
        return {f"x{index}": source.draw(rng, batch) for index, source in enumerate(self.sources)}


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())


def _identifier(name: str) -> str:
    return name.replace("-", "_").lower()


# End of a variable's path -> range of the uniform draw that replaces (scale words) or moves (others) its value.
_SCALES = {
    "gamma": (0.7, 1.3),
    "scale": (0.7, 1.3),
    "moving_variance": (0.5, 1.5),
    "alpha": (0.1, 0.4),
    "moving_mean": (-0.3, 0.3),
}


def _spread(model: Any, rng: np.random.Generator) -> None:
    for variable in model.weights:
        word = variable.path.rpartition("/")[2]
        if word in _SCALES:
            variable.assign(rng.uniform(*_SCALES[word], variable.shape).astype(np.float32))
        elif word in {"beta", "bias"}:
            moved = np.asarray(variable.numpy()) + rng.normal(0, 0.1, variable.shape)
            variable.assign(moved.astype(np.float32))


def _one(name: str, source: Shape | Source, /, **arguments: Any) -> LayerCase:
    """A layer class on one input."""

    def apply(tensors: Sequence[Any]) -> Any:
        from keras import layers

        return getattr(layers, name.partition("-")[0])(**arguments)(tensors[0])

    return LayerCase(name, (source if isinstance(source, Source) else Source(source),), apply)


def _several(name: str, shapes: Sequence[Shape], /, **arguments: Any) -> LayerCase:
    """A layer class on a list of inputs."""

    def apply(tensors: Sequence[Any]) -> Any:
        from keras import layers

        return getattr(layers, name.partition("-")[0])(**arguments)(list(tensors))

    return LayerCase(name, tuple(map(Source, shapes)), apply)


def _made(name: str, sources: Sequence[Shape | Source], apply: Callable[[Any, Sequence[Any]], Any]) -> LayerCase:
    """Anything else: `apply(keras.layers, inputs)`."""

    def applied(tensors: Sequence[Any]) -> Any:
        from keras import layers

        return apply(layers, tensors)

    taken = tuple(source if isinstance(source, Source) else Source(source) for source in sources)
    return LayerCase(name, taken, applied)


_LINE, _PLANE, _SPACE = (12, 4), (12, 10, 3), (6, 8, 5, 2)
_TOKENS = Source((7,), 0, 20, "int32")
_PIXELS = Source((12, 10, 3), 0.0, 255.0)
_WAVE = Source((256,))


def _convolutions() -> Iterator[LayerCase]:
    for rank, shape in ((1, _LINE), (2, _PLANE), (3, _SPACE)):
        yield _one(f"Conv{rank}D", shape, filters=6, kernel_size=3)
        yield _one(f"Conv{rank}D-same-strided", shape, filters=6, kernel_size=3, strides=2, padding="same")
        yield _one(f"Conv{rank}D-dilated", shape, filters=4, kernel_size=2, dilation_rate=2, activation="relu")
        yield _one(f"Conv{rank}DTranspose", shape, filters=4, kernel_size=3, strides=2)
        yield _one(f"Conv{rank}DTranspose-same", shape, filters=4, kernel_size=3, strides=2, padding="same")
    yield _one("Conv1D-causal", _LINE, filters=6, kernel_size=3, padding="causal", dilation_rate=2)
    yield _one("Conv1D-grouped", _LINE, filters=8, kernel_size=3, groups=4)
    yield _one("Conv2D-grouped", (12, 10, 4), filters=8, kernel_size=3, groups=2)
    yield _one("Conv2D-one-sided", _PLANE, filters=5, kernel_size=(1, 4), strides=(1, 2), padding="same")
    yield _one("Conv2DTranspose-padded", _PLANE, filters=4, kernel_size=3, strides=2, output_padding=1)
    yield _one("Conv2DTranspose-unit", _PLANE, filters=4, kernel_size=3, padding="same", use_bias=False)
    yield _one("Conv2DTranspose-wide", _PLANE, filters=4, kernel_size=2, strides=3, padding="same")
    for rank, shape in ((1, _LINE), (2, _PLANE)):
        yield _one(f"SeparableConv{rank}D", shape, filters=6, kernel_size=3, depth_multiplier=2)
        yield _one(f"SeparableConv{rank}D-same", shape, filters=6, kernel_size=3, strides=2, padding="same")
        yield _one(f"DepthwiseConv{rank}D", shape, kernel_size=3, depth_multiplier=2)
        yield _one(f"DepthwiseConv{rank}D-same", shape, kernel_size=3, strides=2, padding="same")
    yield _one("DepthwiseConv2D-dilated", _PLANE, kernel_size=3, dilation_rate=2)


def _pooling() -> Iterator[LayerCase]:
    for rank, shape in ((1, _LINE), (2, _PLANE), (3, _SPACE)):
        for kind in ("Max", "Average"):
            yield _one(f"{kind}Pooling{rank}D", shape, pool_size=2)
            yield _one(f"{kind}Pooling{rank}D-same", shape, pool_size=3, strides=2, padding="same")
            yield _one(f"Global{kind}Pooling{rank}D", shape)
            yield _one(f"Global{kind}Pooling{rank}D-kept", shape, keepdims=True)
            yield _one(f"Adaptive{kind}Pooling{rank}D", shape, output_size=2)
            yield _one(f"Adaptive{kind}Pooling{rank}D-uneven", shape, output_size=(5, 3, 2)[:rank])


def _normalisation() -> Iterator[LayerCase]:
    yield _one("BatchNormalization", _PLANE)
    yield _one("BatchNormalization-line", _LINE, center=False, epsilon=0.01)
    yield _one("BatchNormalization-axis", _PLANE, axis=1)
    yield _one("LayerNormalization", _LINE)
    yield _one("LayerNormalization-axes", _PLANE, axis=[1, 2, 3])
    yield _one("GroupNormalization", (12, 10, 6), groups=3)
    yield _one("GroupNormalization-instance", (12, 10, 6), groups=-1)
    yield _one("RMSNormalization", _LINE)
    yield _one("UnitNormalization", _LINE)
    yield _made("SpectralNormalization", [_LINE], lambda layers, x: layers.SpectralNormalization(layers.Dense(5))(x[0]))
    yield _one("Normalization", _LINE, mean=[0.1, 0.2, -0.3, 0.4], variance=[1.0, 2.0, 0.5, 1.5])
    yield _one("Normalization-inverted", _LINE, mean=0.5, variance=2.0, invert=True)


def _recurrent() -> Iterator[LayerCase]:
    for kind in ("LSTM", "GRU", "SimpleRNN"):
        yield _one(kind, _LINE, units=5)
        yield _one(f"{kind}-sequences", _LINE, units=5, return_sequences=True)
        yield _one(f"{kind}-state", _LINE, units=5, return_state=True, return_sequences=True)
        yield _one(f"{kind}-backwards", _LINE, units=5, go_backwards=True)
        yield _cell(f"{kind}Cell")
    yield _one("LSTM-sigmoid", _LINE, units=5, activation="relu", recurrent_activation="hard_sigmoid", use_bias=False)
    yield _one("GRU-before", _LINE, units=5, reset_after=False)
    yield _made("RNN", [_LINE], lambda layers, x: layers.RNN(layers.GRUCell(4), return_sequences=True)(x[0]))
    yield _made("StackedRNNCells", [_LINE], _stacked)
    yield _made("LSTM-initial", [_LINE, (5,), (5,)], lambda layers, x: layers.LSTM(5)(x[0], initial_state=[x[1], x[2]]))
    yield _made("Bidirectional", [_LINE], lambda layers, x: layers.Bidirectional(layers.LSTM(4))(x[0]))
    yield _made("Bidirectional-sum", [_LINE], _bidirectional_sum)
    yield _made("Masking", [_LINE], lambda layers, x: layers.LSTM(4)(layers.Masking(0.0)(layers.ReLU()(x[0]))))
    yield _made("TimeDistributed", [_LINE], lambda layers, x: layers.TimeDistributed(layers.Dense(3))(x[0]))
    yield _made("TimeDistributed-conv", [(4, 8, 6, 3)], _distributed_convolution)
    for rank, shape in ((1, (4, 8, 3)), (2, (4, 8, 6, 3)), (3, (3, 4, 4, 4, 2))):
        yield _one(f"ConvLSTM{rank}D", shape, filters=4, kernel_size=3)
    yield _one("ConvLSTM2D-sequences", (4, 8, 6, 3), filters=4, kernel_size=3, padding="same", return_sequences=True)


def _cell(name: str) -> LayerCase:
    return _made(name, [_LINE], lambda layers, x: layers.RNN(getattr(layers, name)(4))(x[0]))


def _stacked(layers: Any, x: Sequence[Any]) -> Any:
    return layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.LSTMCell(3)]))(x[0])


def _bidirectional_sum(layers: Any, x: Sequence[Any]) -> Any:
    return layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode="sum")(x[0])


def _distributed_convolution(layers: Any, x: Sequence[Any]) -> Any:
    return layers.TimeDistributed(layers.Conv2D(4, 3))(x[0])


def _attention() -> Iterator[LayerCase]:
    query, value = (6, 8), (9, 8)
    yield _several("Attention", [query, value])
    yield _several("Attention-scaled", [query, value], use_scale=True, score_mode="concat")
    yield _several("AdditiveAttention", [query, value])
    yield _made("MultiHeadAttention", [query], lambda layers, x: layers.MultiHeadAttention(2, 4)(x[0], x[0]))
    yield _made("MultiHeadAttention-cross", [query, value], lambda layers, x: layers.MultiHeadAttention(2, 4)(*x))
    yield _made("MultiHeadAttention-causal", [query], _causal)
    yield _made("GroupQueryAttention", [query], lambda layers, x: layers.GroupQueryAttention(4, 4, 2)(x[0], x[0]))


def _causal(layers: Any, x: Sequence[Any]) -> Any:
    return layers.MultiHeadAttention(2, 4)(x[0], x[0], use_causal_mask=True)


def _dense_and_text() -> Iterator[LayerCase]:
    yield _one("Dense", (9,), units=5)
    yield _one("Dense-sequence", _LINE, units=5, activation="tanh", use_bias=False)
    yield _one("EinsumDense", _LINE, equation="abc,cd->abd", output_shape=(None, 6), bias_axes="d")
    yield _one("Embedding", _TOKENS, input_dim=20, output_dim=6)
    yield _made("Embedding-masked", [_TOKENS], _masked_embedding)
    yield _made("ReversibleEmbedding", [_TOKENS], _reversed_embedding)
    yield _one("Discretization", (9,), bin_boundaries=[-1.0, 0.0, 0.5])
    yield _one("IntegerLookup", _TOKENS, vocabulary=[3, 5, 7, 11])
    yield _one("Hashing", _TOKENS, num_bins=8)
    for mode in ("one_hot", "multi_hot", "count"):
        yield _one(f"CategoryEncoding-{mode.replace('_', '-')}", _TOKENS, num_tokens=20, output_mode=mode)


def _masked_embedding(layers: Any, x: Sequence[Any]) -> Any:
    return layers.GRU(4)(layers.Embedding(20, 6, mask_zero=True)(x[0]))


def _reversed_embedding(layers: Any, x: Sequence[Any]) -> Any:
    embedding = layers.ReversibleEmbedding(20, 6)
    return embedding(embedding(x[0]), reverse=True)


def _shapes() -> Iterator[LayerCase]:
    yield _one("Flatten", _PLANE)
    yield _one("Reshape", _LINE, target_shape=(6, -1))
    yield _one("Permute", _PLANE, dims=(3, 1, 2))
    yield _one("RepeatVector", (5,), n=3)
    for rank, shape in ((1, _LINE), (2, _PLANE), (3, _SPACE)):
        yield _one(f"UpSampling{rank}D", shape, size=2)
        yield _one(f"ZeroPadding{rank}D", shape, padding=(1, 2) if rank == 1 else ((1, 2),) * rank)
        yield _one(f"Cropping{rank}D", shape, cropping=(1, 2) if rank == 1 else ((1, 2),) * rank)
    yield _one("UpSampling2D-bilinear", _PLANE, size=(2, 3), interpolation="bilinear")
    yield _one("UpSampling2D-bicubic", _PLANE, size=2, interpolation="bicubic")
    for kind in ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract", "Concatenate"):
        yield _several(kind, [_LINE, _LINE])
    yield _several("Add-broadcast", [_LINE, (1, 4)])
    yield _several("Concatenate-axis", [_LINE, (5, 4)], axis=1)
    yield _several("Dot", [_LINE, _LINE], axes=1)
    yield _several("Dot-normalised", [_LINE, _LINE], axes=2, normalize=True)


# keras.activations, all but the helpers (get, serialize, deserialize).
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus",
    "swish", "tanh", "tanh_shrink", "threshold",
)  # fmt: skip


def _activations() -> Iterator[LayerCase]:
    for word in ACTIVATIONS:
        yield _made(f"Activation-{word.replace('_', '-')}", [_LINE], _activation(word))
    yield _one("ReLU", _LINE)
    yield _one("ReLU-bounded", _LINE, max_value=1.0, negative_slope=0.1, threshold=0.2)
    yield _one("LeakyReLU", _LINE, negative_slope=0.2)
    yield _one("ELU", _LINE, alpha=0.7)
    yield _one("PReLU", _LINE)
    yield _one("PReLU-shared", _PLANE, shared_axes=[1, 2])
    yield _one("Softmax", _LINE)
    yield _one("Softmax-axis", _LINE, axis=1)


def _activation(word: str) -> Callable[[Any, Sequence[Any]], Any]:
    if word == "threshold":  # the only one with arguments that have no default; keras.ops says it without a Lambda

        def thresholded(_: Any, tensors: Sequence[Any]) -> Any:
            from keras import ops

            return ops.threshold(tensors[0], 0.3, -1.0)

        return thresholded
    return lambda layers, tensors: layers.Activation(word)(tensors[0])


def _training_only() -> Iterator[LayerCase]:
    """Layers that are the identity in inference."""
    for kind in ("Dropout", "GaussianDropout", "AlphaDropout", "SpatialDropout1D"):
        yield _one(kind, _LINE, rate=0.3)
    yield _one("SpatialDropout2D", _PLANE, rate=0.3)
    yield _one("SpatialDropout3D", _SPACE, rate=0.3)
    yield _one("GaussianNoise", _LINE, stddev=0.3)
    yield _one("ActivityRegularization", _LINE, l2=0.1)
    yield _one("Identity", _LINE)
    yield _made("InputLayer", [_LINE], lambda layers, x: layers.Identity()(x[0]))


def _images() -> Iterator[LayerCase]:
    yield _one("Rescaling", _PIXELS, scale=1 / 255, offset=-0.5)
    yield _one("Rescaling-channels", _PIXELS, scale=[0.1, 0.2, 0.3], offset=[1.0, 2.0, 3.0])
    for word in ("bilinear", "nearest", "bicubic", "area", "lanczos3"):
        yield _one(f"Resizing-{word}", _PIXELS, height=8, width=15, interpolation=word)
    yield _one("Resizing-cropped", _PIXELS, height=8, width=8, crop_to_aspect_ratio=True)
    yield _one("CenterCrop", _PIXELS, height=6, width=6)
    yield _made("Pipeline", [_PIXELS], _pipeline)
    yield _one("STFTSpectrogram", (256, 1), frame_length=64, frame_step=32, fft_length=64)
    yield _one("MelSpectrogram", _WAVE, fft_length=64, sequence_stride=32, sampling_rate=1600, num_mel_bins=8)
    for kind, arguments in _AUGMENTATIONS.items():
        yield _one(kind, _PIXELS, **arguments)


def _pipeline(layers: Any, x: Sequence[Any]) -> Any:
    return layers.Pipeline([layers.Rescaling(1 / 255), layers.CenterCrop(6, 6)])(x[0])


# Image augmentation: the identity in inference, except where Keras itself applies it always.
_AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "AugMix": {},
    "AutoContrast": {},
    "ContrastLimitedAdaptiveHistogramEqualization": {},
    "CutMix": {},
    "MixUp": {},
    "RandAugment": {},
    "RandomBrightness": {"factor": 0.2},
    "RandomColorDegeneration": {"factor": 0.2},
    "RandomColorJitter": {"brightness_factor": 0.2},
    "RandomContrast": {"factor": 0.2},
    "RandomCrop": {"height": 6, "width": 6},
    "RandomElasticTransform": {},
    "RandomErasing": {},
    "RandomFlip": {},
    "RandomGaussianBlur": {},
    "RandomGrayscale": {},
    "RandomHue": {"factor": 0.2},
    "RandomInvert": {},
    "RandomPerspective": {},
    "RandomPosterization": {"factor": 4},
    "RandomRotation": {"factor": 0.2},
    "RandomSaturation": {"factor": 0.2},
    "RandomSharpness": {"factor": 0.2},
    "RandomShear": {},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.2},
    "Solarization": {},
}

_GROUPS = (
    _convolutions,
    _pooling,
    _normalisation,
    _recurrent,
    _attention,
    _dense_and_text,
    _shapes,
    _activations,
    _training_only,
    _images,
)
CASES = {case.name: case for group in _GROUPS for case in group()}
NAMES = tuple(CASES)


def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield (name, builder of a `keras.Model`) for every layer class and its variants, always in the same order."""
    yield from ((name, case.build) for name, case in CASES.items())


def feeds(name: str, seed: int = 0, batch: int = 1) -> Arrays:
    """Draw inputs of one case by name (`x0`, ...): what its layer takes, in its dtype."""
    return CASES[name].feeds(seed, batch)


def uncovered() -> set[str]:
    """Public layer classes without a case that are not excluded. Names of one class (`AvgPool2D`) count as one."""
    import keras

    found = {name: getattr(keras.layers, name) for name in dir(keras.layers)}
    public = {name: value for name, value in found.items() if isinstance(value, type)}
    covered = {name.partition("-")[0] for name in NAMES} | EXCLUDED.keys()
    known = {public[name] for name in covered}
    return {name for name, value in public.items() if value not in known}
