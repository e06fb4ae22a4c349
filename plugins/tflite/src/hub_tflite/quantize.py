"""Applies a recipe with ai-edge-quantizer and measures the result against the float model on calibration samples."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.spec import HubError, IoBinding, SampleFolder, StepError, parts_of, with_parts
from hub_tflite.calibrate import Observed, observe, statistics
from hub_tflite.numerics import MOVE_OPERATORS, PrecisionReport, precision_report
from hub_tflite.recipes import KEEP, OPERATOR_WORDS, PRODUCTS, WEIGHTS8, Rule, integer_border, only, rule
from hub_tflite.rewrite import Rewrite, apply, drop_unused, rename
from hub_tflite.runtime import LiteRtSession
from hub_tflitefile.interface import interface_of, quant_params
from hub_tflitefile.schema import (
    constant,
    dtype_of,
    numbers,
    operator_name,
    operators,
    parse,
    read,
    text,
    to_bytes,
    type_name,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Feeds = dict[str, Array]

FRAGILE = frozenset({
    "RSQRT", "SQRT", "DIV", "SQUARED_DIFFERENCE", "SUB", "SUM", "EXP", "LOG", "POW", "SOFTMAX", "GELU", "EQUAL",
    "NOT_EQUAL", "SELECT", "SELECT_V2", "REDUCE_MIN", "MAXIMUM", "MINIMUM",
})  # fmt: skip
"""Operators of normalisations, attention and comparisons: a small error at their input is a large one at their output,
so rounding noise at their border says too little. A sentence transformer stays at 2 dB with them in int8."""

TOOL = "ai-edge-quantizer"
_INT4_LARGEST = 7
JUDGED_SAMPLES = 16
"""Calibration samples on which a result is run and compared with the float model inside the step."""


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A float model made ready, with what was seen of it on the calibration samples.

    Attributes:
        model: The rewritten graph.
        content: The same as bytes.
        notes: What the rewrites did.
        observed: Activation name -> what was seen; empty without calibration.
        samples: Number of calibration samples.
        judged: Samples to judge a result on.
        expected: The float model's outputs for them.
    """

    model: Any
    content: bytes
    notes: list[str]
    observed: dict[str, Observed] = field(default_factory=dict)
    samples: int = 0
    judged: list[Feeds] = field(default_factory=list)
    expected: list[Feeds] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A result.

    Attributes:
        content: The file.
        rules: The recipe that gave it.
        report: What an independent look at its tensors says.
        sqnr_db: On the judged samples, of the worst output; NaN where nothing was judged.
    """

    content: bytes
    rules: tuple[Rule, ...]
    report: PrecisionReport
    sqnr_db: float


def prepare(path: str | Path, rewrites: Sequence[Rewrite], calibration: str = "") -> Prepared:
    """Reads and rewrites a float model; with calibration, runs it on the samples.

    The last result is kept, so that the next edge in the same worker does not run the samples again.

    Raises:
        ModelUnreadable: The file is corrupt.
        CalibrationError: The samples do not fit.
        StepError: The float model does not run.
    """
    files = (Path(path), *(SampleFolder(calibration).files if calibration else ()))
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file())
    return _prepare(str(path), tuple(rewrites), calibration, stamps)


@lru_cache(maxsize=1)
def _prepare(
    path: str, rewrites: tuple[Rewrite, ...], calibration: str, _stamps: tuple[tuple[str, int, int], ...]
) -> Prepared:
    model = read(path)
    notes = apply(model, rewrites)
    content = to_bytes(model)
    prepared = Prepared(model=parse(content), content=content, notes=notes)
    if calibration:
        _calibrate(prepared, SampleFolder(calibration))
    return prepared


def _calibrate(prepared: Prepared, samples: SampleFolder) -> None:
    prepared.samples = len(samples)
    prepared.observed = observe(prepared.content, samples, len(samples))
    step = max(1, math.ceil(len(samples) / JUDGED_SAMPLES))
    prepared.judged = [feeds for place, feeds in enumerate(samples) if place % step == 0]
    session = LiteRtSession(prepared.content)
    prepared.expected = [session.run(feeds) for feeds in prepared.judged]


def quantize(prepared: Prepared, rules: Iterable[Rule], *, judge: bool = True) -> Quantized:
    """Applies rules; measures the result where there are samples, unless its border is no longer float.

    Raises:
        StepError: The quantizer fails, or its result does not run.
    """
    rules = tuple(rules)
    content = _finish(_apply_rules(prepared, rules), prepared.model)
    report = precision_report(parse(content))
    sqnr_db = measure(content, prepared) if judge and prepared.judged else math.nan
    return Quantized(content=content, rules=rules, report=report, sqnr_db=sqnr_db)


def _apply_rules(prepared: Prepared, rules: tuple[Rule, ...]) -> bytes:
    from ai_edge_quantizer import quantizer

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of every rule that an operator has no kernel for
    try:
        tool = quantizer.Quantizer(prepared.content, [dict(item) for item in rules])
        known = statistics(prepared.observed) if tool.need_calibration else None
        with warnings.catch_warnings():  # its check of the statistics opens an interpreter that warns of its memory
            warnings.filterwarnings("ignore", "Warning: Enabling `experimental_preserve_all_tensors`", UserWarning)
            result = tool.quantize(known, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        raise StepError(f"{TOOL} {version(TOOL)} fails: {type(error).__name__}: {error}") from error
    return bytes(result.quantized_model)


def _finish(content: bytes, before: Any) -> bytes:
    """Brings every buffer inside, drops what nothing uses, and gives the border its names back."""
    model = parse(content)
    _, old_inputs, old_outputs = interface_of(before)
    _, inputs, outputs = interface_of(model)
    pairs = [(new[0], old[0]) for new, old in zip(inputs, old_inputs, strict=True)]
    rename(model, dict(pairs), {new[0]: old[0] for new, old in zip(outputs, old_outputs, strict=True)})
    drop_unused(model)
    return to_bytes(model)


def measure(content: bytes, prepared: Prepared) -> float:
    """Returns the SQNR in dB of the worst output or part over the judged samples: 10 log10(sum x^2 / sum (x - y)^2).

    Raises:
        StepError: The result does not run.
    """
    session = LiteRtSession(content)
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    parts = parts_of(prepared.expected)
    for feeds, expected in zip(prepared.judged, prepared.expected, strict=True):
        whole = with_parts(expected, parts)
        for name, array in with_parts(session.run(feeds), parts).items():
            power, error = _powers(whole[name], array)
            signal[name] = signal.get(name, 0.0) + power
            noise[name] = noise.get(name, 0.0) + error
    return min(_ratio_db(signal[name], noise[name]) for name in signal)


def _powers(expected: Array, found: Array) -> tuple[float, float]:
    import numpy as np

    a, b = expected.astype(np.float64), found.astype(np.float64)
    error = float(np.sum((a - b) ** 2))
    return float(np.sum(a**2)), error if math.isfinite(error) else math.inf


def _ratio_db(signal: float, noise: float) -> float:
    if not noise:
        return 300.0
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An operator that could be quantized.

    Attributes:
        operator: Its builtin name.
        outputs: Names of its outputs.
        int8_sqnr_db: Of the activation at its border that int8 rounding hurts most.
        weight: Name of the constant that is multiplied with; empty for none. Unrolled recurrences share one.
    """

    operator: str
    outputs: tuple[str, ...]
    int8_sqnr_db: float
    weight: str


