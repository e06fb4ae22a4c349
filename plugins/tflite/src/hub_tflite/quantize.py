"""Applies a recipe with ai-edge-quantizer and measures the result against the float model on calibration samples."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hub.spec import IoBinding, Remark, SampleFolder, StepError
from hub_quanttrials import Judge, Shelf, decibels
from hub_tflite.biases import fit_biases
from hub_tflite.calibrate import CalibratedTensors, observe, statistics
from hub_tflite.numerics import MOVE_OPERATORS, PrecisionReport, precision_report
from hub_tflite.recipes import KEEP, OPERATOR_WORDS, PRODUCTS, WEIGHTS8, QuantRule, integer_border, only
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
    from hub_tflitefile.tables import Integers, ModelT, OperatorT, SubGraphT, TensorT

FRAGILE = frozenset({
    "RSQRT", "SQRT", "DIV", "SQUARED_DIFFERENCE", "SUB", "SUM", "EXP", "LOG", "POW", "SOFTMAX", "GELU", "EQUAL",
    "NOT_EQUAL", "SELECT", "SELECT_V2", "REDUCE_MIN", "MAXIMUM", "MINIMUM",
})  # fmt: skip
"""Operators of normalisations, attention and comparisons: a small error at their input is a large one at their output,
so rounding noise at their border says too little. A sentence transformer stays at 2 dB with them in int8."""

TOOL = "ai-edge-quantizer"
_INT4_LARGEST = 7  # symmetric: -8 is not used


@dataclass(slots=True, kw_only=True)
class FloatFile:
    """A float model made ready, with what was seen of it on the calibration samples.

    Attributes:
        model: The rewritten graph.
        content: The same as bytes.
        notes: What the rewrites did.
        observed: Activation name -> what was seen; empty without calibration.
        samples: Number of calibration samples.
        judge: Judges results on some of them; on nothing where there are none.
    """

    model: ModelT
    content: bytes
    notes: list[Remark]
    observed: dict[str, CalibratedTensors] = field(default_factory=dict)
    samples: int = 0
    judge: Judge = field(default_factory=Judge)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A result, and what an independent look at its tensors says."""

    content: bytes
    report: PrecisionReport


_SHELF: Shelf[FloatFile] = Shelf()


def open_float(path: str | Path, rewrites: tuple[Rewrite, ...], calibration: str = "") -> FloatFile:
    """Reads and rewrites a float model; with calibration, runs it on the samples.

    The last result is kept, so that the next edge in the same worker does not run the samples again.

    Raises:
        ModelUnreadable: The file is corrupt.
        CalibrationError: The samples do not fit.
        StepError: The float model does not run.
    """
    return _SHELF.get(lambda: _open(path, rewrites, calibration), path, calibration, tuple(rewrites))


def _open(path: str | Path, rewrites: tuple[Rewrite, ...], calibration: str) -> FloatFile:
    model = read(path)
    notes = apply(model, rewrites)
    content = to_bytes(model)
    source = FloatFile(model=parse(content), content=content, notes=notes)
    if calibration:
        samples = SampleFolder(calibration)
        source.samples = len(samples)
        source.observed = observe(content, samples, len(samples))
        source.judge = Judge.of(LiteRtSession(content), samples)
    return source


def quantize(source: FloatFile, rules: Iterable[QuantRule]) -> Quantized:
    """Applies rules.

    Raises:
        StepError: The quantizer fails.
    """
    # Every buffer comes inside, what nothing uses goes, and the border gets its names back.
    model = parse(_apply_rules(source, rules))
    _, old_inputs, old_outputs = interface_of(source.model)
    _, inputs, outputs = interface_of(model)
    pairs = [(new[0], old[0]) for new, old in zip(inputs, old_inputs, strict=True)]
    rename(model, dict(pairs), {new[0]: old[0] for new, old in zip(outputs, old_outputs, strict=True)})
    drop_unused(model)
    fit_biases(model, source.model)
    content = to_bytes(model)
    return Quantized(content=content, report=precision_report(parse(content)))


