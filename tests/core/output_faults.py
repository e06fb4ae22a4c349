"""Outputs as models give them, int8-like noise on them, and faults: what the output gate catches and what it refuses.

`python -m tests.core.output_faults` prints the score.
"""

import collections
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from hub._parity import POLICIES, compare
from hub.spec import EffectError, Numerics, ParityReport, write_sample

Array = npt.NDArray[Any]
Generator = np.random.Generator
Things = tuple[tuple[Any, ...], ...]
"""Where an output holds what: an index for each thing that has a scale of its own."""

SAMPLES = 40
WHOLE: Things = ((...,),)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _logits(r: Generator, *shape: int) -> Array:
    """Logits of a trained net: each class a level of its own, one class leads by much, the others move together."""
    levels = r.normal(0, 1, shape[-1])
    found = levels + r.normal(0, 1.2, (SAMPLES, *shape)) + r.normal(0, 1, (SAMPLES, *[1] * len(shape)))
    led = r.integers(0, shape[-1], (SAMPLES, *shape[:-1], 1))
    lead: Array = np.abs(r.normal(6, 2.5, led.shape))
    np.put_along_axis(found, led, np.take_along_axis(found, led, -1) + lead, -1)
    return found


def _boxes(r: Generator, count: int) -> Array:
    return np.concatenate([r.uniform(20, 600, (SAMPLES, 1, 2, count)), r.uniform(8, 200, (SAMPLES, 1, 2, count))], 2)


def _scores(r: Generator, classes: int, count: int) -> Array:
    """Few are high; some classes hardly occur, and never above 0.02."""
    scores = r.beta(0.08, 3, (SAMPLES, 1, classes, count))
    absent = r.random(classes) < 0.3 * (classes > 3)
    scores[:, :, absent] = np.minimum(scores[:, :, absent], 0.02) * 0.1
    return scores


def _detector(r: Generator) -> Array:
    return np.concatenate([_boxes(r, 60), _scores(r, 20, 60)], 2)


def _pose(r: Generator) -> Array:
    boxes, around = _boxes(r, 64), r.normal(0, 20, (SAMPLES, 1, 10, 64))
    return np.concatenate([boxes, _scores(r, 1, 64), np.tile(boxes[:, :, :2], (1, 1, 5, 1)) + around], 2)


def _masks(r: Generator) -> Array:
    return np.concatenate([_boxes(r, 64), r.normal(0, 1, (SAMPLES, 1, 16, 64)) * 3, _scores(r, 3, 64) * 0.05], 2)


def _segments(r: Generator) -> Array:
    coarse = r.normal(0, 4, (SAMPLES, 1, 5, 4, 4))
    return np.kron(coarse, np.ones((1, 1, 1, 4, 4))) + r.normal(0, 0.7, (SAMPLES, 1, 5, 16, 16))


def _embedding(r: Generator) -> Array:
    return r.normal(0, 1, (SAMPLES, 1, 128)) * np.exp(r.normal(0, 0.8, 128))


def _wave(r: Generator) -> Array:
    loud = np.exp(r.normal(0, 1, (SAMPLES, 1, 1)))
    return np.cumsum(r.normal(0, 1, (SAMPLES, 1, 400)), axis=-1) * loud / 20


def _last(things: Things) -> Things:
    return tuple((slice(None), slice(None), *thing[1:]) for thing in things)


_BOXES = (slice(None), slice(0, 4))
_DETECTOR: Things = (_BOXES, (slice(None), slice(4, None)))
_POSE: Things = (_BOXES, (slice(None), slice(4, 5)), (slice(None), slice(5, None)))
_MASKS: Things = (_BOXES, (slice(None), slice(4, 20)), (slice(None), slice(20, None)))

MODELS: dict[str, tuple[Callable[[Generator], Array], Things]] = {
    "classifier": (lambda r: _logits(r, 1, 10), WHOLE),
    "offset logits": (lambda r: _logits(r, 1, 10) + 60, WHOLE),
    "probabilities": (lambda r: _softmax(_logits(r, 1, 10)), WHOLE),
    "detector": (_detector, _DETECTOR),
    "detector, places first": (lambda r: _detector(r).swapaxes(2, 3), _last(_DETECTOR)),
    "pose": (_pose, _POSE),
    "masks": (_masks, _MASKS),
    "segmentation": (_segments, WHOLE),
    "regression": (lambda r: r.normal(0, 1, (SAMPLES, 1, 3)) * [1, 2, 0.6] + [0, 4, 1], WHOLE),
    "embedding": (_embedding, WHOLE),
    "sequence": (lambda r: _logits(r, 1, 20, 12), WHOLE),
    "wave": (_wave, WHOLE),
}


