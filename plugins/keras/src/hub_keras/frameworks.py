"""What hub uses of Keras and TensorFlow, which ship no types: for a type checker; nothing that runs imports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class KerasVariable(Protocol):
    """A weight: `path` is `layer/kernel`, `value` the backend's own tensor."""

    path: str
    dtype: object
    value: Any


class KerasTensor(Protocol):
    """A symbolic tensor of a functional model; open dimensions are None."""

    name: str
    dtype: object
    shape: tuple[int | None, ...]
    _keras_history: Any


class KerasLayer(Protocol):
    """A layer: every one has a name and a call, the rest only the kinds that hub asks it of."""

    name: str
    call: Callable[..., Any]
    layer: Any
    activity_regularizer: object
    data_format: str
    go_backwards: bool
    input_dim: int
    padding: str
    pool_size: tuple[int, ...]
    scale: object
    strides: tuple[int, ...]
    unroll: bool


class KerasModel(Protocol):
    """A loaded model."""

    name: str
    weights: Sequence[KerasVariable]
    operations: Sequence[object]

    def __call__(self, inputs: object, *, training: bool) -> object:
        """Run it."""

    def count_params(self) -> int:
        """Count its weights' elements."""

    def _flatten_layers(self, *, include_self: bool) -> Iterator[KerasLayer]: ...