def _apply_rules(source: FloatFile, rules: Iterable[QuantRule]) -> bytes:
    from ai_edge_quantizer import quantizer

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of every rule that an operator has no kernel for
    try:
        tool = quantizer.Quantizer(source.content, [rule.plain for rule in rules])
        known = statistics(source.observed) if tool.need_calibration else None
        with warnings.catch_warnings():  # its check of the statistics opens an interpreter that warns of its memory
            warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)  # see `fit_biases`
            warnings.filterwarnings("ignore", "Warning: Enabling `experimental_preserve_all_tensors`", UserWarning)
            result = tool.quantize(known, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        raise StepError(f"{TOOL} {version(TOOL)} fails: {type(error).__name__}: {error}") from error
    return bytes(result.quantized_model)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizableLayer:
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


def candidates(source: FloatFile) -> list[QuantizableLayer]:
    """Returns every operator with float activations, in execution order."""
    noise = {name: item.int8_sqnr_db for name, item in source.observed.items()}
    found = (_candidate(source.model, graph, op, noise) for graph in source.model.subgraphs for op in graph.operators)
    return [item for item in found if item is not None]


def _candidate(
    model: ModelT, graph: SubGraphT, operator: OperatorT, noise: dict[str, float]
) -> QuantizableLayer | None:
    def names(indices: Integers | None) -> list[str]:
        return [text(graph.tensors[index].name) for index in numbers(indices) if index >= 0]

    inputs, outputs = names(operator.inputs), names(operator.outputs)
    touched = [noise[name] for name in (*inputs, *outputs) if name in noise]
    if not touched:
        return None
    return QuantizableLayer(
        operator=operator_name(model, operator),
        outputs=tuple(outputs),
        int8_sqnr_db=min(touched),
        weight=_weight_name(model, graph, operator),
    )


def _weight_name(model: ModelT, graph: SubGraphT, operator: OperatorT) -> str:
    tensors = [graph.tensors[index] for index in numbers(operator.inputs)[1:2] if index >= 0]
    return next((text(tensor.name) for tensor in tensors if constant(model, tensor) is not None), "")


def spare(source: FloatFile, threshold_db: float, *, products_only: bool) -> tuple[list[QuantRule], int, int]:
    """Returns rules that keep operators below a threshold out of int8 activations, their number, and the total.

    Multiplications by stored weights keep int8 weights; the rest stays in float, as fragile operators always do.
    Operators that share a weight share its scheme: the quantizer cannot store one tensor in two ways.
    """
    pool = [item for item in candidates(source) if item.operator in PRODUCTS or not products_only]
    shared = {item.weight for item in pool if item.operator in PRODUCTS and _is_noisy(item, threshold_db)} - {""}
    noisy = [item for item in pool if _is_noisy(item, threshold_db) or item.weight in shared]
    return [_spared(item) for item in noisy], len(noisy), len(pool)


def _is_noisy(item: QuantizableLayer, threshold_db: float) -> bool:
    noisy = item.int8_sqnr_db < threshold_db and item.operator not in MOVE_OPERATORS
    return noisy or item.operator in FRAGILE or item.int8_sqnr_db == -math.inf


def _spared(item: QuantizableLayer) -> QuantRule:
    word = PRODUCTS.get(item.operator) or OPERATOR_WORDS.get(item.operator, item.operator)
    stored = item.operator in PRODUCTS and item.weight and item.operator != "BATCH_MATMUL"
    if stored:
        return QuantRule(WEIGHTS8, word, only(item.outputs))
    return QuantRule(KEEP, word if item.operator in PRODUCTS else "*", only(item.outputs))


def inner_rules(source: FloatFile) -> list[QuantRule]:
    """Returns rules for the bodies of loops and branches: int8 weights, float activations.

    Their activations cannot be watched while a sample runs, so nothing is known of their ranges.
    """
    graphs = source.model.subgraphs[1:]
    inner = (
        QuantizableLayer(
            operator=operator_name(source.model, op),
            outputs=tuple(text(graph.tensors[index].name) for index in numbers(op.outputs) if index >= 0),
            int8_sqnr_db=-math.inf,
            weight=_weight_name(source.model, graph, op),
        )
        for graph in graphs
        for op in graph.operators
    )
    return [_spared(item) for item in inner]


def integer_border_rules(source: FloatFile, rules: Iterable[QuantRule], scheme: str) -> list[QuantRule]:
    """Returns the rules with integer inputs and outputs."""
    graph, inputs, outputs = interface_of(source.model)
    names = ([text(graph.tensors[index].name) for _, index in entries] for entries in (inputs, outputs))
    return integer_border(rules, scheme, *names)


def coarse_matrices(source: FloatFile, share: float) -> list[QuantRule]:
    """Returns rules that keep in int8 the given share of FULLY_CONNECTED weights that int4 rounds worst."""
    found = list(_matrix_noise(source.model))
    noise = sorted({(decibels, weight) for decibels, weight, _ in found})
    kept = {weight for _, weight in noise[: round(len(noise) * share)]}
    return [QuantRule(WEIGHTS8, "FULLY_CONNECTED", only(outputs)) for _, weight, outputs in found if weight in kept]


def _matrix_noise(model: ModelT) -> Iterator[tuple[float, str, tuple[str, ...]]]:
    """Yields (SQNR in dB of the weights in per-channel int4, weight name, output names) of each FULLY_CONNECTED."""
    import numpy as np

    for graph, operator in operators(model):
        if operator_name(model, operator) == "FULLY_CONNECTED":
            tensor = graph.tensors[numbers(operator.inputs)[1]]
            data = constant(model, tensor)
            if data is not None and type_name(tensor) == "FLOAT32":
                outputs = tuple(text(graph.tensors[index].name) for index in numbers(operator.outputs))
                values = np.frombuffer(data, np.float32).reshape(numbers(tensor.shape)).astype(np.float64)
                steps = np.abs(values).max(axis=1, keepdims=True) / _INT4_LARGEST + 1e-12
                yield (
                    decibels(float(np.sum(values**2)), float(np.sum((values - np.rint(values / steps) * steps) ** 2))),
                    text(tensor.name),
                    outputs,
                )


def holds_infinities(source: FloatFile) -> list[str]:
    """Returns the names of activations in which stand-ins for infinity (attention masks) were seen."""
    return [name for name, item in source.observed.items() if item.huge]


def border_bindings(content: bytes, before: ModelT) -> tuple[IoBinding, ...]:
    """Returns a binding for every input and output whose element type is no longer the source's."""
    old_graph, old_inputs, old_outputs = interface_of(before)
    graph, inputs, outputs = interface_of(parse(content))
    sides: list[tuple[Literal["input", "output"], list[tuple[str, int]], list[tuple[str, int]]]]
    sides = [("input", old_inputs, inputs), ("output", old_outputs, outputs)]
    return tuple(
        _binding(direction, name, graph.tensors[new])
        for direction, olds, news in sides
        for (name, old), (_, new) in zip(olds, news, strict=True)
        if dtype_of(old_graph.tensors[old]) != dtype_of(graph.tensors[new])
    )


def _binding(direction: Literal["input", "output"], name: str, tensor: TensorT) -> IoBinding:
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