def candidates(prepared: Prepared) -> list[Candidate]:
    """Returns every operator with float activations, in execution order."""
    noise = {name: item.int8_sqnr_db for name, item in prepared.observed.items()}
    found = (
        _candidate(prepared.model, graph, op, noise) for graph in prepared.model.subgraphs for op in graph.operators
    )
    return [item for item in found if item is not None]


def _candidate(model: Any, graph: Any, operator: Any, noise: dict[str, float]) -> Candidate | None:
    def names(indices: Any) -> list[str]:
        return [text(graph.tensors[index].name) for index in numbers(indices) if index >= 0]

    inputs, outputs = names(operator.inputs), names(operator.outputs)
    touched = [noise[name] for name in (*inputs, *outputs) if name in noise]
    if not touched:
        return None
    return Candidate(
        operator=operator_name(model, operator),
        outputs=tuple(outputs),
        int8_sqnr_db=min(touched),
        weight=_weight_name(model, graph, operator),
    )


def _weight_name(model: Any, graph: Any, operator: Any) -> str:
    tensors = [graph.tensors[index] for index in numbers(operator.inputs)[1:2] if index >= 0]
    return next((text(tensor.name) for tensor in tensors if constant(model, tensor) is not None), "")


def spare(prepared: Prepared, threshold_db: float, *, products_only: bool) -> tuple[list[Rule], int, int]:
    """Returns rules that keep operators below a threshold out of int8 activations, their number, and the total.

    Multiplications by stored weights keep int8 weights; the rest stays in float, as fragile operators always do.
    Operators that share a weight share its scheme: the quantizer cannot store one tensor in two ways.
    """
    pool = [item for item in candidates(prepared) if item.operator in PRODUCTS or not products_only]
    shared = {item.weight for item in pool if item.operator in PRODUCTS and _is_noisy(item, threshold_db)} - {""}
    noisy = [item for item in pool if _is_noisy(item, threshold_db) or item.weight in shared]
    return [_spared(item) for item in noisy], len(noisy), len(pool)


