"""Applies a recipe with ai-edge-quantizer and measures the result against the float model on calibration samples."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from hub.spec import IoBinding, Remark, SampleFolder, StepError
from hub_quanttrials import WEIGHTS, Judge, Shelf, Trial, decibels
from hub_tflite.biases import fit_biases
from hub_tflite.calibrate import CalibratedTensors, observe, statistics
from hub_tflite.numerics import PrecisionReport, precision_report
from hub_tflite.recipes import KEEP, OPERATOR_WORDS, PRODUCTS, WEIGHTS8, QuantRule, RuleSet, integer_border, only
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
    from hub_tflitefile.tables import ModelT, SubGraphT, TensorT

UNSOUND = frozenset({"DIV", "LOG", "POW", "RSQRT", "SQRT", "SUM"})
"""Operators whose integer kernels go wrong whatever their ranges. The input of all but the last leaves what they are
defined for when it is rounded: a divisor of zero stops the reference kernels. The reference kernel of SUM gives other
numbers than XNNPACK's (4.5 dB on a detector's boxes). They multiply nothing by weights, so that float costs little."""

TOOL = "ai-edge-quantizer"
_INT4_LARGEST = 7  # symmetric: -8 is not used


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A result, and what an independent look at its tensors says."""

    content: bytes
    report: PrecisionReport


TfliteTrial = Trial[RuleSet, Quantized]


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
        known: What earlier edges of the same run made of it.
    """

    model: ModelT
    content: bytes
    notes: list[Remark]
    observed: dict[str, CalibratedTensors] = field(default_factory=dict)
    samples: int = 0
    judge: Judge = field(default_factory=Judge)
    known: dict[RuleSet, TfliteTrial] = field(default_factory=dict)


_SHELF: Shelf[FloatFile] = Shelf()

_JOINS_OR_MOVES = frozenset({"CONCATENATION", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS"})

_APART = 16.0
"""Ratio of ranges from which on one scale leaves the smaller with four bits of eight."""


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
        source.observed = observe(content, samples)
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


class QuantizableLayer(NamedTuple):
    """An operator that could be quantized.

    Attributes:
        operator: Its builtin name.
        outputs: Names of its outputs.
        activations: Names of the activations that it reads and writes.
        weight: Name of the constant that is multiplied with; empty for none. Unrolled recurrences share one.
    """

    operator: str
    outputs: tuple[str, ...]
    activations: frozenset[str]
    weight: str

    def in_float(self, *, wholly: bool = False) -> QuantRule:
        """Float activations. Multiplications by stored weights keep int8 weights, unless they are to be float too."""
        word = PRODUCTS.get(self.operator) or OPERATOR_WORDS.get(self.operator, self.operator)
        if self.operator in PRODUCTS and self.weight and self.operator != "BATCH_MATMUL" and not wholly:
            return QuantRule(WEIGHTS8, word, only(self.outputs))
        return QuantRule(KEEP, word if self.operator in PRODUCTS else "*", only(self.outputs))


def layers(model: ModelT, graphs: Sequence[SubGraphT]) -> Iterator[QuantizableLayer]:
    """Yields the operators of some graphs, in execution order."""
    for graph in graphs:
        for operator in graph.operators:
            inputs, outputs = (
                [text(graph.tensors[index].name) for index in numbers(places) if index >= 0]
                for places in (operator.inputs, operator.outputs)
            )
            weights = [graph.tensors[index] for index in numbers(operator.inputs)[1:2] if index >= 0]
            yield QuantizableLayer(
                operator=operator_name(model, operator),
                outputs=tuple(outputs),
                activations=frozenset((*inputs, *outputs)),
                weight=next((text(tensor.name) for tensor in weights if constant(model, tensor) is not None), ""),
            )


def shared_weights(source: FloatFile) -> list[frozenset[str]]:
    """First outputs of the layers of the main graph that multiply by one constant.

    The quantizer cannot store one tensor in two ways, so that they have one scheme.
    """
    users: dict[str, set[str]] = {}
    for layer in layers(source.model, source.model.subgraphs[:1]):
        if layer.operator in PRODUCTS and layer.weight:
            users.setdefault(layer.weight, set()).add(layer.outputs[0])
    return [frozenset(names) for names in users.values() if len(names) > 1]


def in_float(source: FloatFile, names: Iterable[str]) -> list[QuantRule]:
    """Rules that keep layers of the main graph out of int8 activations, and of int8 weights where names say `WEIGHTS`.

    Args:
        source: The model.
        names: The layers' first outputs; those that share a weight go with them.
    """
    groups, given = shared_weights(source), set(names)
    wholly = {name.removesuffix(WEIGHTS) for name in given if name.endswith(WEIGHTS)}
    wanted, wholly = (
        {*some, *(name for group in groups if group & some for name in group)} for some in (given, wholly)
    )
    found = layers(source.model, source.model.subgraphs[:1])
    return [
        layer.in_float(wholly=layer.outputs[0] in wholly)
        for layer in found
        if layer.outputs and layer.outputs[0] in wanted
    ]


def joined_outputs(source: FloatFile) -> list[QuantRule]:
    """Rules that keep in float where values of other ranges meet in an output, and what moves them from there on.

    One scale for boxes in pixels and for scores has steps of more than a score: a detector's scores came out at 0 dB,
    and at 25.5 with this one operator in float, which costs nothing.
    """
    graph, _, outputs = interface_of(source.model)
    found = {name: layer for layer in layers(source.model, source.model.subgraphs[:1]) for name in layer.outputs}
    names = (text(graph.tensors[index].name) for _, index in outputs)
    return in_float(source, [met for name in names for met in _where_ranges_meet(name, found, source.observed)])


def _where_ranges_meet(
    name: str, found: Mapping[str, QuantizableLayer], observed: Mapping[str, CalibratedTensors]
) -> list[str]:
    layer = found.get(name)
    if layer is None or layer.operator not in _JOINS_OR_MOVES:
        return []
    given = sorted(layer.activations - {*layer.outputs})
    tops = [max(-observed[one].low, observed[one].high) for one in given if one in observed]
    apart = layer.operator == "CONCATENATION" and max(tops, default=0.0) > _APART * min(tops, default=0.0)
    below = [met for one in given for met in _where_ranges_meet(one, found, observed)]
    return [layer.outputs[0], *below] if apart or below else []


def unfit_rules(source: FloatFile) -> list[QuantRule]:
    """Rules that keep in float what has no integer form: `UNSOUND`, and layers that see stand-ins for infinity."""
    huge = set(holds_infinities(source))
    found = layers(source.model, source.model.subgraphs[:1])
    unfit = [layer for layer in found if layer.operator in UNSOUND or layer.activations & huge]
    return in_float(source, [layer.outputs[0] for layer in unfit if layer.outputs])


def inner_rules(source: FloatFile) -> list[QuantRule]:
    """Returns rules for the bodies of loops and branches: int8 weights, float activations.

    Their activations cannot be watched while a sample runs, so nothing is known of their ranges.
    """
    return [layer.in_float() for layer in layers(source.model, source.model.subgraphs[1:])]


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