def sound(x: Array, things: Things, db: float, r: Generator) -> Array:
    """Noise of a sound artifact: of each thing its own, partly of one grid, partly as large as what it lies on.

    A sound softmax or sigmoid gives probabilities, whatever noise it is given.
    """
    noise = np.zeros_like(x)
    for thing in things:
        part = x[(slice(None), *thing)]
        part = part - part.mean()  # a last bias is added as it is
        own = r.normal(0, 1, part.shape) * np.sqrt((part**2).mean())
        noise[(slice(None), *thing)] = (0.6 * own + 0.8 * r.normal(0, 1, part.shape) * part) * 10 ** (-db / 20)
    kept: Array = x + noise
    for thing in things:
        place = (slice(None), *thing)
        if x[place].min() >= 0 and x[place].max() <= 1:
            kept[place] = np.clip(kept[place], 0, 1)
    return kept / kept.sum(axis=-1, keepdims=True) if np.allclose(x.sum(axis=-1), 1) else kept


def _bright(x: Array, share: float) -> Array:
    power = (x.reshape(len(x), -1) ** 2).sum(axis=1)
    return np.argsort(-power)[: max(2, round(share * len(x)))]


def _axis(x: Array, things: Things) -> int:
    """The axis of components: that along which the things lie, else the channels or classes."""
    if len(things) > 1:
        return len(things[0])
    return 2 if x.ndim == 5 else x.ndim - 1


def _moved(x: Array, axis: int) -> int:
    """The component that moves most beside its own size, so that to spoil it is no equivalent."""
    others = tuple(other for other in range(x.ndim) if other != axis)
    return int(np.argsort(x.std(axis=others))[-2])


Fault = Callable[[Array, Array, Things, Generator], Array]


def _component(change: Callable[[Array, Array], Array]) -> Fault:
    def fault(x: Array, y: Array, things: Things, r: Generator) -> Array:
        axis = _axis(x, things)
        place = (*[slice(None)] * axis, _moved(x, axis))
        z = y.copy()
        z[place] = change(y[place], r.permutation(y[place]))
        return z

    return fault


def _some(share: float, change: Callable[[Array, Array], Array]) -> Fault:
    def fault(x: Array, y: Array, things: Things, r: Generator) -> Array:  # noqa: ARG001 faults share a signature
        z, rows = y.copy(), _bright(x, share)
        z[rows] = change(y[rows], x)
        return z

    return fault


def _plain(change: Callable[[Array, Array], Array]) -> Fault:
    return lambda x, y, things, r: change(x, y)  # noqa: ARG005


def _quietest(x: Array, y: Array, things: Things, r: Generator) -> Array:  # noqa: ARG001
    quiet: tuple[Any, ...] = min(((slice(None), *thing) for thing in things), key=lambda place: _rms(x[place]))
    z = y.copy()
    z[quiet] = 0
    return z


def _one_grid(x: Array, y: Array, things: Things, r: Generator) -> Array:  # noqa: ARG001
    step = (x.max() - min(0, x.min())) / 255
    rounded: Array = np.round(y / step) * step
    return rounded


def _swapped(x: Array, y: Array, things: Things, r: Generator) -> Array:  # noqa: ARG001
    axis = _axis(x, things)
    place = _moved(x, axis)
    order = np.arange(x.shape[axis])
    other = (place + 1) % len(order)
    order[[place, other]] = order[[other, place]]
    return np.take(y, order, axis)


def _mean(x: Array) -> Array:
    mean: Array = np.broadcast_to(x.mean(axis=0, keepdims=True), x.shape)
    return mean


def _rms(x: Array) -> float:
    return float(np.sqrt((x**2).mean()))