def _is_noisy(item: Candidate, threshold_db: float) -> bool:
    noisy = item.int8_sqnr_db < threshold_db and item.operator not in MOVE_OPERATORS
    return noisy or item.operator in FRAGILE or item.int8_sqnr_db == -math.inf


def _spared(item: Candidate) -> Rule:
    word = PRODUCTS.get(item.operator) or OPERATOR_WORDS.get(item.operator, item.operator)
    stored = item.operator in PRODUCTS and item.weight and item.operator != "BATCH_MATMUL"
    if stored:
        return rule(WEIGHTS8, word, only(item.outputs))
    return rule(KEEP, word if item.operator in PRODUCTS else "*", only(item.outputs))


def inner_rules(prepared: Prepared) -> list[Rule]:
    """Returns rules for the bodies of loops and branches: int8 weights, float activations.

    Their activations cannot be watched while a sample runs, so nothing is known of their ranges.
    """
    graphs = prepared.model.subgraphs[1:]
    inner = (_inner_candidate(prepared.model, graph, op) for graph in graphs for op in graph.operators)
    return [_spared(item) for item in inner]


def _inner_candidate(model: Any, graph: Any, operator: Any) -> Candidate:
    return Candidate(
        operator=operator_name(model, operator),
        outputs=tuple(text(graph.tensors[index].name) for index in numbers(operator.outputs) if index >= 0),
        int8_sqnr_db=-math.inf,
        weight=_weight_name(model, graph, operator),
    )


def integer_border_rules(prepared: Prepared, rules: Iterable[Rule], scheme: str) -> list[Rule]:
    """Returns the rules with integer inputs and outputs."""
    graph, inputs, outputs = interface_of(prepared.model)
    names = ([text(graph.tensors[index].name) for _, index in entries] for entries in (inputs, outputs))
    return integer_border(rules, scheme, *names)


def coarse_matrices(prepared: Prepared, share: float) -> list[Rule]:
    """Returns rules that keep in int8 the given share of FULLY_CONNECTED weights that int4 rounds worst."""
    found = list(_matrix_noise(prepared.model))
    noise = sorted({(decibels, weight) for decibels, weight, _ in found})
    kept = {weight for _, weight in noise[: round(len(noise) * share)]}
    return [rule(WEIGHTS8, "FULLY_CONNECTED", only(outputs)) for _, weight, outputs in found if weight in kept]


def _matrix_noise(model: Any) -> Iterator[tuple[float, str, tuple[str, ...]]]:
    """Yields (SQNR in dB of the weights in per-channel int4, weight name, output names) of each FULLY_CONNECTED."""
    for graph, operator in operators(model):
        if operator_name(model, operator) == "FULLY_CONNECTED":
            tensor = graph.tensors[numbers(operator.inputs)[1]]
            if constant(model, tensor) is not None and type_name(tensor) == "FLOAT32":
                outputs = tuple(text(graph.tensors[index].name) for index in numbers(operator.outputs))
                yield _int4_sqnr_db(constant(model, tensor), numbers(tensor.shape)), text(tensor.name), outputs


def _int4_sqnr_db(data: Any, shape: list[int]) -> float:
    import numpy as np

    values = np.frombuffer(data, np.float32).reshape(shape).astype(np.float64)
    steps = np.abs(values).max(axis=1, keepdims=True) / _INT4_LARGEST + 1e-12
    power, error = _powers(values, np.rint(values / steps) * steps)
    return _ratio_db(power, error)


def holds_infinities(prepared: Prepared) -> list[str]:
    """Returns the names of activations in which stand-ins for infinity (attention masks) were seen."""
    return [name for name, item in prepared.observed.items() if item.huge]


def border_bindings(content: bytes, before: Any) -> tuple[IoBinding, ...]:
    """Returns a binding for every input and output whose element type is no longer the source's."""
    model = parse(content)
    old_graph, *old = interface_of(before)
    graph, *new = interface_of(model)
    found = []
    for direction, olds, news in zip(("input", "output"), old, new, strict=True):
        for (name, index), (_, new_index) in zip(olds, news, strict=True):
            if dtype_of(old_graph.tensors[index]) != dtype_of(graph.tensors[new_index]):
                found.append(_binding(direction, name, graph.tensors[new_index]))
    return tuple(found)


def _binding(direction: Any, name: str, tensor: Any) -> IoBinding:
    quant = quant_params(tensor)
    return IoBinding(
        direction=direction,
        source=name,
        target=name,
        reason="integer inputs and outputs were asked for",
        dtype=dtype_of(tensor),
        scale=quant.scale[0] if quant else 0.0,
        zero_point=quant.zero_point[0] if quant else 0,
    )


def plain(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Returns rules as plain JSON data, for the receipt."""
    data: list[dict[str, Any]] = json.loads(json.dumps(list(rules)))
    return data


def failure(error: HubError) -> str:
    """Returns an error's first line, for a note."""
    return error.message.splitlines()[0]
