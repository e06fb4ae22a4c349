"""Carry samples over declared input and output changes, so that a declared change is also a tested one."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from hub.spec import ConvertOptions, DType, Feeds, IoBinding

T = TypeVar("T")
V = TypeVar("V")
Array = npt.NDArray[np.generic]
Chain = tuple[tuple[IoBinding, ...], ...]


def to_artifact(feeds: Feeds, chain: Chain) -> Feeds:
    """Turn inputs in the source's terms into inputs in the artifact's, step by step."""
    for bindings in chain:
        feeds = _forward(feeds, _of(bindings, "input"))
    return feeds


def to_source(outputs: Feeds, chain: Chain) -> Feeds:
    """Turn outputs in the artifact's terms back into the source's."""
    for bindings in reversed(chain):
        outputs = _backward(outputs, _of(bindings, "output"))
    return outputs


def to_reals(arrays: Feeds, bindings: tuple[IoBinding, ...], direction: str) -> Feeds:
    """Turn a model's own integers into the numbers that they stand for; see `SignaturePairs.own`."""
    return _backward(arrays, _of(bindings, direction))


def options_for(options: ConvertOptions, bindings: tuple[IoBinding, ...]) -> ConvertOptions:
    """A request's options in the terms of the model that a step made: it may have renamed or moved its inputs."""
    bound = _of(bindings, "input")

    def renamed(values: dict[str, V]) -> dict[str, V]:
        new = {name: bound[name].target if name in bound else name for name in values}
        return {new[name]: value for name, value in values.items() if new[name]}

    def carried(shapes: dict[str, tuple[T, ...]]) -> dict[str, tuple[T, ...]]:
        return renamed({name: bound[name].moved(shape) if name in bound else shape for name, shape in shapes.items()})

    return msgspec.structs.replace(
        options,
        shapes=carried(options.shapes),
        ranges=carried(options.ranges),
        constants=renamed(options.constants),
        states=_renamed(options.states, bindings),
        io_layout="" if any(item.permutation for item in bindings) else options.io_layout,  # done once is done
    )


def _renamed(states: dict[str, str], bindings: tuple[IoBinding, ...]) -> dict[str, str]:
    inputs, outputs = (
        {name: bound.target for name, bound in _of(bindings, direction).items()} for direction in ("input", "output")
    )
    pairs = {inputs.get(name, name): outputs.get(output, output) for name, output in states.items()}
    return {name: output for name, output in pairs.items() if name and output}


def keeps_state(chain: Chain) -> bool:
    """Whether the artifact keeps an input of the source from one run to the next."""
    return any(binding.state for bindings in chain for binding in bindings)


def is_dropped(output: str, chain: Chain) -> bool:
    """Whether an output of the source is declared to be none of the artifact's."""
    for bindings in chain:
        bound = _of(bindings, "output").get(output)
        output = bound.target if bound else output
    return not output


def declared_dtypes(outputs: Iterable[str], chain: Chain) -> dict[str, DType]:
    """What outputs are declared to be in the artifact, where that is another element type than in the source.

    A quantized one comes back as the real numbers that it stands for.
    """
    found: dict[str, DType] = {}
    for output in outputs:
        name, scaled = output, False
        for bindings in chain:
            bound = _of(bindings, "output").get(name)
            if bound and bound.dtype:
                scaled |= bool(bound.scale)
                found[output] = DType.FLOAT32 if scaled else bound.dtype
            name = bound.target if bound else name
    return found


def _of(bindings: Iterable[IoBinding], direction: str) -> dict[str, IoBinding]:
    return {binding.source: binding for binding in bindings if binding.direction == direction}


def _forward(feeds: Feeds, bindings: dict[str, IoBinding]) -> Feeds:
    kept = {name: bindings.get(name) for name in feeds if name not in bindings or bindings[name].target}
    return {bound.target if bound else name: _apply(feeds[name], bound) for name, bound in kept.items()}


def _apply(array: Array, bound: IoBinding | None) -> Array:
    if bound is None:
        return array
    fewer = np.squeeze(array, bound.dropped) if bound.dropped else array
    moved = np.transpose(fewer, bound.permutation) if bound.permutation else fewer
    if bound.scale:
        return _quantize(moved, bound)
    return moved.astype(bound.dtype.value) if bound.dtype else moved


def _quantize(array: Array, bound: IoBinding) -> Array:
    if bound.dtype is None:
        raise ValueError(f"binding of {bound.source} has a scale and no dtype")
    info = np.iinfo(bound.dtype.value)
    scaled = np.round(array.astype(np.float64) / bound.scale) + bound.zero_point
    return np.clip(scaled, info.min, info.max).astype(info.dtype)


def _backward(outputs: Feeds, bindings: dict[str, IoBinding]) -> Feeds:
    back = {bound.target: bound for bound in bindings.values()}
    return {
        back[name].source if name in back else name: _undo(array, back.get(name)) for name, array in outputs.items()
    }


def _undo(array: Array, bound: IoBinding | None) -> Array:
    if bound is None:
        return array
    real = (array.astype(np.float32) - bound.zero_point) * np.float32(bound.scale) if bound.scale else array
    back = np.transpose(real, np.argsort(bound.permutation)) if bound.permutation else real
    return np.expand_dims(back, bound.dropped) if bound.dropped else back