FAULTS: dict[str, Fault] = {
    "constant": _plain(lambda x, y: _mean(x) + 0 * y),
    "one number": _plain(lambda x, y: np.full_like(y, x.mean())),
    "all zero": _plain(lambda _, y: 0 * y),
    "quiet part zero": _quietest,
    "one grid over all": _one_grid,
    "component zero": _component(lambda y, _: 0 * y),
    "component constant": _component(lambda y, _: np.full_like(y, y.mean())),
    "component doubled": _component(lambda y, _: 2 * y),
    "component of another sample": _component(lambda _, p: p),
    "component negated": _component(lambda y, _: -y),
    "components swapped": _swapped,
    "bright 3 % zero": _some(0.03, lambda y, _: 0 * y),
    "bright 3 % constant": _some(0.03, lambda y, x: np.broadcast_to(x.mean(axis=0), y.shape)),
    "bright 10 % halved": _some(0.10, lambda y, _: y * 0.2),
    "bright 3 % wrapped": _some(0.03, lambda y, _: -y),
    "bright 3 % of others": _some(0.03, lambda y, x: x[: len(y)][::-1]),
    "answers late": _plain(lambda _, y: np.roll(y, 1, axis=0)),
    "one answer for all": _plain(lambda _, y: np.broadcast_to(y[:1], y.shape)),
    "components turned": _plain(lambda _, y: np.roll(y, 1, axis=-1)),
    "reversed": _plain(lambda _, y: np.flip(y, axis=-1)),
    "negated": _plain(lambda _, y: -y),
    "halved": _plain(lambda _, y: 0.5 * y),
    "shifted": _plain(lambda x, y: y + 0.6 * _rms(x)),
    "clipped to a third": _plain(lambda x, y: np.clip(y, x.min() / 3, x.max() / 3)),
    "rectified": _plain(lambda x, y: np.maximum(y - x.mean(), 0) + x.mean()),
    "not finite": _some(0.03, lambda y, _: np.full_like(y, np.nan)),
    "not of its type": _plain(lambda _, y: y.astype(np.float64)),
}


def verdict(x: Array, y: Array, numerics: Numerics = Numerics.INT8, dtype: str = "float32") -> ParityReport:
    """The gate's report on a result; `y` of float64 that is not meant to be goes in as the source's type."""
    with tempfile.TemporaryDirectory() as folder:
        places = Path(folder, "source"), Path(folder, "result")
        for place, arrays, kind in zip(places, (x, y), ("float32", dtype), strict=True):
            for index, array in enumerate(arrays):
                write_sample(place, index, {"y": array.astype(kind)})
        return compare(places[0], {"rt": places[1]}, POLICIES[numerics], inputs="given", reference_runtime="x")


def caught(x: Array, y: Array, fault: str) -> bool:
    """Whether a faulty result is refused: by a bound, or by its type."""
    try:
        report = verdict(x, y, dtype="float64" if fault == "not of its type" else "float32")
    except EffectError:
        return True
    return not report.passed and not report.unproved


def is_fault(fault: str, things: Things, x: Array, y: Array, z: Array) -> bool:
    """Whether it is one there: one grid over one thing is sound, and so is what stays below a sound result's noise."""
    if fault in {"not finite", "not of its type"}:
        return True
    return (fault != "one grid over all" or len(things) > 1) and _rms(z - y) > _rms(y - x) / 10


def trials(seeds: range) -> Iterator[tuple[str, str, float, Array, Array]]:
    """Each (model, fault, dB, source, faulty result); one that changed nothing is no fault."""
    for model, (make, things) in MODELS.items():
        for number, (fault, change) in enumerate(FAULTS.items()):
            for seed in seeds:
                r = np.random.default_rng([seed, number, len(model)])
                x, db = make(r), float(r.uniform(18, 46))
                y = sound(x, things, db, r)
                z = change(x, y, things, r)
                if is_fault(fault, things, x, y, z):
                    yield model, fault, db, x, z


def sound_trials(count: int) -> Iterator[tuple[str, float, Array, Array]]:
    """Each (model, dB, source, sound result)."""
    names = list(MODELS)
    for number in range(count):
        model = names[number % len(names)]
        r = np.random.default_rng([7, number])
        make, things = MODELS[model]
        x, db = make(r), float(r.uniform(18, 46))
        yield model, db, x, sound(x, things, db, r)


def main() -> None:
    """Print what is caught of each fault, and what is refused of sound results."""
    missed: collections.Counter[str] = collections.Counter()
    tried: collections.Counter[str] = collections.Counter()
    for model, fault, db, x, z in trials(range(1)):
        tried[fault] += 1
        if not caught(x, z, fault):
            missed[fault] += 1
            click.echo(f"missed: {fault}, {model}, {db:.0f} dB")
    refused = 0
    for model, db, x, y in sound_trials(500):
        report = verdict(x, y)
        if not report.passed:
            refused += 1
            said = [failure for item in report.outputs for failure in (item.output, *item.failures, item.unproved)]
            click.echo(f"refused: {model}, {db:.0f} dB: {said}")
    total = sum(tried.values())
    click.echo(f"caught {total - sum(missed.values())} of {total}; refused {refused} of 500 sound ones")


if __name__ == "__main__":
    main()
